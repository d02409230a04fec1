//! Virtio devices: what a device is, and the MMIO transport that shows it to the guest
//! (Virtual I/O Device specification, version 1.2).

pub mod balloon;
pub mod block;
pub mod chain;
pub mod console;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod registers;
pub mod rng;
#[cfg(test)]
pub(crate) mod test_driver;
#[cfg(test)]
pub(crate) mod test_turns;
#[cfg(test)]
pub(crate) mod test_warnings;

use crate::irq::IrqLine;
use crate::memory::GuestRam;
use queue::DeviceQueue;
use registers::RegisterPage;
use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// `InterruptStatus`: a queue has used buffers.
pub(crate) const INTERRUPT_QUEUE: u32 = 1 << 0;
/// `InterruptStatus`: the configuration or the status has changed.
const INTERRUPT_CONFIG: u32 = 1 << 1;

/// A device behind a transport.
///
/// The transport negotiates and checks; the device is given its queues when the driver is ready,
/// and loses them at reset.
pub trait VirtioDevice: Send {
    /// The device type (section 5).
    fn device_type(&self) -> u32;
    /// The most descriptors that each queue may have: powers of two.
    fn queue_sizes(&self) -> &[u16];
    /// How many of the queues, from the first on, a driver uses that has accepted `features`.
    fn queues_used(&self, _features: u64) -> usize {
        self.queue_sizes().len()
    }
    /// The features of this device type that are offered, bits 0 to 23.
    fn features(&self) -> u64 {
        0
    }
    /// Whether the configuration space never changes, so that the guest can read it, and all registers,
    /// from a [page](RegisterPage).
    fn config_is_fixed(&self) -> bool {
        false
    }
    /// The version of the configuration space: another one after each change, so that a driver that
    /// reads in pieces sees whether they belong together (section 2.5.1). Most never change.
    fn config_generation(&self) -> u32 {
        0
    }
    /// Fills `data` from the device's configuration space at `offset`; what is not there stays
    /// zero.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
    /// The driver writes `data` to the device's configuration space at `offset`.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    /// The driver is ready.
    ///
    /// # Errors
    /// The host lacks what the device needs; the driver is told that the device needs a reset.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;
    /// The driver resets the device: when this returns, nothing uses its queues any more, unless
    /// [`is_reset`](Self::is_reset) says otherwise.
    fn reset(&mut self);
    /// Whether the last reset is complete. A device whose part on the host is stuck, as a disk is
    /// whose server has gone, does not keep a processor waiting for ever: the reset is complete
    /// later, and until then the driver sees that it is not (section 2.4).
    fn is_reset(&self) -> bool {
        true
    }
}

/// Fills `data` from `config`, a configuration space, at `offset`; what is not there is left alone.
pub(crate) fn read_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..));
    for (to, from) in data.iter_mut().zip(rest.unwrap_or_default()) {
        *to = *from;
    }
}

/// What a device is given when the driver is ready.
pub struct Activation {
    /// Guest RAM.
    pub ram: GuestRam,
    /// The features that the driver has accepted.
    pub features: u64,
    /// The queues, all checked.
    pub queues: Vec<DeviceQueue>,
    /// To tell the driver about changes.
    pub interrupt: Interrupt,
}

/// A device's interrupt: what happened, and the line that says that something did.
#[derive(Clone)]
pub struct Interrupt {
    status: Arc<AtomicU32>,
    needs_reset: Arc<AtomicU32>,
    /// Where the guest reads both, if it can do so by itself.
    page: Option<Arc<RegisterPage>>,
    /// The log has heard of a device that needs a reset; the guest could say it for ever.
    logged: Arc<AtomicBool>,
    line: IrqLine,
}

impl Interrupt {
    fn new(line: IrqLine) -> Self {
        Self {
            status: Arc::default(),
            needs_reset: Arc::default(),
            page: None,
            logged: Arc::default(),
            line,
        }
    }

    /// Tells the driver that a queue has used buffers.
    pub fn queue(&self) {
        self.raise(INTERRUPT_QUEUE);
    }

    /// Tells the driver that the configuration space has changed.
    pub fn config(&self) {
        self.raise(INTERRUPT_CONFIG);
    }

    /// Tells the driver that the device cannot go on until it is reset, because of `why`.
    pub fn needs_reset(&self, why: &dyn Display) {
        if !self.logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(%why, "a virtio device stops until the guest resets it");
        }
        self.needs_reset.store(1, Ordering::SeqCst);
        if let Some(page) = &self.page {
            page.set(mmio::STATUS, mmio::NEEDS_RESET);
        }
        self.raise(INTERRUPT_CONFIG);
    }

    fn raise(&self, what: u32) {
        self.status.fetch_or(what, Ordering::AcqRel);
        if let Some(page) = &self.page {
            page.set(mmio::INTERRUPT_STATUS, what);
        }
        if let Err(error) = self.line.trigger() {
            tracing::warn!(%error, "interrupt not raised");
        }
    }
}
