//! Bounds of what a machine's process may have of its host.

use super::{ConfineError, jail};
use crate::memory::PAGE_SIZE;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;

/// Descriptors: for 2,000 clients, 1,023 connections of the guest, and everything else that a machine
/// has.
const DESCRIPTORS: u64 = 4_096;
/// Bytes of memory beside the guest's: kernel and initrd as files and unpacked, tables of disks,
/// stacks, clients, connections.
const BESIDE_RAM: u64 = 2 << 30;

/// Bytes of address space that a process has already, where that cannot be looked up: the program and
/// its libraries.
const PROGRAM: u64 = 512 << 20;
/// Threads and processes of a jail's user, of which one machine has some dozens: what else runs as that
/// user counts too.
const THREADS: u64 = 4_096;

/// Heaps of the C library: one, that all threads share. For another one it would look in files how many
/// processors there are, and, when that shrinks, how the host overcommits its memory.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 1;

/// Bounds this process, whose machines have `ram` bytes. What is bounded more narrowly stays so.
pub(super) fn set(ram: u64) -> Result<(), ConfineError> {
    let memory = ram.saturating_add(BESIDE_RAM);
    let bounds = [
        (Resource::Nofile, DESCRIPTORS),
        (Resource::Data, memory),
        // Memory that is shared, too: the former bound does not count it.
        (Resource::As, memory.saturating_add(address_space())),
        // The guest's memory is not to be written to any file.
        (Resource::Core, 0),
    ];
    // Elsewhere the user has other things to do.
    let of_jail = jail::is_jailed().then_some((Resource::Nproc, THREADS));
    for (resource, most) in bounds.into_iter().chain(of_jail) {
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

/// Bytes of address space that this process has.
fn address_space() -> u64 {
    // The first number is that of its pages; in a jail nobody can look.
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    pages.map_or(PROGRAM, |pages| pages.saturating_mul(PAGE_SIZE))
}
