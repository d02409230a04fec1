//! Parameters: a directory of files, one for each, that the guest's programs read as well.
//!
//! Whatever is in that directory was put there by root, but not by the agent alone: a file may be a
//! link, a pipe or a giant. It is opened without following or waiting, and only a regular file of a
//! bounded size is read. A new value takes the place of the old one at once, never in part.

use protocol::HResult;
use protocol::parameters::{DIRECTORY, MAX_VALUE, is_name, is_value};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawMode, fchmod, fstat, mkdirat, openat, renameat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::path::Arg;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Who may do what with the directories and the files, whatever the agent's mask is.
const DIRECTORY_MODE: RawMode = 0o755;
const FILE_MODE: RawMode = 0o644;
/// The name of a value that is being written: with a dot it is no parameter's.
const NEW: &str = ".new";

/// Why a parameter was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ParameterError {
    /// The name cannot be a parameter's.
    #[error("not a parameter's name")]
    Name,
    /// The value cannot be a parameter's.
    #[error("not a parameter's value")]
    Value,
    /// There is none of that name.
    #[error("there is no such parameter")]
    Unknown,
    /// What is there is no file, or holds no value.
    #[error("what the guest has under that name is no value: {0}")]
    NoValue(&'static str),
    /// The system refused.
    #[error("the guest's files cannot be used: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for ParameterError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl ParameterError {
    /// The code of this error.
    #[must_use]
    pub fn code(&self) -> HResult {
        match self {
            Self::Name | Self::Value | Self::Unknown => HResult::E_INVALIDARG,
            Self::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
                HResult::ERROR_DISK_FULL
            }
            Self::NoValue(_) | Self::Io(_) => HResult::DISP_E_EXCEPTION,
        }
    }
}

/// The guest's parameters.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Self::new(DIRECTORY)
    }
}

impl Store {
    /// The parameters in `directory`, whose parent is made as well if it is not there.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The value of the parameter `name`.
    ///
    /// # Errors
    /// There is none, or it is no value.
    pub fn get(&self, name: &str) -> Result<String, ParameterError> {
        if !is_name(name) {
            return Err(ParameterError::Name);
        }
        let directory = match open_directory(CWD, &self.directory) {
            Err(Errno::NOENT) => return Err(ParameterError::Unknown),
            directory => directory?,
        };
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat(&directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Err(ParameterError::Unknown),
            Err(Errno::LOOP) => return Err(ParameterError::NoValue("a link")),
            Err(Errno::NXIO) => return Err(ParameterError::NoValue("no regular file")),
            file => file?,
        };
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(ParameterError::NoValue("no regular file"));
        }
        // The longest value, its line feed, and one more byte that shows that there is more.
        let mut bytes = Vec::new();
        File::from(file).take(MAX_VALUE as u64 + 2).read_to_end(&mut bytes)?;
        let value = String::from_utf8(bytes).map_err(|_| ParameterError::NoValue("not UTF-8"))?;
        let value = value.strip_suffix('\n').unwrap_or(&value);
        if !is_value(value) {
            return Err(ParameterError::NoValue("too long, or with control characters"));
        }
        Ok(value.to_owned())
    }

    /// Gives the parameter `name` the value `value`.
    ///
    /// # Errors
    /// It cannot have that name or value, or the file cannot be written.
    pub fn set(&self, name: &str, value: &str) -> Result<(), ParameterError> {
        if !is_name(name) {
            return Err(ParameterError::Name);
        }
        if !is_value(value) {
            return Err(ParameterError::Value);
        }
        let directory = self.make()?;
        match unlinkat(&directory, NEW, AtFlags::empty()) {
            // Left by an agent that was killed.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&directory, NEW, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(value.as_bytes())?;
        file.write_all(b"\n")?;
        fchmod(&file, Mode::from_raw_mode(FILE_MODE))?;
        renameat(&directory, NEW, &directory, name)?;
        Ok(())
    }

    /// The directory, made where it is not there.
    fn make(&self) -> Result<OwnedFd, ParameterError> {
        let (parent, name) = self.directory.parent().zip(self.directory.file_name()).ok_or(
            // Only a path of somebody else's making has none.
            ParameterError::NoValue("no directory"),
        )?;
        let parent = make_directory(CWD, parent)?;
        Ok(make_directory(parent, Path::new(name))?)
    }
}

fn open_directory(at: impl AsFd, path: impl Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

fn make_directory(at: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    match mkdirat(&at, path, Mode::from_raw_mode(DIRECTORY_MODE)) {
        Ok(()) => {
            let directory = open_directory(at, path)?;
            fchmod(&directory, Mode::from_raw_mode(DIRECTORY_MODE))?;
            Ok(directory)
        }
        Err(Errno::EXIST) => open_directory(at, path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mknodat;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn store() -> (tempfile::TempDir, PathBuf, Store) {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("vmm/parameters");
        let store = Store::new(&directory);
        (folder, directory, store)
    }

    fn code(outcome: Result<String, ParameterError>) -> HResult {
        outcome.unwrap_err().code()
    }

    #[test]
    fn a_value_is_read_as_it_was_set_and_by_every_program() {
        let (_folder, directory, store) = store();
        for value in ["web", "", "two\nlines\n", "ä \t\"", &"x".repeat(MAX_VALUE)] {
            store.set("Name of it", value).unwrap();
            assert_eq!(store.get("Name of it").unwrap(), value);
        }
        store.set("a", "plain").unwrap();
        assert_eq!(fs::read_to_string(directory.join("a")).unwrap(), "plain\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&directory), mode(&directory.join("a"))), (0o755, 0o644));
        assert_eq!(mode(directory.parent().unwrap()), 0o755);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "nothing else is left there");
    }

    #[test]
    fn what_the_guests_programs_write_is_read() {
        let (_folder, directory, store) = store();
        store.set("a", "").unwrap();
        fs::write(directory.join("b"), "no line feed").unwrap();
        assert_eq!(store.get("b").unwrap(), "no line feed");
        fs::write(directory.join("c"), "echoed\n").unwrap();
        assert_eq!(store.get("c").unwrap(), "echoed");
    }

    #[test]
    fn an_unknown_parameter_and_a_bad_name_are_invalid_arguments() {
        let (folder, _, store) = store();
        assert_eq!(code(store.get("a")), HResult::E_INVALIDARG, "there is no directory yet");
        store.set("a", "x").unwrap();
        fs::write(folder.path().join("vmm/secret"), "x").unwrap();
        for name in ["b", "", "../secret", ".", "..", ".new", "a\\b", "a/b", "a\0"] {
            assert_eq!(code(store.get(name)), HResult::E_INVALIDARG, "{name:?}");
        }
        for name in ["", "../x", ".hidden", &"x".repeat(256)] {
            let outcome = store.set(name, "x").map(|()| String::new());
            assert_eq!(code(outcome), HResult::E_INVALIDARG, "{name:?}");
        }
        assert!(matches!(store.set("a", "\x1b"), Err(ParameterError::Value)));
    }

    #[test]
    fn links_pipes_folders_and_giants_are_no_values_and_nothing_waits_for_them() {
        let (folder, directory, store) = store();
        store.set("a", "x").unwrap();
        let outside = folder.path().join("outside");
        fs::write(&outside, "secret").unwrap();
        symlink(&outside, directory.join("link")).unwrap();
        let pipe = directory.join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        fs::create_dir(directory.join("folder")).unwrap();
        fs::write(directory.join("giant"), "x".repeat(MAX_VALUE + 1)).unwrap();
        fs::write(directory.join("bytes"), [0xff, 0xfe]).unwrap();
        fs::write(directory.join("escape"), "\x1b[2J").unwrap();
        for name in ["link", "pipe", "folder", "giant", "bytes", "escape"] {
            let outcome = store.get(name);
            assert!(matches!(outcome, Err(ParameterError::NoValue(_))), "{name}: {outcome:?}");
        }
        for name in ["link", "pipe", "giant"] {
            store.set(name, "new").unwrap();
            assert_eq!(store.get(name).unwrap(), "new");
        }
        assert_eq!(fs::read_to_string(&outside).unwrap(), "secret");
        let outcome = store.set("folder", "new").map(|()| String::new());
        assert_eq!(code(outcome), HResult::DISP_E_EXCEPTION);
    }

    #[test]
    fn what_a_killed_agent_left_is_in_nobodys_way_and_a_linked_directory_is_not_followed() {
        let (folder, directory, store) = store();
        fs::create_dir_all(&directory).unwrap();
        symlink(folder.path().join("elsewhere"), directory.join(NEW)).unwrap();
        store.set("a", "x").unwrap();
        assert_eq!(store.get("a").unwrap(), "x");
        assert!(!folder.path().join("elsewhere").exists());

        let linked = folder.path().join("vmm/linked");
        symlink(&directory, &linked).unwrap();
        assert!(Store::new(&linked).set("a", "y").is_err());
        assert!(Store::new(&linked).get("a").is_err());
        assert_eq!(store.get("a").unwrap(), "x");
    }
}
