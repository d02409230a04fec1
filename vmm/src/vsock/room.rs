//! The guest's buffers for packets: room for the bytes of several is filled in one go.

use crate::memory::GuestRam;
use crate::virtio::chain::{Whole, Writer};
use crate::virtio::queue::{Chain, Malformed};
use crate::vsock::packet::{HEADER, Header, op};
use std::io::Write;
use vm_memory::VolatileSlice;
use zerocopy::IntoBytes;

/// No more buffers are taken when there are so many pieces of memory: one chain can have as many
/// again, and the system takes 1,024 in one call.
const PIECES: usize = 256;

/// Buffers in the order of the ring.
#[derive(Default)]
pub(super) struct Room<'a> {
    buffers: Vec<Buffer<'a>>,
    /// What all of them have behind their headers.
    payload: Vec<VolatileSlice<'a>>,
}

/// A buffer: where its header goes, and how many bytes there are behind it.
struct Buffer<'a> {
    head: u16,
    header: Writer<'a>,
    bytes: usize,
}

impl<'a> Room<'a> {
    /// Forgets all buffers.
    pub(super) fn clear(&mut self) {
        self.buffers.clear();
        self.payload.clear();
    }

    /// How many buffers there are.
    pub(super) fn buffers(&self) -> usize {
        self.buffers.len()
    }

    /// Whether more of them would be too many.
    pub(super) fn is_full(&self) -> bool {
        self.payload.len() >= PIECES
    }

    /// The memory for bytes.
    pub(super) fn payload(&self) -> &[VolatileSlice<'a>] {
        &self.payload
    }

    /// Adds `chain`, of no more than `most` descriptors.
    ///
    /// # Errors
    /// It is none, or has no room for a header and a byte.
    pub(super) fn add(
        &mut self,
        chain: Chain<'_>,
        most: u16,
        ram: &'a GuestRam,
    ) -> Result<(), Malformed> {
        let head = chain.head_index();
        let mut header = Whole::of(chain, most)?.writer(ram)?;
        let payload = header.split_off(HEADER);
        let bytes = payload.available_bytes();
        if bytes == 0 {
            return Err(Malformed);
        }
        self.payload.extend(payload.into_slices());
        self.buffers.push(Buffer { head, header, bytes });
        Ok(())
    }

    /// Puts `header` into a buffer, or, if it is one of bytes that are in the room already, one of its
    /// like into each buffer that has some of them. Gives these buffers' heads, each with the bytes
    /// written to it.
    pub(super) fn fill(&mut self, header: &Header) -> Vec<(u16, u32)> {
        let mut left = header.length.get() as usize;
        let mut filled = Vec::with_capacity(self.buffers.len());
        for buffer in &mut self.buffers {
            let length = left.min(buffer.bytes);
            left -= length;
            let header = Header { length: (length as u32).into(), ..*header };
            // There is room, and the chain does not change.
            let written =
                buffer.header.write_all(header.as_bytes()).map_or(0, |()| HEADER + length);
            filled.push((buffer.head, written as u32));
            if left == 0 {
                break;
            }
        }
        debug_assert!(left == 0 && (header.op.get() == op::RW || filled.len() == 1));
        filled
    }
}
