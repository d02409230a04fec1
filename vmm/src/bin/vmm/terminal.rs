//! The terminal that somebody types on, and how it was before every key of it went to a guest.

use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};
use std::io;
use std::sync::{Mutex, PoisonError};

/// The terminal at standard input.
#[derive(Default)]
pub(crate) struct Terminal {
    before: Mutex<Option<Termios>>,
}

impl Terminal {
    /// Gives every key to the guest. Output is still processed, so that our own lines look right.
    pub(crate) fn make_raw(&self) {
        let Ok(before) = tcgetattr(io::stdin()) else { return };
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        // A terminal that stays as it is still works, line by line.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &raw);
    }

    pub(crate) fn restore(&self) {
        if let Some(before) = self.before.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // There is nobody to tell if it does not work.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
        }
    }
}

/// Restores the terminal at the end of its scope.
pub(crate) struct Restore<'a>(pub(crate) &'a Terminal);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        self.0.restore();
    }
}
