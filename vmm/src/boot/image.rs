//! A kernel or initrd: a regular file, or bytes that were unpacked from one.

use super::cache::{Cache, OTHERS_WRITE};
use crate::memory::{self, GuestRam};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use vm_memory::{Address, Bytes, GuestAddress};

/// The largest file that is read into memory as a whole, in bytes.
const LIMIT: u64 = 512 << 20;
/// Bytes at the end of a file that its [name in the cache](Image::key) depends on.
const END: u64 = 4096;
/// File systems whose files are in this host, by the numbers of statfs(2): ext2 to ext4, XFS, Btrfs, F2FS,
/// Bcachefs, ZFS, EROFS, SquashFS, overlayfs, tmpfs and ramfs.
const LOCAL: [u32; 11] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0xca45_1a4e,
    0x2fc1_2fc1,
    0xe0f5_e1e2,
    0x7371_7368,
    0x794c_7630,
    0x0102_1994,
    0x8584_58f6,
];

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

    /// The name under which what it unpacks to is [kept](Cache), if it is a file that has not changed
    /// just now. Its first bytes are `start`.
    #[must_use]
    pub fn key(&self, start: &[u8]) -> Option<String> {
        let Self::File(file, length) = self else { return None };
        let tail = END.min(*length);
        let end = self.bytes(length - tail, usize::try_from(tail).ok()?).ok()?;
        let metadata = file.metadata().ok()?;
        (metadata.len() == *length).then(|| Cache::key(&metadata, start, &end)).flatten()
    }

    /// Whether it is a file of this host that nobody but root and this user can write to. They are taken not
    /// to, but to put another one in its place, as package managers do, and this monitor with what it keeps.
    ///
    /// Elsewhere a page that is not in memory may be waited for as long as a network or a program likes, and
    /// a processor that waits so cannot be stopped.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        let Self::File(file, _) = self else { return false };
        let owners = [0, rustix::process::geteuid().as_raw()];
        let is_local =
            rustix::fs::fstatfs(file).is_ok_and(|found| LOCAL.contains(&(found.f_type as u32)));
        is_local
            && file.metadata().is_ok_and(|metadata| {
                owners.contains(&metadata.uid()) && metadata.mode() & OTHERS_WRITE == 0
            })
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

    /// Copies `length` bytes from `offset` to `address` of `ram`, where there are zeros yet; a file's go
    /// there straight, and its holes are left out.
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
        let end = offset.checked_add(length).ok_or_else(no_ram)?;
        match self {
            Self::File(file, _) => {
                let mut at = offset;
                while let Some(data) = next_data(file, at, end)? {
                    let to = address.checked_add(data.start - offset).ok_or_else(no_ram)?;
                    at = data.end;
                    copy(file, data, ram, GuestAddress(to))?;
                }
                Ok(())
            }
            Self::Bytes(bytes) => {
                let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
                let bytes = range.and_then(|(start, end)| bytes.get(start..end));
                let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
                ram.write_slice(bytes, GuestAddress(address)).map_err(io::Error::other)
            }
        }
    }

    /// Puts the pages of a file in `range` in place of those of `ram` at `address`: see
    /// [`memory::map_file`].
    ///
    /// # Errors
    /// It is no file, has become shorter, or cannot be mapped. Then RAM may have a hole.
    pub(super) fn map_to(
        &self,
        ram: &GuestRam,
        address: u64,
        range: &Range<u64>,
    ) -> io::Result<()> {
        let Self::File(file, _) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        if file.metadata()?.len() < range.end {
            return Err(shrunk());
        }
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        memory::map_file(ram, address, file, range.start, length)
    }
}

/// Where the next bytes of `file` from `at` to `end` are that are not in a hole.
fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<Range<u64>>> {
    if at >= end {
        return Ok(None);
    }
    let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        // Whatever a file system says: not back.
        Ok(data) => data.max(at),
        // Nothing but a hole is left of the file, or nothing at all.
        Err(Errno::NXIO) if file.metadata()?.len() >= end => return Ok(None),
        Err(Errno::NXIO) => return Err(shrunk()),
        // This file system has no holes.
        Err(_) => at,
    };
    if data >= end {
        return Ok(None);
    }
    let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).unwrap_or(end);
    Ok(Some(data..hole.clamp(data + 1, end)))
}

/// Copies the bytes of `file` in `range` to `address`.
fn copy(
    mut file: &File,
    range: Range<u64>,
    ram: &GuestRam,
    address: GuestAddress,
) -> io::Result<()> {
    rustix::fs::seek(file, SeekFrom::Start(range.start))?;
    let count = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
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
