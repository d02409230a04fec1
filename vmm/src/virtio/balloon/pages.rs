//! Pages that the guest can do without: which ones a chain names, and how the host gets them back.
//!
//! A page goes back by `MADV_DONTNEED`: guest RAM is private, so the host's page is free at once, and what
//! touches the guest's page afterwards finds zeroes, or what the kernel's file has there, if
//! [that is mapped](crate::memory::map_file). Neighbours go back in one call. RAM of reserved huge pages stays
//! as it is.

use crate::memory::{GuestRam, PAGE_SIZE};
use crate::virtio::chain::Whole;
use rustix::mm::{Advice, madvise};
use std::collections::VecDeque;
use std::io::Read;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress,
};

/// Page numbers taken from one chain; Linux puts 256 into it. What is named beyond stays where it is.
pub(super) const NUMBERS_MAX: usize = 4096;
/// Bytes of a page number.
const NUMBER: usize = size_of::<u32>();

/// Whole pages: where they begin, and how many bytes they are. Never none, and all of them are RAM.
type Range = (u64, u64);

/// The pages that one chain names, as far as they have not been given back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pages {
    ranges: VecDeque<Range>,
}

impl Pages {
    /// Those whose numbers are in the chain's readable part, in any order; what is no RAM is left
    /// out.
    pub(super) fn numbered(chain: &Whole, ram: &GuestRam) -> Self {
        let Ok(reader) = chain.reader(ram) else { return Self::default() };
        let mut bytes = Vec::new();
        // Guest RAM can always be read.
        let _ = reader.take((NUMBERS_MAX * NUMBER) as u64).read_to_end(&mut bytes);
        let numbers = bytes.as_chunks::<NUMBER>().0.iter();
        let mut numbers: Vec<u32> = numbers.map(|number| u32::from_le_bytes(*number)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut ranges: VecDeque<Range> = VecDeque::new();
        for number in numbers {
            let page = u64::from(number) * PAGE_SIZE;
            if !is_ram(ram, (page, PAGE_SIZE)) {
                continue;
            }
            match ranges.back_mut() {
                Some((start, length)) if *start + *length == page => *length += PAGE_SIZE,
                _ => ranges.push_back((page, PAGE_SIZE)),
            }
        }
        Self { ranges }
    }

    /// Those that lie in the chain's writable part as a whole; what is not all RAM is left out.
    pub(super) fn lying_in(chain: &Whole, ram: &GuestRam) -> Self {
        let whole = |(address, length): Range| {
            let start = address.checked_next_multiple_of(PAGE_SIZE)?;
            let end = address.checked_add(length)? / PAGE_SIZE * PAGE_SIZE;
            let length = end.checked_sub(start).filter(|length| *length > 0)?;
            Some((start, length)).filter(|range| is_ram(ram, *range))
        };
        let named = chain.writable().map(|part| (part.addr().raw_value(), part.len().into()));
        Self { ranges: named.filter_map(whole).collect() }
    }

    /// Gives back as many as the budget, a number of pages, allows, takes them off it, and says how
    /// many bytes the host has got. What it did not get is not tried again.
    pub(super) fn give_back(&mut self, ram: &GuestRam, budget: &mut u64) -> u64 {
        let mut given = 0;
        while *budget > 0
            && let Some((start, length)) = self.ranges.pop_front()
        {
            let now = length.min(*budget * PAGE_SIZE);
            // What is a kernel's page that machines share counts as well, though it may free nothing.
            let (now, is_given) = give_back_from(ram, start, now).unwrap_or((now, false));
            *budget -= now / PAGE_SIZE;
            if is_given {
                given += now;
            }
            if now < length {
                self.ranges.push_front((start + now, length - now));
            }
        }
        given
    }

    /// Whether all have been given back.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// Whether all of the range is RAM.
fn is_ram(ram: &GuestRam, (start, length): Range) -> bool {
    usize::try_from(length).is_ok_and(|length| ram.check_range(GuestAddress(start), length))
}

/// Gives back as much of `length` bytes from `start` on as lies in one region, and says how much, and
/// whether the host has got it; none if it lies in no region at all.
fn give_back_from(ram: &GuestRam, start: u64, length: u64) -> Option<(u64, bool)> {
    let region = ram.find_region(GuestAddress(start))?;
    let offset = start.checked_sub(region.start_addr().raw_value())?;
    let length = length.min(region.len().checked_sub(offset)?);
    if !region.gives_back() {
        return Some((length, false));
    }
    let place = region.get_host_address(MemoryRegionAddress(offset)).ok()?;
    // SAFETY: these bytes are a part of the region's mapping, which `ram` keeps. They are guest
    // memory: everybody takes them for something that the guest may change at any time.
    let given = unsafe { madvise(place.cast(), length as usize, Advice::LinuxDontNeed) };
    if let Err(error) = &given {
        // The guest loses nothing by it. The host may have got a part, which is not known.
        tracing::debug!(%error, "pages of the guest's were not given back");
    }
    Some((length, given.is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MEMORY_MIN;
    use crate::memory::{self, MMIO_GAP_END, MMIO_GAP_START};
    use vm_memory::Bytes;

    #[test]
    fn a_range_that_leaves_its_region_is_no_memory_and_stops_at_the_end_all_the_same() {
        let ram = memory::map(4 << 30).unwrap();
        assert!(is_ram(&ram, (MMIO_GAP_START - PAGE_SIZE, PAGE_SIZE)));
        assert!(!is_ram(&ram, (MMIO_GAP_START - PAGE_SIZE, 2 * PAGE_SIZE)));
        assert!(!is_ram(&ram, (MMIO_GAP_START - PAGE_SIZE, MMIO_GAP_END)));
        assert!(is_ram(&ram, (MMIO_GAP_END, 1 << 30)));
        let given = give_back_from(&ram, MMIO_GAP_START - PAGE_SIZE, 2 * PAGE_SIZE);
        assert_eq!(given, Some((PAGE_SIZE, true)));
        assert_eq!(give_back_from(&ram, MMIO_GAP_START, PAGE_SIZE), None);
    }

    #[test]
    fn what_the_host_did_not_get_is_not_counted_and_takes_its_part_of_the_turn() {
        let ram = memory::map(MEMORY_MIN).unwrap();
        let page = |number: u64| GuestAddress(number * PAGE_SIZE);
        let place = ram.get_host_address(page(2)).unwrap();
        // The kernel does not take back what is locked.
        // SAFETY: the page is a part of RAM's mapping, which stays until the end of the test.
        unsafe { rustix::mm::mlock(place.cast(), PAGE_SIZE as usize) }.unwrap();
        for number in 0..6 {
            ram.write_obj(0xaa_u8, page(number)).unwrap();
        }
        let range = |number: u64| (number * PAGE_SIZE, PAGE_SIZE);
        let mut pages = Pages { ranges: [range(1), range(2), range(3), range(4)].into() };
        let mut budget = 3;
        assert_eq!(pages.give_back(&ram, &mut budget), 2 * PAGE_SIZE);
        assert_eq!((budget, &pages), (0, &Pages { ranges: [range(4)].into() }));
        budget = 10;
        assert_eq!(pages.give_back(&ram, &mut budget), PAGE_SIZE);
        assert_eq!((budget, pages.is_empty()), (9, true));
        let bytes: [u8; 6] =
            std::array::from_fn(|number| ram.read_obj(page(number as u64)).unwrap());
        assert_eq!(bytes, [0xaa, 0, 0xaa, 0, 0, 0xaa]);
    }
}
