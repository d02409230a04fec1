//! How many clients a control socket has, and how many requests have a thread.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests at once that have a thread because they may have to wait.
const MAX_CALLS: usize = 64;

/// How many clients there are, for whoever waits until all are answered.
#[derive(Default)]
pub(super) struct Crowd {
    count: Mutex<Count>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) clients: usize,
    /// Those that are owed an answer.
    pub(super) owed: usize,
}

impl Crowd {
    pub(super) fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, count: Count) {
        if std::mem::replace(&mut *self.lock(), count) != count {
            self.changed.notify_all();
        }
    }

    /// Waits until nobody is owed an answer any more, or `patience` is over.
    pub(super) fn wait_for_answers(&self, patience: Duration) {
        let owes = |count: &mut Count| count.owed > 0;
        let waited = self.changed.wait_timeout_while(self.lock(), patience, owes);
        drop(waited);
    }
}

/// Requests that have a thread.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) all: usize,
    /// Those of clients that are not the owner.
    others: usize,
}

impl Calls {
    /// Whether there may be one more.
    pub(super) fn has_room(&self, owner: bool) -> bool {
        self.all < MAX_CALLS && (owner || self.others < MAX_CALLS / 2)
    }

    pub(super) fn begin(&mut self, owner: bool) {
        self.all += 1;
        self.others += usize::from(!owner);
    }

    pub(super) fn end(&mut self, owner: bool) {
        self.all -= 1;
        self.others -= usize::from(!owner);
    }
}
