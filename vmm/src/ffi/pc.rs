//! `IVMVirtualPC` for C: all machines of a user, and their tasks.

use super::call::{
    ForC, Out, add_ref, ask, ask_if_any, call, handle, object, path_text, release, text,
    text_if_any,
};
use super::code::VmmHresult;
use super::machine::VmmMachine;
use super::pc_events::VmmPcEvents;
use super::structure::{self, Structure};
use super::task::VmmTask;
use crate::catalog::{Catalog, Definition};
use crate::error::CallError;
use crate::runtime::Runtime;
use crate::virtual_pc::VirtualPc;
use protocol::HResult;
use std::ffi::c_char;
use std::path::Path;
use std::ptr::{null, null_mut};

/// All machines of a user.
pub struct VmmVirtualPc(VirtualPc);

impl ForC for VmmVirtualPc {
    type C = *mut Self;
    const NONE: Self::C = null_mut();

    fn for_c(self) -> Self::C {
        handle(self)
    }
}

/// Whose machines, for vmm_virtual_pc_open. Those of the user who calls, if both folders are null.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VmmVirtualPcOptions {
    /// Of this structure, in bytes.
    pub size: u32,
    /// 0.
    pub reserved: u32,
    /// The folder of their definitions, as VMM_DATA_DIR names it to the vmm command.
    pub data_dir: *const c_char,
    /// The folder of their sockets, as VMM_RUNTIME_DIR names it to the vmm command.
    pub runtime_dir: *const c_char,
}

// SAFETY: its two numbers are as long as a pointer, and so there is no padding.
unsafe impl Structure for VmmVirtualPcOptions {}

/// What a machine is made of, for vmm_virtual_pc_create; what is 0 or null has its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VmmMachineOptions {
    /// Of this structure, in bytes.
    pub size: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// RAM in bytes: at least 16 MiB, and a multiple of 4096.
    pub memory: u64,
    /// The kernel's file. There is no default.
    pub kernel: *const c_char,
    /// The file of the initial RAM disk.
    pub initrd: *const c_char,
    /// Words for the kernel command line.
    pub append: *const c_char,
    /// The file that the serial console writes to.
    pub console: *const c_char,
}

// SAFETY: its two numbers of 32 bits are as long as a pointer, and so there is no padding.
unsafe impl Structure for VmmMachineOptions {}

/// The machines that options (null: all defaults) say. Release it when it is of no more use.
///
/// E_INVALIDARG: only one of the two folders is given, or the structure is not valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_open(
    options: *const VmmVirtualPcOptions,
    pc: *mut *mut VmmVirtualPc,
) -> VmmHresult {
    call(|| {
        // SAFETY: our caller promises it.
        let out = unsafe { Out::new(pc, null_mut())? };
        let defaults =
            VmmVirtualPcOptions { size: 0, reserved: 0, data_dir: null(), runtime_dir: null() };
        // SAFETY: our caller promises it.
        let options = unsafe { structure::read(options, defaults)? };
        // SAFETY: our caller promises it of what the structure points to, too.
        let data = unsafe { text_if_any(options.data_dir)? };
        // SAFETY: likewise.
        let runtime = unsafe { text_if_any(options.runtime_dir)? };
        let pc = match (data, runtime, options.reserved) {
            (None, None, 0) => VirtualPc::of_user(),
            (Some(data), Some(runtime), 0) => {
                VirtualPc::at(Catalog::at(data, Runtime::at(runtime)))
            }
            (_, _, 0) => return Err(refused("a folder is given without the other one")),
            _ => return Err(refused("what is reserved is not 0")),
        };
        out.put(VmmVirtualPc(pc).for_c());
        Ok(HResult::S_OK)
    })
}

/// The product's name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_name(
    pc: *mut VmmVirtualPc,
    name: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(pc, name, |pc| Ok(pc.0.name().to_owned())) }
}

/// The product's version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_version(
    pc: *mut VmmVirtualPc,
    version: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(pc, version, |pc| Ok(pc.0.version().to_owned())) }
}

/// The machine with this name, in whatever letters.
///
/// S_FALSE, and null: there is none. VM_E_CONFIG_...: no machine can have this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_find(
    pc: *mut VmmVirtualPc,
    name: *const c_char,
    machine: *mut *mut VmmMachine,
) -> VmmHresult {
    let find = |pc: &VmmVirtualPc| {
        // SAFETY: our caller promises it.
        let found = pc.0.find_virtual_machine(unsafe { text(name)? })?;
        Ok(found.map(VmmMachine))
    };
    // SAFETY: our caller promises the same.
    unsafe { ask_if_any(pc, machine, find) }
}

/// Makes a machine and gives it this name. Its definition can be changed afterwards with
/// vmm_machine_set_definition.
///
/// VM_E_CONFIG_NO_NAME, VM_E_CONFIG_NAME_TOO_LONG, VM_E_CONFIG_NAME_INVALID_CHAR,
/// VM_E_CONFIG_DUPLICATE_NAME; ERROR_PATH_NOT_FOUND: a file that it names is not there;
/// E_INVALIDARG: the structure is not valid; VM_E_PREF_ILLEGAL_VALUE: a value of it is not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_create(
    pc: *mut VmmVirtualPc,
    name: *const c_char,
    options: *const VmmMachineOptions,
    machine: *mut *mut VmmMachine,
) -> VmmHresult {
    let create = |pc: &VmmVirtualPc| {
        // SAFETY: our caller promises it.
        let name = unsafe { text(name)? };
        // SAFETY: our caller promises it.
        let definition = unsafe { definition(options)? };
        Ok(VmmMachine(pc.0.create_virtual_machine(name, &definition)?))
    };
    // SAFETY: our caller promises the same.
    unsafe { ask(pc, machine, create) }
}

/// What a structure says.
///
/// # Safety
/// As [`structure::read`], and as [`text`] for what it points to.
unsafe fn definition(options: *const VmmMachineOptions) -> Result<Definition, CallError> {
    let defaults = VmmMachineOptions {
        size: 0,
        cpus: 0,
        memory: 0,
        kernel: null(),
        initrd: null(),
        append: null(),
        console: null(),
    };
    if options.is_null() {
        return Err(CallError::new(HResult::E_POINTER, "the options are null"));
    }
    // SAFETY: our caller promises it.
    let options = unsafe { structure::read(options, defaults)? };
    // SAFETY: our caller promises it of what the structure points to, too.
    let kernel = unsafe { text_if_any(options.kernel)? };
    let mut definition =
        Definition::new("", kernel.ok_or_else(|| refused("there is no kernel in the options"))?);
    // SAFETY: likewise.
    definition.initrd = unsafe { text_if_any(options.initrd)? }.map(Into::into);
    // SAFETY: likewise.
    definition.console = unsafe { text_if_any(options.console)? }.map(Into::into);
    // SAFETY: likewise.
    definition.append = unsafe { text_if_any(options.append)? }.unwrap_or_default().to_owned();
    if options.memory != 0 {
        definition.memory = options.memory;
    }
    if options.cpus != 0 {
        definition.cpus = u8::try_from(options.cpus).map_err(|_| {
            let text = format!("{} processors: it must be 1 to 255", options.cpus);
            CallError::new(HResult::VM_E_PREF_ILLEGAL_VALUE, text)
        })?;
    }
    Ok(definition)
}

/// Adds the definition at a path, a file of TOML, to the catalog, under a name or, if that is null,
/// the name that it has.
///
/// As vmm_virtual_pc_create; ERROR_FILE_NOT_FOUND: there is no such file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_register(
    pc: *mut VmmVirtualPc,
    name: *const c_char,
    path: *const c_char,
    machine: *mut *mut VmmMachine,
) -> VmmHresult {
    let register = |pc: &VmmVirtualPc| {
        // SAFETY: our caller promises it.
        let name = unsafe { text_if_any(name)? };
        // SAFETY: our caller promises it.
        let path = Path::new(unsafe { text(path)? });
        Ok(VmmMachine(pc.0.register_virtual_machine(name, path)?))
    };
    // SAFETY: our caller promises the same.
    unsafe { ask(pc, machine, register) }
}

/// Takes a machine out of the catalog, and says where its definition is kept.
///
/// VM_E_VM_RUNNING; VM_E_VM_UNKNOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_unregister(
    pc: *mut VmmVirtualPc,
    machine: *mut VmmMachine,
    path: *mut *mut c_char,
) -> VmmHresult {
    let unregister = |pc: &VmmVirtualPc| {
        // SAFETY: our caller promises it.
        let machine = unsafe { object(machine)? };
        path_text(&pc.0.unregister_virtual_machine(&machine.0)?)
    };
    // SAFETY: our caller promises the same.
    unsafe { ask(pc, path, unregister) }
}

/// Deletes a machine and its definition. The object stays until it is released.
///
/// S_FALSE: there is none any more. VM_E_VM_RUNNING.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_delete(
    pc: *mut VmmVirtualPc,
    machine: *mut VmmMachine,
) -> VmmHresult {
    call(|| {
        // SAFETY: our caller promises it.
        let pc = unsafe { object(pc)? };
        // SAFETY: our caller promises it.
        let machine = unsafe { object(machine)? };
        let deleted = pc.0.delete_virtual_machine(&machine.0)?;
        Ok(if deleted { HResult::S_OK } else { HResult::S_FALSE })
    })
}

/// How many machines there are: those in the catalog, and others that run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_machine_count(
    pc: *mut VmmVirtualPc,
    count: *mut u32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(pc, count, |pc| Ok(count_of(&pc.0.virtual_machines()?))) }
}

/// A machine by its place, from 0, in the order of the names.
///
/// DISP_E_BADINDEX: there are not so many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_machine_at(
    pc: *mut VmmVirtualPc,
    index: u32,
    machine: *mut *mut VmmMachine,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(pc, machine, |pc| item(pc.0.virtual_machines()?, index).map(VmmMachine)) }
}

/// How many tasks there are, of all machines.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_task_count(
    pc: *mut VmmVirtualPc,
    count: *mut u32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(pc, count, |pc| Ok(count_of(&pc.0.tasks()?))) }
}

/// A task by its place, from 0, the oldest first.
///
/// DISP_E_BADINDEX: there are not so many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_task_at(
    pc: *mut VmmVirtualPc,
    index: u32,
    task: *mut *mut VmmTask,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(pc, task, |pc| item(pc.0.tasks()?, index).map(VmmTask::from)) }
}

/// The task with this id.
///
/// DISP_E_BADINDEX: there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_task(
    pc: *mut VmmVirtualPc,
    id: u32,
    task: *mut *mut VmmTask,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(pc, task, |pc| pc.0.task(id).map(VmmTask::from)) }
}

/// A queue of what becomes of all machines from now on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_events(
    pc: *mut VmmVirtualPc,
    events: *mut *mut VmmPcEvents,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(pc, events, |pc| Ok(VmmPcEvents::from(pc.0.events()))) }
}

/// How many there are in a collection.
pub(super) fn count_of<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}

/// An item of a collection.
pub(super) fn item<T>(items: Vec<T>, index: u32) -> Result<T, CallError> {
    let count = items.len();
    items.into_iter().nth(index as usize).ok_or_else(|| {
        let text = format!("there is no item {index}, counted from 0: there are {count}");
        CallError::new(HResult::DISP_E_BADINDEX, text)
    })
}

fn refused(why: &str) -> CallError {
    CallError::new(HResult::E_INVALIDARG, why)
}

/// Counts one reference to the object more. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_add_ref(pc: *mut VmmVirtualPc) {
    // SAFETY: our caller promises the same.
    unsafe { add_ref(pc) };
}

/// Counts one reference to the object less; with the last it is gone. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_virtual_pc_release(pc: *mut VmmVirtualPc) {
    // SAFETY: our caller promises the same.
    unsafe { release(pc) };
}
