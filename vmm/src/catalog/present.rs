//! Looks whether the files that a definition names are there, before a machine is made or started.

use super::definition::Definition;
use super::fault::{DefinitionError, Fault};
use super::reader;
use protocol::HResult;
use std::fs::{FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

impl Definition {
    /// Looks whether what the definition names is there; `path` is where it comes from, or will be.
    ///
    /// # Errors
    /// The first file that is not there or cannot be read, or written where the guest may.
    pub fn check_files(&self, path: &Path) -> Result<(), DefinitionError> {
        let directory = path.parent().unwrap_or(Path::new(""));
        let initrd = self.initrd.iter().map(|initrd| ("initrd", initrd));
        for (key, file) in std::iter::once(("kernel", &self.kernel)).chain(initrd) {
            check_file(path, (key, 0), "a file", directory.join(file), |path| {
                usable(path, FileType::is_file, false)
            })?;
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let file = directory.join(&disk.path);
            check_file(path, ("disk.path", index), "a file or a block device", file, |path| {
                usable(path, |kind| kind.is_file() || kind.is_block_device(), !disk.readonly)
            })?;
        }
        if let Some(file) = &self.console {
            let parent = directory.join(file).parent().unwrap_or(directory).to_owned();
            check_file(path, ("console", 0), "a directory", parent, |path| {
                Ok(std::fs::metadata(path)?.is_dir())
            })?;
        }
        Ok(())
    }
}

/// Whether what is at `path` is of the right kind; fails if it cannot be read, or written if that
/// is asked for.
fn usable(path: &Path, kind: impl Fn(&FileType) -> bool, write: bool) -> io::Result<bool> {
    // A device may do something when it is opened, and a pipe may wait.
    if !kind(&std::fs::metadata(path)?.file_type()) {
        return Ok(false);
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)?;
    Ok(true)
}

/// Refuses the value of a key in the definition at `file` if `is_right` does not say that what should
/// be at `path` is there. The key is the one of that number in an array of tables.
fn check_file(
    file: &Path,
    (key, number): (&str, usize),
    expected: &'static str,
    path: PathBuf,
    is_right: impl FnOnce(&Path) -> io::Result<bool>,
) -> Result<(), DefinitionError> {
    let (found, code) = match is_right(&path) {
        Ok(true) => return Ok(()),
        Ok(false) if path.is_dir() => ("a directory".to_owned(), HResult::ERROR_BAD_PATHNAME),
        Ok(false) => ("something else".to_owned(), HResult::ERROR_BAD_PATHNAME),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => ("nothing".to_owned(), crate::error::not_found(&path)),
            _ => (error.to_string(), crate::error::code_of(&error, &path)),
        },
    };
    let line = line_of(file, key, number);
    let fault = Fault::File { key: key.to_owned(), expected, path, found, code };
    Err(DefinitionError::new(file, line, fault))
}

/// The line of a key in the definition at `file`, if that is there: it is looked up again because
/// only messages need it.
fn line_of(file: &Path, key: &str, number: usize) -> Option<usize> {
    let text = super::files::read(rustix::fs::CWD, file, file).ok()?.text;
    let table = reader::parse(&text, file).ok()?;
    let (outer, inner) = key.split_once('.').map_or((key, None), |(o, i)| (o, Some(i)));
    let (name, value) = table.iter().find(|(known, _)| known.get_ref() == outer)?;
    let span = match inner {
        None => name.span(),
        Some(inner) => {
            let item = value.get_ref().as_array()?.get(number)?.get_ref().as_table()?;
            item.iter().find(|(known, _)| known.get_ref() == inner)?.0.span()
        }
    };
    Some(reader::line(&text, &span))
}
