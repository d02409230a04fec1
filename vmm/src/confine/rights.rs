//! What root's process may do beyond what its user may, and who may look into this process.

use super::ConfineError;
use rustix::process::DumpableBehavior;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Files that are not root's are opened anew at reboots and startups: kernels, initrds, disks.
const FILES: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);
/// Taps are taken at each startup, and may be somebody else's.
const TAPS: CapabilitySet = CapabilitySet::NET_ADMIN;

/// Gives up all capabilities but those that the machine's files and its `taps`, if it has any, need.
/// Root's own files stay root's, and Landlock says which of all files it is about.
pub(super) fn drop_most(taps: bool) -> Result<(), ConfineError> {
    let failed = |error: rustix::io::Errno| ConfineError::Capabilities(error.into());
    let needed = if taps { FILES | TAPS } else { FILES };
    let kept = capabilities(None).map_err(failed)?.permitted & needed;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed)
}

/// Has the kernel write no core file, whatever `core_pattern` says, and let nobody but root look into
/// this process or trace it.
pub(super) fn hide() -> Result<(), ConfineError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| ConfineError::Hide(error.into()))
}
