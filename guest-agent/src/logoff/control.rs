//! The hold that a connection has on its operation: it can cancel it, or let it go.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The connection that an operation belongs to has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connection lost")]
pub struct Lost;

/// Why an operation ends before its work does.
#[derive(Debug)]
pub(super) enum Stop {
    /// The host has cancelled it.
    Cancelled,
    /// Its connection has ended.
    Lost,
    /// The guest's kernel does not play along.
    Failed(io::Error),
}

impl From<Lost> for Stop {
    fn from(Lost: Lost) -> Self {
        Self::Lost
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has been touched yet.
    Cancelable,
    Committed,
    Cancelled,
    Lost,
    /// The last word is about to be said.
    Over,
}

/// Decides, once, between commit and cancel.
#[derive(Debug)]
pub struct Control {
    state: Mutex<State>,
    wake: OwnedFd,
}

impl Control {
    /// For an operation that begins, or goes on after its commit.
    ///
    /// # Errors
    /// Descriptors have run out.
    pub fn new(committed: bool) -> io::Result<Self> {
        let state = Mutex::new(if committed { State::Committed } else { State::Cancelable });
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { state, wake })
    }

    /// Cancels the operation if it has not committed. `answer` is told whether that was so before
    /// the operation can take notice.
    pub fn cancel<T>(&self, answer: impl FnOnce(bool) -> T) -> T {
        let mut state = self.lock();
        let cancelled = *state == State::Cancelable;
        if cancelled {
            *state = State::Cancelled;
        }
        let answered = answer(cancelled);
        drop(state);
        self.wake();
        answered
    }

    /// Lets the operation go if it is not over: its connection has ended.
    pub fn abandon(&self) {
        *self.lock() = State::Lost;
        self.wake();
    }

    /// Notes that the operation has nothing to do any more but to say so.
    pub fn finish(&self) {
        *self.lock() = State::Over;
    }

    /// Whether it has: the host may have heard the last word, or that it is cancelled, and ask for
    /// more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(*self.lock(), State::Over | State::Cancelled)
    }

    /// Passes the point of no return, or says why there is none to pass.
    pub(super) fn commit(&self) -> Result<(), Stop> {
        let mut state = self.lock();
        match *state {
            State::Cancelable | State::Committed => {
                *state = State::Committed;
                Ok(())
            }
            State::Cancelled => Err(Stop::Cancelled),
            State::Lost | State::Over => Err(Stop::Lost),
        }
    }

    /// Why the operation has to stop, if it has to.
    pub(super) fn stop(&self) -> Option<Stop> {
        match *self.lock() {
            State::Cancelable | State::Committed | State::Over => None,
            State::Cancelled => Some(Stop::Cancelled),
            State::Lost => Some(Stop::Lost),
        }
    }

    fn wake(&self) {
        // Fails only where the counter is full, and then the operation has been woken already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is one word: a thread that died holding it cannot have left it half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Control {
    /// Readable once the operation has to ask whether to stop.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_cannot_be_cancelled_and_the_reverse() {
        let control = Control::new(false).unwrap();
        assert!(control.stop().is_none());
        assert!(control.commit().is_ok());
        assert!(!control.cancel(|cancelled| cancelled));
        assert!(control.stop().is_none());

        let control = Control::new(false).unwrap();
        assert!(!control.is_over());
        assert!(control.cancel(|cancelled| cancelled));
        assert!(control.is_over(), "the next one may begin");
        assert!(matches!(control.commit(), Err(Stop::Cancelled)));
        assert!(!control.cancel(|cancelled| cancelled), "only once");

        assert!(!Control::new(true).unwrap().cancel(|cancelled| cancelled));
    }

    #[test]
    fn an_operation_that_is_let_go_stops_even_after_its_commit() {
        let control = Control::new(true).unwrap();
        control.abandon();
        assert!(matches!(control.stop(), Some(Stop::Lost)));
        assert!(matches!(control.commit(), Err(Stop::Lost)));
    }
}
