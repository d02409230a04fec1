//! virtio-blk: a disk (section 5.2).
//!
//! ```text
//! Drive    the image and its thread, from the machine's start to its end
//! Block    the device of one boot: features, configuration space, comings and goings of its queue
//! Service  the queue while the driver runs, on the drive's thread: takes requests, gives answers
//! Request  one chain of descriptors, checked and taken apart
//! ```
//!
//! Requests are done one after the other in the order of the ring. What was written is safe on
//! the host after a flush; a driver that does not know of flushes gets every write flushed before
//! it is answered. What a guest asks for that would last (a gigabyte of zeroes, a chain of large
//! buffers) is done in pieces, so that it can be left in the middle when the device is reset.

mod drive;
mod request;
mod service;

pub use drive::Drive;

use crate::disk::SECTOR;
use crate::io::SourceId;
use crate::outcome::OutcomeSlot;
use crate::virtio::{Activation, VirtioDevice, read_bytes};
use service::Service;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};

const DEVICE_TYPE: u32 = 2;
const QUEUE_SIZE: u16 = 256;
const QUEUE_SIZES: [u16; 1] = [QUEUE_SIZE];
/// Buffers of a request: a chain has a header and a status besides.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Sectors of a range that is discarded or made zeroes: 1 GiB.
const RANGE_MAX: u32 = 1 << 21;
/// Ranges of one such request.
const RANGES_MAX: u32 = 16;

/// The device.
pub struct Block {
    drive: Arc<Drive>,
    outcome: OutcomeSlot,
    active: Option<Active>,
}

/// The queue's service on the drive's thread.
struct Active {
    source: SourceId,
    leave: Arc<AtomicBool>,
}

impl Block {
    /// The device of `drive` for one boot, whose end is said through `outcome` should the drive's
    /// thread fail.
    #[must_use]
    pub fn new(drive: Arc<Drive>, outcome: OutcomeSlot) -> Self {
        Self { drive, outcome, active: None }
    }

    /// The queue's service, which leaves what it does when `leave` says so.
    fn service(&self, activation: Activation, leave: Arc<AtomicBool>) -> io::Result<Service> {
        let mut queues = activation.queues.into_iter();
        Ok(Service {
            ram: activation.ram,
            queue: queues.next().ok_or(io::ErrorKind::InvalidInput)?,
            image: self.drive.image()?,
            traits: self.drive.traits(),
            id: self.drive.id(),
            write_through: activation.features & 1 << VIRTIO_BLK_F_FLUSH == 0,
            leave,
            complained: self.drive.complained(),
            outcome: self.outcome.clone(),
        })
    }

    /// The configuration space (section 5.2.4).
    fn config(&self) -> [u8; 60] {
        let traits = self.drive.traits();
        let mut config = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(traits.size / SECTOR).to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        if let Some(granularity) = traits.granularity {
            put(36, &RANGE_MAX.to_le_bytes());
            put(40, &RANGES_MAX.to_le_bytes());
            // Clusters have at most 2 MiB.
            put(44, &((granularity / SECTOR) as u32).to_le_bytes());
            put(48, &RANGE_MAX.to_le_bytes());
            put(52, &RANGES_MAX.to_le_bytes());
            put(56, &[1]);
        }
        config
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        let traits = self.drive.traits();
        let mut features =
            1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH;
        if traits.readonly {
            features |= 1 << VIRTIO_BLK_F_RO;
        }
        if traits.granularity.is_some() {
            features |= 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
        }
        features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let leave = Arc::new(AtomicBool::new(false));
        let service = self.service(activation, leave.clone())?;
        let source = self.drive.add(Box::new(service))?;
        self.active = Some(Active { source, leave });
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take() {
            active.leave.store(true, Ordering::Release);
            self.drive.remove(active.source);
        }
    }

    fn is_reset(&self) -> bool {
        self.drive.is_free()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
pub(crate) mod test_disk;
#[cfg(test)]
mod tests;
