//! A kernel or initrd: a regular file, or bytes that were unpacked from one.

use super::cache::Cache;
use crate::memory::GuestRam;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use vm_memory::{Address, Bytes, GuestAddress};

/// The largest file that is read into memory as a whole, in bytes.
const LIMIT: u64 = 512 << 20;

/// Bytes at offsets.
#[derive(Debug)]
pub enum Image {
    /// A file and its length when it was opened.
    File(File, u64),
    /// Bytes in memory.
    Bytes(Vec<u8>),
}

impl Image {
    /// Opens `path`, which must be a regular file: a FIFO would block, a device never end.
    ///
    /// # Errors
    /// It cannot be opened, or is something else.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Some devices begin to do something when they are opened: look before, and again after.
        must_be_regular(&fs::metadata(path)?)?;
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        must_be_regular(&metadata)?;
        Ok(Self::File(file, metadata.len()))
    }

    /// The name under which what it unpacks to is [kept](Cache), if it is a file that does not change.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        match self {
            Self::File(file, length) => {
                let metadata = file.metadata().ok()?;
                (metadata.len() == *length).then(|| Cache::key(&metadata)).flatten()
            }
            Self::Bytes(_) => None,
        }
    }

    /// Its first bytes, at most `most`.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn start(&self, most: usize) -> io::Result<Vec<u8>> {
        self.bytes(0, usize::try_from(self.len()).map_or(most, |length| length.min(most)))
    }

    /// Its length in bytes. A file may have shrunk since it was opened.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::File(_, length) => *length,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `length` bytes at `offset`.
    ///
    /// # Errors
    /// They are not all there.
    pub fn bytes(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.len());
        if end.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self {
            Self::File(file, _) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset).map_err(explain_end)?;
                Ok(bytes)
            }
            // Both fit: the end is within the bytes.
            Self::Bytes(bytes) => Ok(bytes[offset as usize..offset as usize + length].to_vec()),
        }
    }

    /// All its bytes.
    ///
    /// # Errors
    /// It cannot be read, or is larger than any kernel.
    pub fn into_bytes(self) -> io::Result<Vec<u8>> {
        match self {
            Self::File(_, length) if length > LIMIT => Err(io::ErrorKind::FileTooLarge.into()),
            // No longer than the limit.
            Self::File(_, length) => self.bytes(0, length as usize),
            Self::Bytes(bytes) => Ok(bytes),
        }
    }

    /// Copies `length` bytes from `offset` to `address` of `ram`; a file's go there straight.
    ///
    /// # Errors
    /// They are not all there, or RAM is not.
    pub fn copy_to(
        &self,
        ram: &GuestRam,
        address: u64,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let count = usize::try_from(length).map_err(io::Error::other)?;
        let address = GuestAddress(address);
        match self {
            Self::File(file, _) => {
                let mut file = file;
                file.seek(SeekFrom::Start(offset))?;
                let mut copied = 0;
                // One read may give less than it was asked for: 2 GiB at most, for example.
                while copied < count {
                    let to = address.checked_add(copied as u64).ok_or_else(no_ram)?;
                    let left = count - copied;
                    match ram.read_volatile_from(to, &mut file, left).map_err(io::Error::other)? {
                        0 => return Err(shrunk()),
                        more => copied += more,
                    }
                }
                Ok(())
            }
            Self::Bytes(bytes) => {
                let bytes = usize::try_from(offset)
                    .ok()
                    .and_then(|offset| bytes.get(offset..offset.checked_add(count)?));
                let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
                ram.write_slice(bytes, address).map_err(io::Error::other)
            }
        }
    }
}

fn must_be_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_dir() {
        Err(io::ErrorKind::IsADirectory.into())
    } else if metadata.is_file() {
        Ok(())
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

/// A file that ends before the length that it had when it was opened.
fn shrunk() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read")
}

fn explain_end(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { shrunk() } else { error }
}

fn no_ram() -> io::Error {
    io::Error::other("there is no such address")
}
