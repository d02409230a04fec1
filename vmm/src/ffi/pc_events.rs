//! `IVMVirtualPCEvents` for C: a queue instead of callbacks.

use super::call::{ForC, Out, add_ref, ask, c_text, call, handle, object, release};
use super::code::VmmHresult;
use super::machine::VmmVmState;
use crate::error::CallError;
use crate::events::VmStateChange;
use crate::pc_events::PcEvents;
use crate::task::check_wait;
use protocol::HResult;
use std::ffi::{c_char, c_int};
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A queue of what becomes of all machines: of those that run, and of those that are started later.
pub struct VmmPcEvents(Mutex<PcEvents>);

impl From<PcEvents> for VmmPcEvents {
    fn from(events: PcEvents) -> Self {
        Self(Mutex::new(events))
    }
}

impl ForC for VmmPcEvents {
    type C = *mut Self;
    const NONE: Self::C = null_mut();

    fn for_c(self) -> Self::C {
        handle(self)
    }
}

impl VmmPcEvents {
    fn queue(&self) -> MutexGuard<'_, PcEvents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A descriptor for poll(2) and its like: readable when there may be something for
/// vmm_pc_events_next, and at least four times a second, for then new machines are looked for. It
/// stays the queue's: it is closed when the last reference to the object is released, and is not to
/// be read.
///
/// VM_E_OUT_OF_RESOURCE: the host is short of descriptors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_pc_events_fd(events: *mut VmmPcEvents, fd: *mut c_int) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(events, fd, |events| Ok(events.queue().descriptor()?.as_raw_fd())) }
}

/// The next change of a machine's state: what it is doing now, and its name. Waits for it at most so
/// many milliseconds: 0 to 4,000,000, or -1 for ever. A state that lasts but a moment may not be
/// told.
///
/// S_FALSE: there is none now. Only then poll the descriptor. E_INVALIDARG: any other time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_pc_events_next(
    events: *mut VmmPcEvents,
    milliseconds: i32,
    state: *mut VmmVmState,
    machine: *mut *mut c_char,
) -> VmmHresult {
    call(|| {
        // SAFETY: our caller promises it.
        let state = unsafe { Out::new(state, VmmVmState::Invalid)? };
        // SAFETY: our caller promises it.
        let machine = unsafe { Out::new(machine, null_mut())? };
        // SAFETY: our caller promises it.
        let events = unsafe { object(events)? };
        let Some(change) = next(events, milliseconds)? else { return Ok(HResult::S_FALSE) };
        state.put(change.state.into());
        machine.put(c_text(&change.machine).into_raw());
        Ok(HResult::S_OK)
    })
}

fn next(events: &VmmPcEvents, milliseconds: i32) -> Result<Option<VmStateChange>, CallError> {
    let timeout = check_wait(milliseconds)?;
    events.queue().next(timeout)
}

/// Counts one reference to the object more. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_pc_events_add_ref(events: *mut VmmPcEvents) {
    // SAFETY: our caller promises the same.
    unsafe { add_ref(events) };
}

/// Counts one reference to the object less; with the last it is gone. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_pc_events_release(events: *mut VmmPcEvents) {
    // SAFETY: our caller promises the same.
    unsafe { release(events) };
}
