//! Shutdowns and restarts: what makes them succeed, and what does not.

use super::*;
use protocol::hello::POWER;
use protocol::message::Done;

#[test]
fn a_shutdown_succeeds_when_the_machine_is_off_whatever_became_of_the_agent() {
    let host = Host::new();
    let mut agent = host.agent(&[POWER]);
    let (_, task) = begin(&host, &mut agent, PowerAction::Shutdown);
    let info = task.info();
    assert!(!info.is_complete && !info.is_cancelable);
    assert_eq!(code(task.cancel()), HResult::E_FAIL);
    drop(agent);
    let info = task.wait(Some(Duration::from_millis(100)));
    assert!(!info.is_complete, "the agent ends with everything else");
    host.integration.powered_off();
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn each_end_of_a_boot_is_success_only_for_what_was_asked() {
    type Ending = fn(&Integration);
    let again: Ending = |host| host.boot_starts().wait();
    let (off, stopped): (Ending, Ending) = (Integration::powered_off, Integration::machine_ended);
    let failed = |error| (Some(TaskResult::UnexpectedError), error);
    for (action, ending, expected) in [
        (PowerAction::Shutdown, off, SUCCESS),
        (PowerAction::Shutdown, again, failed(HResult::DISP_E_EXCEPTION)),
        (PowerAction::Shutdown, stopped, failed(HResult::VM_E_VM_NOT_RUNNING)),
        (PowerAction::Restart, again, SUCCESS),
        (PowerAction::Restart, off, failed(HResult::VM_E_VM_NOT_RUNNING)),
        (PowerAction::Restart, stopped, failed(HResult::VM_E_VM_NOT_RUNNING)),
    ] {
        let host = Host::new();
        let mut agent = host.agent(&[POWER]);
        let (_, task) = begin(&host, &mut agent, action);
        ending(&host.integration);
        assert_eq!(end(&task), expected, "{action:?}");
    }
}

#[test]
fn a_guest_that_accepts_too_late_is_never_told_to_proceed() {
    let answer = Duration::from_millis(50);
    let host = Host::with(Timing { answer, ..Timing::default() });
    let mut agent = host.agent(&[POWER]);
    let asking = call(&host, |guest| guest.shutdown(false).map(|task| task.id()));
    let (id, _) = agent.request();
    assert_eq!(code(asking.join().unwrap()), HResult::VM_E_TIMED_OUT);
    // Else it would count as under way in the guest for as long as the connection lasts.
    assert_eq!(agent.hear(), Some(HostMessage::Cancel { id }));
    agent.say(&AgentMessage::PowerAccepted { id, init: String::new() });
    agent.hears_nothing();
    assert!(host.tasks.list().is_empty());
    host.integration.powered_off();
}

#[test]
fn a_refusal_and_a_lost_connection_before_acceptance_refuse_the_call() {
    let host = Host::new();
    let mut agent = host.agent(&[POWER]);
    let asking = call(&host, |guest| guest.restart(false).map(|task| task.id()));
    let (id, _) = agent.request();
    let error = HResult::ERROR_ACCESS_DENIED;
    agent.say(&AgentMessage::Rejected { id, error, text: "no".into() });
    assert_eq!(code(asking.join().unwrap()), error);
    let asking = call(&host, |guest| guest.restart(false).map(|task| task.id()));
    agent.request();
    drop(agent);
    let lost = HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL;
    assert_eq!(code(asking.join().unwrap()), lost);
    assert!(host.tasks.list().is_empty());
}

#[test]
fn what_only_the_guest_knows_comes_through_the_task() {
    let host = Host::new();
    let mut agent = host.agent(&[POWER]);
    for (result, error) in [
        (TaskResult::UnexpectedError, HResult::ERROR_MACHINE_LOCKED),
        (TaskResult::UnexpectedError, HResult::ERROR_NOT_READY),
        (TaskResult::UnexpectedError, HResult::ERROR_SHUTDOWN_IN_PROGRESS),
        (TaskResult::ShutdownAbort, HResult::DISP_E_EXCEPTION),
    ] {
        let (id, task) = begin(&host, &mut agent, PowerAction::Shutdown);
        agent.say(&AgentMessage::Done(Done::failed(id, result, error, "why")));
        assert_eq!(end(&task), (Some(result), error));
        assert_eq!(task.info().error_description, "why");
    }
}

#[test]
fn a_guest_that_claims_success_is_not_believed_and_has_its_time() {
    let power = Duration::from_millis(300);
    let host = Host::with(Timing { power, ..Timing::default() });
    let mut agent = host.agent(&[POWER]);
    let (id, task) = begin(&host, &mut agent, PowerAction::Shutdown);
    let success = Done::failed(id, TaskResult::Success, HResult::S_OK, "");
    agent.say(&AgentMessage::Done(success));
    let late = (Some(TaskResult::TimeOutError), HResult::VM_E_TIMED_OUT);
    assert_eq!(end(&task), late);
    assert_eq!(host.guest().agent().dropped, 1);
}

#[test]
fn shutdowns_at_once_are_bounded_and_each_has_its_own_end() {
    let host = Host::new();
    let mut agent = host.agent(&[POWER]);
    let tasks: Vec<(u64, Task)> =
        (0..16).map(|_| begin(&host, &mut agent, PowerAction::Shutdown)).collect();
    assert_eq!(code(host.guest().shutdown(true).map(|_| ())), HResult::VM_E_OUT_OF_RESOURCE);
    let error = HResult::ERROR_SHUTDOWN_IN_PROGRESS;
    let (id, second) = &tasks[1];
    let done = Done::failed(*id, TaskResult::UnexpectedError, error, "");
    agent.say(&AgentMessage::Done(done));
    assert_eq!(end(second), (Some(TaskResult::UnexpectedError), error));
    host.integration.powered_off();
    assert_eq!(end(&tasks[0].1), SUCCESS);
}
