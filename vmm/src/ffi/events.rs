//! `IVMVirtualMachineEvents` for C: a queue instead of callbacks.

use super::call::{ForC, Out, add_ref, ask, c_text, call, handle, json, object, release};
use super::code::VmmHresult;
use super::machine::VmmVmState;
use super::structure::{SizedOut, Structure};
use crate::control::client::Events;
use crate::error::CallError;
use crate::events::{EventKind, LogoffType, Notice};
use crate::task::check_wait;
use protocol::HResult;
use std::ffi::{c_char, c_int};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A queue of what happens to a machine.
pub struct VmmEvents {
    /// That of the queue, for those who ask while somebody waits.
    fd: RawFd,
    queue: Mutex<Events>,
}

impl From<Events> for VmmEvents {
    fn from(events: Events) -> Self {
        Self { fd: events.as_fd().as_raw_fd(), queue: Mutex::new(events) }
    }
}

impl ForC for VmmEvents {
    type C = *mut Self;
    const NONE: Self::C = null_mut();

    fn for_c(self) -> Self::C {
        handle(self)
    }
}

impl VmmEvents {
    fn queue(&self) -> MutexGuard<'_, Events> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of an event: that of the member of IVMVirtualMachineEvents.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmmEventNumber {
    /// Events were lost, because they were not taken in time.
    Lost = 0,
    /// The machine's state changed.
    OnStateChange = 1,
    /// The machine is about to be turned off.
    OnRequestShutdown = 2,
    /// The machine boots anew.
    OnReset = 3,
    /// A processor of the guest triple-faulted.
    OnTripleFault = 4,
    /// The agent fell silent without a word.
    OnHeartbeatStopped = 5,
    /// An agent is connected and has answered.
    OnAdditionsAvailable = 9,
    /// The guest has shut down.
    OnGuestShutdown = 10,
    /// A session ended.
    OnGuestLogoff = 11,
    /// The guest's init says that the boot is complete; the API has no such event.
    GuestReady = 1000,
}

impl From<&EventKind> for VmmEventNumber {
    fn from(kind: &EventKind) -> Self {
        match kind {
            EventKind::OnStateChange { .. } => Self::OnStateChange,
            EventKind::OnRequestShutdown => Self::OnRequestShutdown,
            EventKind::OnReset => Self::OnReset,
            EventKind::OnTripleFault => Self::OnTripleFault,
            EventKind::OnHeartbeatStopped => Self::OnHeartbeatStopped,
            EventKind::OnAdditionsAvailable => Self::OnAdditionsAvailable,
            EventKind::OnGuestShutdown => Self::OnGuestShutdown,
            EventKind::GuestReady => Self::GuestReady,
            EventKind::OnGuestLogoff { .. } => Self::OnGuestLogoff,
        }
    }
}

/// Why somebody's session ended: VMLogoffType.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmmLogoffType {
    /// The user left.
    Normal = 0,
    /// The guest's system ended it.
    Forced = 1,
    /// The host asked for it.
    External = 2,
}

impl From<LogoffType> for VmmLogoffType {
    fn from(kind: LogoffType) -> Self {
        match kind {
            LogoffType::Normal => Self::Normal,
            LogoffType::Forced => Self::Forced,
            LogoffType::External => Self::External,
        }
    }
}

/// An event. The caller sets the size before it asks.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VmmEvent {
    /// Of this structure, in bytes.
    pub size: u32,
    /// What happened.
    pub number: VmmEventNumber,
    /// Counts the machine's events from 1, so that gaps show.
    pub sequence: u64,
    /// How many events were lost, for that number.
    pub lost: u64,
    /// What the machine is doing now, for a change of state.
    pub state: VmmVmState,
    /// Why the session ended, for that of a session.
    pub logoff_type: VmmLogoffType,
}

// SAFETY: numbers, of which those of 64 bits are at multiples of that, and so is the end. It is
// never read, so that any numbers in place of the enumerations do not matter.
unsafe impl Structure for VmmEvent {}

impl From<&Notice> for VmmEvent {
    fn from(notice: &Notice) -> Self {
        let mut event = Self {
            size: 0,
            number: VmmEventNumber::Lost,
            sequence: 0,
            lost: 0,
            state: VmmVmState::Invalid,
            logoff_type: VmmLogoffType::Normal,
        };
        match notice {
            Notice::Lost(lost) => event.lost = *lost,
            Notice::Event(told) => {
                event.number = VmmEventNumber::from(&told.kind);
                event.sequence = told.sequence;
                match told.kind {
                    EventKind::OnStateChange { state } => event.state = state.into(),
                    EventKind::OnGuestLogoff { logoff_type, .. } => {
                        event.logoff_type = logoff_type.into();
                    }
                    _ => {}
                }
            }
        }
        event
    }
}

/// A descriptor for poll(2) and its like: readable when there may be something for vmm_events_next.
/// It stays the queue's: it is closed when the last reference to the object is released, and is not
/// to be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_events_fd(events: *mut VmmEvents, fd: *mut c_int) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(events, fd, |events| Ok(events.fd)) }
}

/// The next event, and all that is known of it as JSON. Waits for it at most so many milliseconds: 0
/// to 4,000,000, or -1 for ever.
///
/// S_FALSE: there is none now. Only then poll the descriptor. E_INVALIDARG: any other time, or the
/// structure is not valid. VM_E_VM_NOT_RUNNING: the machine's process has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_events_next(
    events: *mut VmmEvents,
    milliseconds: i32,
    event: *mut VmmEvent,
    document: *mut *mut c_char,
) -> VmmHresult {
    call(|| {
        // SAFETY: our caller promises it.
        let document = unsafe { Out::new(document, null_mut())? };
        // SAFETY: our caller promises it.
        let event = unsafe { SizedOut::new(event)? };
        // SAFETY: our caller promises it.
        let events = unsafe { object(events)? };
        let Some(notice) = next(events, milliseconds)? else { return Ok(HResult::S_FALSE) };
        let text = match &notice {
            Notice::Event(event) => json(event)?,
            Notice::Lost(count) => format!(r#"{{"lost":{count}}}"#),
        };
        event.put(&VmmEvent::from(&notice));
        document.put(c_text(&text).into_raw());
        Ok(HResult::S_OK)
    })
}

fn next(events: &VmmEvents, milliseconds: i32) -> Result<Option<Notice>, CallError> {
    match check_wait(milliseconds)? {
        Some(Duration::ZERO) => events.queue().take(),
        timeout => events.queue().next(timeout),
    }
}

/// Counts one reference to the object more. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_events_add_ref(events: *mut VmmEvents) {
    // SAFETY: our caller promises the same.
    unsafe { add_ref(events) };
}

/// Counts one reference to the object less; with the last it is gone. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_events_release(events: *mut VmmEvents) {
    // SAFETY: our caller promises the same.
    unsafe { release(events) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Event;
    use crate::state::VmState;

    #[test]
    fn an_event_has_the_same_number_here_as_everywhere() {
        for kind in [
            EventKind::OnStateChange { state: VmState::Paused },
            EventKind::OnRequestShutdown,
            EventKind::OnReset,
            EventKind::OnTripleFault,
            EventKind::OnHeartbeatStopped,
            EventKind::OnAdditionsAvailable,
            EventKind::OnGuestShutdown,
            EventKind::GuestReady,
            EventKind::OnGuestLogoff {
                logoff_type: LogoffType::External,
                user: "alice".into(),
                session: "1".into(),
            },
        ] {
            let number = kind.number();
            let event = Event { machine: "web".into(), sequence: 7, number, kind };
            let event = VmmEvent::from(&Notice::Event(event));
            assert_eq!((event.number as u32, event.sequence, event.lost), (number, 7, 0));
            let state = if number == 1 { VmmVmState::Paused } else { VmmVmState::Invalid };
            assert_eq!(event.state, state);
            assert_eq!(event.logoff_type as u32, if number == 11 { 2 } else { 0 });
        }
        let lost = VmmEvent::from(&Notice::Lost(9));
        assert_eq!((lost.number, lost.lost), (VmmEventNumber::Lost, 9));
    }
}
