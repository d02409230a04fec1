//! What becomes of all machines of a user: `IVMVirtualPCEvents`.

use crate::control::all_events::{AllEvents, Heard};
use crate::error::CallError;
use crate::events::{EventKind, Notice, VmStateChange};
use crate::state::VmState;
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The changes of all machines' states, from [`VirtualPc::events`](crate::VirtualPc::events).
///
/// A state that lasts but a moment may not be told, nor one of a machine that ends as soon as it was
/// started.
pub struct PcEvents {
    all: AllEvents,
    /// What was told of each machine last; nothing of one whose state has not changed yet.
    told: HashMap<String, VmState>,
}

impl PcEvents {
    pub(crate) fn of(all: AllEvents) -> Self {
        Self { all, told: HashMap::new() }
    }

    /// A descriptor that is readable when there may be something to [take](Self::next) within no
    /// time; it stays ours.
    ///
    /// # Errors
    /// The host is short of descriptors.
    pub fn descriptor(&mut self) -> Result<BorrowedFd<'_>, CallError> {
        self.all.descriptor()
    }

    /// Waits for the next change; none if nothing changes within `timeout`.
    ///
    /// # Errors
    /// A machine's process answers nonsense; it is not listened to any more.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<VmStateChange>, CallError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let Some((machine, heard)) = self.all.next(left)? else { return Ok(None) };
            let state = match &heard {
                Heard::Notice(Notice::Event(event)) => match event.kind {
                    EventKind::OnStateChange { state } => state,
                    _ => continue,
                },
                Heard::Appeared(Some(state)) => *state,
                // A process that was killed says nothing before it ends.
                Heard::Ended => VmState::TurnedOff,
                Heard::Appeared(None) | Heard::Notice(Notice::Lost(_)) => continue,
            };
            let before = match heard {
                Heard::Ended => self.told.remove(&machine),
                _ => self.told.insert(machine.clone(), state),
            };
            if before != Some(state) {
                return Ok(Some(VmStateChange { machine, state }));
            }
        }
    }
}
