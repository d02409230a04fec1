//! What a machine is doing: the states of the Virtual PC API and who may change them.
//!
//! ```text
//!              start                        guest powers off, resets for good, dies
//! TurnedOff ----------> TurningOn --> Running --------------------------> TurningOff --> TurnedOff
//!                                        |  ^
//!                                        +--+ guest reboots
//! ```

use serde::{Deserialize, Serialize};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// `VMVMState` of the Virtual PC API, whose numbers these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum VmState {
    /// Off.
    TurnedOff = 1,
    /// Off, with its state in a file.
    Saved = 2,
    /// On the way from off to running.
    TurningOn = 3,
    /// On the way from saved to running.
    Restoring = 4,
    /// Running, and not paused.
    Running = 5,
    /// Its processors stand still.
    Paused = 6,
    /// On the way from running to saved.
    Saving = 7,
    /// On the way from running to off.
    TurningOff = 8,
}

/// A machine's state, shared between the threads that ask for it and the one that changes it.
#[derive(Clone, Debug)]
pub struct StateCell {
    shared: Arc<(Mutex<VmState>, Condvar)>,
}

impl StateCell {
    /// A cell that holds `state`.
    #[must_use]
    pub fn new(state: VmState) -> Self {
        Self { shared: Arc::new((Mutex::new(state), Condvar::new())) }
    }

    /// The state now.
    #[must_use]
    pub fn get(&self) -> VmState {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes whoever waits for it. Only [`crate::vm`] does this, and tests.
    pub fn set(&self, state: VmState) {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.shared.1.notify_all();
    }
}
