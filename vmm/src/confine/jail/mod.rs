//! A jail: a machine's process as a user that is nobody else's, with a root directory in which there is
//! only what the machine is made of.
//!
//! ```text
//! the process that root started      waits, passes signals on, and cleans up
//!   |-- number 1 of the pid name space of the jail, which does nothing
//!   `-- the machine's process        in that, and in a mount name space of its own:
//!        |                            nothing is mounted but
//!        |-- /                        an empty tmpfs, read-only, with no program in it
//!        |-- kernel, initrd, agent    the files, read-only
//!        |-- disks, console file      the files, as they are to be used
//!        |-- /dev/kvm, null, net/tun  nodes of its own, its user's alone
//!        `-- /run/vmm/NAME            the machine's directory, read-only: what the guest dials
//! ```
//!
//! Everything is at the path that it has outside, so a reboot finds it again. The sockets of the
//! machine are made before, by root, in a directory where the jail's user cannot write; so is the lock,
//! which only the process outside has. The process' capabilities are gone, also from the bounding set,
//! and so are its groups and its environment. Its IPC objects and its host name are its own; and unless
//! the machine has taps, so is its network, in which there is nothing.

mod environment;
mod outside;
mod path;
mod root;

use super::Confinement;
use crate::runtime::Place;
use outside::Parent;
use rustix::fs::{Gid, Mode};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The number of this process outside its jail.
static OUTSIDE: OnceLock<u32> = OnceLock::new();

/// Who the machine's process becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prisoner {
    /// The user's number.
    pub user: u32,
    /// The group's number.
    pub group: u32,
}

/// Why there is no jail.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Only root can make one.
    #[error("only root can make a jail")]
    NotRoot,
    /// Root is nobody to be jailed as.
    #[error("a jail is for a user and a group other than root's")]
    Root,
    /// The system refused a step.
    #[error("cannot {what}")]
    Step {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be brought in.
    #[error("cannot bring {} into the jail", path.display())]
    Bring {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is nothing that is brought in.
    #[error("{} cannot be in a jail: {why}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file is there, but the jail's user may not use it.
    #[error(
        "user {user} cannot {what} {}: `chown` or `chmod` lets it; the directories above do not matter",
        path.display()
    )]
    Unusable {
        /// The jail's user.
        user: u32,
        /// What it would have to be able to.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn step(what: &'static str) -> impl Fn(Errno) -> JailError {
    move |error| JailError::Step { what, source: error.into() }
}

/// The number of this process as others see it.
pub(crate) fn pid() -> u32 {
    OUTSIDE.get().copied().unwrap_or_else(std::process::id)
}

/// Whether this process is in a jail.
#[must_use]
pub fn is_jailed() -> bool {
    OUTSIDE.get().is_some()
}

/// Jails the machine of `place`: what `confinement` names is in its jail, and the place's directory.
///
/// It returns in another process, which the machine is to be in. The calling one, which must have one
/// thread and be root's, stays outside: it passes on `signals`, which must be blocked, waits for the end
/// of the other one, clears `place`, and ends likewise.
///
/// # Errors
/// The system refuses. If it does so in the process that was to be the machine's, that has lost part of
/// what it had, and is to end.
pub fn enter(
    prisoner: Prisoner,
    confinement: &mut Confinement,
    place: &mut Place,
    signals: &[libc::c_int],
) -> Result<(), JailError> {
    if !rustix::process::geteuid().is_root() {
        return Err(JailError::NotRoot);
    }
    if prisoner.user == 0 || prisoner.group == 0 {
        return Err(JailError::Root);
    }
    let_through(prisoner, place.directory())?;
    let parent = outside::fork(signals, || place.clear())?;
    // Whatever becomes of this process, the place is the other one's.
    place.let_go();
    // `/proc` is still the one outside, whatever this process believes its number is.
    let outside = fs::read_link("/proc/self").ok();
    let outside = outside.and_then(|link| link.to_str()?.parse().ok());
    crate::kit::agent::remember_program();
    have_own_name_spaces(confinement)?;
    let brought = root::change(prisoner, confinement, place.directory())?;
    environment::forget();
    drop_rights(prisoner, &parent)?;
    let _ = OUTSIDE.set(outside.unwrap_or_else(std::process::id));
    root::check(prisoner, &brought)
}

/// Lets the jail's group pass through the machine's directory, to what the guest dials on the host.
fn let_through(prisoner: Prisoner, directory: &Path) -> Result<(), JailError> {
    let failed = step("let the jail's group into the machine's directory");
    rustix::fs::chown(directory, None, Some(Gid::from_raw(prisoner.group))).map_err(&failed)?;
    let mode = rustix::fs::stat(directory).map_err(&failed)?.st_mode;
    rustix::fs::chmod(directory, Mode::from_raw_mode(mode) | Mode::XGRP).map_err(&failed)
}

fn have_own_name_spaces(confinement: &Confinement) -> Result<(), JailError> {
    let mut own = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if !confinement.taps {
        own |= UnshareFlags::NEWNET;
    }
    // SAFETY: there is no other thread, whose descriptors or directories would be another's then.
    unsafe { rustix::thread::unshare_unsafe(own) }.map_err(step("have name spaces of its own"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(step("keep mounts to itself"))
}

/// Becomes the prisoner, for good.
fn drop_rights(prisoner: Prisoner, parent: &Parent) -> Result<(), JailError> {
    let failed = |what| JailError::Step { what, source: io::Error::last_os_error() };
    for number in 0..64 {
        // SAFETY: it takes numbers, and takes a capability off the bounding set.
        let dropped =
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) };
        if dropped == 0 {
            continue;
        }
        match io::Error::last_os_error().raw_os_error() {
            // The first number that the kernel does not know is past the last capability.
            Some(libc::EINVAL) if number > 0 => break,
            _ => return Err(failed("give up its capabilities")),
        }
    }
    rustix::thread::clear_ambient_capability_set().map_err(step("give up its capabilities"))?;
    // SAFETY: no group is read.
    if unsafe { libc::setgroups(0, std::ptr::null()) } != 0 {
        return Err(failed("leave its groups"));
    }
    let (user, group) = (prisoner.user, prisoner.group);
    // SAFETY: it takes numbers.
    if unsafe { libc::setresgid(group, group, group) } != 0 {
        return Err(failed("become the jail's group"));
    }
    // SAFETY: it takes numbers.
    if unsafe { libc::setresuid(user, user, user) } != 0 {
        return Err(failed("become the jail's user"));
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none).map_err(step("give up its capabilities"))?;
    // Its own rights are gone: nor is it to gain any, whether there is a sandbox besides or not.
    rustix::thread::set_no_new_privs(true).map_err(step("renounce new privileges"))?;
    // It is not to go on when nobody waits for it any more.
    parent.end_with()
}
