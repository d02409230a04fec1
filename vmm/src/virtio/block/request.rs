//! One request: a chain of descriptors, checked and taken apart (section 5.2.6).
//!
//! ```text
//! device reads:  header, 16 bytes | data of a write, ranges to discard
//! device writes: data of a read, the disk's name | status, 1 byte
//! ```
//!
//! How these lie in descriptors is the driver's choice (section 2.7.4.4). The buffers stay the
//! guest's, which can change them at any time, so the header is read once.

use super::QUEUE_SIZE;
use crate::memory::GuestRam;
use crate::virtio::queue::{Chain, Malformed, walk};
use std::collections::VecDeque;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};
use vm_memory::{Bytes, GuestMemoryBackend, VolatileSlice};

/// Bytes of the header.
const HEADER: usize = 16;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    /// Done.
    Ok = VIRTIO_BLK_S_OK as u8,
    /// It could not be done, or may not be.
    IoError = VIRTIO_BLK_S_IOERR as u8,
    /// There is no such request here.
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// What a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// What to do: `VIRTIO_BLK_T_*`.
    pub(super) kind: u32,
    /// Where.
    pub(super) sector: u64,
}

/// A request.
pub(super) struct Request<'a> {
    /// What it says; none if it is too short.
    pub(super) header: Option<Header>,
    /// What follows the header.
    pub(super) readable: Buffers<'a>,
    /// What comes before the status.
    pub(super) writable: Buffers<'a>,
    status: VolatileSlice<'a>,
}

impl<'a> Request<'a> {
    /// Takes `chain` apart. One that has no place for a status is malformed.
    pub(super) fn new(chain: Chain<'_>, ram: &'a GuestRam) -> Result<Self, Malformed> {
        let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
        walk(chain, QUEUE_SIZE, |descriptor| {
            let buffers = if descriptor.is_write_only() { &mut writable } else { &mut readable };
            for slice in ram.get_slices(descriptor.addr(), descriptor.len() as usize) {
                buffers.push(slice.map_err(|_| Malformed)?);
            }
            Ok(())
        })?;
        let status = writable.pop_byte().ok_or(Malformed)?;
        let mut header = [0; HEADER];
        let header = readable.read(&mut header).then(|| Header {
            kind: u32::from_le_bytes([header[0], header[1], header[2], header[3]]),
            sector: u64::from_le_bytes(std::array::from_fn(|index| header[8 + index])),
        });
        Ok(Self { header, readable, writable, status })
    }

    /// Says how it ended, and that `written` bytes of [`writable`](Self::writable), which had
    /// `room`, were written. Gives the number of bytes that were written from the chain's first
    /// writable one on (section 2.7.8.2): a status behind others that were not does not count.
    pub(super) fn answer(self, status: Status, room: u64, written: u64) -> u32 {
        // The slice is a byte of guest RAM, so this cannot fail.
        let _ = self.status.write_obj(status as u8, 0);
        let all = if written == room { room + 1 } else { written };
        // A chain has less than 4 GiB.
        u32::try_from(all).unwrap_or(u32::MAX)
    }
}

/// Pieces of guest memory, in order.
#[derive(Default)]
pub(super) struct Buffers<'a> {
    slices: VecDeque<VolatileSlice<'a>>,
    length: u64,
}

impl<'a> Buffers<'a> {
    /// Bytes that are left.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Whether none are.
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn push(&mut self, slice: VolatileSlice<'a>) {
        if !slice.is_empty() {
            self.length += slice.len() as u64;
            self.slices.push_back(slice);
        }
    }

    /// Takes the last byte off.
    fn pop_byte(&mut self) -> Option<VolatileSlice<'a>> {
        let slice = self.slices.pop_back()?;
        self.length -= slice.len() as u64;
        let (rest, byte) = slice.split_at(slice.len().checked_sub(1)?).ok()?;
        self.push(rest);
        Some(byte)
    }

    /// Takes at most `most` bytes off the front, as slices of which none is empty.
    pub(super) fn take(&mut self, most: usize) -> Vec<VolatileSlice<'a>> {
        let mut taken = Vec::new();
        let mut left = most;
        while left > 0
            && let Some(slice) = self.slices.pop_front()
        {
            self.length -= slice.len() as u64;
            let slice = match slice.split_at(left) {
                Ok((first, rest)) => {
                    if !rest.is_empty() {
                        self.length += rest.len() as u64;
                        self.slices.push_front(rest);
                    }
                    first
                }
                // It is not longer than what is wanted.
                Err(_) => slice,
            };
            left -= slice.len();
            taken.push(slice);
        }
        taken
    }

    /// Takes bytes off the front, as many as `bytes` has; false if there are fewer.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> bool {
        if self.length < bytes.len() as u64 {
            return false;
        }
        let mut done = 0;
        for slice in self.take(bytes.len()) {
            done += slice.copy_to(&mut bytes[done..]);
        }
        true
    }

    /// Writes as much of `bytes` to the front as there is room for, and gives the number of bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> u64 {
        let mut rest = bytes;
        for slice in self.take(bytes.len()) {
            let (now, later) = rest.split_at(slice.len().min(rest.len()));
            slice.copy_from(now);
            rest = later;
        }
        (bytes.len() - rest.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_taken_in_any_portions_and_nothing_is_lost() {
        let mut memory: Vec<u8> = (0..100).collect();
        let whole = VolatileSlice::from(memory.as_mut_slice());
        for portion in 1..=101 {
            let mut buffers = Buffers::default();
            let mut at = 0;
            for length in [0, 1, 7, 0, 64, 28] {
                buffers.push(whole.subslice(at, length).unwrap());
                at += length;
            }
            let mut seen = Vec::new();
            while !buffers.is_empty() {
                let before = buffers.len();
                let taken = buffers.take(portion);
                assert!(taken.iter().all(|slice| !slice.is_empty()));
                for slice in &taken {
                    let mut bytes = vec![0; slice.len()];
                    slice.copy_to(&mut bytes);
                    seen.extend(bytes);
                }
                assert_eq!(seen.len() as u64, 100 - buffers.len());
                assert_eq!(before - buffers.len(), before.min(portion as u64));
            }
            assert_eq!(seen, (0..100).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn the_last_byte_is_found_behind_whatever_there_is() {
        let mut memory: Vec<u8> = (0..10).collect();
        let whole = VolatileSlice::from(memory.as_mut_slice());
        let mut buffers = Buffers::default();
        assert!(buffers.pop_byte().is_none());
        buffers.push(whole.subslice(0, 2).unwrap());
        buffers.push(whole.subslice(9, 1).unwrap());
        for expected in [9, 1, 0] {
            assert_eq!(buffers.pop_byte().unwrap().read_obj::<u8>(0).unwrap(), expected);
        }
        assert!(buffers.is_empty());
        assert!(buffers.pop_byte().is_none());
    }
}
