//! From a kernel file to the boot processor's first instruction.
//!
//! A kernel is entered in 64-bit mode (Documentation/arch/x86/boot.rst). A bzImage is unpacked here
//! rather than by the guest, which spares every boot the work; what it unpacks to is an ELF file
//! as any `vmlinux`. With [`KernelEntry::Bzimage`] the guest unpacks itself. Machines can share
//! pages of the kernel.

pub mod bzimage;
pub mod cache;
pub mod elf;
pub mod image;
mod share;
pub mod unpack;
mod zero_page;

use crate::config::{KernelEntry, MachineConfig, Size};
use crate::memory::{GuestRam, MMIO_GAP_START, PAGE_SIZE};
use crate::x86::layout::{BOOT_PARAMS, CMDLINE, HIGH_RAM, MAPPED_END};
use bzimage::{BzImage, BzImageError};
use cache::Cache;
use elf::{ElfError, Loaded};
pub use image::Image;
use linux_loader::loader::bootparam::setup_header;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::SystemTime;
use unpack::UnpackError;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

/// What is said of a machine that is to share its kernel's pages and does not.
const NOT_SHARED: &str = "this machine shares none of its kernel's pages: what the kernel unpacks to is not \
                          kept, the file is another user's, others than its owner can write to it, it is \
                          not on a disk of this host, or it is small or laid out otherwise";

/// That was said, of the first such machine of this process: a guest that resets itself over and over does not
/// fill the log.
static TOLD: Once = Once::new();

/// Where the boot processor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Address of its first instruction.
    pub rip: u64,
    /// Address of the zero page.
    pub boot_params: u64,
}

/// Why a kernel could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel file is no kernel.
    #[error("{} is not a kernel: neither an ELF file nor a bzImage", .0.display())]
    NotAKernel(PathBuf),
    /// The bzImage is damaged or too old.
    #[error("{} is not a bzImage that can be started", path.display())]
    BzImage {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BzImageError,
    },
    /// The bzImage cannot be unpacked.
    #[error("cannot unpack the kernel in {}", path.display())]
    Unpack {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: UnpackError,
    },
    /// The ELF file cannot be loaded.
    #[error("cannot load the kernel of {}", path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ElfError,
    },
    /// The kernel is larger than RAM.
    #[error(
        "the kernel needs {} of RAM from {at:#x}, where there is less below {MAPPED_END:#x}",
        Size(*needed)
    )]
    KernelSize {
        /// Bytes that it needs.
        needed: u64,
        /// From where.
        at: u64,
    },
    /// The initrd is larger than what the kernel leaves of RAM.
    #[error(
        "the initrd {} has {}, but the kernel leaves only {} of RAM for it",
        path.display(), Size(*size), Size(*room)
    )]
    InitrdSize {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        size: u64,
        /// What there is, in bytes.
        room: u64,
    },
    /// The initrd has no bytes.
    #[error("the initrd {} is empty", .0.display())]
    InitrdEmpty(PathBuf),
    /// The kernel takes less than the command line.
    #[error("the kernel command line has {size} bytes, this kernel reads only {allowed}")]
    Cmdline {
        /// Its length in bytes.
        size: usize,
        /// What the kernel reads, in bytes.
        allowed: u32,
    },
    /// Guest RAM cannot be written.
    #[error("cannot write the boot data to guest RAM")]
    Ram(#[from] GuestMemoryError),
}

impl BootError {
    /// Whether a file is not there, or the way to it.
    #[must_use]
    pub fn is_missing_file(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Where the initrd is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Initrd {
    address: u64,
    size: u64,
}

/// Loads the kernel, the initrd and what the kernel is told of the machine into `ram`.
///
/// # Errors
/// A file cannot be read, is not what it is to be, or does not fit.
pub fn load(ram: &GuestRam, config: &MachineConfig) -> Result<Entry, BootError> {
    load_with(ram, config, Cache::of_user().as_ref())
}

/// Unpacks the kernel in `path` into the user's cache, unless it is there or needs no unpacking. What is
/// wrong with it is said when it is loaded.
pub(crate) fn keep(path: &Path) {
    let kept = || {
        let image = Image::open(path).ok()?;
        let start = image.start(bzimage::HEADER_END).ok()?;
        if !BzImage::is_one(&start) {
            return None;
        }
        let (cache, key) = (Cache::of_user()?, image.key(&start)?);
        let bzimage = BzImage::parse(&start, usize::try_from(image.len()).ok()?).ok()?;
        let size = unpacked_size(&image, &bzimage).ok()?.ok()?;
        if let Some(kept) = cache.get(&key, size.into()) {
            // It is in use, and not among the oldest. One that cannot be marked is forgotten sooner.
            let _ = kept.set_modified(SystemTime::now());
        } else {
            let packed = image.into_bytes().ok()?;
            let kernel = unpack::unpack(packed.get(bzimage.payload)?).ok()?;
            // Where it cannot be kept, every start unpacks it, and says so.
            cache.put(&key, &kernel).ok()?;
        }
        Some(())
    };
    let _ = kept();
}

/// The size that the payload of `image` says it unpacks to.
fn unpacked_size(image: &Image, bzimage: &BzImage) -> io::Result<Result<u32, UnpackError>> {
    let end = bzimage.payload.end;
    let start = end.saturating_sub(unpack::SIZE).max(bzimage.payload.start);
    Ok(unpack::unpacked_size(&image.bytes(start as u64, end - start)?))
}

/// Loads as [`load`] does, with this cache or none.
pub(crate) fn load_with(
    ram: &GuestRam,
    config: &MachineConfig,
    cache: Option<&Cache>,
) -> Result<Entry, BootError> {
    let (header, kernel) = load_kernel(ram, config, cache)?;
    if config.share_kernel && kernel.shared == 0 {
        TOLD.call_once(|| {
            let path = config.kernel.display();
            tracing::warn!(%path, "{NOT_SHARED}");
        });
    }
    let initrd = match &config.initrd {
        Some(path) => load_initrd(ram, path, kernel.end, &header)?,
        None => Initrd::default(),
    };
    let mut cmdline = config.cmdline().into_bytes();
    let (size, allowed) = (cmdline.len(), header.cmdline_size);
    if size > allowed as usize {
        return Err(BootError::Cmdline { size, allowed });
    }
    cmdline.push(0);
    ram.write_slice(&cmdline, GuestAddress(CMDLINE))?;
    zero_page::write(ram, header, initrd)?;
    Ok(Entry { rip: kernel.entry, boot_params: BOOT_PARAMS })
}

/// Loads the kernel, and gives its setup header.
fn load_kernel(
    ram: &GuestRam,
    config: &MachineConfig,
    cache: Option<&Cache>,
) -> Result<(setup_header, Loaded), BootError> {
    let path = &config.kernel;
    let unreadable = |source| BootError::Read { path: path.clone(), source };
    let unloadable = |source| BootError::Elf { path: path.clone(), source };
    let image = Image::open(path).map_err(unreadable)?;
    // Whatever else it is may be large: it is not read.
    let start = image.start(bzimage::HEADER_END).map_err(unreadable)?;
    if elf::is_one(&start) {
        let share = config.share_kernel && image.is_steady();
        let loaded = elf::load(&image, ram, share).map_err(unloadable)?;
        return Ok((zero_page::header_of_elf(), loaded));
    }
    if !BzImage::is_one(&start) {
        return Err(BootError::NotAKernel(path.clone()));
    }
    let refused = |source| BootError::BzImage { path: path.clone(), source };
    let length =
        usize::try_from(image.len()).map_err(|error| unreadable(io::Error::other(error)))?;
    let bzimage = BzImage::parse(&start, length).map_err(refused)?;
    if config.kernel_entry == KernelEntry::Bzimage {
        bzimage.entry_64().map_err(refused)?;
        let loaded = place_packed(ram, &bzimage)?;
        let (at, code) = (loaded.entry - bzimage::ENTRY_64 as u64, &bzimage.code);
        image.copy_to(ram, at, code.start as u64, code.len() as u64).map_err(unreadable)?;
        return Ok((bzimage.header, loaded));
    }
    let damaged = |source| BootError::Unpack { path: path.clone(), source };
    let size = unpacked_size(&image, &bzimage).map_err(unreadable)?.map_err(damaged)?;
    let place = cache.zip(image.key(&start));
    if let Some((key, kept)) =
        place.as_ref().and_then(|(cache, key)| Some((key, cache.get(key, size.into())?)))
    {
        let kept = Image::File(kept, size.into());
        let share = config.share_kernel && kept.is_steady();
        match elf::load(&kept, ram, share) {
            Ok(loaded) => return Ok((bzimage.header, loaded)),
            Err(error @ (ElfError::Ram { .. } | ElfError::Share(_))) => {
                return Err(unloadable(error));
            }
            // To write over pages of a file that cannot be read would end this process.
            Err(error @ ElfError::Read(_)) if share => return Err(unloadable(error)),
            // Unpacking can still do it: nothing was written, or, if reading failed midway, some
            // of what is now written again.
            Err(error) => tracing::warn!(key, %error, "kept kernel is not usable"),
        }
    }
    let packed = image.into_bytes().map_err(unreadable)?;
    // The file may be shorter by now.
    let payload = packed.get(bzimage.payload).ok_or(BzImageError::Truncated).map_err(refused)?;
    let image = Image::Bytes(unpack::unpack(payload).map_err(damaged)?);
    let mut loaded = elf::load(&image, ram, false).map_err(unloadable)?;
    if let (Some((cache, key)), Image::Bytes(kernel)) = (place, &image) {
        if let Err(error) = cache.put(&key, kernel) {
            tracing::warn!(%error, "the unpacked kernel cannot be kept; every start will unpack it");
        } else if config.share_kernel
            && let Some(kept) = cache.get(&key, size.into())
        {
            // The same once more, now from the file.
            let kept = Image::File(kept, size.into());
            loaded = elf::load(&kept, ram, kept.is_steady()).map_err(unloadable)?;
        }
    }
    Ok((bzimage.header, loaded))
}

/// Where the protected-mode code goes, for a kernel that unpacks itself.
fn place_packed(ram: &GuestRam, bzimage: &BzImage) -> Result<Loaded, BootError> {
    let code = &bzimage.code;
    let (preferred, init_size) = (bzimage.header.pref_address, bzimage.header.init_size);
    let at = preferred.max(HIGH_RAM);
    let needed = u64::from(init_size).max(code.len() as u64);
    let fits = at.checked_add(needed).is_some_and(|end| end <= MAPPED_END)
        && usize::try_from(needed).is_ok_and(|size| ram.check_range(GuestAddress(at), size));
    if !fits {
        return Err(BootError::KernelSize { needed, at });
    }
    Ok(Loaded { entry: at + bzimage::ENTRY_64 as u64, end: at + needed, shared: 0 })
}

/// Loads the initrd as high as the kernel can reach it, out of the way of all that grows upwards.
fn load_initrd(
    ram: &GuestRam,
    path: &Path,
    kernel_end: u64,
    header: &setup_header,
) -> Result<Initrd, BootError> {
    let unreadable = |source| BootError::Read { path: path.to_owned(), source };
    let image = Image::open(path).map_err(unreadable)?;
    let low_ram = ram.iter().next().map_or(0, GuestMemoryRegion::len);
    let top = low_ram.min(MMIO_GAP_START).min(u64::from(header.initrd_addr_max) + 1);
    let bottom = kernel_end.next_multiple_of(PAGE_SIZE);
    let size = image.len();
    if size == 0 {
        return Err(BootError::InitrdEmpty(path.to_owned()));
    }
    let room = top.saturating_sub(bottom);
    if size > room {
        return Err(BootError::InitrdSize { path: path.to_owned(), size, room });
    }
    // Rounding down stays above `bottom`, which is page-aligned.
    let address = (top - size) / PAGE_SIZE * PAGE_SIZE;
    image.copy_to(ram, address, 0, size).map_err(unreadable)?;
    Ok(Initrd { address, size })
}

#[cfg(test)]
mod tests;
