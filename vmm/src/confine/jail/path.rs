//! The way to a file that is to be brought into a jail.
//!
//! Outside, root goes it, and passes where the jail's user could not. So that nobody leads root to files
//! that only their directories protect, a link is followed only where none but root can have put it.
//! Inside there are no links, and the way is what its words say; `..` never leads above the root.

use super::JailError;
use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Uid, fstat, openat, readlinkat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

/// Links on the way to one file, as the kernel counts them.
const LINKS_MAX: usize = 40;
/// Permission bits that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;
/// The permission bit by which others may write, but not rename or remove what is not theirs.
const STICKY: u32 = 0o1000;

/// A file where it is, opened without being used.
pub(super) fn open(path: &Path) -> Result<Option<OwnedFd>, JailError> {
    go(path, None)
}

/// The same, and if there is none but the way to it, one that is made for this user and group.
pub(super) fn open_or_make(
    path: &Path,
    user: u32,
    group: u32,
) -> Result<Option<OwnedFd>, JailError> {
    go(path, Some((Uid::from_raw(user), Gid::from_raw(group))))
}

fn go(path: &Path, owner: Option<(Uid, Gid)>) -> Result<Option<OwnedFd>, JailError> {
    let failed = |error: Errno| JailError::Bring { path: path.to_owned(), source: error.into() };
    let looked = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = || rustix::fs::open("/", looked | OFlags::DIRECTORY, Mode::empty());
    let mut at = root().map_err(failed)?;
    let mut names = names(path);
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        let next = match openat(&at, &name, looked, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) if names.is_empty() => {
                let Some((user, group)) = owner else { return Ok(None) };
                let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
                let mode = Mode::RUSR | Mode::WUSR;
                let made = openat(&at, &name, new | OFlags::CLOEXEC, mode).map_err(failed)?;
                rustix::fs::fchown(&made, Some(user), Some(group)).map_err(failed)?;
                return Ok(Some(made));
            }
            // Whoever opens it finds as much.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let stat = fstat(&next).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            at = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(failed(Errno::LOOP));
        }
        if !is_roots(&fstat(&at).map_err(failed)?, &stat) {
            let why = "on the way to it is a link that others than root can set";
            return Err(JailError::Unfit { path: path.to_owned(), why });
        }
        let target = target(&next).map_err(failed)?;
        if target.is_absolute() {
            at = root().map_err(failed)?;
        }
        for name in self::names(&target).into_iter().rev() {
            names.push_front(name);
        }
    }
    Ok(Some(at))
}

/// Where the link `link` leads.
fn target(link: impl AsFd) -> Result<PathBuf, Errno> {
    let target = readlinkat(link, "", Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()).into())
}

/// The names to go, one after the other.
fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.as_os_str().as_bytes().split(|byte| *byte == b'/');
    names.filter(|name| !name.is_empty()).map(|name| OsStr::from_bytes(name).to_owned()).collect()
}

/// Whether none but root can have put `link` into `folder`.
fn is_roots(folder: &Stat, link: &Stat) -> bool {
    let closed = folder.st_mode & OTHERS_WRITE == 0 || folder.st_mode & STICKY != 0;
    folder.st_uid == 0 && link.st_uid == 0 && closed
}

/// `path` as its words say.
pub(super) fn by_words(path: &Path) -> PathBuf {
    let mut at = PathBuf::from("/");
    for word in path.components() {
        match word {
            Component::Normal(name) => at.push(name),
            Component::ParentDir => {
                at.pop();
            }
            _ => {}
        }
    }
    at
}

/// Makes the directories on the way to `path` as it will be when `root` is the root, also those that
/// `..` leaves again, and says where it is now.
pub(super) fn make_way(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let inside = |path: &Path| {
        let path = by_words(path);
        root.join(path.strip_prefix("/").unwrap_or(&path))
    };
    let mut way = PathBuf::new();
    let mut words = path.components().peekable();
    while let Some(word) = words.next() {
        way.push(word);
        if words.peek().is_some() {
            make(&inside(&way))?;
        }
    }
    Ok(inside(path))
}

/// Makes the directory `path`, unless it is there.
pub(super) fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn inside_no_way_leads_above_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        for (path, inside) in [
            ("/a/b", "a/b"),
            ("/../a/b", "a/b"),
            ("/a/../../../b/./c", "b/c"),
            ("/a/x/../b", "a/b"),
            ("/", ""),
            ("/a/..", ""),
        ] {
            assert_eq!(make_way(&root, Path::new(path)).unwrap(), root.join(inside), "{path}");
        }
        assert!(root.join("a/x").is_dir(), "the way by the words can be gone");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_are_followed_where_none_but_root_can_have_put_them() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT TESTED: whom root trusts");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("own")).unwrap();
        fs::write(at("own/file"), "text").unwrap();
        symlink("own/../own/file", at("link")).unwrap();
        symlink(at("loop"), at("loop")).unwrap();
        let same = |path: &Path| {
            let file = File::from(open(path).unwrap().unwrap()).metadata().unwrap();
            file.ino() == fs::metadata(at("own/file")).unwrap().ino()
        };
        for path in [at("own/file"), at("link"), at("own/../link"), at("own/.//file")] {
            assert!(same(&path), "{}", path.display());
        }
        assert!(matches!(open(&at("loop")), Err(JailError::Bring { .. })));
        for missing in [at("none"), at("none/file"), at("own/file/below")] {
            assert!(open(&missing).unwrap().is_none());
        }
        let unfit = |path: &Path| matches!(open(path), Err(JailError::Unfit { .. }));
        let allow = |mode| {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        };
        allow(0o777);
        assert!(unfit(&at("link")) && same(&at("own/file")));
        allow(0o1777);
        assert!(same(&at("link")));
        std::os::unix::fs::lchown(at("link"), Some(61_234), None).unwrap();
        assert!(unfit(&at("link")), "that link is somebody else's");
        allow(0o755);
        std::os::unix::fs::chown(folder.path(), Some(61_234), None).unwrap();
        assert!(unfit(&at("link")), "that directory is somebody else's");
    }

    #[test]
    fn a_file_is_made_only_where_nothing_is_not_even_a_link_to_nowhere() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT TESTED: making files of somebody else");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        open_or_make(&at("new"), 61_234, 61_235).unwrap().unwrap();
        let made = fs::metadata(at("new")).unwrap();
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (61_234, 61_235, 0o600));
        fs::write(at("old"), "text").unwrap();
        open_or_make(&at("old"), 61_234, 61_235).unwrap().unwrap();
        assert_eq!(fs::metadata(at("old")).unwrap().uid(), 0, "what is there stays as it is");
        fs::create_dir(at("theirs")).unwrap();
        symlink(at("outside"), at("theirs/link")).unwrap();
        std::os::unix::fs::chown(at("theirs"), Some(61_234), None).unwrap();
        assert!(open_or_make(&at("theirs/link"), 61_234, 61_235).is_err());
        assert!(!at("outside").exists());
    }
}
