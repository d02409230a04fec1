//! A queue in the hands of its device: the split ring (section 2.7), its doorbell, its interrupt.
//!
//! The ring itself is virtio-queue's, which checks every index and address. What is nonsense all
//! the same (an available index that is further ahead than the ring is long, rings outside RAM)
//! breaks the queue: the device stops using it and the driver is told to reset.

use crate::memory::GuestRam;
use crate::virtio::Interrupt;
use std::sync::Arc;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

/// Chains that a device takes from a queue in one call at most. A driver that adds chains as fast as
/// they are taken must not keep the thread from everything else on it.
pub const TURN: usize = 64;

/// A chain of descriptors.
pub type Chain<'a> = DescriptorChain<&'a GuestRam>;

/// A queue that cannot be used any more. The driver has been told.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

/// A queue.
pub struct DeviceQueue {
    queue: Queue,
    ram: GuestRam,
    doorbell: Arc<EventFd>,
    interrupt: Interrupt,
    broken: bool,
    used: bool,
}

impl DeviceQueue {
    /// `queue` in `ram`; the driver rings `doorbell` when it has added buffers.
    #[must_use]
    pub fn new(queue: Queue, ram: GuestRam, doorbell: Arc<EventFd>, interrupt: Interrupt) -> Self {
        Self { queue, ram, doorbell, interrupt, broken: false, used: false }
    }

    /// Becomes readable when the driver has added buffers.
    #[must_use]
    pub fn doorbell(&self) -> &Arc<EventFd> {
        &self.doorbell
    }

    /// Takes the doorbell's ring off.
    pub fn answer(&self) {
        // Non-blocking: it may have been taken off already.
        let _ = self.doorbell.read();
    }

    /// Rings the doorbell in the driver's place, to come back to what is left in the queue.
    pub fn ring(&self) {
        // The counter is full only after 2^64 rings that nobody answered.
        let _ = self.doorbell.write(1);
    }

    /// The next chain that the driver made available, if there is one.
    ///
    /// # Errors
    /// The ring is nonsense.
    pub fn pop<'a>(&mut self, ram: &'a GuestRam) -> Result<Option<Chain<'a>>, Broken> {
        if self.broken {
            return Err(Broken);
        }
        match self.queue.iter(ram) {
            Ok(mut chains) => Ok(chains.next()),
            Err(error) => Err(self.give_up(&error)),
        }
    }

    /// Puts the chain that was popped last back: the next [`pop`](Self::pop) gives it again.
    pub fn unpop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back, with `length` bytes written to it.
    ///
    /// # Errors
    /// The used ring cannot be written.
    pub fn add_used(&mut self, head: u16, length: u32) -> Result<(), Broken> {
        self.used = true;
        match self.queue.add_used(&self.ram, head, length) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.give_up(&error)),
        }
    }

    /// Interrupts the driver if chains were given back and it wants to know.
    pub fn notify(&mut self) {
        if !std::mem::take(&mut self.used) {
            return;
        }
        match self.queue.needs_notification(&self.ram) {
            Ok(true) => self.interrupt.queue(),
            Ok(false) => {}
            Err(error) => {
                self.give_up(&error);
            }
        }
    }

    /// Asks the driver to ring for new buffers, and says whether there are some already.
    ///
    /// # Errors
    /// The ring cannot be written.
    pub fn await_buffers(&mut self) -> Result<bool, Broken> {
        if self.broken {
            return Err(Broken);
        }
        self.queue.enable_notification(&self.ram).map_err(|error| self.give_up(&error))
    }

    fn give_up(&mut self, error: &virtio_queue::Error) -> Broken {
        if !self.broken {
            self.broken = true;
            self.interrupt.needs_reset(error);
        }
        Broken
    }
}
