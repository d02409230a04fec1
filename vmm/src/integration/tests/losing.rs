//! Agents that are lost, come back, or are replaced, and boots and machines that end.

use super::*;
use protocol::message::Resume;

#[test]
fn case_50_an_agent_that_comes_back_goes_on_with_what_is_known_and_counts_nothing_anew() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let options = LogoffOptions { grace_ms: 5, notice_ms: 6, deadline_ms: 70_000 };
    let (id, task) = host.begin_with(&mut agent, 2, options);
    agent.commit(id, 2);
    agent.row(id, row(1, Some(Outcome::Killed)));
    until(&task, |info| info.percent_completed == 50);
    drop(agent);
    host.wait_for_no_agent();
    let info = task.info();
    assert!(!info.is_complete && !info.is_cancelable);
    let meanwhile = host.guest().logoff(LogoffOptions::default()).unwrap();
    assert_eq!(meanwhile.info().percent_completed, 50, "who asks meanwhile joins");

    let mut agent = host.ready_agent();
    let (id, request) = agent.logoff();
    let Resume { committed_ms, sessions } = request.resume.clone().unwrap();
    assert!(committed_ms.is_some_and(|time| time < 30_000), "{request:?}");
    assert_eq!(sessions, [row(0, None), row(1, Some(Outcome::Killed))]);
    let expected = LogoffRequest { grace_ms: 5, notice_ms: 6, deadline_ms: 70_000, ..request };
    assert_eq!(LogoffRequest { resume: expected.resume.clone(), ..expected }, expected);
    // Another count changes nothing.
    agent.accept(id, 9);
    agent.progress(id, true, 0);
    host.settle(&mut agent);
    assert_eq!(task.info().percent_completed, 50);
    agent.row(id, row(0, Some(Outcome::Terminated)));
    agent.say(&AgentMessage::Done(Done::failed(id, TaskResult::Success, HResult::S_OK, "")));
    assert_eq!((end(&task), end(&meanwhile)), (SUCCESS, SUCCESS));
    assert_eq!(host.guest().agent().dropped, 0);
}

#[test]
fn what_had_not_been_committed_is_not_when_it_goes_on_and_can_still_be_cancelled() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    agent.row(id, row(0, None));
    host.settle(&mut agent);
    drop(agent);
    host.wait_for_no_agent();
    let mut agent = host.ready_agent();
    let (id, request) = agent.logoff();
    let known = Resume { committed_ms: None, sessions: vec![row(0, None)] };
    assert_eq!(request.resume, Some(known));
    agent.accept(id, 1);
    let cancelling = std::thread::spawn({
        let task = task.clone();
        move || task.cancel()
    });
    assert_eq!(agent.cancel(), id);
    agent.answer_cancel(id, true);
    assert_eq!(cancelling.join().unwrap(), Ok(()));
    assert_eq!(end(&task), CANCELLED);
}

#[test]
fn a_snapshot_that_was_lost_on_the_way_is_taken_anew() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 3);
    agent.row(id, row(7, None));
    host.settle(&mut agent);
    drop(agent);
    host.wait_for_no_agent();
    let mut agent = host.ready_agent();
    let (id, request) = agent.logoff();
    assert_eq!(request.resume, None, "two sessions are not known by name");
    agent.accept(id, 2);
    agent.commit(id, 2);
    agent.row(id, row(0, Some(Outcome::Terminated)));
    until(&task, |info| info.percent_completed == 50);
    agent.succeed(id, 2);
    assert_eq!(end(&task), SUCCESS);
    assert_eq!(task.report().unwrap().sessions.len(), 2);
}

#[test]
fn a_snapshot_of_nobody_is_not_taken_anew() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (_, task) = host.begin(&mut agent, 0);
    drop(agent);
    host.wait_for_no_agent();
    let mut agent = host.ready_agent();
    let (id, request) = agent.logoff();
    assert_eq!(request.resume, Some(Resume { committed_ms: None, sessions: Vec::new() }));
    let error = HResult::ERROR_NO_SUCH_LOGON_SESSION;
    agent.accept(id, 0);
    agent.done(id, TaskResult::UnexpectedError, error);
    assert_eq!(end(&task), failed(error));
}

#[test]
fn a_new_count_that_no_guest_can_have_ends_the_task_and_is_told_to_be_left() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (_, task) = host.begin(&mut agent, 1);
    drop(agent);
    host.wait_for_no_agent();
    let mut agent = host.ready_agent();
    let (id, _) = agent.logoff();
    agent.accept(id, u32::MAX);
    assert_eq!(end(&task), failed(HResult::DISP_E_EXCEPTION));
    assert_eq!(agent.cancel(), id);
}

#[test]
fn an_agent_that_refuses_to_go_on_ends_the_task_with_its_code() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    agent.commit(id, 1);
    committed(&task);
    drop(agent);
    host.wait_for_no_agent();
    let mut agent = host.ready_agent();
    let (id, _) = agent.logoff();
    let error = HResult::ERROR_ACCESS_DENIED;
    agent.say(&AgentMessage::Rejected { id, error, text: "no".into() });
    assert_eq!(end(&task), failed(error));
    assert_eq!(task.info().error_description, "no");
}

#[test]
fn more_than_a_message_holds_cannot_be_gone_on_with_and_ends_the_task() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 600);
    agent.commit(id, 600);
    committed(&task);
    drop(agent);
    host.wait_for_no_agent();
    let mut agent = host.ready_agent();
    assert_eq!(end(&task), failed(HResult::DISP_E_EXCEPTION));
    assert!(task.info().error_description.contains("too many sessions"));
    // The connection is as good as before.
    host.settle(&mut agent);
}

#[test]
fn case_46_an_agent_of_another_boot_ends_the_task_and_is_asked_nothing() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    agent.commit(id, 1);
    committed(&task);
    let mut agent = host.agent_of("another boot", ALL);
    assert_eq!(end(&task), failed(HResult::DISP_E_EXCEPTION));
    assert!(task.info().error_description.contains("rebooted"), "{:?}", task.info());
    host.settle(&mut agent);
    assert_eq!(host.guest().agent().boot_id.as_deref(), Some("another boot"));
}

#[test]
fn a_boot_that_begins_ends_the_task_at_once_and_hangs_up() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    agent.commit(id, 1);
    committed(&task);
    host.integration.boot_starts().wait();
    let info = task.info();
    assert!(info.is_complete, "when the call returns");
    assert_eq!(end(&task), failed(HResult::DISP_E_EXCEPTION));
    assert!(info.error_description.contains("rebooted"), "{info:?}");
    assert_eq!(task.report().unwrap().sessions.len(), 1);
    agent.is_hung_up_on();
    let status = host.guest().agent();
    assert_eq!((status.connected, status.version, status.heard_ms), (false, None, None));
    // Of the same boot or not: it begins with nothing.
    let mut agent = host.ready_agent();
    host.settle(&mut agent);
}

#[test]
fn case_51_the_end_of_the_machine_ends_every_task_before_it_returns() {
    type Ending = fn(Host) -> Option<Host>;
    let stopped: Ending = |host| {
        host.integration.machine_ended();
        Some(host)
    };
    let powered_off: Ending = |host| {
        host.integration.powered_off();
        Some(host)
    };
    let dropped: Ending = |host| {
        drop(host);
        None
    };
    for ending in [stopped, powered_off, dropped] {
        let host = Host::new();
        let mut agent = host.ready_agent();
        let (id, first) = host.begin(&mut agent, 1);
        let second = host.guest().logoff(LogoffOptions::default()).unwrap();
        agent.commit(id, 1);
        committed(&first);
        let _host = ending(host);
        for task in [first, second] {
            assert!(task.info().is_complete);
            assert_eq!(end(&task), failed(HResult::VM_E_VM_NOT_RUNNING));
            assert!(task.info().error_description.contains("stopped"), "{:?}", task.info());
        }
        agent.is_hung_up_on();
    }
}

#[test]
fn case_51_an_agent_that_is_lost_because_the_machine_ends_leaves_no_other_code() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let listing = call(&host, |guest| guest.sessions().map(|_| ()));
    let asking = call(&host, |guest| guest.logoff(LogoffOptions::default()).map(|_| ()));
    for _ in 0..2 {
        agent.request();
    }
    host.state.set(VmState::TurningOff);
    drop(agent);
    for waiting in [listing, asking] {
        assert_eq!(code(waiting.join().unwrap()), HResult::VM_E_VM_NOT_RUNNING);
    }
}

#[test]
fn case_51_every_call_that_is_waiting_ends_with_the_machine_or_the_boot() {
    type Ending = fn(&Integration);
    let endings: [(Ending, HResult); 3] = [
        (Integration::machine_ended, HResult::VM_E_VM_NOT_RUNNING),
        (Integration::powered_off, HResult::VM_E_VM_NOT_RUNNING),
        (|host| host.boot_starts().wait(), HResult::DISP_E_EXCEPTION),
    ];
    for (ending, expected) in endings {
        let host = Host::new();
        let mut agent = host.ready_agent();
        let asking = [(); 3].map(|()| host.ask(LogoffOptions::default()));
        agent.logoff();
        let listing = call(&host, |guest| guest.sessions());
        agent.request();
        ending(&host.integration);
        for asking in asking {
            let answer = asking.try_recv().expect("it is answered when the call returns");
            assert_eq!(code(answer.map(|_| ())), expected);
        }
        assert_eq!(code(listing.join().unwrap()), expected);
        assert!(host.tasks.list().is_empty());
    }
}

#[test]
fn a_guest_os_that_outlives_its_machine_refuses() {
    let host = Host::new();
    let guest = host.guest();
    drop(host);
    let refused = guest.logoff(LogoffOptions::default()).map(|_| ());
    assert_eq!(code(refused), HResult::VM_E_VM_NOT_RUNNING);
    assert_eq!(code(guest.sessions()), HResult::VM_E_VM_NOT_RUNNING);
}

#[test]
fn case_50_a_second_agent_replaces_the_first_and_gets_its_work() {
    let host = Host::new();
    let mut first = host.ready_agent();
    // So that the second has no request of the same number.
    (0..9).for_each(|_| host.settle(&mut first));
    let (old, task) = host.begin(&mut first, 1);
    first.commit(old, 1);
    committed(&task);
    let mut second = host.ready_agent();
    first.is_hung_up_on();
    let (id, request) = second.logoff();
    assert!(request.resume.is_some());
    assert_ne!(id, old, "numbers belong to a connection");
    // What the first was asked is not the second's to answer.
    second.succeed(old, 1);
    host.settle(&mut second);
    assert!(!task.info().is_complete);
    assert_eq!(host.guest().agent().dropped, 2);
    second.succeed(id, 1);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn case_50_somebody_who_only_says_hello_does_not_disturb_the_agent() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    agent.commit(id, 1);
    let mut other = host.connect();
    other.say(&hello("another boot", ALL));
    assert!(matches!(other.hear(), Some(HostMessage::Welcome(_))));
    assert!(matches!(other.hear(), Some(HostMessage::Ping { .. })));
    drop(other);
    host.settle(&mut agent);
    assert_eq!(host.guest().agent().boot_id.as_deref(), Some("boot"));
    agent.succeed(id, 1);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn an_agent_that_falls_silent_is_hung_up_on_and_the_next_goes_on() {
    let silence = Duration::from_secs(1);
    let host = Host::with(Timing { silence, ..Timing::default() });
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    agent.commit(id, 1);
    agent.is_hung_up_on();
    host.wait_for_no_agent();
    assert!(!task.info().is_complete);
    let mut agent = host.ready_agent();
    let (id, _) = agent.logoff();
    agent.succeed(id, 1);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn an_agent_that_never_comes_back_ends_in_the_hosts_time_out() {
    let margin = Duration::from_millis(50);
    let host = Host::with(Timing { margin, ..Timing::default() });
    let mut agent = host.ready_agent();
    let options = LogoffOptions { deadline_ms: 200, ..LogoffOptions::default() };
    let (id, task) = host.begin_with(&mut agent, 1, options);
    agent.commit(id, 1);
    drop(agent);
    assert_eq!(end(&task), TIMED_OUT);
    assert_eq!(task.report().unwrap().sessions[0].outcome, Some(Outcome::Remaining));
    // Whoever comes now is asked nothing.
    let mut agent = host.ready_agent();
    host.settle(&mut agent);
}

#[test]
fn an_agent_that_goes_on_after_a_pause_is_not_told_that_it_has_used_up_its_time() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    let begun = Instant::now();
    agent.commit(id, 1);
    committed(&task);
    host.state.set(VmState::Paused);
    host.integration.paused();
    let paused = Duration::from_secs(2);
    std::thread::sleep(paused);
    host.integration.resumed(|| host.state.set(VmState::Running));
    drop(agent);
    let mut agent = host.ready_agent();
    let (id, request) = agent.logoff();
    let told = request.resume.and_then(|resume| resume.committed_ms).unwrap();
    let most = begun.elapsed() - paused;
    assert!(Duration::from_millis(told) <= most, "{told} ms of {most:?}");
    agent.succeed(id, 1);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn the_guests_time_stands_still_with_the_machine_and_begins_anew_with_it() {
    let margin = Duration::from_millis(50);
    let host = Host::with(Timing { margin, ..Timing::default() });
    let mut agent = host.ready_agent();
    let options = LogoffOptions { deadline_ms: 600, ..LogoffOptions::default() };
    for succeeds in [true, false] {
        let (id, task) = host.begin_with(&mut agent, 1, options);
        agent.commit(id, 1);
        committed(&task);
        host.state.set(VmState::Paused);
        let info = task.wait(Some(Duration::from_millis(1_000)));
        assert!(!info.is_complete, "{info:?}");
        // Nothing else wakes the thread: the guest says nothing any more.
        host.integration.resumed(|| host.state.set(VmState::Running));
        if succeeds {
            agent.succeed(id, 1);
            assert_eq!(end(&task), SUCCESS);
        } else {
            assert_eq!(end(&task), TIMED_OUT);
        }
    }
}
