//! `IVMVirtualMachine` for C.

use super::call::{ForC, act, add_ref, ask, handle, json, path_text, release, text};
use super::code::VmmHresult;
use super::events::VmmEvents;
use super::guest::VmmGuestOs;
use super::pc::{count_of, item};
use super::task::VmmTask;
use crate::catalog::{CatalogError, Definition};
use crate::state::VmState;
use crate::virtual_pc::VirtualMachine;
use std::ffi::c_char;
use std::path::Path;
use std::ptr::null_mut;

/// A machine.
pub struct VmmMachine(pub(super) VirtualMachine);

impl ForC for VmmMachine {
    type C = *mut Self;
    const NONE: Self::C = null_mut();

    fn for_c(self) -> Self::C {
        handle(self)
    }
}

/// What a machine is doing: VMVMState.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmmVmState {
    /// Not known.
    Invalid = 0,
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

impl From<VmState> for VmmVmState {
    fn from(state: VmState) -> Self {
        match state {
            VmState::TurnedOff => Self::TurnedOff,
            VmState::Saved => Self::Saved,
            VmState::TurningOn => Self::TurningOn,
            VmState::Restoring => Self::Restoring,
            VmState::Running => Self::Running,
            VmState::Paused => Self::Paused,
            VmState::Saving => Self::Saving,
            VmState::TurningOff => Self::TurningOff,
        }
    }
}

impl ForC for VmmVmState {
    type C = Self;
    const NONE: Self::C = Self::Invalid;

    fn for_c(self) -> Self::C {
        self
    }
}

/// Its name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_name(
    machine: *mut VmmMachine,
    name: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, name, |machine| Ok(machine.0.name().to_owned())) }
}

/// What it is doing.
///
/// VM_E_VM_UNKNOWN: it is neither registered nor running.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_state(
    machine: *mut VmmMachine,
    state: *mut VmmVmState,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, state, |machine| machine.0.state().map(VmmVmState::from)) }
}

/// What it is doing in detail, as JSON: what `vmm ls --format json` prints of it.
///
/// VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_info(
    machine: *mut VmmMachine,
    document: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, document, |machine| json(&machine.0.info()?)) }
}

/// The path of its definition.
///
/// VM_E_VM_UNKNOWN: it is not in the catalog.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_file(
    machine: *mut VmmMachine,
    path: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, path, |machine| path_text(&machine.0.file()?)) }
}

/// What it is made of, as TOML.
///
/// VM_E_VM_UNKNOWN: it is not in the catalog; VM_E_PREF_...: its definition has a fault.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_definition(
    machine: *mut VmmMachine,
    definition: *mut *mut c_char,
) -> VmmHresult {
    let say = |machine: &VmmMachine| {
        let definition = machine.0.definition()?;
        Ok(definition.to_toml().map_err(CatalogError::from)?)
    };
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, definition, say) }
}

/// Changes what it is made of to this TOML.
///
/// VM_E_PREF_VM_ACTIVE: it is on; VM_E_VM_UNKNOWN: it is not in the catalog; VM_E_PREF_...: the
/// definition has a fault.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_set_definition(
    machine: *mut VmmMachine,
    definition: *const c_char,
) -> VmmHresult {
    let change = |machine: &VmmMachine| {
        // SAFETY: our caller promises it.
        let toml = unsafe { text(definition)? };
        let file = machine.0.file()?;
        let definition = Definition::parse(toml, Path::new(&file)).map_err(CatalogError::from)?;
        machine.0.set_definition(&definition)
    };
    // SAFETY: our caller promises the same.
    unsafe { act(machine, change) }
}

/// Turns it on. If no process runs it, it runs in this one from now on, until it ends or the last
/// object that belongs to it (machine, guest, task) is released.
///
/// VM_E_VM_RUNNING; VM_E_VM_UNKNOWN; ERROR_ACCESS_DENIED; VM_E_PREF_...: its definition has a fault.
/// What is wrong with host or files comes through the task.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_startup(
    machine: *mut VmmMachine,
    task: *mut *mut VmmTask,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, task, |machine| machine.0.startup().map(VmmTask::from)) }
}

/// Turns it off, as if its plug was pulled.
///
/// VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN; ERROR_ACCESS_DENIED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_turn_off(
    machine: *mut VmmMachine,
    task: *mut *mut VmmTask,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, task, |machine| machine.0.turn_off().map(VmmTask::from)) }
}

/// Boots it anew. Codes as vmm_machine_turn_off.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_reset(
    machine: *mut VmmMachine,
    task: *mut *mut VmmTask,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, task, |machine| machine.0.reset().map(VmmTask::from)) }
}

/// Lets its processors stand still. Codes as vmm_machine_turn_off, and E_FAIL if they do already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_pause(machine: *mut VmmMachine) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { act(machine, |machine| machine.0.pause()) }
}

/// Lets its processors go on. Codes as vmm_machine_turn_off, and E_FAIL if they do already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_resume(machine: *mut VmmMachine) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { act(machine, |machine| machine.0.resume()) }
}

/// Its guest's operating system; having it says nothing about whether there is one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_guest_os(
    machine: *mut VmmMachine,
    guest: *mut *mut VmmGuestOs,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, guest, |machine| Ok(VmmGuestOs(machine.0.guest_os()))) }
}

/// A queue of what happens to it from now on.
///
/// VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_events(
    machine: *mut VmmMachine,
    events: *mut *mut VmmEvents,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, events, |machine| machine.0.events().map(VmmEvents::from)) }
}

/// How many tasks it has.
///
/// VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_task_count(
    machine: *mut VmmMachine,
    count: *mut u32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, count, |machine| Ok(count_of(&machine.0.tasks()?))) }
}

/// A task of it by its place, from 0, the oldest first.
///
/// DISP_E_BADINDEX: there are not so many; VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_task_at(
    machine: *mut VmmMachine,
    index: u32,
    task: *mut *mut VmmTask,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(machine, task, |machine| item(machine.0.tasks()?, index).map(VmmTask::from)) }
}

/// Counts one reference to the object more. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_add_ref(machine: *mut VmmMachine) {
    // SAFETY: our caller promises the same.
    unsafe { add_ref(machine) };
}

/// Counts one reference to the object less; with the last it is gone. Null is fine.
///
/// If this process runs the machine and no other object belongs to it, it is turned off.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_machine_release(machine: *mut VmmMachine) {
    // SAFETY: our caller promises the same.
    unsafe { release(machine) };
}
