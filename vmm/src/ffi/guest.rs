//! `IVMGuestOS` for C: what it can be asked to do.

use super::call::{ForC, act, add_ref, ask, handle, json, release, text};
use super::code::VmmHresult;
use super::structure::{self, Structure};
use super::task::VmmTask;
use crate::virtual_pc::GuestOs;
use protocol::task::LogoffOptions;
use std::ffi::c_char;
use std::ptr::null_mut;

/// A guest's operating system.
pub struct VmmGuestOs(pub(super) GuestOs);

impl ForC for VmmGuestOs {
    type C = *mut Self;
    const NONE: Self::C = null_mut();

    fn for_c(self) -> Self::C {
        handle(self)
    }
}

/// How to log off. VMM_LOGOFF_OPTIONS_INIT is all defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VmmLogoffOptions {
    /// Of this structure, in bytes.
    pub size: u32,
    /// Milliseconds between the polite signals and SIGKILL.
    pub grace_ms: u32,
    /// Milliseconds between the notice on the terminals and the commit; 0: no notice.
    pub notice_ms: u32,
    /// Milliseconds after the commit at which the task fails with a time-out.
    pub deadline_ms: u32,
}

// SAFETY: it is four numbers of the same size.
unsafe impl Structure for VmmLogoffOptions {}

impl From<LogoffOptions> for VmmLogoffOptions {
    fn from(options: LogoffOptions) -> Self {
        let number = |milliseconds: u64| u32::try_from(milliseconds).unwrap_or(u32::MAX);
        Self {
            size: 0,
            grace_ms: number(options.grace_ms),
            notice_ms: number(options.notice_ms),
            deadline_ms: number(options.deadline_ms),
        }
    }
}

/// Logs every user off. Null options are all defaults.
///
/// VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN; VM_E_ADDITIONS_FEATURE_NOT_AVAIL: no agent that can do it;
/// VM_E_TIMED_OUT: the guest does not accept; ERROR_ACCESS_DENIED; E_INVALIDARG: the structure is not
/// valid; DISP_E_EXCEPTION. If nobody is logged on, the task says so: ERROR_NO_SUCH_LOGON_SESSION.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_logoff(
    guest: *mut VmmGuestOs,
    options: *const VmmLogoffOptions,
    task: *mut *mut VmmTask,
) -> VmmHresult {
    let logoff = |guest: &VmmGuestOs| {
        // SAFETY: our caller promises it.
        let options = unsafe { structure::read(options, LogoffOptions::default().into())? };
        let options = LogoffOptions {
            grace_ms: options.grace_ms.into(),
            notice_ms: options.notice_ms.into(),
            deadline_ms: options.deadline_ms.into(),
        };
        guest.0.logoff(options).map(VmmTask::from)
    };
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, task, logoff) }
}

/// Shuts the guest down; forced, if that is not 0, whatever is in the way. Codes as
/// vmm_guest_os_logoff.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_shutdown(
    guest: *mut VmmGuestOs,
    forced: i32,
    task: *mut *mut VmmTask,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, task, |guest| guest.0.shutdown(forced != 0).map(VmmTask::from)) }
}

/// Restarts the guest; forced, if that is not 0, whatever is in the way. Codes as
/// vmm_guest_os_logoff.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_restart(
    guest: *mut VmmGuestOs,
    forced: i32,
    task: *mut *mut VmmTask,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, task, |guest| guest.0.restart(forced != 0).map(VmmTask::from)) }
}

/// Has the guest's agent install the one that the machine brings along. The task succeeds when the
/// agent that was installed has connected.
///
/// VM_E_DRIVE_INVALID: the machine has no integration disk; ERROR_FILE_NOT_FOUND: there is no agent
/// for it on the host; VM_E_ADDITIONS_FEATURE_NOT_AVAIL: the guest has no agent that could do it, and
/// the text says what can be done by hand; ERROR_NOT_READY: a logoff or another installation is
/// under way; else as vmm_guest_os_logoff.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_install_integration_components(
    guest: *mut VmmGuestOs,
    task: *mut *mut VmmTask,
) -> VmmHresult {
    let install = |guest: &VmmGuestOs| guest.0.install_integration_components().map(VmmTask::from);
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, task, install) }
}

/// Who is logged on, as JSON: what `vmm users --format json` prints. All of it is the guest's claim.
///
/// Codes as vmm_guest_os_logoff, and VM_E_VM_PAUSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_sessions(
    guest: *mut VmmGuestOs,
    document: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, document, |guest| json(&guest.0.sessions()?)) }
}

/// Whether a session of this kind exists: 0 for a seamless one, 1 for a desktop.
///
/// E_INVALIDARG: any other kind; VM_E_VM_PAUSED; VM_E_VM_NOT_RUNNING; VM_E_TIMED_OUT;
/// VM_E_ADDITIONS_FEATURE_NOT_AVAIL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_is_user_logged_on(
    guest: *mut VmmGuestOs,
    kind: i32,
    logged_on: *mut i32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, logged_on, |guest| guest.0.is_user_logged_on(kind)) }
}

/// A parameter in the guest's store.
///
/// E_INVALIDARG: the name is not allowed or not there; VM_E_VM_PAUSED; VM_E_VM_NOT_RUNNING;
/// VM_E_TIMED_OUT; VM_E_ADDITIONS_FEATURE_NOT_AVAIL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_get_parameter(
    guest: *mut VmmGuestOs,
    name: *const c_char,
    value: *mut *mut c_char,
) -> VmmHresult {
    let get = |guest: &VmmGuestOs| {
        // SAFETY: our caller promises it.
        guest.0.get_parameter(unsafe { text(name)? })
    };
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, value, get) }
}

/// Sets a parameter in the guest's store.
///
/// E_INVALIDARG: the name or the value is not allowed; else as vmm_guest_os_get_parameter, and
/// ERROR_ACCESS_DENIED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_set_parameter(
    guest: *mut VmmGuestOs,
    name: *const c_char,
    value: *const c_char,
) -> VmmHresult {
    let set = |guest: &VmmGuestOs| {
        // SAFETY: our caller promises it.
        let name = unsafe { text(name)? };
        // SAFETY: our caller promises it.
        let value = unsafe { text(value)? };
        guest.0.set_parameter(name, value)
    };
    // SAFETY: our caller promises the same.
    unsafe { act(guest, set) }
}

/// Counts one reference to the object more. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_add_ref(guest: *mut VmmGuestOs) {
    // SAFETY: our caller promises the same.
    unsafe { add_ref(guest) };
}

/// Counts one reference to the object less; with the last it is gone. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_release(guest: *mut VmmGuestOs) {
    // SAFETY: our caller promises the same.
    unsafe { release(guest) };
}
