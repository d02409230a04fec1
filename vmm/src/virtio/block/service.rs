//! The queue while the driver runs, on the drive's thread.

use super::request::{Buffers, Header, Request, Status};
use super::{RANGE_MAX, RANGES_MAX};
use crate::disk::{Image, SECTOR, Traits};
use crate::io::{Registry, Source};
use crate::memory::GuestRam;
use crate::outcome::{Outcome, OutcomeSlot};
use crate::virtio::queue::{Broken, Chain, DeviceQueue, TURN};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vmm_sys_util::epoll::EventSet;

/// Bytes that are read or written at once.
const PIECE: usize = 1 << 20;
/// Bytes that are discarded or made zeroes at once: a multiple of every cluster's size.
const RANGE_PIECE: u64 = 64 << 20;
/// Bytes of a range to be discarded or made zeroes.
const RANGE: usize = 16;

/// The device's queue, and what its requests need.
pub(super) struct Service {
    pub(super) ram: GuestRam,
    pub(super) queue: DeviceQueue,
    pub(super) image: Arc<Mutex<Image>>,
    pub(super) traits: Traits,
    /// The disk's name for the guest.
    pub(super) id: String,
    /// Whether the driver takes for safe what has been written.
    pub(super) write_through: bool,
    /// Whether the device is being reset: no request is begun, or goes on.
    pub(super) leave: Arc<AtomicBool>,
    /// Whether the log has heard of a request that failed, to this service or to one before.
    pub(super) complained: Arc<AtomicBool>,
    pub(super) outcome: OutcomeSlot,
}

/// Why a request was not done.
enum Failure {
    /// It makes no sense, or is not allowed.
    Refused(Status),
    /// The host could not do it.
    Host(io::Error),
    /// The device is being reset: it gets no answer.
    Left,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

const INVALID: Failure = Failure::Refused(Status::IoError);
const UNSUPPORTED: Failure = Failure::Refused(Status::Unsupported);

impl Service {
    fn serve(&mut self) -> Result<(), Broken> {
        let ram = self.ram.clone();
        for _ in 0..TURN {
            if self.leave.load(Ordering::Acquire) {
                return Ok(());
            }
            let Some(chain) = self.queue.pop(&ram)? else {
                if self.queue.await_buffers()? {
                    continue;
                }
                return Ok(());
            };
            let head = chain.head_index();
            let Some(length) = self.answer(chain, &ram) else { return Ok(()) };
            self.queue.add_used(head, length)?;
            // Not only at the end of the turn: the next request may take its time.
            self.queue.notify();
        }
        self.queue.ring();
        Ok(())
    }

    /// Does what the chain asks for, and gives the number of bytes written to it; none if the
    /// device is being reset.
    fn answer(&mut self, chain: Chain<'_>, ram: &GuestRam) -> Option<u32> {
        let Ok(mut request) = Request::new(chain, ram) else { return Some(0) };
        let room = request.writable.len();
        let (status, written) = match self.carry_out(&mut request) {
            Ok(written) => (Status::Ok, written),
            Err(Failure::Refused(status)) => (status, 0),
            Err(Failure::Host(error)) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    tracing::warn!(disk = self.id, %error, "a request of the guest's failed");
                }
                (Status::IoError, 0)
            }
            Err(Failure::Left) => return None,
        };
        Some(request.answer(status, room, written))
    }

    /// Does what the request asks for, and gives the number of bytes written for it.
    fn carry_out(&self, request: &mut Request<'_>) -> Result<u64, Failure> {
        let Header { kind, sector } = request.header.ok_or(INVALID)?;
        let mut image = self.image.lock().unwrap_or_else(PoisonError::into_inner);
        match kind {
            VIRTIO_BLK_T_IN => {
                let length = request.writable.len();
                let offset = self.place(sector, length)?;
                self.transfer(&mut request.writable, offset, |piece, at| image.read(piece, at))?;
                Ok(length)
            }
            VIRTIO_BLK_T_OUT => {
                self.writable()?;
                let offset = self.place(sector, request.readable.len())?;
                self.transfer(&mut request.readable, offset, |piece, at| image.write(piece, at))?;
                self.settle(&mut image)
            }
            VIRTIO_BLK_T_FLUSH => {
                image.flush()?;
                Ok(0)
            }
            VIRTIO_BLK_T_GET_ID => {
                let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
                for (to, from) in id.iter_mut().zip(self.id.bytes()) {
                    *to = from;
                }
                Ok(request.writable.write(&id))
            }
            VIRTIO_BLK_T_DISCARD => {
                for range in self.ranges(&mut request.readable, 0)? {
                    self.in_pieces(&range, |at, length| image.discard(at, length))?;
                }
                Ok(0)
            }
            VIRTIO_BLK_T_WRITE_ZEROES => {
                let flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
                for range in self.ranges(&mut request.readable, flags)? {
                    let unmap = range.flags != 0;
                    self.in_pieces(&range, |at, length| image.write_zeroes(at, length, unmap))?;
                }
                self.settle(&mut image)
            }
            _ => Err(UNSUPPORTED),
        }
    }

    fn writable(&self) -> Result<(), Failure> {
        if self.traits.readonly { Err(INVALID) } else { Ok(()) }
    }

    /// Where `length` bytes from `sector` lie in the image, if they do.
    fn place(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        let offset = sector.checked_mul(SECTOR).ok_or(INVALID)?;
        let end = offset.checked_add(length).ok_or(INVALID)?;
        if !length.is_multiple_of(SECTOR) || end > self.traits.size {
            return Err(INVALID);
        }
        Ok(offset)
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.leave.load(Ordering::Acquire) { Err(Failure::Left) } else { Ok(()) }
    }

    /// Moves what `buffers` have, piece by piece.
    fn transfer(
        &self,
        buffers: &mut Buffers<'_>,
        offset: u64,
        mut move_piece: impl FnMut(&[vm_memory::VolatileSlice<'_>], u64) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let end = offset + buffers.len();
        while !buffers.is_empty() {
            self.go_on()?;
            let at = end - buffers.len();
            move_piece(&buffers.take(PIECE), at)?;
        }
        Ok(())
    }

    /// The ranges that `buffers` list, all of them checked; `allowed` are the flags that they may
    /// have.
    fn ranges(&self, buffers: &mut Buffers<'_>, allowed: u32) -> Result<Vec<Range>, Failure> {
        self.writable()?;
        if self.traits.granularity.is_none() {
            return Err(UNSUPPORTED);
        }
        let length = buffers.len();
        let most = u64::from(RANGES_MAX) * RANGE as u64;
        if length == 0 || length > most || !length.is_multiple_of(RANGE as u64) {
            return Err(INVALID);
        }
        let mut ranges = Vec::new();
        let mut bytes = [0; RANGE];
        while buffers.read(&mut bytes) {
            let sector = u64::from_le_bytes(std::array::from_fn(|index| bytes[index]));
            let count = u32::from_le_bytes(std::array::from_fn(|index| bytes[8 + index]));
            let flags = u32::from_le_bytes(std::array::from_fn(|index| bytes[12 + index]));
            if flags & !allowed != 0 {
                return Err(UNSUPPORTED);
            }
            if count > RANGE_MAX {
                return Err(INVALID);
            }
            let length = u64::from(count) * SECTOR;
            ranges.push(Range { offset: self.place(sector, length)?, length, flags });
        }
        Ok(ranges)
    }

    /// Calls `work` for the pieces of `range`.
    fn in_pieces(
        &self,
        range: &Range,
        mut work: impl FnMut(u64, u64) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let end = range.offset + range.length;
        let mut at = range.offset;
        while at < end {
            self.go_on()?;
            let next = end.min((at / RANGE_PIECE + 1) * RANGE_PIECE);
            work(at, next - at)?;
            at = next;
        }
        Ok(())
    }

    /// Makes what was written safe, for a driver that relies on that.
    fn settle(&self, image: &mut Image) -> Result<u64, Failure> {
        if self.write_through {
            image.flush()?;
        }
        Ok(0)
    }
}

/// Bytes of the image that are to be discarded or made zeroes.
struct Range {
    offset: u64,
    length: u64,
    flags: u32,
}

impl Source for Service {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        // Each ring is heard, and need not be taken off the doorbell.
        let rings = EventSet::IN | EventSet::EDGE_TRIGGERED;
        registry.watch(self.queue.doorbell().as_ref(), 0, rings)
    }

    fn ready(&mut self, _token: u32, _events: EventSet, registry: &mut Registry<'_>) {
        let served = self.serve();
        self.queue.notify();
        if served.is_err() {
            registry.forget(self.queue.doorbell().as_ref());
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if thread::panicking() {
            let text = format!("the thread {} has ended; the log says why", self.id);
            self.outcome.put(Outcome::InternalError(text));
        }
    }
}
