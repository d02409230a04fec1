//! Bounds of what a machine's process may have of its host.

use super::ConfineError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors: for 2,000 clients, 1,023 connections of the guest, and everything else that a machine
/// has.
const DESCRIPTORS: u64 = 4_096;
/// Bytes of memory beside the guest's: kernel and initrd as files and unpacked, tables of disks,
/// stacks, clients, connections.
const BESIDE_RAM: u64 = 2 << 30;

/// Heaps of the C library: one, that all threads share. For another one it would look in files how many
/// processors there are, and, when that shrinks, how the host overcommits its memory.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 1;

/// Bounds this process, whose machines have `ram` bytes. What is bounded more narrowly stays so.
pub(super) fn set(ram: u64) -> Result<(), ConfineError> {
    for (resource, most) in [
        (Resource::Nofile, DESCRIPTORS),
        (Resource::Data, ram.saturating_add(BESIDE_RAM)),
        // The guest's memory is not to be written to any file.
        (Resource::Core, 0),
    ] {
        let maximum = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
        let limit = Rlimit { current: Some(maximum), maximum: Some(maximum) };
        setrlimit(resource, limit).map_err(|error| ConfineError::Limit(error.into()))?;
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes numbers; a bound that it does not take would be none.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS)
    };
    Ok(())
}
