//! A queue in the hands of its device: the split ring (section 2.7), its doorbell, its interrupt.
//!
//! The ring itself is virtio-queue's, which checks every index and address. What is nonsense all
//! the same (an available index that is further ahead than the ring is long, rings outside RAM)
//! breaks the queue: the device stops using it and the driver is told to reset.

use crate::memory::GuestRam;
use crate::virtio::Interrupt;
use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};
use vmm_sys_util::eventfd::EventFd;

/// Chains that a device takes from a queue in one call at most. A driver that adds chains as fast as
/// they are taken must not keep the thread from everything else on it.
pub const TURN: usize = 64;

/// A chain of descriptors.
pub type Chain<'a> = DescriptorChain<&'a GuestRam>;

/// A chain that makes no sense: it goes back as it came.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Gives the descriptors of `chain` to `take`, and says whether they are a chain: no more than
/// `most`, what the device reads before what it writes (section 2.7.4.2), and an end. The driver can
/// change them meanwhile: what this says holds for what `take` was given, and for no second look.
///
/// # Errors
/// They are not, or `take` does not like one of them.
pub fn walk(
    chain: Chain<'_>,
    most: u16,
    mut take: impl FnMut(&Descriptor) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let (mut goes_on, mut writes) = (true, false);
    for (index, descriptor) in chain.enumerate() {
        // A table of its own may have more, but no chain may (section 2.7.5.3.1).
        if index >= usize::from(most) || writes && !descriptor.is_write_only() {
            return Err(Malformed);
        }
        writes = descriptor.is_write_only();
        goes_on = descriptor.has_next();
        take(&descriptor)?;
    }
    // A chain that ended where its last descriptor does not say so runs into nothing or in a circle.
    if goes_on { Err(Malformed) } else { Ok(()) }
}

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
    /// Chains given back since the driver was told.
    given: Wrapping<u16>,
}

impl DeviceQueue {
    /// `queue` in `ram`; the driver rings `doorbell` when it has added buffers.
    #[must_use]
    pub fn new(queue: Queue, ram: GuestRam, doorbell: Arc<EventFd>, interrupt: Interrupt) -> Self {
        Self { queue, ram, doorbell, interrupt, broken: false, given: Wrapping(0) }
    }

    /// How many descriptors it has. No chain may have more, but one with a table of its own that a
    /// Linux without memory for a longer ring has made can.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
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
        self.add_used_together(&[(head, length)])
    }

    /// Gives chains back, each with so many bytes written to it, so that the driver sees all of
    /// them or none.
    ///
    /// # Errors
    /// The used ring cannot be written.
    pub fn add_used_together(&mut self, chains: &[(u16, u32)]) -> Result<(), Broken> {
        let Some(((last, length), before)) = chains.split_last() else { return Ok(()) };
        // The index that makes them visible is written with the last one.
        for chain in before {
            self.place_used(*chain).map_err(|error| self.give_up(&error))?;
        }
        let added = self.queue.add_used(&self.ram, *last, *length);
        added.map_err(|error| self.give_up(&error))?;
        self.given += 1;
        Ok(())
    }

    /// Writes an element of the used ring that the driver does not see yet.
    fn place_used(&mut self, (head, length): (u16, u32)) -> Result<(), virtio_queue::Error> {
        use virtio_queue::Error;
        if head >= self.queue.size() {
            return Err(Error::InvalidDescriptorIndex);
        }
        let next = self.queue.next_used();
        // An element has 8 bytes, and there are flags and an index before them (section 2.7.8).
        let offset = 4 + u64::from(next % self.queue.size()) * 8;
        let at = self.queue.used_ring().checked_add(offset).ok_or(Error::AddressOverflow)?;
        let element = [u32::from(head).to_le(), length.to_le()];
        self.ram.write_obj(element, GuestAddress(at)).map_err(Error::GuestMemory)?;
        self.queue.set_next_used(next.wrapping_add(1));
        self.given += 1;
        Ok(())
    }

    /// Whether chains were given back of which the driver has not been told.
    #[must_use]
    pub fn has_given(&self) -> bool {
        self.given != Wrapping(0)
    }

    /// Interrupts the driver if chains were given back and it wants to know.
    pub fn notify(&mut self) {
        if self.must_notify() {
            self.interrupt.queue();
        }
    }

    /// The same for this queue and an`other` of its device, with one interrupt for both.
    pub fn notify_with(&mut self, other: &mut Self) {
        if self.must_notify() | other.must_notify() {
            self.interrupt.queue();
        }
    }

    fn must_notify(&mut self) -> bool {
        let given = std::mem::take(&mut self.given);
        given != Wrapping(0)
            && self.wants_interrupt(given).unwrap_or_else(|error| {
                self.give_up(&virtio_queue::Error::GuestMemory(error));
                false
            })
    }

    /// Whether the driver wants to know of the chains `given` back last: with event indices, if the
    /// one that it named is among them, else unless its flag says no (section 2.7.7.2). The library's
    /// own answer knows only of those that it gave back itself, and of no flag.
    fn wants_interrupt(&self, given: Wrapping<u16>) -> Result<bool, GuestMemoryError> {
        // The driver sees what was given back before it says what it wants to know next.
        fence(Ordering::SeqCst);
        let ring = self.queue.avail_ring();
        if !self.queue.event_idx_enabled() {
            let flags = u16::from_le(self.ram.load(GuestAddress(ring), Ordering::Relaxed)?);
            return Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        let event = ring + 4 + u64::from(self.queue.size()) * 2;
        let event = Wrapping(u16::from_le(self.ram.load(GuestAddress(event), Ordering::Relaxed)?));
        Ok(Wrapping(self.queue.next_used()) - event - Wrapping(1) < given)
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

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
