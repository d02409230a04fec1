//! What the driver has given to be filled: chains of descriptors, in the order of the ring.
//!
//! How long the next packet is shows only when it is read, so buffers for the longest one lie ready,
//! and those that a packet leaves are for the next. They stay the guest's, which can write to them
//! at any time; nothing is ever read from them.

use super::{LONGEST, QUEUE_SIZE};
use crate::memory::GuestRam;
use crate::tap::HEADER;
use crate::virtio::queue::{Chain, Malformed, walk};
use std::collections::VecDeque;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

/// Pieces of memory that suffice, however small they are. One chain can have as many, and the system
/// takes 1,024 in one call.
const PIECES: usize = QUEUE_SIZE as usize;

/// Chains that the driver has given, checked.
#[derive(Default)]
pub(super) struct Buffers {
    chains: VecDeque<Room>,
    /// The memory of all of them, in order.
    pieces: VecDeque<Piece>,
    bytes: usize,
}

/// A piece of memory: where the guest has it, and where the host does, so that it is not looked up
/// again for each packet that comes before the one which fills it.
struct Piece {
    address: GuestAddress,
    vector: libc::iovec,
}

// SAFETY: the pointer in it is to guest RAM, to which all threads may write.
unsafe impl Send for Piece {}

/// A chain.
struct Room {
    head: u16,
    pieces: usize,
    bytes: usize,
}

impl Buffers {
    /// Whether a packet of `least` bytes can be read.
    pub(super) fn have(&self, least: usize) -> bool {
        self.bytes >= least || self.pieces.len() >= PIECES
    }

    /// Whether more of them would be of no use.
    pub(super) fn suffice(&self) -> bool {
        self.have(LONGEST)
    }

    /// How many pieces of memory there are: descriptors, but for those that were of no use.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Adds `chain`. One without room for a header, or with anything that the device may not write,
    /// is malformed.
    pub(super) fn add(&mut self, chain: Chain<'_>, ram: &GuestRam) -> Result<(), Malformed> {
        let head = chain.head_index();
        let (before, mut bytes) = (self.pieces.len(), 0_usize);
        let pieces = &mut self.pieces;
        let whole = walk(chain, QUEUE_SIZE, |descriptor| {
            let (address, length) = (descriptor.addr(), descriptor.len() as usize);
            let inside = ram.get_slices(address, length).all(|slice| slice.is_ok());
            if !descriptor.is_write_only() || !inside {
                return Err(Malformed);
            }
            // More than the longest packet is of no use.
            let useful = length.min(LONGEST.saturating_sub(bytes));
            let mut place = address;
            for slice in ram.get_slices(address, useful).flatten() {
                let iov_base = slice.ptr_guard_mut().as_ptr().cast();
                let vector = libc::iovec { iov_base, iov_len: slice.len() };
                pieces.push_back(Piece { address: place, vector });
                place = place.unchecked_add(slice.len() as u64);
            }
            bytes += useful;
            Ok(())
        });
        if whole.is_err() || bytes < HEADER {
            self.pieces.truncate(before);
            return Err(Malformed);
        }
        self.chains.push_back(Room { head, pieces: self.pieces.len() - before, bytes });
        self.bytes += bytes;
        Ok(())
    }

    /// The memory for the next packet, which is that of the first chain if it may have no other. It is
    /// part of the RAM with which the chains were added.
    pub(super) fn vectors(&self, merged: bool) -> impl Iterator<Item = libc::iovec> {
        let first = self.chains.front().map_or(0, |chain| chain.pieces);
        self.pieces.iter().take(if merged { usize::MAX } else { first }).map(|piece| piece.vector)
    }

    /// The bytes of that memory.
    pub(super) fn room(&self, merged: bool) -> usize {
        if merged { self.bytes } else { self.chains.front().map_or(0, |chain| chain.bytes) }
    }

    /// Takes the chains off that a packet of `length` bytes has filled, and writes into its header
    /// how many they are; what the header says of checksums only if the driver does `checksums`
    /// (section 5.1.6.4.1). Gives each with its bytes that were filled.
    pub(super) fn take(
        &mut self,
        length: usize,
        checksums: bool,
        ram: &GuestRam,
    ) -> Vec<(u16, u32)> {
        let count = self.place_of_count();
        if let Some(first) = self.pieces.front().filter(|_| !checksums) {
            // In RAM, so this cannot fail.
            let _ = ram.write_obj(0_u8, first.address);
        }
        let mut taken = Vec::new();
        let mut left = length;
        while left > 0
            && let Some(chain) = self.chains.pop_front()
        {
            let filled = left.min(chain.bytes);
            left -= filled;
            self.bytes -= chain.bytes;
            self.pieces.drain(..chain.pieces);
            // At most `LONGEST`.
            taken.push((chain.head, filled as u32));
        }
        // No more than the bytes of a packet: each chain has room for a header.
        let bytes = (taken.len() as u16).to_le_bytes();
        for (address, byte) in count.into_iter().zip(bytes) {
            // In RAM, so this cannot fail.
            let _ = ram.write_obj(byte, address);
        }
        taken
    }

    /// Where the two bytes of `num_buffers` lie: the header's last (section 5.1.6), wherever the
    /// driver has cut it.
    fn place_of_count(&self) -> Vec<GuestAddress> {
        let bytes = self.pieces.iter().flat_map(|piece| {
            (0..piece.vector.iov_len as u64)
                .filter_map(|offset| piece.address.0.checked_add(offset))
        });
        bytes.skip(HEADER - 2).take(2).map(GuestAddress).collect()
    }
}
