//! Requests that one message of the guest answers, within a time.

use crate::error::CallError;
use crossbeam_channel::Sender;
use protocol::HResult;
use protocol::message::AgentMessage;
use std::collections::HashMap;
use std::time::Instant;

/// Callers that are waiting at once.
const MAX_CALLERS: usize = 64;

/// A connection, and a request's number there.
pub(in crate::integration) type Key = (u64, u64);

/// Who gets the answer.
pub(in crate::integration) enum Reply {
    /// Somebody outside the thread.
    Caller(Sender<Result<AgentMessage, CallError>>),
    /// The thread itself, for the record of the guest's clock.
    Clock {
        /// When it was asked, in the clock's own count.
        turn: u64,
    },
    /// The logoff of this name, which takes a second look.
    SecondLook { operation: Key },
    /// Nobody.
    Nobody,
}

impl Reply {
    /// Refuses the call.
    pub(in crate::integration) fn refuse(self, error: CallError) {
        if let Self::Caller(caller) = self {
            // Whoever asked may have gone.
            let _ = caller.send(Err(error));
        }
    }
}

struct Call {
    deadline: Instant,
    reply: Reply,
}

/// The requests that are waiting for their answer.
#[derive(Default)]
pub(in crate::integration) struct Calls {
    waiting: HashMap<Key, Call>,
}

impl Calls {
    /// Whether no more callers can wait. What the thread asks for itself is little, and goes on.
    pub(in crate::integration) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_CALLERS
    }

    pub(in crate::integration) fn add(&mut self, key: Key, deadline: Instant, reply: Reply) {
        self.waiting.insert(key, Call { deadline, reply });
    }

    /// Takes out whoever waits for the answer to this request.
    pub(in crate::integration) fn take(&mut self, key: Key) -> Option<Reply> {
        Some(self.waiting.remove(&key)?.reply)
    }

    pub(in crate::integration) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|call| call.deadline).min()
    }

    /// Refuses those for which it is too late.
    pub(in crate::integration) fn expire(&mut self, now: Instant) {
        let text = "the guest did not answer in time";
        let error = CallError::new(HResult::VM_E_TIMED_OUT, text);
        self.refuse(&error, |_, call| call.deadline <= now);
    }

    /// Refuses those that were asked over `connection`.
    pub(in crate::integration) fn lost(&mut self, connection: u64, error: &CallError) {
        self.refuse(error, |(on, _), _| *on == connection);
    }

    /// Refuses all.
    pub(in crate::integration) fn clear(&mut self, error: &CallError) {
        self.refuse(error, |_, _| true);
    }

    fn refuse(&mut self, error: &CallError, which: impl Fn(&Key, &Call) -> bool) {
        for (_, call) in self.waiting.extract_if(|key, call| which(key, call)) {
            call.reply.refuse(error.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Receiver, bounded};
    use std::time::Duration;

    type Answer = Receiver<Result<AgentMessage, CallError>>;

    fn call(calls: &mut Calls, key: Key, deadline: Instant) -> Answer {
        let (reply, answer) = bounded(1);
        calls.add(key, deadline, Reply::Caller(reply));
        answer
    }

    fn code(answer: &Answer) -> Option<HResult> {
        answer.try_recv().ok().map(|answer| answer.unwrap_err().code)
    }

    #[test]
    fn each_is_refused_in_its_own_time_and_once() {
        let mut calls = Calls::default();
        let now = Instant::now();
        let soon = call(&mut calls, (1, 1), now);
        let later = call(&mut calls, (1, 2), now + Duration::from_secs(5));
        assert_eq!(calls.deadline(), Some(now));
        calls.expire(now);
        assert_eq!((code(&soon), code(&later)), (Some(HResult::VM_E_TIMED_OUT), None));
        assert!(calls.take((1, 1)).is_none(), "a late answer finds nobody");
        assert!(calls.take((1, 2)).is_some());
        assert_eq!(calls.deadline(), None);
    }

    #[test]
    fn a_lost_connection_takes_only_its_own_along() {
        let mut calls = Calls::default();
        let now = Instant::now();
        let gone = call(&mut calls, (1, 1), now);
        let here = call(&mut calls, (2, 1), now);
        calls.lost(1, &CallError::new(HResult::E_FAIL, ""));
        assert_eq!((code(&gone), code(&here)), (Some(HResult::E_FAIL), None));
        calls.clear(&CallError::new(HResult::E_FAIL, ""));
        assert_eq!(code(&here), Some(HResult::E_FAIL));
    }
}
