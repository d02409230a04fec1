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
//! stock kernel that boots costs a tenth of the page faults.

use std::io;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, GuestRegionCollectionError, GuestRegionMmap, GuestUsize,
    MemoryRegionAddress, MmapRegion, VolatileSlice,
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
const HUGE_PAGE: usize = 2 << 20;

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
    /// Keeps it mapped.
    _mapping: MmapRegion,
}

impl Region {
    /// `length` bytes at `start`.
    fn map(start: u64, length: usize) -> Result<Self, MmapRegionError> {
        // Wherever it is, a huge page begins in the bytes that are too many.
        let reserved = length.checked_add(HUGE_PAGE).ok_or(MmapRegionError::InvalidPointer)?;
        let mapping = MmapRegion::<()>::new(reserved)?;
        let skipped = mapping.as_ptr().align_offset(HUGE_PAGE);
        let address = mapping.as_ptr().wrapping_add(skipped);
        // SAFETY: at most HUGE_PAGE - 1 bytes are skipped, so `length` bytes are left of the mapping,
        // which is owned by the same value and dropped after what refers to it.
        let used =
            unsafe { MmapRegion::build_raw(address, length, mapping.prot(), mapping.flags()) }?;
        let used = GuestRegionMmap::new(used, GuestAddress(start))
            .ok_or(MmapRegionError::InvalidPointer)?;
        Ok(Self { used, _mapping: mapping })
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

/// Maps guest RAM at `ranges`, start and length in bytes, in their order.
pub(crate) fn map_ranges(ranges: &[(u64, u64)]) -> Result<GuestRam, MemoryError> {
    let region = |&(start, bytes): &(u64, u64)| {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        Region::map(start, length).map_err(|source| MemoryError::Map { bytes, source })
    };
    let regions = ranges.iter().map(region).collect::<Result<Vec<_>, _>>()?;
    let ram = GuestRam::from_regions(regions)?;
    // Miri knows no dumps.
    for region in ram.iter().filter(|_| !cfg!(miri)) {
        let length = region.len() as usize;
        // SAFETY: these are the pages of the region, which was just mapped; what they hold stays.
        let left_out =
            unsafe { libc::madvise(region.as_ptr().cast(), length, libc::MADV_DONTDUMP) };
        if left_out != 0 {
            return Err(MemoryError::Dump(io::Error::last_os_error()));
        }
    }
    Ok(ram)
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
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        for region in ram.iter() {
            let start = region.as_ptr() as usize;
            let end = start + region.len() as usize;
            // Mappings that are next to each other and alike are one.
            let flags = maps.split("VmFlags:").zip(maps.split("VmFlags:").skip(1));
            let mut flags = flags.filter_map(|(before, after)| {
                let head =
                    before.lines().rfind(|line| line.contains('-') && line.contains(" 0 "))?;
                let (from, to) = head.split_once(' ')?.0.split_once('-')?;
                let (from, to) =
                    (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
                (from <= start && end <= to).then(|| after.lines().next().unwrap_or_default())
            });
            let found = flags.next().expect("it is mapped");
            assert!(found.split_whitespace().any(|flag| flag == "dd"), "{found}");
        }
    }

    #[test]
    fn ram_begins_where_a_huge_page_can_and_is_there_to_its_end() {
        // Several: one may be where it is to be by chance.
        let several: Vec<GuestRam> = (0..4).map(|_| map((3 << 30) + PAGE_SIZE).unwrap()).collect();
        for region in several.iter().flat_map(GuestMemoryBackend::iter) {
            assert_eq!(region.as_ptr() as usize % HUGE_PAGE, 0, "{region:?}");
            for at in [0, region.len() - 1] {
                region.write_slice(&[7], MemoryRegionAddress(at)).unwrap();
            }
            assert!(region.write_slice(&[7], MemoryRegionAddress(region.len())).is_err());
        }
    }

    #[test]
    fn case_36_the_gap_is_not_memory() {
        let ram = map(4 << 30).expect("4 GiB are only reserved, not touched");
        assert!(ram.address_in_range(GuestAddress(MMIO_GAP_START - 1)));
        assert!(!ram.address_in_range(GuestAddress(MMIO_GAP_START)));
        assert!(ram.address_in_range(GuestAddress(MMIO_GAP_END)));
    }
}
