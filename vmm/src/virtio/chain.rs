//! A chain as it was when its device looked at it, and the memory that it names.
//!
//! The driver can write to its descriptors at any time, also between two looks at them. So they are
//! looked at once, and whatever is done then goes by what was seen.

use super::queue::{Chain, Malformed, walk};
use crate::memory::GuestRam;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{GuestMemoryBackend, VolatileSlice};

/// The descriptors of a chain.
#[derive(Debug)]
pub struct Whole(Vec<Descriptor>);

impl Whole {
    /// Those of `chain`, if it is one of no more than `most`.
    ///
    /// # Errors
    /// It is not, see [`walk`].
    pub fn of(chain: Chain<'_>, most: u16) -> Result<Self, Malformed> {
        let mut descriptors = Vec::new();
        walk(chain, most, |descriptor| {
            descriptors.push(*descriptor);
            Ok(())
        })?;
        Ok(Self(descriptors))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Those that the device reads.
    pub fn readable(&self) -> impl Iterator<Item = &Descriptor> {
        self.0.iter().filter(|descriptor| !descriptor.is_write_only())
    }

    /// Those that the device writes.
    pub fn writable(&self) -> impl Iterator<Item = &Descriptor> {
        self.0.iter().filter(|descriptor| descriptor.is_write_only())
    }

    /// Reads what the driver has written.
    ///
    /// # Errors
    /// Some of it is no RAM.
    pub fn reader<'a>(&self, ram: &'a GuestRam) -> Result<Reader<'a>, Malformed> {
        Parts::of(self.readable(), ram).map(Reader)
    }

    /// Writes to where the driver expects it.
    ///
    /// # Errors
    /// Some of it is no RAM.
    pub fn writer<'a>(&self, ram: &'a GuestRam) -> Result<Writer<'a>, Malformed> {
        Parts::of(self.writable(), ram).map(Writer)
    }
}

/// Reads the readable part of a chain from its start to its end.
pub struct Reader<'a>(Parts<'a>);

impl<'a> Reader<'a> {
    /// How many bytes are left.
    #[must_use]
    pub fn available_bytes(&self) -> usize {
        self.0.bytes()
    }

    /// The memory of the next `count` bytes, or of as many as there are.
    pub fn next_slices(&mut self, count: usize) -> Vec<VolatileSlice<'a>> {
        let mut left = count;
        std::iter::from_fn(|| {
            let piece = self.0.take(left)?;
            left -= piece.len();
            Some(piece)
        })
        .collect()
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(part) = self.0.take(bytes.len() - done) {
            done += part.copy_to(&mut bytes[done..]);
        }
        Ok(done)
    }
}

/// Writes to the writable part of a chain from its start to its end.
pub struct Writer<'a>(Parts<'a>);

impl Writer<'_> {
    /// For how many bytes there is room.
    #[must_use]
    pub fn available_bytes(&self) -> usize {
        self.0.bytes()
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(part) = self.0.take(bytes.len() - done) {
            let length = part.len();
            part.copy_from(&bytes[done..]);
            done += length;
        }
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Pieces of guest RAM, none of them empty.
struct Parts<'a>(VecDeque<VolatileSlice<'a>>);

impl<'a> Parts<'a> {
    fn of<'d>(
        descriptors: impl Iterator<Item = &'d Descriptor>,
        ram: &'a GuestRam,
    ) -> Result<Self, Malformed> {
        let pieces = descriptors.flat_map(|one| ram.get_slices(one.addr(), one.len() as usize));
        let pieces: Result<VecDeque<_>, _> = pieces.collect();
        let mut pieces = pieces.map_err(|_| Malformed)?;
        pieces.retain(|piece| !piece.is_empty());
        Ok(Self(pieces))
    }

    /// No more than 32,768 descriptors of less than 4 GiB each.
    fn bytes(&self) -> usize {
        self.0.iter().map(VolatileSlice::len).sum()
    }

    /// Takes the next piece off, or as much of it as `most` bytes; none if that is 0.
    fn take(&mut self, most: usize) -> Option<VolatileSlice<'a>> {
        if most == 0 {
            return None;
        }
        let piece = self.0.pop_front()?;
        match piece.split_at(most) {
            Ok((piece, rest)) if !rest.is_empty() => {
                self.0.push_front(rest);
                Some(piece)
            }
            // It has no more than that.
            _ => Some(piece),
        }
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
