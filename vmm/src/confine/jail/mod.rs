//! A jail: a machine's process as a user that is nobody else's, with a root directory in which there is
//! only what the machine is made of.
//!
//! ```text
//! the process that root started      waits, passes signals on, and cleans up
//!   `-- the machine's process        number 1 of its own pid name space, in its own mount name space:
//!        |                            nothing is mounted but
//!        |-- /                        an empty tmpfs, read-only, with no program in it
//!        |-- kernel, initrd, agent    the files, read-only
//!        |-- disks, console file      the files, as they are to be used
//!        |-- /dev/kvm, null, net/tun  nodes of its own, its user's alone
//!        `-- /run/vmm/NAME            the machine's directory, read-only: what the guest dials
//! ```
//!
//! Everything is at the path that it has outside, so a reboot finds it again. The sockets of the
//! machine are made before, by root, in a directory where the jail's user cannot write; so is the lock.
//! The process' capabilities are gone, also from the bounding set, and so are its groups.

mod outside;

pub use outside::fork;

use super::Confinement;
use super::files::Use;
use crate::{kvm, tap};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, major, makedev, minor};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The number of this process outside its jail.
static OUTSIDE: OnceLock<u32> = OnceLock::new();

/// Bits of a mode by which a file can be read and written by its owner.
const OWN: u32 = 0o600;

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

/// Prepares the machine's `directory`: the jail's group may pass through, to what the guest dials on the
/// host.
///
/// # Errors
/// The system refuses.
pub fn prepare(prisoner: Prisoner, directory: &Path) -> Result<(), JailError> {
    if !rustix::process::geteuid().is_root() {
        return Err(JailError::NotRoot);
    }
    if prisoner.user == 0 || prisoner.group == 0 {
        return Err(JailError::Root);
    }
    let failed = step("let the jail's group into the machine's directory");
    rustix::fs::chown(directory, None, Some(Gid::from_raw(prisoner.group))).map_err(&failed)?;
    let mode = Mode::from_raw_mode(rustix::fs::stat(directory).map_err(&failed)?.st_mode);
    rustix::fs::chmod(directory, mode | Mode::XGRP).map_err(&failed)
}

/// Enters the jail: what `confinement` names is in it, and the machine's `directory`. The process must
/// have one thread, and must have been [forked](fork) into its pid name space.
///
/// # Errors
/// The system refuses. The process has then lost part of what it had, and is to end.
pub fn enter(
    prisoner: Prisoner,
    confinement: &Confinement,
    directory: &Path,
) -> Result<(), JailError> {
    // `/proc` is still the one outside, whatever this process believes its number is.
    let outside = fs::read_link("/proc/self").ok();
    let outside = outside.and_then(|link| link.to_str()?.parse().ok());
    crate::kit::agent::remember_program();
    let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
    // SAFETY: there is no other thread, whose descriptors or directories would be another's then.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .map_err(step("have a mount name space of its own"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(step("keep mounts to itself"))?;
    let brought = open_all(confinement, directory, &here)?;
    build(prisoner, directory, &brought, &here)?;
    close(&here)?;
    drop_rights(prisoner)?;
    let _ = OUTSIDE.set(outside.unwrap_or_else(std::process::id));
    check(prisoner, &brought)
}

/// Something that is to be in the jail.
struct Brought {
    path: PathBuf,
    wanted: Use,
    file: OwnedFd,
    kind: Kind,
}

impl Brought {
    fn is_only_read(&self) -> bool {
        matches!(self.wanted, Use::Read | Use::ReadDevice)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    /// A character device, with its number.
    Node(u64),
}

/// Opens everything where it is, without using it.
fn open_all(
    confinement: &Confinement,
    directory: &Path,
    here: &Path,
) -> Result<Vec<Brought>, JailError> {
    let mut brought: Vec<Brought> = Vec::new();
    let cache = crate::boot::cache::directory_of_user();
    let named = confinement.files.iter().filter(|(_, wanted)| *wanted != Use::Leave);
    for (path, wanted) in named {
        // What tells of the whole host stays outside, and a machine does without. Root's cache is
        // not another user's.
        if path.starts_with("/proc") || cache.as_deref() == Some(path) {
            continue;
        }
        let path = here.join(path);
        if brought.iter().any(|known| known.path == path) {
            continue;
        }
        let failed = |source: io::Error| JailError::Bring { path: path.clone(), source };
        let file = match rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => file,
            // Whoever opens it finds as much.
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(error) => return Err(failed(error.into())),
        };
        let metadata = File::from(file.try_clone().map_err(failed)?).metadata().map_err(failed)?;
        let kind = match metadata.file_type() {
            kind if kind.is_dir() => Kind::Folder,
            kind if kind.is_char_device() => Kind::Node(metadata.rdev()),
            _ => Kind::File,
        };
        let of_driver =
            [kvm::DEVICE, tap::DEVICE, "/dev/null"].iter().any(|one| path == Path::new(one));
        let kind = match kind {
            // Only of those that it is known to need does it get a node that is its own.
            Kind::Node(_) if !of_driver => Kind::File,
            kind => kind,
        };
        let wanted = if path == directory { Use::Read } else { *wanted };
        brought.push(Brought { path, wanted, file, kind });
    }
    Ok(brought)
}

/// Builds the new root over the machine's directory, which is seen there no more, in this name space.
fn build(
    prisoner: Prisoner,
    root: &Path,
    brought: &[Brought],
    here: &Path,
) -> Result<(), JailError> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("vmm-jail", root, "tmpfs", flags, c"mode=0755,size=1m,nr_inodes=1k")
        .map_err(step("mount the jail's root"))?;
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let make = |path: &Path| DirBuilder::new().recursive(true).mode(0o755).create(path);
    make(&inside(here)).map_err(|source| JailError::Bring { path: here.to_owned(), source })?;
    for thing in brought {
        let failed = |source: io::Error| JailError::Bring { path: thing.path.clone(), source };
        let target = inside(&thing.path);
        if let Some(above) = target.parent() {
            make(above).map_err(failed)?;
        }
        match thing.kind {
            Kind::Node(number) => {
                let number = makedev(major(number), minor(number));
                let mode = Mode::from_raw_mode(OWN);
                rustix::fs::mknodat(CWD, &target, FileType::CharacterDevice, mode, number)
                    .map_err(|error| failed(error.into()))?;
                let (user, group) = (Uid::from_raw(prisoner.user), Gid::from_raw(prisoner.group));
                rustix::fs::chown(&target, Some(user), Some(group))
                    .map_err(|error| failed(error.into()))?;
                continue;
            }
            Kind::Folder => make(&target).map_err(failed)?,
            Kind::File => {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o400).open(&target).map_err(failed)?;
            }
        }
        let source = format!("/proc/self/fd/{}", thing.file.as_raw_fd());
        mount_bind(source, &target).map_err(|error| failed(error.into()))?;
        let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NOEXEC;
        if thing.is_only_read() {
            flags |= MountFlags::RDONLY;
        }
        if !matches!(thing.wanted, Use::Device | Use::ReadDevice) {
            flags |= MountFlags::NODEV;
        }
        mount_remount(&target, flags, c"").map_err(|error| failed(error.into()))?;
    }
    rustix::process::chdir(root).map_err(step("enter the jail"))
}

/// Makes the current directory the root, and lets go of the former one.
fn close(here: &Path) -> Result<(), JailError> {
    // The former root comes to lie over the new one, at the same place, and is taken off.
    rustix::process::pivot_root(".", ".").map_err(step("make the jail its root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(step("let go of the host's files"))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_remount("/", flags, c"").map_err(step("make the jail's root read-only"))?;
    rustix::process::chdir(here).map_err(step("enter the jail's directory"))
}

/// Becomes the prisoner, for good.
fn drop_rights(prisoner: Prisoner) -> Result<(), JailError> {
    let failed = |what| move || JailError::Step { what, source: io::Error::last_os_error() };
    for number in 0..64 {
        // SAFETY: it takes numbers, and takes a capability off the bounding set.
        let dropped =
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number as libc::c_ulong, 0, 0, 0) };
        // The first number that the kernel does not know is past the last capability.
        if dropped != 0 {
            break;
        }
    }
    rustix::thread::clear_ambient_capability_set().map_err(step("give up its capabilities"))?;
    // SAFETY: no group is read.
    if unsafe { libc::setgroups(0, std::ptr::null()) } != 0 {
        return Err(failed("leave its groups")());
    }
    let (user, group) = (prisoner.user, prisoner.group);
    // SAFETY: it takes numbers.
    if unsafe { libc::setresgid(group, group, group) } != 0 {
        return Err(failed("become the jail's group")());
    }
    // SAFETY: it takes numbers.
    if unsafe { libc::setresuid(user, user, user) } != 0 {
        return Err(failed("become the jail's user")());
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none).map_err(step("give up its capabilities"))?;
    // It is not to go on when nobody waits for it any more. Becoming somebody else undoes this.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(step("end with its parent"))
}

/// Whether the prisoner can use what was brought in; the machine would say less clearly that it
/// cannot.
fn check(prisoner: Prisoner, brought: &[Brought]) -> Result<(), JailError> {
    use rustix::fs::Access;
    for thing in brought.iter().filter(|thing| thing.kind == Kind::File) {
        let (access, what) = match thing.is_only_read() {
            true => (Access::READ_OK, "read"),
            false => (Access::READ_OK | Access::WRITE_OK, "read and write"),
        };
        rustix::fs::accessat(CWD, &thing.path, access, AtFlags::empty()).map_err(|error| {
            let (user, path) = (prisoner.user, thing.path.clone());
            JailError::Unusable { user, what, path, source: error.into() }
        })?;
    }
    Ok(())
}
