//! Cancelling: possible until the guest has committed, and answered by the guest.

use super::*;
use crate::integration::logoff::Operation;
use crate::task::Tasks;
use std::thread::{self, JoinHandle};

/// Cancels on a thread of its own, and looks at the task as soon as that has been answered.
fn cancel(task: &Task) -> JoinHandle<(Result<(), CallError>, TaskInfo)> {
    let task = task.clone();
    thread::spawn(move || (task.cancel(), task.info()))
}

#[test]
fn cancelling_before_the_commit_asks_the_guest_and_completes_the_task() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    agent.row(id, row(0, None));
    agent.progress(id, false, 0);
    let cancelling = cancel(&task);
    assert_eq!(agent.cancel(), id);
    agent.answer_cancel(id, true);
    let (answer, info) = cancelling.join().unwrap();
    assert_eq!(answer, Ok(()));
    assert!(info.is_complete, "as soon as it is cancelled");
    assert_eq!(end(&task), CANCELLED);
    assert_eq!(info.percent_completed, 0);
    assert_eq!(task.report().unwrap().sessions.len(), 1);
    // The guest ends it as it ends every request.
    agent.done(id, TaskResult::Cancelled, HResult::ERROR_CANCELLED);
    host.settle(&mut agent);
    assert_eq!(host.guest().agent().dropped, 0, "that was no surprise");
    assert_eq!(code(task.cancel()), HResult::E_FAIL, "it is complete already");
    assert_eq!(end(&task), CANCELLED);
}

#[test]
fn whoever_cancels_is_answered_only_when_the_task_is_complete() {
    for (result, error) in [
        (TaskResult::Cancelled, HResult::ERROR_CANCELLED),
        (TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION),
    ] {
        let (caller, _) = bounded(1);
        let (options, limit) = (LogoffOptions::default(), PATIENCE);
        let mut operation = Operation::ask((1, 1), "boot".into(), options, caller, limit, limit);
        assert!(operation.accept("test".into(), 1, 0).is_some());
        let (task, work) = Tasks::default().start("test", Box::new(|| Ok(())));
        operation.join(work);
        // Nobody can put an answer into this one before somebody takes it.
        let (reply, answer) = bounded(0);
        operation.cancelling.push((Instant::now() + PATIENCE, reply));
        let ending = thread::spawn(move || operation.end(result, error, "over"));
        assert_eq!(end(&task), (Some(result), error));
        let answer = answer.recv_timeout(PATIENCE).unwrap();
        assert_eq!(answer.is_ok(), result == TaskResult::Cancelled);
        ending.join().unwrap();
    }
}

#[test]
fn cancelling_after_the_commit_fails_and_the_work_goes_on() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    agent.commit(id, 1);
    committed(&task);
    assert_eq!(code(task.cancel()), HResult::E_FAIL);
    // Also where the commit comes between the look at the task and the question.
    let (reply, answer) = bounded(1);
    host.integration.commands.send(Command::Cancel { operation: (1, id), reply }).unwrap();
    assert_eq!(code(answer.recv_timeout(PATIENCE).unwrap()), HResult::E_FAIL);
    // The guest has not been asked.
    host.settle(&mut agent);
    assert!(!task.info().is_complete);
    agent.succeed(id, 1);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn the_guest_decides_whether_it_was_in_time() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    let cancelling = cancel(&task);
    assert_eq!(agent.cancel(), id);
    agent.answer_cancel(id, false);
    let (answer, info) = cancelling.join().unwrap();
    assert_eq!(code(answer), HResult::E_FAIL);
    assert!(!info.is_complete);
    agent.commit(id, 1);
    agent.succeed(id, 1);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn a_guest_that_has_committed_cannot_claim_to_have_stopped() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    let cancelling = cancel(&task);
    assert_eq!(agent.cancel(), id);
    agent.commit(id, 1);
    committed(&task);
    agent.answer_cancel(id, true);
    let (answer, _) = cancelling.join().unwrap();
    assert_eq!(code(answer), HResult::E_FAIL);
    assert!(!task.info().is_complete);
    agent.done(id, TaskResult::Cancelled, HResult::ERROR_CANCELLED);
    assert_eq!(end(&task), failed(HResult::DISP_E_EXCEPTION));
}

#[test]
fn a_guest_cannot_cancel_by_itself() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    agent.answer_cancel(id, true);
    host.settle(&mut agent);
    assert!(!task.info().is_complete);
    assert_eq!(host.guest().agent().dropped, 1);
    agent.done(id, TaskResult::Cancelled, HResult::ERROR_CANCELLED);
    assert_eq!(end(&task), failed(HResult::DISP_E_EXCEPTION));
}

#[test]
fn all_who_cancel_at_once_are_answered_and_all_tasks_end_alike() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, first) = host.begin(&mut agent, 1);
    let second = host.guest().logoff(LogoffOptions::default()).unwrap();
    let cancelling = [cancel(&first), cancel(&first), cancel(&second)];
    for _ in &cancelling {
        assert_eq!(agent.cancel(), id);
    }
    agent.answer_cancel(id, true);
    for cancelling in cancelling {
        let (answer, info) = cancelling.join().unwrap();
        assert_eq!(answer, Ok(()));
        assert!(info.is_complete);
    }
    assert_eq!((end(&first), end(&second)), (CANCELLED, CANCELLED));
    agent.answer_cancel(id, false);
    agent.answer_cancel(id, false);
    agent.done(id, TaskResult::Cancelled, HResult::ERROR_CANCELLED);
    host.settle(&mut agent);
    assert_eq!(host.guest().agent().dropped, 0);
}

#[test]
fn a_cancellation_that_nobody_answers_fails_in_time_and_the_work_goes_on() {
    let answer = Duration::from_secs(1);
    let host = Host::with(Timing { answer, ..Timing::default() });
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    let cancelling = cancel(&task);
    assert_eq!(agent.cancel(), id);
    let (answer, info) = cancelling.join().unwrap();
    let error = answer.unwrap_err();
    assert_eq!(error.code, HResult::E_FAIL);
    assert!(error.text.contains("did not answer in time"), "{error}");
    assert!(!info.is_complete);
    // Better late than never: the guest has stopped, and nobody was touched.
    agent.answer_cancel(id, true);
    assert_eq!(end(&task), CANCELLED);
}

#[test]
fn a_cancellation_whose_answer_was_only_the_end_is_a_cancellation() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    let cancelling = cancel(&task);
    assert_eq!(agent.cancel(), id);
    agent.done(id, TaskResult::Cancelled, HResult::ERROR_CANCELLED);
    assert_eq!(cancelling.join().unwrap().0, Ok(()));
    assert_eq!(end(&task), CANCELLED);
}

#[test]
fn a_cancellation_that_loses_to_the_end_fails() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    let cancelling = cancel(&task);
    assert_eq!(agent.cancel(), id);
    agent.row(id, row(0, Some(Outcome::Vanished)));
    agent.succeed(id, 1);
    let (answer, info) = cancelling.join().unwrap();
    assert_eq!(code(answer), HResult::E_FAIL);
    assert!(info.is_complete);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn a_cancellation_whose_agent_is_lost_fails_and_so_does_one_without_an_agent() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    let cancelling = cancel(&task);
    assert_eq!(agent.cancel(), id);
    drop(agent);
    let (answer, info) = cancelling.join().unwrap();
    assert_eq!(code(answer), HResult::E_FAIL);
    assert!(!info.is_complete);
    assert_eq!(code(task.cancel()), HResult::E_FAIL, "nobody is there to be asked");
    assert!(!task.info().is_complete);
}

#[test]
fn a_cancellation_ends_with_the_machine() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    let cancelling = cancel(&task);
    assert_eq!(agent.cancel(), id);
    host.integration.machine_ended();
    let (answer, info) = cancelling.join().unwrap();
    assert_eq!(code(answer), HResult::E_FAIL);
    assert!(info.is_complete);
    assert_eq!(end(&task), failed(HResult::VM_E_VM_NOT_RUNNING));
}

#[test]
fn a_cancellation_that_comes_too_late_does_not_touch_the_next_logoff() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, first) = host.begin(&mut agent, 1);
    agent.commit(id, 1);
    agent.succeed(id, 1);
    assert_eq!(end(&first), SUCCESS);
    let (_, second) = host.begin(&mut agent, 1);
    // Whoever looked at the first task before its end asks only now.
    let (reply, answer) = bounded(1);
    host.integration.commands.send(Command::Cancel { operation: (1, id), reply }).unwrap();
    assert_eq!(code(answer.recv_timeout(PATIENCE).unwrap()), HResult::E_FAIL);
    // Nobody has been asked to stop.
    host.settle(&mut agent);
    assert!(second.info().is_cancelable && !second.info().is_complete);
}
