//! Cancelling: possible until the guest has committed, and answered by the guest.

use crate::integration::logoff::Operation;
use crate::task::Tasks;
use crossbeam_channel::bounded;
use protocol::HResult;
use protocol::task::{LogoffOptions, TaskResult};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes; only bounds a test that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn whoever_cancels_is_answered_only_when_the_task_is_complete() {
    for (result, error) in [
        (TaskResult::Cancelled, HResult::ERROR_CANCELLED),
        (TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION),
    ] {
        let (caller, _) = bounded(1);
        let (options, limit) = (LogoffOptions::default(), PATIENCE);
        let mut operation = Operation::ask((1, 1), "boot".into(), options, caller, limit, limit);
        assert!(operation.accept("test".into(), 1, 0).is_ok());
        let (task, work) = Tasks::default().start("test", Box::new(|| Ok(())));
        operation.join(work);
        // Nobody can put an answer into this one before somebody takes it.
        let (reply, answer) = bounded(0);
        operation.cancelling.push((Instant::now() + PATIENCE, reply));
        let ending = thread::spawn(move || operation.end(result, error, "over"));
        let info = task.wait(Some(PATIENCE));
        assert_eq!((info.result, info.error), (Some(result), error));
        let answer = answer.recv_timeout(PATIENCE).unwrap();
        assert_eq!(answer.is_ok(), result == TaskResult::Cancelled);
        ending.join().unwrap();
    }
}
