//! The call, until it has a task or a refusal.

use super::*;

const STATES: [VmState; 7] = [
    VmState::TurnedOff,
    VmState::Saved,
    VmState::TurningOn,
    VmState::Restoring,
    VmState::Paused,
    VmState::Saving,
    VmState::TurningOff,
];

#[test]
fn a_guest_that_accepts_gives_a_task_that_has_done_nothing_yet() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let options = LogoffOptions { grace_ms: 1, notice_ms: 2, deadline_ms: 3_000 };
    let asking = call(&host, move |guest| guest.logoff(options));
    let (id, request) = agent.logoff();
    let expected = LogoffRequest { grace_ms: 1, notice_ms: 2, deadline_ms: 3_000, resume: None };
    assert_eq!(request, expected);
    agent.accept(id, 2);
    let task = asking.join().unwrap().unwrap();
    let info = task.info();
    assert!(info.is_cancelable && !info.is_complete);
    assert_eq!((info.percent_completed, info.result, info.error), (0, None, HResult::S_OK));
    assert_eq!(host.tasks.list()[0].id(), task.id());
    let report = task.report().unwrap();
    assert_eq!((report.boot_id.as_str(), report.backend.as_str()), ("boot", "test"));
    assert_eq!(report.options, options);
}

#[test]
fn a_guest_that_does_not_accept_in_time_leaves_no_task_and_is_told_to_leave_it() {
    let answer = Duration::from_millis(50);
    let host = Host::with(Timing { answer, ..Timing::default() });
    let mut agent = host.ready_agent();
    let asking = call(&host, |guest| guest.logoff(LogoffOptions::default()).map(|_| ()));
    let (id, _) = agent.logoff();
    let error = asking.join().unwrap().unwrap_err();
    assert_eq!(error.code, HResult::VM_E_TIMED_OUT);
    assert!(error.text.contains("within 50 ms"), "{error}");
    assert_eq!(agent.cancel(), id);
    // Too late.
    agent.accept(id, 1);
    assert_eq!(agent.cancel(), id);
    agent.row(id, row(0, None));
    agent.answer_cancel(id, true);
    agent.done(id, TaskResult::Cancelled, HResult::ERROR_CANCELLED);
    // What is not its request is counted; all before has been heard by then.
    agent.progress(id + 1, true, 1);
    host.wait_for_dropped(1);
    // Nothing follows what ends a request.
    agent.row(id, row(0, None));
    host.wait_for_dropped(2);
    assert!(host.tasks.list().is_empty());
}

#[test]
fn a_guest_that_rejects_refuses_the_call_with_its_code_and_words() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    for (said, code) in [
        (HResult::ERROR_ACCESS_DENIED, HResult::ERROR_ACCESS_DENIED),
        (HResult::ERROR_SHUTDOWN_IN_PROGRESS, HResult::ERROR_SHUTDOWN_IN_PROGRESS),
        // What is no failure cannot be a refusal's code.
        (HResult::S_OK, HResult::DISP_E_EXCEPTION),
        (HResult::S_FALSE, HResult::DISP_E_EXCEPTION),
    ] {
        let asking = call(&host, |guest| guest.logoff(LogoffOptions::default()).map(|_| ()));
        let (id, _) = agent.logoff();
        agent.say(&AgentMessage::Rejected { id, error: said, text: "why not".into() });
        let error = asking.join().unwrap().unwrap_err();
        assert_eq!((error.code, error.text.as_str()), (code, "why not"));
    }
    assert!(host.tasks.list().is_empty());
}

#[test]
fn without_an_agent_the_call_says_when_one_was_heard_last() {
    let host = Host::new();
    let refusal = || {
        let error = host.guest().logoff(LogoffOptions::default()).map(|_| ()).unwrap_err();
        assert_eq!(error.code, HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
        error.text
    };
    let text = refusal();
    assert!(text.contains("began to boot 0 s ago, and none has connected"), "{text}");
    drop(host.ready_agent());
    host.wait_for_no_agent();
    let text = refusal();
    assert!(text.contains("last heard 0 s ago and is not connected now"), "{text}");
    // The next boot knows nothing of the one before.
    host.integration.boot_starts().wait();
    let text = refusal();
    assert!(text.contains("none has connected"), "{text}");
    host.integration.machine_ended();
    let text = refusal();
    assert!(text.contains("has not begun to boot"), "{text}");
    assert!(host.tasks.list().is_empty());
}

#[test]
fn an_agent_that_cannot_log_off_is_not_asked_and_named_with_its_version() {
    let host = Host::new();
    let mut agent = host.agent(&[SESSIONS]);
    let error = host.guest().logoff(LogoffOptions::default()).map(|_| ()).unwrap_err();
    assert_eq!(error.code, HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
    assert!(error.text.contains("(version 1) does not offer logoff"), "{error}");
    host.settle(&mut agent);
}

#[test]
fn a_connection_that_has_not_proved_itself_is_no_agent() {
    let host = Host::new();
    let mut agent = host.connect();
    agent.say(&hello("boot", ALL));
    assert!(matches!(agent.hear(), Some(HostMessage::Welcome(_))));
    assert!(matches!(agent.hear(), Some(HostMessage::Ping { .. })));
    let refused = host.guest().logoff(LogoffOptions::default()).map(|_| ());
    assert_eq!(code(refused), HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
    agent.hears_nothing();
}

#[test]
fn a_machine_that_is_not_running_refuses_and_its_guest_is_not_asked() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    for state in STATES {
        host.state.set(state);
        let refused = host.guest().logoff(LogoffOptions::default()).map(|_| ());
        assert_eq!(code(refused), HResult::VM_E_VM_NOT_RUNNING, "{state:?}");
        // Also where the state has changed since the call was let in.
        let asking = host.ask(LogoffOptions::default());
        let refused = asking.recv_timeout(PATIENCE).unwrap().map(|_| ());
        assert_eq!(code(refused), HResult::VM_E_VM_NOT_RUNNING, "{state:?}");
    }
    host.state.set(VmState::Running);
    host.settle(&mut agent);
}

#[test]
fn callers_who_come_before_the_acceptance_share_one_request_and_have_a_task_each() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let first = host.ask(LogoffOptions::default());
    let second = host.ask(LogoffOptions { deadline_ms: 1, ..LogoffOptions::default() });
    let (id, request) = agent.logoff();
    assert_eq!(request.deadline_ms, 60_000, "the first caller's");
    host.settle(&mut agent);
    agent.accept(id, 1);
    let tasks = [first, second].map(|asking| asking.recv_timeout(PATIENCE).unwrap().unwrap());
    assert_ne!(tasks[0].id(), tasks[1].id());
    agent.commit(id, 1);
    agent.succeed(id, 1);
    for task in tasks {
        assert_eq!(end(&task), SUCCESS);
        assert_eq!(task.report().unwrap().sessions.len(), 1);
    }
    host.settle(&mut agent);
}

#[test]
fn callers_who_come_before_a_refusal_are_all_refused() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let asking = [(); 3].map(|()| host.ask(LogoffOptions::default()));
    let (id, _) = agent.logoff();
    host.settle(&mut agent);
    let error = HResult::ERROR_ACCESS_DENIED;
    agent.say(&AgentMessage::Rejected { id, error, text: String::new() });
    for asking in asking {
        assert_eq!(code(asking.recv_timeout(PATIENCE).unwrap().map(|_| ())), error);
    }
    assert!(host.tasks.list().is_empty());
}

#[test]
fn a_caller_who_comes_in_the_middle_joins_the_work_where_it_is() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, first) = host.begin(&mut agent, 2);
    let preparing = host.guest().logoff(LogoffOptions::default()).unwrap();
    assert!(preparing.info().is_cancelable);
    agent.commit(id, 2);
    agent.row(id, row(0, Some(Outcome::Killed)));
    until(&first, |info| info.percent_completed == 50);
    let second = host.guest().logoff(LogoffOptions::default()).unwrap();
    let info = second.info();
    assert_eq!((info.percent_completed, info.is_cancelable), (50, false));
    let report = second.report().unwrap();
    assert_eq!(report.sessions[0].outcome, Some(Outcome::Killed));
    agent.done(id, TaskResult::UnexpectedError, HResult::ERROR_ACCESS_DENIED);
    for task in [&first, &preparing, &second] {
        assert_eq!(end(task), failed(HResult::ERROR_ACCESS_DENIED));
        assert_eq!(task.info().error_description, "the guest's words");
    }
    host.settle(&mut agent);
    let (next, task) = host.begin(&mut agent, 0);
    assert!(next > id, "one that has ended is not joined");
    assert!(!task.info().is_complete);
}

#[test]
fn a_guest_that_claims_more_than_a_guest_can_have_is_told_to_leave_it() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    for (sessions, managers) in [(1025, 0), (1, 1025), (u32::MAX, u32::MAX)] {
        let asking = call(&host, |guest| guest.logoff(LogoffOptions::default()).map(|_| ()));
        let (id, _) = agent.logoff();
        agent.say(&AgentMessage::Accepted { id, backend: String::new(), sessions, managers });
        assert_eq!(code(asking.join().unwrap()), HResult::DISP_E_EXCEPTION);
        assert_eq!(agent.cancel(), id);
        agent.answer_cancel(id, true);
        agent.done(id, TaskResult::Cancelled, HResult::ERROR_CANCELLED);
    }
    host.settle(&mut agent);
    assert!(host.tasks.list().is_empty());
    assert_eq!(host.guest().agent().dropped, 0, "what it says to that was asked for");
}

#[test]
fn case_50_a_call_whose_agent_is_lost_or_replaced_before_it_accepts_is_refused() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let asking = call(&host, |guest| guest.logoff(LogoffOptions::default()).map(|_| ()));
    agent.logoff();
    drop(agent);
    assert_eq!(code(asking.join().unwrap()), HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);

    let mut agent = host.ready_agent();
    let asking = call(&host, |guest| guest.logoff(LogoffOptions::default()).map(|_| ()));
    agent.logoff();
    let mut next = host.ready_agent();
    assert_eq!(code(asking.join().unwrap()), HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
    host.settle(&mut next);
    assert!(host.tasks.list().is_empty());
}

#[test]
fn a_call_that_nobody_waits_for_any_more_still_has_its_task() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    drop(host.ask(LogoffOptions::default()));
    let (id, _) = agent.logoff();
    agent.accept(id, 1);
    agent.commit(id, 1);
    agent.succeed(id, 1);
    host.settle(&mut agent);
    assert_eq!(end(&host.tasks.list()[0]), SUCCESS);
}
