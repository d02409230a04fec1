//! The root directory of a jail: an empty file system over the machine's directory, and in it what the
//! machine is made of.

use super::super::files::Use;
use super::{Confinement, JailError, Prisoner, path, step};
use crate::{kvm, tap};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid, major, makedev, minor};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bits of a mode by which a file can be read and written by its owner.
const OWN: u32 = 0o600;
/// What others do not have of what is made.
const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// Something that is to be in the jail.
pub(super) struct Brought {
    path: PathBuf,
    file: OwnedFd,
    kind: Kind,
    /// It is written, too.
    written: bool,
    /// It may be a device.
    device: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    /// A character device, with its number.
    Node(u64),
}

/// Makes a root directory with what `confinement` names and the machine's `directory` this process' own,
/// and tells what is in it.
pub(super) fn change(
    prisoner: Prisoner,
    confinement: &mut Confinement,
    directory: &Path,
) -> Result<Vec<Brought>, JailError> {
    let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let brought = open_all(prisoner, confinement, directory, &here)?;
    let before = rustix::process::umask(UMASK);
    let built = build(prisoner, directory, &brought, &here);
    rustix::process::umask(before);
    built?;
    close(&here)?;
    Ok(brought)
}

/// Opens everything where it is, without using it.
fn open_all(
    prisoner: Prisoner,
    confinement: &mut Confinement,
    directory: &Path,
    here: &Path,
) -> Result<Vec<Brought>, JailError> {
    let mut brought: Vec<Brought> = Vec::new();
    // Root unpacks nothing for its cache, which is not another user's.
    confinement.kernels.clear();
    let made = std::mem::take(&mut confinement.made);
    let mut named: Vec<_> =
        confinement.files.iter().filter(|(_, wanted)| *wanted != Use::Leave).collect();
    // Nothing is made before it is known where.
    named.sort_by_key(|(path, _)| made.contains(path));
    for (named, wanted) in named {
        // What tells of the whole host stays outside, and a machine does without.
        if named.starts_with("/proc") {
            continue;
        }
        let path = here.join(named);
        let is_place = path == directory;
        let written = !is_place && !matches!(wanted, Use::Read | Use::ReadDevice);
        let device = matches!(wanted, Use::Device | Use::ReadDevice);
        let same = |known: &&mut Brought| path::by_words(&known.path) == path::by_words(&path);
        if let Some(known) = brought.iter_mut().find(same) {
            known.written |= written;
            known.device |= device;
            continue;
        }
        fits(&brought, &path)?;
        let file = match made.contains(named) {
            true => path::open_or_make(&path, prisoner.user, prisoner.group)?,
            false => path::open(&path)?,
        };
        let Some(file) = file else { continue };
        let kind = kind(&path, &file)?;
        brought.push(Brought { path, file, kind, written, device });
    }
    brought.iter().try_for_each(|thing| fits(&brought, &thing.path))?;
    Ok(brought)
}

/// Whether no directory that is brought in would hide what is at `path`.
fn fits(brought: &[Brought], path: &Path) -> Result<(), JailError> {
    let words = path::by_words(path);
    let hides = |thing: &Brought| {
        let above = path::by_words(&thing.path);
        thing.kind == Kind::Folder && words != above && words.starts_with(above)
    };
    if brought.iter().any(hides) {
        let why = "it is in a directory that is brought in itself";
        return Err(JailError::Unfit { path: path.to_owned(), why });
    }
    Ok(())
}

/// What `file`, at `path`, is.
fn kind(path: &Path, file: &OwnedFd) -> Result<Kind, JailError> {
    let failed = |source| JailError::Bring { path: path.to_owned(), source };
    let metadata = File::from(file.try_clone().map_err(failed)?).metadata().map_err(failed)?;
    let kind = metadata.file_type();
    // Only of those that it is known to need does it get a node that is its own.
    let known = [kvm::DEVICE, tap::DEVICE, "/dev/null"];
    match kind {
        kind if kind.is_dir() => Ok(Kind::Folder),
        kind if kind.is_file() || kind.is_block_device() => Ok(Kind::File),
        kind if kind.is_char_device() && known.iter().any(|one| path == Path::new(one)) => {
            Ok(Kind::Node(metadata.rdev()))
        }
        _ => {
            let why = "it is neither a regular file nor a directory nor a block device";
            Err(JailError::Unfit { path: path.to_owned(), why })
        }
    }
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
    let refused = |source| JailError::Bring { path: here.to_owned(), source };
    path::make_way(root, here).and_then(|here| path::make(&here)).map_err(refused)?;
    for thing in brought {
        let failed = |source: io::Error| JailError::Bring { path: thing.path.clone(), source };
        let target = path::make_way(root, &thing.path).map_err(failed)?;
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
            Kind::Folder => path::make(&target).map_err(failed)?,
            Kind::File => {
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o400).open(&target).map_err(failed)?;
            }
        }
        let source = format!("/proc/self/fd/{}", thing.file.as_raw_fd());
        mount_bind(source, &target).map_err(|error| failed(error.into()))?;
        let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NOEXEC;
        if !thing.written {
            flags |= MountFlags::RDONLY;
        }
        if !thing.device {
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

/// Whether the prisoner can use what was brought in; the machine would say less clearly that it
/// cannot.
pub(super) fn check(prisoner: Prisoner, brought: &[Brought]) -> Result<(), JailError> {
    use rustix::fs::Access;
    for thing in brought.iter().filter(|thing| thing.kind == Kind::File) {
        let (access, what) = match thing.written {
            false => (Access::READ_OK, "read"),
            true => (Access::READ_OK | Access::WRITE_OK, "read and write"),
        };
        rustix::fs::accessat(CWD, &thing.path, access, AtFlags::empty()).map_err(|error| {
            let (user, path) = (prisoner.user, thing.path.clone());
            JailError::Unusable { user, what, path, source: error.into() }
        })?;
    }
    Ok(())
}
