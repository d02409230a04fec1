//! The model-specific registers that firmware would have set before it starts a kernel.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

/// `IA32_MISC_ENABLE`.
const MISC_ENABLE: u32 = 0x1a0;
/// Fast string operations.
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// `IA32_MTRR_DEF_TYPE`.
const MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, and all memory write-back unless one of them says otherwise; none does.
const MTRR_ENABLED_WRITE_BACK: u64 = (1 << 11) | 6;

/// Why they could not be set.
#[derive(Debug, thiserror::Error)]
pub enum MsrError {
    /// KVM takes fewer than were given at construction; a defect of the monitor.
    #[error("list of model-specific registers refused")]
    List,
    /// KVM refused one.
    #[error("model-specific register {0:#x} refused")]
    Refused(u32),
    /// KVM refused the call.
    #[error("cannot set model-specific registers")]
    Set(#[source] kvm_ioctls::Error),
}

/// Sets `vcpu`'s registers.
///
/// # Errors
/// KVM does not take one of them.
pub fn set_up(vcpu: &VcpuFd) -> Result<(), MsrError> {
    let entry = |index, data| kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
    let entries = [
        entry(MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
    ];
    let msrs = Msrs::from_entries(&entries).map_err(|_| MsrError::List)?;
    let taken = vcpu.set_msrs(&msrs).map_err(MsrError::Set)?;
    match entries.get(taken) {
        Some(refused) => Err(MsrError::Refused(refused.index)),
        None => Ok(()),
    }
}
