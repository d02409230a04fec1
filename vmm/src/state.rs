//! What a machine is doing: the states of the Virtual PC API, and what can be asked in which.
//!
//! ```text
//!            startup                     turn_off, or the guest ends
//! TurnedOff --------> TurningOn --> Running -----------------------> TurningOff --> TurnedOff
//!                         |          |  ^                                ^
//!                         |    pause |  | resume                         |
//!                         |          v  |                                |
//!                         |         Paused ----------------------------->+
//!                         +--------------------------------------------->+
//! ```
//!
//! A reset, whoever asks for it, changes no state. What is admitted, and which code refuses:
//!
//! ```text
//!             TurnedOff    TurningOn    Running      Paused       TurningOff
//! Startup     yes          VM_RUNNING   VM_RUNNING   VM_RUNNING   VM_RUNNING
//! TurnOff     NOT_RUNNING  yes          yes          yes          NOT_RUNNING
//! Reset       NOT_RUNNING  NOT_RUNNING  yes          yes          NOT_RUNNING
//! Pause       NOT_RUNNING  NOT_RUNNING  yes          E_FAIL       NOT_RUNNING
//! Resume      NOT_RUNNING  NOT_RUNNING  E_FAIL       yes          NOT_RUNNING
//! GuestWork   NOT_RUNNING  NOT_RUNNING  yes          NOT_RUNNING  NOT_RUNNING
//! GuestCall   NOT_RUNNING  NOT_RUNNING  yes          VM_PAUSED    NOT_RUNNING
//! ```

use crate::error::CallError;
use protocol::HResult;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

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

impl VmState {
    /// The state as part of a sentence: "the machine is ...".
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::TurnedOff => "turned off",
            Self::Saved => "saved",
            Self::TurningOn => "being turned on",
            Self::Restoring => "being restored",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Saving => "being saved",
            Self::TurningOff => "being turned off",
        }
    }
}

/// What can be asked of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Turn it on.
    Startup,
    /// Turn it off, as if its plug was pulled.
    TurnOff,
    /// Boot it anew.
    Reset,
    /// Let its processors stand still.
    Pause,
    /// Let them go on.
    Resume,
    /// Work of the guest's that is followed as a task: log off, shut down, restart.
    GuestWork,
    /// A question to the guest.
    GuestCall,
}

/// Whether `verb` is possible for a machine that is in `state`: the table above.
///
/// # Errors
/// The documented code, and words.
pub fn admit(verb: Verb, state: VmState) -> Result<(), CallError> {
    use HResult as H;
    use VmState as S;
    let (code, advice) = match (verb, state) {
        (Verb::Startup, S::TurnedOff | S::Saved)
        | (Verb::TurnOff, S::TurningOn | S::Running | S::Paused)
        | (Verb::Reset, S::Running | S::Paused)
        | (Verb::Pause | Verb::GuestWork | Verb::GuestCall, S::Running)
        | (Verb::Resume, S::Paused) => return Ok(()),
        (Verb::Startup, _) => (H::VM_E_VM_RUNNING, ""),
        (Verb::Pause, S::Paused) => (H::E_FAIL, " already"),
        (Verb::Resume, S::Running) => (H::E_FAIL, ", and not paused"),
        (Verb::GuestCall, S::Paused) => (H::VM_E_VM_PAUSED, "; resume it first"),
        (Verb::GuestWork, S::Paused) => (H::VM_E_VM_NOT_RUNNING, "; resume it first"),
        _ => (H::VM_E_VM_NOT_RUNNING, ""),
    };
    Err(CallError::new(code, format!("the machine is {}{advice}", state.words())))
}

/// A machine's state, shared between the threads that ask for it and the one that changes it.
#[derive(Clone, Debug)]
pub struct StateCell {
    state: Arc<Mutex<VmState>>,
}

impl StateCell {
    /// A cell that holds `state`.
    #[must_use]
    pub fn new(state: VmState) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The state now.
    #[must_use]
    pub fn get(&self) -> VmState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state. Only [`crate::vm`] does this, and tests.
    pub fn set(&self, state: VmState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the module's documentation, read from this very file.
    #[test]
    fn what_is_admitted_is_what_the_table_says() {
        let states = [
            VmState::TurnedOff,
            VmState::TurningOn,
            VmState::Running,
            VmState::Paused,
            VmState::TurningOff,
        ];
        let verbs = [
            Verb::Startup,
            Verb::TurnOff,
            Verb::Reset,
            Verb::Pause,
            Verb::Resume,
            Verb::GuestWork,
            Verb::GuestCall,
        ];
        let mut lines = include_str!("state.rs").lines();
        let head = lines.find(|line| line.contains("TurnedOff    TurningOn")).unwrap();
        let named: Vec<String> = states.iter().map(|state| format!("{state:?}")).collect();
        assert_eq!(head.split_whitespace().skip(1).collect::<Vec<_>>(), named);
        for (verb, line) in verbs.into_iter().zip(lines) {
            let mut words = line.split_whitespace().skip(1);
            assert_eq!(words.next(), Some(format!("{verb:?}").as_str()));
            for (state, word) in states.into_iter().zip(words.by_ref()) {
                let code = admit(verb, state).err().map(|error| error.code);
                let expected = match word {
                    "yes" => None,
                    "E_FAIL" => Some(HResult::E_FAIL),
                    "VM_RUNNING" => Some(HResult::VM_E_VM_RUNNING),
                    "VM_PAUSED" => Some(HResult::VM_E_VM_PAUSED),
                    "NOT_RUNNING" => Some(HResult::VM_E_VM_NOT_RUNNING),
                    other => panic!("{other}"),
                };
                assert_eq!(code, expected, "{verb:?} of a machine that is {state:?}");
            }
        }
    }
}
