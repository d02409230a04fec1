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

use std::io;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// Guest RAM as every part of the monitor sees it. Cloning is cheap and shares the mapping.
pub type GuestRam = GuestMemoryMmap<()>;

/// First address of the hole below 4 GiB where devices live.
pub const MMIO_GAP_START: u64 = 0xc000_0000;
/// First address after the hole: RAM goes on here.
pub const MMIO_GAP_END: u64 = 0x1_0000_0000;
/// RAM comes in whole pages of this many bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Why guest RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused the mapping.
    #[error("cannot map {bytes} bytes of guest RAM")]
    Map {
        /// Size asked for, in bytes.
        bytes: u64,
        /// What the mapping said.
        source: vm_memory::mmap::FromRangesError,
    },
    /// It would be in core files.
    #[error("cannot leave guest RAM out of core files")]
    Dump(#[source] io::Error),
}

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
    let ranges: Vec<(GuestAddress, usize)> = ranges(bytes)
        .into_iter()
        .map(|(start, length)| (GuestAddress(start), length as usize))
        .collect();
    let ram =
        GuestRam::from_ranges(&ranges).map_err(|source| MemoryError::Map { bytes, source })?;
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
    fn case_36_the_gap_is_not_memory() {
        let ram = map(4 << 30).expect("4 GiB are only reserved, not touched");
        assert!(ram.address_in_range(GuestAddress(MMIO_GAP_START - 1)));
        assert!(!ram.address_in_range(GuestAddress(MMIO_GAP_START)));
        assert!(ram.address_in_range(GuestAddress(MMIO_GAP_END)));
    }
}
