//! virtio-balloon: memory that the guest gives back to the host (section 5.5).
//!
//! It does so in two ways. The *balloon* is memory that the driver takes from its guest because the
//! host wants it, as much as the host's target says, and tells the numbers of its pages. *Free page
//! reporting* needs no wish of the host's: the driver names large pieces of memory that nothing is in,
//! some seconds after that became so, and waits with their use until the host has let go of them.
//!
//! ```text
//! queue           driver puts in                      and gets back
//! inflate         numbers of pages                    when they have gone to the host
//! deflate         numbers of pages                    at once: touching them is enough
//! statistics      one buffer of what it knows         when the host wants to know it anew
//! reporting       free memory, as buffers             when it has gone to the host
//! ```
//!
//! The last two are there only if their features are agreed on, and queues that are not there take no
//! number: with reporting and without statistics, queue 2 is for reports. That is what Linux does;
//! the specification gives fixed numbers, which no driver uses.
//!
//! The `io` thread serves it: neighbouring pages go back in one call of the kernel, and only so many in
//! a turn that others wait a few milliseconds at most. No thread is needed for a device that is idle
//! nearly always.

mod control;
mod pages;
mod service;
mod stats;

pub use control::{BalloonControl, BalloonInfo, MemoryStats};

use crate::io::{IoHandle, SourceId};
use crate::virtio::{Activation, VirtioDevice};
use service::Service;
use std::io;

const DEVICE_TYPE: u32 = 5;
/// The driver tells of the guest's memory (`VIRTIO_BALLOON_F_STATS_VQ`).
const STATS: u64 = 1 << 1;
/// The driver may take pages back when the guest is short of memory
/// (`VIRTIO_BALLOON_F_DEFLATE_ON_OOM`).
const DEFLATE_ON_OOM: u64 = 1 << 2;
/// The driver reports free pages (`VIRTIO_BALLOON_F_REPORTING`).
const REPORTING: u64 = 1 << 5;
/// Linux reports only through a queue that has room for 32 pieces, which may be the third, too.
const QUEUE_SIZES: [u16; 4] = [64; 4];
/// Where the driver writes the size that the balloon has.
const ACTUAL: u64 = 4;

/// The device.
pub struct Balloon {
    control: BalloonControl,
    io: IoHandle,
    reporting: bool,
    active: Option<SourceId>,
}

impl Balloon {
    /// The balloon of `control`, served on `io`.
    #[must_use]
    pub fn new(control: BalloonControl, io: IoHandle) -> Self {
        Self { control, io, reporting: true, active: None }
    }

    /// Whether the driver may report free pages: where the host does not get them it need not.
    #[must_use]
    pub fn reporting(mut self, reporting: bool) -> Self {
        self.reporting = reporting;
        self
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn queues_used(&self, features: u64) -> usize {
        let optional = [STATS, REPORTING];
        2 + optional.iter().filter(|feature| features & *feature != 0).count()
    }

    fn features(&self) -> u64 {
        let reporting = if self.reporting { REPORTING } else { 0 };
        STATS | DEFLATE_ON_OOM | reporting
    }

    fn config_generation(&self) -> u32 {
        self.control.generation()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.control.read(offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (ACTUAL, Ok(pages)) = (offset, data.try_into()) {
            self.control.set_actual(u32::from_le_bytes(pages));
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let with_stats = activation.features & STATS != 0;
        let service = Service::new(activation, self.control.clone());
        let service = service.ok_or(io::ErrorKind::InvalidInput)?;
        // First: the doorbells can be rung already.
        self.control.driver_came(with_stats);
        let active = self.io.add(Box::new(service));
        self.active = Some(active.inspect_err(|_| self.control.driver_left())?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take() {
            self.io.remove(active);
        }
        self.control.driver_left();
    }
}

impl Drop for Balloon {
    fn drop(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod tests;
