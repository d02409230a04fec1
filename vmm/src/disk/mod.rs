//! The images of disks: opened, locked, read and written.
//!
//! A raw image is as long as its disk. In a qcow2 image the contents lie where its tables say,
//! and the library that reads these, imago, keeps what it has read and changed of them in memory:
//! what was written is safe when [`Image::flush`] has returned, not before. That library panics over
//! some of the images that make no sense. Such a panic is caught, and the image is not used any
//! more.
//!
//! Two machines that write one image destroy it. So an image is locked while it is open:
//! exclusively by who may write it, together with others by who reads it only. The lock is of the
//! kind that QEMU's tools use, so they and machines keep out of each other's way too.

mod qcow2;
mod refcounts;

use crate::config::{Disk, DiskFormat};
use crate::lock;
use crate::memory::PAGE_SIZE;
use crate::usage::Usage;
use imago::file::File as Storage;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping, StorageExt};
use protocol::HResult;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use vm_memory::VolatileSlice;

/// Bytes of a sector, the unit in which guests count.
pub const SECTOR: u64 = 512;

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the disk {}", path.display())]
pub struct DiskError {
    /// Its image.
    pub path: PathBuf,
    /// What is wrong.
    #[source]
    pub fault: DiskFault,
}

/// What is wrong with a disk's image.
#[derive(Debug, thiserror::Error)]
pub enum DiskFault {
    /// It cannot be opened.
    #[error("it cannot be opened")]
    Open(#[source] io::Error),
    /// It has no contents.
    #[error("it is neither a file nor a block device")]
    Kind,
    /// Its lock cannot be asked for.
    #[error("it cannot be locked")]
    Lock(#[source] io::Error),
    /// Somebody has it open who would write what this machine reads, or read what it writes.
    #[error("it is in use, by another machine or by a tool that works on images")]
    InUse,
    /// It is not what the format says.
    #[error("it cannot be read as {format}", format = format.name())]
    Format {
        /// The format.
        format: DiskFormat,
        /// What it is instead.
        source: io::Error,
    },
    /// It is based on another file.
    #[error(
        "it has parts of its contents in another file, and such references are not followed; \
         `qemu-img convert` makes one file of both"
    )]
    Reference,
    /// It has internal snapshots and is to be written.
    #[error(
        "it has internal snapshots and can only be read; `qemu-img convert` makes an image without \
         them"
    )]
    Snapshots,
    /// Its length is no length of a disk.
    #[error("its disk has {0} bytes, and a disk has one sector of 512 bytes or more, each whole")]
    Size(u64),
    /// The thread for it cannot be started.
    #[error("no thread can be started for it")]
    Thread(#[source] io::Error),
}

impl DiskError {
    /// The documented code that fits best.
    #[must_use]
    pub fn code(&self) -> HResult {
        match &self.fault {
            DiskFault::Open(error) => match error.kind() {
                io::ErrorKind::NotFound => HResult::ERROR_FILE_NOT_FOUND,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    HResult::ERROR_ACCESS_DENIED
                }
                _ => HResult::DISP_E_EXCEPTION,
            },
            DiskFault::InUse => HResult::ERROR_SHARING_VIOLATION,
            DiskFault::Thread(_) => HResult::VM_E_OUT_OF_RESOURCE,
            DiskFault::Kind
            | DiskFault::Format { .. }
            | DiskFault::Reference
            | DiskFault::Snapshots
            | DiskFault::Size(_) => HResult::VM_E_DRIVE_INVALID,
            DiskFault::Lock(_) => HResult::DISP_E_EXCEPTION,
        }
    }
}

/// What does not change of an image while it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Bytes that the guest sees: a multiple of [`SECTOR`].
    pub size: u64,
    /// Whether it may only be read.
    pub readonly: bool,
    /// Bytes of the pieces in which it can give space back; none if it cannot.
    pub granularity: Option<u64>,
}

/// The open image of a disk. Its owner alone uses it; closing it frees the lock.
pub struct Image {
    /// Gone once the library has panicked: what it has in memory is not to be trusted then.
    access: Option<FormatAccess<Storage>>,
    /// The same open file.
    file: File,
    format: DiskFormat,
    traits: Traits,
    usage: Usage,
}

impl Image {
    /// Opens the image of `disk` and locks it.
    ///
    /// # Errors
    /// It is not there, in use, or not what it should be.
    pub fn open(disk: &Disk) -> Result<Self, DiskError> {
        Self::open_file(disk).map_err(|fault| DiskError { path: disk.path.clone(), fault })
    }

    /// The raw image in `file`, which may only be read.
    ///
    /// # Errors
    /// Somebody writes it, or it is not a disk's.
    pub(crate) fn of_file(file: File) -> Result<Self, DiskFault> {
        let disk = Disk { readonly: true, ..Disk::new("") };
        Self::of(file, &disk)
    }

    fn open_file(disk: &Disk) -> Result<Self, DiskFault> {
        // A device may do something when it is opened, and a pipe may wait.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let mut options = OpenOptions::new();
        options.read(true).write(!disk.readonly).custom_flags(flags);
        Self::of(options.open(&disk.path).map_err(DiskFault::Open)?, disk)
    }

    /// The image of `disk` in `file`.
    fn of(file: File, disk: &Disk) -> Result<Self, DiskFault> {
        let kind = file.metadata().map_err(DiskFault::Open)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskFault::Kind);
        }
        let lock = if disk.readonly { lock::share_lock(&file) } else { lock::take_lock(&file) };
        if !lock.map_err(DiskFault::Lock)? {
            return Err(DiskFault::InUse);
        }
        let format = disk.format;
        let unreadable = |source| DiskFault::Format { format, source };
        let storage = file.try_clone().and_then(Storage::try_from).map_err(DiskFault::Open)?;
        let looks_qcow2 = qcow2::has_magic(&file).map_err(DiskFault::Open)?;
        let (access, granularity) = match format {
            DiskFormat::Raw => {
                if looks_qcow2 {
                    tracing::warn!(
                        path = %disk.path.display(),
                        "a raw disk begins as a qcow2 image does; if it is one, say format=qcow2"
                    );
                }
                let raw = Raw::open_image(storage, !disk.readonly).map_err(unreadable)?;
                (FormatAccess::new(raw), Some(PAGE_SIZE))
            }
            DiskFormat::Qcow2 => {
                let header = qcow2::Header::read(&file).map_err(unreadable)?;
                if header.refers_to_others {
                    return Err(DiskFault::Reference);
                }
                if !disk.readonly {
                    if header.has_snapshots {
                        return Err(DiskFault::Snapshots);
                    }
                    refcounts::mend(&file, &header).map_err(unreadable)?;
                }
                let builder = Qcow2::<Storage>::builder(storage).write(!disk.readonly);
                let open = || builder.open(DenyImplicitOpenGate::default());
                let image = panic::catch_unwind(AssertUnwindSafe(open));
                let image = image.unwrap_or_else(|_| Err(senseless())).map_err(unreadable)?;
                (FormatAccess::new(image), header.can_discard.then_some(header.cluster))
            }
        };
        let size = access.size();
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(DiskFault::Size(size));
        }
        let traits = Traits {
            size,
            readonly: disk.readonly,
            granularity: granularity.filter(|_| !disk.readonly),
        };
        Ok(Self { access: Some(access), file, format, traits, usage: Usage::default() })
    }

    /// Lets the library work on the image.
    fn work<T>(
        &mut self,
        work: impl FnOnce(&mut FormatAccess<Storage>) -> io::Result<T>,
    ) -> io::Result<T> {
        let access = self.access.as_mut().ok_or_else(senseless)?;
        panic::catch_unwind(AssertUnwindSafe(|| work(access))).unwrap_or_else(|_| {
            // Dropping it would write to the image.
            mem::forget(self.access.take());
            Err(senseless())
        })
    }

    /// What does not change of it.
    #[must_use]
    pub fn traits(&self) -> Traits {
        self.traits
    }

    /// Counts what is read and written from now on in `usage`.
    pub fn count_in(&mut self, usage: &Usage) {
        self.usage = usage.clone();
    }

    /// Fills `buffers` from `offset`, in bytes.
    ///
    /// # Errors
    /// The file cannot be read, or the image is damaged.
    pub fn read(&mut self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let (vector, _guard) = IoVectorMut::from_volatile_slice(buffers);
        self.work(|access| access.readv(vector, offset))?;
        self.usage.has_read(length(buffers));
        Ok(())
    }

    /// Writes `buffers` to `offset`, in bytes.
    ///
    /// # Errors
    /// It may only be read, the end is past the disk's, the file cannot be written, or the image is
    /// damaged.
    pub fn write(&mut self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let (vector, _guard) = IoVector::from_volatile_slice(buffers);
        self.work(|access| access.writev(vector, offset))?;
        self.usage.has_written(length(buffers));
        Ok(())
    }

    /// Makes `length` bytes from `offset` zeroes. Their space is given back if `unmap` says so;
    /// else writing there will not fail for want of space.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn write_zeroes(&mut self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        let raw = self.format == DiskFormat::Raw;
        self.work(|access| {
            if unmap {
                return access.discard_to_zero(offset, length);
            }
            // The library punches holes into raw files unless it is asked for the file itself.
            if raw
                && let (Mapping::Raw { storage, offset, writable: true, .. }, mapped) =
                    access.get_mapping(offset, length)?
                && mapped == length
            {
                return storage.write_allocated_zeroes(offset, length);
            }
            access.write_zeroes(offset, length)
        })
    }

    /// Gives back the space of `length` bytes from `offset`, whose contents are then undefined.
    ///
    /// # Errors
    /// As for [`write`](Self::write); that the host cannot do it is none.
    pub fn discard(&mut self, offset: u64, length: u64) -> io::Result<()> {
        match self.work(|access| access.discard_to_any(offset, length)) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            discarded => discarded,
        }
    }

    /// Makes whatever has been written safe: when this returns, a power cut does not lose it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.traits.readonly {
            return Ok(());
        }
        self.work(|access| access.flush())?;
        self.file.sync_data()
    }
}

/// Bytes of `buffers` together.
fn length(buffers: &[VolatileSlice<'_>]) -> usize {
    buffers.iter().map(VolatileSlice::len).sum()
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Some(access) = self.access.take() {
            // Dropping it writes what it has in memory; the panic hook has said what is wrong.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(access)));
        }
        lock::free_lock(&self.file);
    }
}

fn senseless() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the image makes no sense")
}

#[cfg(test)]
mod tests;
