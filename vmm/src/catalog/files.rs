//! The files of the catalog, opened so that nobody can put others in their place, and written so that
//! nobody ever sees half of one.
//!
//! A directory is opened once and checked by its descriptor; what is in it is then named relative to
//! that. No link is followed but `machine.toml` itself, whose target is checked like every
//! definition. Nothing that waits (a pipe) or acts (a device) when it is opened is read.

use super::definition::FILE_MAX;
use super::error::CatalogError;
use super::fault::{DefinitionError, Fault};
use super::reader::line;
use super::{DEFINITION, DRAFT};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Permission bits that let others write.
const OTHERS_WRITE: u32 = 0o022;
/// Flags that every directory is opened with.
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// What a directory is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// To read files whose names are known: for that, the directory itself need not be readable.
    Reading,
    /// The same, to do what they say: with this user's rights, so that only root and this user may
    /// have written it.
    Running,
    /// To change what is in it.
    Writing,
}

impl For {
    fn flags(self) -> OFlags {
        match self {
            Self::Reading | Self::Running => OFlags::PATH,
            Self::Writing => OFlags::RDONLY,
        }
    }
}

/// A directory that was open and safe when it was opened: only those in `trusted` can have changed
/// what is in it.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
    mode: u32,
    /// Users whose files are read: root, this one, and the owner of the catalog.
    trusted: [u32; 3],
}

/// Where a machine's definition is.
#[derive(Debug)]
pub(super) enum Kept {
    /// In the machine's directory.
    Here,
    /// Where the link in the machine's directory points to.
    Elsewhere(PathBuf),
}

impl Folder {
    /// The catalog's own directory, if it is there. Links on the way to it are its user's business.
    pub(super) fn base(path: &Path, purpose: For) -> Result<Option<Self>, CatalogError> {
        let me = rustix::process::geteuid().as_raw();
        let Some((fd, stat)) = open_directory(CWD, path, path, purpose.flags())? else {
            return Ok(None);
        };
        // Others may look at a catalog, if its owner lets them; only root and its owner change it,
        // and run what is in it.
        if purpose != For::Reading && ![0, me].contains(&stat.st_uid) {
            return Err(not_a("directory", path));
        }
        let trusted = [0, me, stat.st_uid];
        Self::checked(fd, path.to_owned(), &stat, trusted).map(Some)
    }

    /// The directory `name` in this one, if it is there. It may be no link.
    pub(super) fn folder(&self, name: &str, purpose: For) -> Result<Option<Self>, CatalogError> {
        let path = self.path.join(name);
        let flags = purpose.flags() | OFlags::NOFOLLOW;
        match open_directory(&self.fd, Path::new(name), &path, flags)? {
            Some((fd, stat)) => Self::checked(fd, path, &stat, self.trusted).map(Some),
            None => Ok(None),
        }
    }

    fn checked(
        fd: OwnedFd,
        path: PathBuf,
        stat: &Stat,
        trusted: [u32; 3],
    ) -> Result<Self, CatalogError> {
        if !trusted.contains(&stat.st_uid) || stat.st_mode & OTHERS_WRITE != 0 {
            return Err(not_a("directory", &path));
        }
        Ok(Self { fd, path, mode: stat.st_mode & 0o7777, trusted })
    }

    /// Makes the directory `name` in this one, for this user alone, or takes one that is there.
    pub(super) fn make(&self, name: &str) -> Result<Self, CatalogError> {
        let path = self.path.join(name);
        match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(CatalogError::io(&path)(error.into())),
        }
        let gone = || CatalogError::io(&path)(io::ErrorKind::NotFound.into());
        self.folder(name, For::Writing)?.ok_or_else(gone)
    }

    /// Sets the permission bits of the directory.
    pub(super) fn set_mode(&self, mode: u32) -> Result<(), CatalogError> {
        if self.mode == mode {
            return Ok(());
        }
        let set = rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(mode));
        set.map_err(|error| CatalogError::io(&self.path)(error.into()))
    }

    /// Lets everybody pass through the directory, to what is open to them in it.
    pub(super) fn open_to_passers(&self) -> Result<(), CatalogError> {
        self.set_mode(self.mode | 0o011)
    }

    /// Where the definition is, if there is one.
    pub(super) fn kept(&self) -> Result<Option<Kept>, CatalogError> {
        match rustix::fs::readlinkat(&self.fd, DEFINITION, Vec::new()) {
            Ok(target) => {
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                // Nothing here writes another one.
                let absolute = target.is_absolute();
                let link = || not_a("regular file", &self.path.join(DEFINITION));
                absolute.then_some(Some(Kept::Elsewhere(target))).ok_or_else(link)
            }
            Err(Errno::INVAL) => Ok(Some(Kept::Here)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(CatalogError::io(&self.path.join(DEFINITION))(error.into())),
        }
    }

    /// Reads the definition.
    pub(super) fn read(&self, kept: &Kept) -> Result<Contents, CatalogError> {
        let path = self.definition(kept);
        let contents = match kept {
            Kept::Here => read(&self.fd, Path::new(DEFINITION), &path)?,
            Kept::Elsewhere(target) => read(CWD, target, &path)?,
        };
        contents.trust(&self.trusted, &path)?;
        Ok(contents)
    }

    /// The path of the definition.
    pub(super) fn definition(&self, kept: &Kept) -> PathBuf {
        match kept {
            Kept::Here => self.path.join(DEFINITION),
            Kept::Elsewhere(target) => target.clone(),
        }
    }

    /// Whether something is named `name`.
    pub(super) fn has(&self, name: &str) -> Result<bool, CatalogError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(CatalogError::io(&self.path.join(name))(error.into())),
        }
    }

    /// Removes the file or link `name`. If it is gone already, that is as good.
    pub(super) fn remove(&self, name: &str) -> Result<(), CatalogError> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(CatalogError::io(&self.path.join(name))(error.into())),
        }
    }

    /// Renames the file `from` to `to`, for good.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), CatalogError> {
        let renamed = rustix::fs::renameat(&self.fd, from, &self.fd, to);
        renamed.map_err(|error| CatalogError::io(&self.path.join(from))(error.into()))?;
        self.sync()
    }

    /// Makes the definition a link to `target`.
    pub(super) fn link(&self, target: &Path) -> Result<(), CatalogError> {
        let linked = rustix::fs::symlinkat(target, &self.fd, DEFINITION);
        linked.map_err(|error| CatalogError::io(&self.path.join(DEFINITION))(error.into()))?;
        self.sync()
    }

    /// Removes the machine's directory `name` with the draft that a killed writer may have left. What
    /// others put there stays, and so does then the directory.
    pub(super) fn remove_folder(&self, name: &str, folder: &Self) -> Result<(), CatalogError> {
        folder.remove(DRAFT)?;
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => self.sync(),
            Err(error) => Err(CatalogError::io(&self.path.join(name))(error.into())),
        }
    }

    /// Waits until what was done in the directory is on the disk.
    pub(super) fn sync(&self) -> Result<(), CatalogError> {
        rustix::fs::fsync(&self.fd).map_err(|error| CatalogError::io(&self.path)(error.into()))
    }

    /// The names of the directories and links in this one.
    pub(super) fn names(&self) -> Result<Vec<String>, CatalogError> {
        let failed = |error: Errno| CatalogError::io(&self.path)(error.into());
        let mut names = Vec::new();
        let fd = rustix::fs::openat(&self.fd, ".", DIRECTORY | OFlags::RDONLY, Mode::empty());
        for entry in fd.and_then(rustix::fs::Dir::new).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type();
            if !matches!(kind, FileType::Directory | FileType::Symlink | FileType::Unknown) {
                continue;
            }
            names.extend(entry.file_name().to_str().map(str::to_owned));
        }
        Ok(names)
    }
}

fn not_a(expected: &'static str, path: &Path) -> CatalogError {
    CatalogError::Unsafe { path: path.to_owned(), expected }
}

fn open_directory(
    at: impl AsFd,
    name: &Path,
    path: &Path,
    flags: OFlags,
) -> Result<Option<(OwnedFd, Stat)>, CatalogError> {
    let fd = match rustix::fs::openat(at, name, DIRECTORY | flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_a("directory", path)),
        Err(error) => return Err(CatalogError::io(path)(error.into())),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|error| CatalogError::io(path)(error.into()))?;
    Ok(Some((fd, stat)))
}

/// A definition as it was read.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) text: String,
    pub(super) stat: Stat,
}

impl Contents {
    /// Refuses a definition that others than the `trusted` users could have written.
    fn trust(&self, trusted: &[u32], path: &Path) -> Result<(), CatalogError> {
        let safe = trusted.contains(&self.stat.st_uid) && self.stat.st_mode & OTHERS_WRITE == 0;
        if safe { Ok(()) } else { Err(not_a("regular file", path)) }
    }

    /// Refuses a definition that others than root and this user could have written.
    pub(super) fn trust_own(&self, path: &Path) -> Result<(), CatalogError> {
        self.trust(&[0, rustix::process::geteuid().as_raw()], path)
    }
}

/// Reads the regular file `name`, which is no link, in the directory `at`; `path` is for messages.
pub(super) fn read(at: impl AsFd, name: &Path, path: &Path) -> Result<Contents, CatalogError> {
    let failed = |error: Errno| match error {
        Errno::LOOP => not_a("regular file", path),
        error => CatalogError::io(path)(error.into()),
    };
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, name, flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&fd).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_a("regular file", path));
    }
    let mut bytes = Vec::new();
    let limit = FILE_MAX as u64 + 1;
    File::from(fd).take(limit).read_to_end(&mut bytes).map_err(CatalogError::io(path))?;
    let refuse = |line, fault| DefinitionError::new(path, line, fault).into();
    if bytes.len() > FILE_MAX {
        return Err(refuse(None, Fault::TooLarge));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes());
        refuse(Some(line(&text, &(good..good))), Fault::Syntax("the text is not UTF-8".into()))
    })?;
    Ok(Contents { text, stat })
}

/// Writes `text` to the file `name` in the directory `at`, all of it or nothing: it is first written
/// to `draft`, which nobody else uses at the same time.
pub(super) fn replace(
    at: impl AsFd,
    name: &OsStr,
    draft: &OsStr,
    text: &str,
    mode: u32,
) -> io::Result<()> {
    match rustix::fs::unlinkat(&at, draft, AtFlags::empty()) {
        // What a killed writer left.
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&at, draft, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(fd);
    let written = file.write_all(text.as_bytes()).and_then(|()| {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        file.sync_all()?;
        rustix::fs::renameat(&at, draft, &at, name)?;
        Ok(rustix::fs::fsync(&at)?)
    });
    if written.is_err() {
        // After the renaming it is not there any more, which is as good.
        let _ = rustix::fs::unlinkat(&at, draft, AtFlags::empty());
    }
    written
}
