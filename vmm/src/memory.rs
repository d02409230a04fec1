//! Guest RAM: how much, where in the physical address space, and how it is mapped.
//!
//! RAM starts at address 0. What does not fit below the [MMIO gap](MMIO_GAP_START) goes on at
//! 4 GiB, as on every PC:
//!
//! ```text
//! 0                      3 GiB          4 GiB
//! | RAM, first part ...  | MMIO gap     | RAM, the rest ...
//! ```
//!
//! The mapping is private, anonymous and not reserved: a page costs host memory once the guest
//! touches it. It is left out of core files, which could be read by others than the guest's owner.
//!
//! Huge pages: KVM maps 2 MiB of a guest at once only where guest and host addresses are equal in
//! their low 21 bits, so each part of RAM begins at a host address that is a multiple of 2 MiB. The
//! kernel makes huge pages then as it is set up to (`/sys/kernel/mm/transparent_hugepage/enabled`); a
//! stock kernel that boots costs a tenth of the page faults. Or RAM is all of [huge pages](map_huge) that
//! the host has reserved: then it is there from the start, and not given back before the end.
//!
//! A file's pages can be put in place of RAM's, so that machines share those that they leave as
//! they are.

use crate::host_info::meminfo;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    GuestMemoryRegionBytes, GuestRegionCollection, GuestRegionCollectionError, GuestRegionMmap,
    GuestUsize, MemoryRegionAddress, MmapRegion, VolatileSlice,
};

/// Guest RAM as every part of the monitor sees it. Cloning is cheap and shares the mapping.
pub type GuestRam = GuestRegionCollection<Region>;

/// First address of the hole below 4 GiB where devices live.
pub const MMIO_GAP_START: u64 = 0xc000_0000;
/// First address after the hole: RAM goes on here.
pub const MMIO_GAP_END: u64 = 0x1_0000_0000;
/// RAM comes in whole pages of this many bytes.
pub const PAGE_SIZE: u64 = 4096;

/// A huge page, in bytes.
pub const HUGE_PAGE: u64 = 2 << 20;

/// Why guest RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused the mapping.
    #[error("cannot map {bytes} bytes of guest RAM")]
    Map {
        /// Size asked for, in bytes.
        bytes: u64,
        /// What the mapping said.
        source: MmapRegionError,
    },
    /// The host has too few huge pages.
    #[error(
        "guest RAM is to be {needed} huge pages of 2 MiB, and this host has {free} that are not taken; \
         as root, `echo {} > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages` reserves them, \
         soon after the host's start best",
        *total + (*needed - *free)
    )]
    HugePages {
        /// How many are asked for.
        needed: u64,
        /// How many nobody has: fewer.
        free: u64,
        /// How many there are.
        total: u64,
        /// What the mapping said.
        source: MmapRegionError,
    },
    /// It cannot be where it is to be.
    #[error("guest RAM has no place in the guest's address space")]
    Place(#[from] GuestRegionCollectionError),
    /// It would be in core files.
    #[error("cannot leave guest RAM out of core files")]
    Dump(#[source] io::Error),
}

/// A part of guest RAM, which begins at a host address where a huge page can.
#[derive(Debug)]
pub struct Region {
    /// The part of the mapping that is used.
    used: GuestRegionMmap,
    /// Keeps it mapped, if that is not all of it.
    _mapping: Option<MmapRegion>,
    pages: Pages,
}

/// What guest RAM is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    /// Pages that the kernel finds when they are touched.
    Any,
    /// Huge pages that are reserved.
    Huge,
}

impl Region {
    /// `length` bytes at `start`.
    fn map(start: u64, length: usize, pages: Pages) -> Result<Self, MmapRegionError> {
        if pages == Pages::Huge {
            // Reserved: with MAP_NORESERVE a page that is not there any more would end the process.
            let flags =
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
            let used = MmapRegion::build(None, length, libc::PROT_READ | libc::PROT_WRITE, flags)?;
            return Self::at(start, used, None, pages);
        }
        // Wherever it is, a huge page begins in the bytes that are too many.
        let huge_page = HUGE_PAGE as usize;
        let reserved = length.checked_add(huge_page).ok_or(MmapRegionError::InvalidPointer)?;
        let mapping = MmapRegion::<()>::new(reserved)?;
        let skipped = mapping.as_ptr().align_offset(huge_page);
        let address = mapping.as_ptr().wrapping_add(skipped);
        // SAFETY: at most HUGE_PAGE - 1 bytes are skipped, so `length` bytes are left of the mapping,
        // which is owned by the same value and dropped after what refers to it.
        let used =
            unsafe { MmapRegion::build_raw(address, length, mapping.prot(), mapping.flags()) }?;
        Self::at(start, used, Some(mapping), pages)
    }

    fn at(
        start: u64,
        used: MmapRegion,
        mapping: Option<MmapRegion>,
        pages: Pages,
    ) -> Result<Self, MmapRegionError> {
        let used = GuestRegionMmap::new(used, GuestAddress(start))
            .ok_or(MmapRegionError::InvalidPointer)?;
        Ok(Self { used, _mapping: mapping, pages })
    }

    /// Whether pages of it can go back to the host. Reserved ones stay: after that there might be none
    /// for who touches them again.
    #[must_use]
    pub fn gives_back(&self) -> bool {
        self.pages == Pages::Any
    }

    /// Where it is in this process.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.used.as_ptr()
    }
}

impl GuestMemoryRegion for Region {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.used.len()
    }

    fn start_addr(&self) -> GuestAddress {
        self.used.start_addr()
    }

    fn bitmap(&self) {}

    fn get_host_address(&self, address: MemoryRegionAddress) -> Result<*mut u8, GuestMemoryError> {
        self.used.get_host_address(address)
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_>, GuestMemoryError> {
        self.used.get_slice(offset, count)
    }
}

impl GuestMemoryRegionBytes for Region {}

/// Address ranges, start and length in bytes, that `bytes` of RAM occupy.
#[must_use]
pub fn ranges(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= MMIO_GAP_START {
        vec![(0, bytes)]
    } else {
        vec![(0, MMIO_GAP_START), (MMIO_GAP_END, bytes - MMIO_GAP_START)]
    }
}

/// Maps `bytes` of guest RAM, a multiple of [`PAGE_SIZE`].
///
/// # Errors
/// The host has no address space or refuses the mapping.
pub fn map(bytes: u64) -> Result<GuestRam, MemoryError> {
    map_ranges(&ranges(bytes))
}

/// Maps `bytes` of guest RAM, a multiple of [`HUGE_PAGE`], in huge pages that the host has reserved
/// (Documentation/admin-guide/mm/hugetlbpage.rst).
///
/// # Errors
/// The host has too few that are not taken, or refuses the mapping.
pub fn map_huge(bytes: u64) -> Result<GuestRam, MemoryError> {
    map_pages(&ranges(bytes), Pages::Huge).map_err(|error| match (error, huge_pages()) {
        (MemoryError::Map { source, .. }, Some((total, free))) if free < bytes / HUGE_PAGE => {
            MemoryError::HugePages { needed: bytes / HUGE_PAGE, free, total, source }
        }
        (error, _) => error,
    })
}

/// How many huge pages of 2 MiB the host has, and how many of them nobody has; none where it does not
/// tell, or tells only of those of another size.
fn huge_pages() -> Option<(u64, u64)> {
    if meminfo("Hugepagesize") != Some(HUGE_PAGE) {
        return None;
    }
    let free = meminfo("HugePages_Free")?.saturating_sub(meminfo("HugePages_Rsvd")?);
    Some((meminfo("HugePages_Total")?, free))
}

/// Maps guest RAM at `ranges`, start and length in bytes, in their order.
pub(crate) fn map_ranges(ranges: &[(u64, u64)]) -> Result<GuestRam, MemoryError> {
    map_pages(ranges, Pages::Any)
}

fn map_pages(ranges: &[(u64, u64)], pages: Pages) -> Result<GuestRam, MemoryError> {
    let region = |&(start, bytes): &(u64, u64)| {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        Region::map(start, length, pages).map_err(|source| MemoryError::Map { bytes, source })
    };
    let regions = ranges.iter().map(region).collect::<Result<Vec<_>, _>>()?;
    let ram = GuestRam::from_regions(regions)?;
    for region in ram.iter() {
        leave_out(region.as_ptr(), region.len() as usize).map_err(MemoryError::Dump)?;
    }
    Ok(ram)
}

/// Puts `length` bytes of `file` from `offset` on in place of RAM from `address` on, as whole pages. The guest
/// may write to them, and has then a page of its own; those that it leaves as they are belong to the
/// page cache, and to all who have mapped them. While it has not written to a page, it sees what others
/// write to the file, and if the file is made shorter the page is gone: this process would be killed.
///
/// # Errors
/// There is no such RAM, it is [huge pages](map_huge), or the host refuses. Then RAM may have a hole, and
/// is not to be used.
pub(crate) fn map_file(
    ram: &GuestRam,
    address: u64,
    file: &File,
    offset: u64,
    length: usize,
) -> io::Result<()> {
    let region = ram.find_region(GuestAddress(address)).filter(|region| region.gives_back());
    let region = region.ok_or(io::ErrorKind::Unsupported)?;
    let from = MemoryRegionAddress(address - region.start_addr().raw_value());
    let place = region.get_slice(from, length).map_err(io::Error::other)?.ptr_guard_mut().as_ptr();
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: these bytes are a part of the region's mapping, which `ram` keeps, and which ends as a whole.
    // They are guest memory: everybody takes them for something that the guest may change at any time.
    let mapped = unsafe {
        libc::mmap(
            place.cast(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    leave_out(place, length)
}

/// Leaves the `length` bytes of guest RAM at `place` out of core files.
fn leave_out(place: *mut u8, length: usize) -> io::Result<()> {
    // Miri knows no dumps.
    if cfg!(miri) {
        return Ok(());
    }
    // SAFETY: what pages hold stays; any that were not mapped would be refused.
    match unsafe { libc::madvise(place.cast(), length, libc::MADV_DONTDUMP) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn ram_beyond_the_gap_goes_on_at_four_gib() {
        assert_eq!(ranges(512 << 20), [(0, 512 << 20)]);
        assert_eq!(ranges(3 << 30), [(0, 3 << 30)]);
        assert_eq!(
            ranges(5 << 30),
            [(0, 3 << 30), (4 << 30, 2 << 30)],
            "two GiB lie above the gap"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "nothing is left out there")]
    fn guest_ram_is_left_out_of_core_files() {
        let ram = map(5 << 30).expect("5 GiB are only reserved, not touched");
        let file = tempfile::tempfile().unwrap();
        map_file(&ram, 1 << 20, &file, 0, 4096).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        for region in ram.iter() {
            let start = region.as_ptr() as usize;
            let end = start + region.len() as usize;
            let (mut mapping, mut found) = (0..0, 0);
            for line in maps.lines() {
                let head = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
                let number = |text| usize::from_str_radix(text, 16).ok();
                if let Some((from, to)) = head.and_then(|(from, to)| number(from).zip(number(to))) {
                    mapping = from..to;
                } else if let Some(flags) = line.strip_prefix("VmFlags:")
                    && mapping.start < end
                    && start < mapping.end
                {
                    assert!(flags.split_whitespace().any(|flag| flag == "dd"), "{flags}");
                    found += 1;
                }
            }
            assert!(found > 0, "it is mapped");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "it maps no files")]
    fn a_files_pages_in_ram_are_there_until_the_guest_writes_and_never_change_the_file() {
        let page = PAGE_SIZE as usize;
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 4 * page], 0).unwrap();
        let ram = map(16 << 20).unwrap();
        ram.write_slice(&vec![1; 4 * page], GuestAddress(2 << 20)).unwrap();
        map_file(&ram, (2 << 20) + PAGE_SIZE, &file, 2 * PAGE_SIZE, 2 * page).unwrap();
        ram.write_slice(&[9], GuestAddress((2 << 20) + PAGE_SIZE)).unwrap();
        let mut bytes = vec![0; 4 * page];
        ram.read_slice(&mut bytes, GuestAddress(2 << 20)).unwrap();
        let expected = [&vec![1; page][..], &[9], &vec![7; 2 * page - 1], &vec![1; page]].concat();
        assert!(bytes == expected);
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 7), "the file stays as it is");
        // What the host gets back is the file's again.
        let place = ram.get_host_address(GuestAddress((2 << 20) + PAGE_SIZE)).unwrap();
        // SAFETY: the page is a part of RAM's mapping, which stays until the end of the test.
        unsafe { libc::madvise(place.cast(), page, libc::MADV_DONTNEED) };
        assert_eq!(ram.read_obj::<u8>(GuestAddress((2 << 20) + PAGE_SIZE)).unwrap(), 7);
    }

    #[test]
    fn a_file_is_mapped_nowhere_but_in_ram() {
        let file = tempfile::tempfile().unwrap();
        let ram = map(16 << 20).unwrap();
        for (address, length) in [(16 << 20, 4096), ((16 << 20) - 4096, 8192), (0, 17 << 20)] {
            assert!(map_file(&ram, address, &file, 0, length).is_err(), "{address:#x}");
        }
        assert!(map_file(&ram, 0, &file, u64::MAX, 4096).is_err());
    }

    #[test]
    fn ram_begins_where_a_huge_page_can_and_is_there_to_its_end() {
        // Several: one may be where it is to be by chance.
        let several: Vec<GuestRam> = (0..4).map(|_| map((3 << 30) + PAGE_SIZE).unwrap()).collect();
        for region in several.iter().flat_map(GuestMemoryBackend::iter) {
            assert_eq!(region.as_ptr() as u64 % HUGE_PAGE, 0, "{region:?}");
            for at in [0, region.len() - 1] {
                region.write_slice(&[7], MemoryRegionAddress(at)).unwrap();
            }
            assert!(region.write_slice(&[7], MemoryRegionAddress(region.len())).is_err());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "there are no such pages there")]
    fn who_asks_for_more_huge_pages_than_there_are_is_told_how_many_there_are() {
        let more = std::fs::read_to_string("/proc/sys/vm/nr_overcommit_hugepages");
        match (huge_pages(), more.unwrap_or_default().trim()) {
            (Some((_, free)), "0") => {
                let refused = map_huge((free + 1) * HUGE_PAGE).map(drop);
                assert!(
                    matches!(refused, Err(MemoryError::HugePages { needed, free, .. }) if free < needed),
                    "{refused:?}"
                );
            }
            _ => {
                eprintln!(
                    "NOT TESTED: this host makes huge pages when asked, or has none of 2 MiB"
                );
            }
        }
        let error = MemoryError::HugePages {
            needed: 128,
            free: 3,
            total: 10,
            source: MmapRegionError::InvalidPointer,
        };
        let text = error.to_string();
        assert!(text.contains("128 huge pages") && text.contains("has 3"), "{text}");
        assert!(text.contains("echo 135 >"), "{text}");
    }

    #[test]
    fn case_36_the_gap_is_not_memory() {
        let ram = map(4 << 30).expect("4 GiB are only reserved, not touched");
        assert!(ram.address_in_range(GuestAddress(MMIO_GAP_START - 1)));
        assert!(!ram.address_in_range(GuestAddress(MMIO_GAP_START)));
        assert!(ram.address_in_range(GuestAddress(MMIO_GAP_END)));
    }
}
