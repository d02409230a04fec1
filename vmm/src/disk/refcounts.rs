//! The reference counts of a qcow2 image: checked, and mended where a killed monitor left them
//! behind, before the image is written again.
//!
//! ```text
//! header -> table of counts -> blocks of counts, one of each cluster of the file
//!        -> L1 table -> L2 tables -> clusters with the disk's contents
//! ```
//!
//! The library that writes images keeps counts in memory until a flush, but enters a new L2 table
//! into the L1 table at once. Killed in between, it leaves a table that is in use and whose count
//! says that it is free; whoever writes the image next would put something else there. So all that
//! is in use is looked up, and what has no count gets one. That counts are too large only costs
//! space.
//!
//! What cannot come of that is damage, and such an image is not written: two uses of one cluster,
//! references past the end of the file, a cluster in use that no block of counts is there for.

use super::qcow2::{Header, invalid, read_at};
use rustix::fs::SeekFrom;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Clusters of a file: 16 TiB in clusters of 64 KiB. Each costs two bits of memory.
const CLUSTERS_MAX: u64 = 1 << 28;
/// The bits of an entry that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// An entry of an L2 table for a compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// Compressed clusters are counted in these bytes.
const SECTOR: u64 = 512;

const DAMAGED: &str = "its tables contradict each other; `qemu-img check` says more";

/// Checks the counts of `file`, and mends them.
pub(super) fn mend(file: &File, header: &Header) -> io::Result<()> {
    let end = rustix::fs::seek(file, SeekFrom::End(0))?;
    let clusters = end.div_ceil(header.cluster);
    if clusters > CLUSTERS_MAX {
        return Err(invalid("its file is larger than those of any disk"));
    }
    let mut used = Used { own: Bits::new(clusters), shared: Bits::new(clusters) };
    used.own.set(0)?;
    let blocks = table(file, header.refcounts)?;
    used.extent(header, header.refcounts)?;
    for block in blocks.iter().filter(|block| **block != 0) {
        used.cluster(header, *block)?;
    }
    used.extent(header, header.l1)?;
    for entry in table(file, header.l1)? {
        let offset = entry & OFFSET;
        if offset != 0 {
            used.cluster(header, offset)?;
            used.l2(header, &table(file, (offset, header.cluster))?)?;
        }
    }
    used.check_counts(file, header, &blocks)
}

/// Entries of a table at an offset, of a length in bytes; where the file ends they are 0.
fn table(file: &File, (offset, length): (u64, u64)) -> io::Result<Vec<u64>> {
    // At most `qcow2::L1_MAX`.
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    read_at(file, &mut bytes, offset)?;
    Ok(bytes.as_chunks().0.iter().map(|entry| u64::from_be_bytes(*entry)).collect())
}

/// A bit for each cluster.
struct Bits {
    words: Vec<u64>,
    count: u64,
}

impl Bits {
    fn new(count: u64) -> Self {
        // At most `CLUSTERS_MAX`.
        Self { words: vec![0; count.div_ceil(64) as usize], count }
    }

    fn word(&mut self, index: u64) -> Option<&mut u64> {
        let place = usize::try_from(index / 64).ok().filter(|_| index < self.count)?;
        self.words.get_mut(place)
    }

    /// Sets a bit, and says whether it was set.
    fn set(&mut self, index: u64) -> io::Result<bool> {
        let word = self.word(index).ok_or_else(|| invalid(DAMAGED))?;
        let bit = 1 << (index % 64);
        let was = *word & bit != 0;
        *word |= bit;
        Ok(was)
    }

    fn take(&mut self, index: u64) -> bool {
        let Some(word) = self.word(index) else { return false };
        let bit = 1 << (index % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

/// The clusters that are in use and whose counts have not been seen.
struct Used {
    /// For one thing alone.
    own: Bits,
    /// For compressed ones, which can have a part each.
    shared: Bits,
}

impl Used {
    fn cluster(&mut self, header: &Header, offset: u64) -> io::Result<()> {
        if !offset.is_multiple_of(header.cluster) || self.own.set(offset / header.cluster)? {
            return Err(invalid(DAMAGED));
        }
        Ok(())
    }

    fn extent(&mut self, header: &Header, (offset, length): (u64, u64)) -> io::Result<()> {
        // Tables have at most 32 MiB.
        for index in 0..length.div_ceil(header.cluster) {
            let offset = offset.checked_add(index * header.cluster);
            self.cluster(header, offset.ok_or_else(|| invalid(DAMAGED))?)?;
        }
        Ok(())
    }

    fn l2(&mut self, header: &Header, entries: &[u64]) -> io::Result<()> {
        // The entry of a compressed cluster: where it begins, and in how many more sectors it ends.
        let offset_bits = 62 - (header.cluster.trailing_zeros() - 8);
        for entry in entries {
            if entry & COMPRESSED != 0 {
                let offset = entry & ((1 << offset_bits) - 1);
                let more = (entry & (COMPRESSED - 1)) >> offset_bits;
                let last = offset / SECTOR * SECTOR + more * SECTOR;
                for index in offset / header.cluster..=last / header.cluster {
                    self.shared.set(index)?;
                }
            } else if entry & OFFSET != 0 {
                self.cluster(header, entry & OFFSET)?;
            }
        }
        Ok(())
    }

    /// Looks up the counts of all that is in use, in `blocks`; a count of 0 is made 1 where that is
    /// what it has to be.
    fn check_counts(mut self, file: &File, header: &Header, blocks: &[u64]) -> io::Result<()> {
        let mut mended = 0_u64;
        let per_block = header.cluster * 8 / u64::from(header.refcount_bits);
        let mut bytes = vec![0; header.cluster as usize];
        for (number, block) in (0_u64..).zip(blocks) {
            let first = number * per_block;
            if *block == 0 || first >= self.own.count {
                continue;
            }
            bytes.fill(0);
            read_at(file, &mut bytes, *block)?;
            let before = mended;
            for index in first..(first + per_block).min(self.own.count) {
                let (own, shared) = (self.own.take(index), self.shared.take(index));
                if !(own || shared) || !is_free(&bytes, index - first, header.refcount_bits) {
                    continue;
                }
                if shared {
                    return Err(invalid(DAMAGED));
                }
                make_one(&mut bytes, index - first, header.refcount_bits);
                mended += 1;
            }
            if mended > before {
                file.write_all_at(&bytes, *block)?;
            }
        }
        if !self.own.is_empty() || !self.shared.is_empty() {
            return Err(invalid(DAMAGED));
        }
        if mended > 0 {
            tracing::info!(mended, "reference counts of an image that was not closed are mended");
            file.sync_data()?;
        }
        Ok(())
    }
}

/// Where count `index` is in a block: its bytes, and its bits in the first of them.
fn place(index: u64, bits: u32) -> (std::ops::Range<usize>, u8) {
    let at = index * u64::from(bits);
    // Blocks have at most 2 MiB.
    let byte = (at / 8) as usize;
    match bits {
        8.. => (byte..byte + bits as usize / 8, 0xff),
        _ => (byte..byte + 1, ((1 << bits) - 1) << (at % 8)),
    }
}

fn is_free(block: &[u8], index: u64, bits: u32) -> bool {
    let (bytes, mask) = place(index, bits);
    block[bytes].iter().all(|byte| byte & mask == 0)
}

/// Makes a count of 0 one of 1.
fn make_one(block: &mut [u8], index: u64, bits: u32) {
    let (bytes, mask) = place(index, bits);
    if let Some(last) = block[bytes].last_mut() {
        // The lowest bit of the count: numbers of bytes are big-endian.
        *last |= if bits >= 8 { 1 } else { 1 << mask.trailing_zeros() };
    }
}

#[cfg(test)]
#[path = "refcounts_tests.rs"]
mod tests;
