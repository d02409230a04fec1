//! The read-only properties of `IVMGuestOS` for C.
//!
//! What Linux has not answers with the documented nothing, or `VM_E_ADDITIONS_FEATURE_NOT_AVAIL`.

use super::call::{ask, ask_if_any, call, json, object};
use super::code::VmmHresult;
use super::guest::VmmGuestOs;
use super::structure::{SizedOut, Structure};
use crate::integration::info::OsVersionInfo;
use protocol::HResult;
use std::ffi::c_char;

/// The guest's version in numbers: GUESTOSVERSIONINFOEX. The caller sets the size before it asks.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VmmOsVersionInfo {
    /// Of this structure, in bytes.
    pub size: u32,
    /// The first number of the system's version; 0 if it has none.
    pub major_version: u32,
    /// The second number of the system's version; 0 if it has none.
    pub minor_version: u32,
    /// The number of the image that the system was made from; 0 if it has none.
    pub build_number: u32,
    /// 2 is Windows NT, and no other number has a meaning: 0.
    pub platform_id: u32,
    /// The service pack's version: 0.
    pub service_pack_major: u32,
    /// The service pack's version: 0.
    pub service_pack_minor: u32,
    /// The suites of Windows: 0.
    pub suite_mask: u32,
    /// 1 for a workstation, 3 for a server, 0 if the system does not say.
    pub product_type: u32,
}

// SAFETY: it is nine numbers of the same size.
unsafe impl Structure for VmmOsVersionInfo {}

impl From<OsVersionInfo> for VmmOsVersionInfo {
    fn from(info: OsVersionInfo) -> Self {
        Self {
            size: 0,
            major_version: info.major_version,
            minor_version: info.minor_version,
            build_number: info.build_number,
            platform_id: info.platform_id,
            service_pack_major: info.service_pack_major.into(),
            service_pack_minor: info.service_pack_minor.into(),
            suite_mask: info.suite_mask.into(),
            product_type: info.product_type.into(),
        }
    }
}

/// The guest's version in numbers.
///
/// VM_E_ADDITIONS_FEATURE_NOT_AVAIL: no agent that can say it; VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN;
/// VM_E_VM_PAUSED; VM_E_TIMED_OUT. These hold for whatever follows, if nothing else is said there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_os_version_info(
    guest: *mut VmmGuestOs,
    info: *mut VmmOsVersionInfo,
) -> VmmHresult {
    call(|| {
        // SAFETY: our caller promises it.
        let out = unsafe { SizedOut::new(info)? };
        // SAFETY: our caller promises it.
        let guest = unsafe { object(guest)? };
        out.put(&guest.0.os_version_info()?.into());
        Ok(HResult::S_OK)
    })
}

/// Whether the guest can shut down in good order: 0 or 1.
///
/// S_FALSE, and 0: the machine is not on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_can_shutdown(
    guest: *mut VmmGuestOs,
    yes: *mut i32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask_if_any(guest, yes, |guest| guest.0.can_shutdown()) }
}

/// The guest's host name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_computer_name(
    guest: *mut VmmGuestOs,
    name: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, name, |guest| guest.0.computer_name()) }
}

/// The service pack: empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_csd_version(
    guest: *mut VmmGuestOs,
    version: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, version, |guest| guest.0.csd_version()) }
}

/// Heartbeats of the last minute, in percent of those expected.
///
/// VM_E_ADDITIONS_NOT_AVAIL: there is no agent; VM_E_VM_NOT_RUNNING; VM_E_VM_UNKNOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_heartbeat_percentage(
    guest: *mut VmmGuestOs,
    percentage: *mut u32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, percentage, |guest| guest.0.heartbeat_percentage().map(u32::from)) }
}

/// The version of the agent.
///
/// Codes as vmm_guest_os_heartbeat_percentage.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_integration_components_version(
    guest: *mut VmmGuestOs,
    version: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, version, |guest| guest.0.integration_components_version()) }
}

/// Whether the guest's user space runs: 0 or 1.
///
/// Codes as vmm_guest_os_heartbeat_percentage.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_is_heartbeating(
    guest: *mut VmmGuestOs,
    yes: *mut i32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, yes, |guest| guest.0.is_heartbeating()) }
}

/// Whether the guest's clock follows the host's: 0 or 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_is_host_time_sync_enabled(
    guest: *mut VmmGuestOs,
    yes: *mut i32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, yes, |guest| guest.0.is_host_time_sync_enabled()) }
}

/// Whether several users can be logged on at once: 0 or 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_multiple_user_sessions_allowed(
    guest: *mut VmmGuestOs,
    yes: *mut i32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, yes, |guest| guest.0.multiple_user_sessions_allowed()) }
}

/// The build of the guest's system; empty if it does not say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_os_build_number(
    guest: *mut VmmGuestOs,
    number: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, number, |guest| guest.0.os_build_number()) }
}

/// All that the guest's system says of itself, as JSON.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_os_info(
    guest: *mut VmmGuestOs,
    document: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, document, |guest| json(&guest.0.os_info()?)) }
}

/// The first number of the system's version; empty if it has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_os_major_version(
    guest: *mut VmmGuestOs,
    version: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, version, |guest| guest.0.os_major_version()) }
}

/// The second number of the system's version; empty if it has none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_os_minor_version(
    guest: *mut VmmGuestOs,
    version: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, version, |guest| guest.0.os_minor_version()) }
}

/// The system's name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_os_name(
    guest: *mut VmmGuestOs,
    name: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, name, |guest| guest.0.os_name()) }
}

/// Windows' platform: VM_E_ADDITIONS_FEATURE_NOT_AVAIL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_os_platform_id(
    guest: *mut VmmGuestOs,
    id: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, id, |guest| guest.0.os_platform_id()) }
}

/// The system's version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_os_version(
    guest: *mut VmmGuestOs,
    version: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, version, |guest| guest.0.os_version()) }
}

/// What the system was made for: "0x0000001" is a workstation, "0x0000003" a server.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_product_type(
    guest: *mut VmmGuestOs,
    kind: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, kind, |guest| guest.0.product_type()) }
}

/// Whether the guest's screen is locked: 0 or 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_screen_locked(
    guest: *mut VmmGuestOs,
    yes: *mut i32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, yes, |guest| guest.0.screen_locked()) }
}

/// The service pack's version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_service_pack_major(
    guest: *mut VmmGuestOs,
    version: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, version, |guest| guest.0.service_pack_major()) }
}

/// The service pack's version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_service_pack_minor(
    guest: *mut VmmGuestOs,
    version: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, version, |guest| guest.0.service_pack_minor()) }
}

/// Windows' suites.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_suite_mask(
    guest: *mut VmmGuestOs,
    mask: *mut *mut c_char,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, mask, |guest| guest.0.suite_mask()) }
}

/// The port of Windows' remote desktop.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_terminal_server_port(
    guest: *mut VmmGuestOs,
    port: *mut u32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, port, |guest| guest.0.terminal_server_port().map(u32::from)) }
}

/// Whether Windows' remote desktop is there: 0 or 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_guest_os_terminal_services_initialized(
    guest: *mut VmmGuestOs,
    yes: *mut i32,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask(guest, yes, |guest| guest.0.terminal_services_initialized()) }
}
