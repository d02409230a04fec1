//! A kernel or initrd: a regular file, or bytes that were unpacked from one.

use crate::memory::GuestRam;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use vm_memory::{Bytes, GuestAddress};

/// The largest file that is read into memory as a whole, in bytes.
const LIMIT: u64 = 1 << 30;

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
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(Self::File(file, metadata.len()))
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
                file.read_exact_at(&mut bytes, offset)?;
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
                ram.read_exact_volatile_from(address, &mut file, count)
            }
            Self::Bytes(bytes) => {
                let bytes = usize::try_from(offset)
                    .ok()
                    .and_then(|offset| bytes.get(offset..offset.checked_add(count)?));
                let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
                ram.write_slice(bytes, address)
            }
        }
        .map_err(io::Error::other)
    }
}
