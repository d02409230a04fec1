//! How many clients a control socket has.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
