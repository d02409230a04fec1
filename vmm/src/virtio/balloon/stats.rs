//! What the driver says of its guest's memory: pairs of a tag and a value (section 5.5.6.3).

use super::control::MemoryStats;
use crate::memory::GuestRam;
use crate::virtio::chain::Whole;
use std::io::Read;

/// Bytes of a pair: 16 bits and 64.
const PAIR: usize = 10;
/// Pairs that are read. Linux has 16.
const PAIRS_MAX: usize = 64;

/// Reads the pairs in `chain`. Of those with the same tag the last counts; tags that nobody here
/// knows are left out.
pub(super) fn read(chain: &Whole, ram: &GuestRam) -> MemoryStats {
    let mut stats = MemoryStats::default();
    let Ok(reader) = chain.reader(ram) else { return stats };
    let mut bytes = Vec::new();
    // Guest RAM can always be read.
    let _ = reader.take((PAIRS_MAX * PAIR) as u64).read_to_end(&mut bytes);
    for [low, high, value @ ..] in bytes.as_chunks::<PAIR>().0 {
        let field = match u16::from_le_bytes([*low, *high]) {
            0 => &mut stats.swapped_in,
            1 => &mut stats.swapped_out,
            2 => &mut stats.major_faults,
            3 => &mut stats.minor_faults,
            4 => &mut stats.free,
            5 => &mut stats.total,
            6 => &mut stats.available,
            7 => &mut stats.caches,
            _ => continue,
        };
        *field = Some(u64::from_le_bytes(*value));
    }
    stats
}
