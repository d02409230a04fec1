//! The guest's buffers for packets: room for the bytes of several is filled in one go.

use crate::memory::GuestRam;
use crate::virtio::queue::{Chain, Malformed, walk};
use crate::vsock::packet::{HEADER, Header, op};
use vm_memory::{GuestMemoryBackend, VolatileSlice};
use zerocopy::IntoBytes;

/// No more buffers are taken when there are so many pieces of memory: one chain can have as many
/// again, and the system takes 1,024 in one call.
const PIECES: usize = 256;

/// Buffers in the order of the ring.
#[derive(Default)]
pub(super) struct Room<'a> {
    buffers: Vec<Buffer>,
    /// Where their headers go.
    headers: Vec<VolatileSlice<'a>>,
    /// What all of them have behind their headers.
    payload: Vec<VolatileSlice<'a>>,
}

/// A buffer.
struct Buffer {
    head: u16,
    /// Pieces of memory that its header is in.
    pieces: usize,
    /// How many bytes there are behind it.
    bytes: usize,
}

impl<'a> Room<'a> {
    /// Forgets all buffers.
    pub(super) fn clear(&mut self) {
        self.buffers.clear();
        self.headers.clear();
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
        let (headers, pieces) = (self.headers.len(), self.payload.len());
        let (mut missing, mut bytes) = (HEADER, 0);
        let walked = walk(chain, most, |descriptor| {
            if !descriptor.is_write_only() {
                return Ok(());
            }
            for slice in ram.get_slices(descriptor.addr(), descriptor.len() as usize) {
                let slice = slice.map_err(|_| Malformed)?;
                let (header, rest) =
                    slice.split_at(missing.min(slice.len())).map_err(|_| Malformed)?;
                missing -= header.len();
                bytes += rest.len();
                self.headers.extend(Some(header).filter(|piece| !piece.is_empty()));
                self.payload.extend(Some(rest).filter(|piece| !piece.is_empty()));
            }
            Ok(())
        });
        if walked.is_err() || bytes == 0 {
            self.headers.truncate(headers);
            self.payload.truncate(pieces);
            return Err(Malformed);
        }
        self.buffers.push(Buffer { head, pieces: self.headers.len() - headers, bytes });
        Ok(())
    }

    /// Puts `header` into a buffer, or, if it is one of bytes that are in the room already, one of its
    /// like into each buffer that has some of them. Gives these buffers' heads, each with the bytes
    /// written to it.
    pub(super) fn fill(&mut self, header: &Header) -> Vec<(u16, u32)> {
        let mut left = header.length.get() as usize;
        let mut filled = Vec::with_capacity(self.buffers.len());
        let mut headers = self.headers.iter();
        for buffer in &self.buffers {
            let length = left.min(buffer.bytes);
            left -= length;
            let header = Header { length: (length as u32).into(), ..*header };
            let mut bytes = header.as_bytes();
            for piece in headers.by_ref().take(buffer.pieces) {
                piece.copy_from(bytes);
                bytes = &bytes[piece.len().min(bytes.len())..];
            }
            filled.push((buffer.head, (HEADER + length) as u32));
            if left == 0 {
                break;
            }
        }
        debug_assert!(left == 0 && (header.op.get() == op::RW || filled.len() == 1));
        filled
    }
}
