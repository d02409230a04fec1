//! A driver for tests: the guest's side of the registers and of the rings, by the book.
//!
//! It negotiates event indices, so it rings and is interrupted only when each side asked for it: a
//! wake-up that gets lost is a test that fails. Every descriptor owns a piece of guest memory.

use crate::irq::IrqLine;
use crate::memory::{self, GuestRam};
use crate::virtio::VirtioDevice;
use crate::virtio::mmio::{MmioTransport, register};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::num::Wrapping;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

/// No test waits longer for something that must come.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// The most descriptors of a queue that own memory.
const SIZE: u16 = 256;
/// Bytes of guest memory that a descriptor owns.
const PIECE: u64 = 0x2_0000;
/// Where the memory of a queue's descriptors begins, and how far those of the next are.
const MEMORY: u64 = 0x100_0000;
const MEMORY_OF_QUEUE: u64 = SIZE as u64 * PIECE;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A descriptor, as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// What the device may read.
pub(crate) fn readable(address: u64, length: u32) -> Descriptor {
    Descriptor { address, length, flags: 0, next: 0 }
}

/// What the device may write.
pub(crate) fn writable(address: u64, length: u32) -> Descriptor {
    Descriptor { address, length, flags: WRITE, next: 0 }
}

/// A queue as its driver sees it.
struct Ring {
    size: u16,
    base: u64,
    free: Vec<u16>,
    /// The descriptors of each chain that the device has, by the first.
    chains: HashMap<u16, Vec<Descriptor>>,
    avail: Wrapping<u16>,
    /// Where the driver rang last.
    rung: Wrapping<u16>,
    used: Wrapping<u16>,
}

impl Ring {
    fn new(index: u64, size: u16) -> Self {
        Self {
            size,
            base: 0x1_0000 * (index + 1),
            free: (0..size.min(SIZE)).rev().collect(),
            chains: HashMap::new(),
            avail: Wrapping(0),
            rung: Wrapping(0),
            used: Wrapping(0),
        }
    }

    /// The available ring.
    fn avail_ring(&self) -> u64 {
        self.base + 0x4000
    }

    /// The used ring.
    fn used_ring(&self) -> u64 {
        self.base + 0x8000
    }
}

/// How a driver sets its device up.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// Features that it does not accept.
    pub(crate) refused: u64,
    /// The most descriptors of a queue; up to 1,024, of which only the first 256 own memory.
    pub(crate) size: u16,
    /// How many of the queues, from the first on, it sets up.
    pub(crate) queues: usize,
}

impl Default for Manner {
    fn default() -> Self {
        Self { refused: 0, size: SIZE, queues: usize::MAX }
    }
}

/// A guest's driver of one device.
pub(crate) struct Driver {
    pub(crate) transport: MmioTransport,
    pub(crate) ram: GuestRam,
    line: IrqLine,
    rings: Vec<Ring>,
    manner: Manner,
}

impl Driver {
    /// Brings `device` up.
    pub(crate) fn start(device: Box<dyn VirtioDevice>) -> Self {
        Self::start_as(device, Manner::default())
    }

    /// Brings `device` up without some of the features that it offers.
    pub(crate) fn start_refusing(device: Box<dyn VirtioDevice>, refused: u64) -> Self {
        Self::start_as(device, Manner { refused, ..Manner::default() })
    }

    /// Brings `device` up in that manner.
    pub(crate) fn start_as(device: Box<dyn VirtioDevice>, manner: Manner) -> Self {
        let ram = memory::map(128 << 20).unwrap();
        let line = IrqLine::new().unwrap();
        let transport = MmioTransport::new(ram.clone(), line.clone(), device).unwrap();
        let mut driver = Self { transport, ram, line, rings: Vec::new(), manner };
        driver.bring_up();
        driver
    }

    /// Resets the device, and brings it up again with empty queues.
    pub(crate) fn restart(&mut self) {
        self.write(register::STATUS, 0);
        assert_eq!(self.status(), 0);
        self.bring_up();
    }

    fn bring_up(&mut self) {
        use crate::bus::BusDevice;
        for status in [1, 3] {
            self.write(register::STATUS, status);
        }
        // What is offered: VERSION_1, event indices, indirect descriptors, those of the device.
        for half in [0, 1] {
            self.write(register::DEVICE_FEATURES_SELECT, half);
            let mut features = [0; 4];
            self.transport.read(register::DEVICE_FEATURES, &mut features);
            let refused = (self.manner.refused >> (32 * half)) as u32;
            let accepted = u32::from_le_bytes(features) & !refused;
            self.write(register::DRIVER_FEATURES_SELECT, half);
            self.write(register::DRIVER_FEATURES, accepted);
        }
        self.write(register::STATUS, 11);
        self.rings.clear();
        for index in (0..).take(self.manner.queues) {
            self.write(register::QUEUE_SELECT, index);
            let max = self.read(register::QUEUE_SIZE_MAX) as u16;
            if max == 0 {
                break;
            }
            let ring = Ring::new(index.into(), max.min(self.manner.size));
            self.ram.write_slice(&[0; 0x1_0000], GuestAddress(ring.base)).unwrap();
            self.write(register::QUEUE_SIZE, ring.size.into());
            self.write(register::DESCRIPTORS_LOW, ring.base as u32);
            self.write(register::DRIVER_RING_LOW, ring.avail_ring() as u32);
            self.write(register::DEVICE_RING_LOW, ring.used_ring() as u32);
            self.write(register::QUEUE_READY, 1);
            self.rings.push(ring);
        }
        self.write(register::STATUS, 15);
        assert_eq!(self.status(), 15, "the device runs");
    }

    pub(crate) fn read(&mut self, offset: u64) -> u32 {
        use crate::bus::BusDevice;
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&mut self, offset: u64, value: u32) {
        use crate::bus::BusDevice;
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Writes a register, or a part of the configuration space, of any width.
    pub(crate) fn write_bytes(&mut self, offset: u64, bytes: &[u8]) {
        use crate::bus::BusDevice;
        self.transport.write(offset, bytes);
    }

    pub(crate) fn status(&mut self) -> u32 {
        self.read(register::STATUS)
    }

    /// How many more descriptors `queue` can take.
    pub(crate) fn room(&self, queue: usize) -> usize {
        self.rings[queue].free.len()
    }

    /// Makes a chain of what the device reads and then what it writes available; the driver does
    /// not ring yet.
    pub(crate) fn add(&mut self, queue: usize, readable: &[&[u8]], writable: &[usize]) -> u16 {
        let count = readable.len() + writable.len();
        let ring = &mut self.rings[queue];
        let indices: Vec<u16> = ring.free.split_off(ring.free.len() - count);
        let chain = self.fill(queue, &indices, readable, writable);
        for (index, descriptor) in indices.iter().zip(&chain) {
            self.set_descriptor(queue, *index, *descriptor);
        }
        self.make_available(queue, indices[0]);
        self.rings[queue].chains.insert(indices[0], chain);
        indices[0]
    }

    /// The same as one descriptor of the ring, and a table of its own.
    pub(crate) fn add_indirect(&mut self, queue: usize, readable: &[&[u8]]) -> u16 {
        let ring = &mut self.rings[queue];
        let table = ring.free.pop().unwrap();
        // The memory of descriptors that are free is as good as any.
        let indices: Vec<u16> = ring.free[ring.free.len() - readable.len()..].to_vec();
        let positions: Vec<u16> = (0..readable.len() as u16).collect();
        let mut chain = self.fill(queue, &indices, readable, &[]);
        let address = piece(queue, table);
        for (position, descriptor) in positions.iter().zip(&mut chain) {
            descriptor.next = position + 1;
            let at = address + u64::from(*position) * 16;
            self.store(at, *descriptor);
        }
        let length = chain.len() as u32 * 16;
        self.set_descriptor(queue, table, Descriptor { address, length, flags: INDIRECT, next: 0 });
        self.make_available(queue, table);
        let itself = Descriptor { address, length, flags: 0, next: table };
        self.rings[queue].chains.insert(table, vec![itself]);
        table
    }

    fn fill(
        &self,
        queue: usize,
        indices: &[u16],
        readable: &[&[u8]],
        writable: &[usize],
    ) -> Vec<Descriptor> {
        let reads = readable.iter().map(|bytes| (bytes.len(), 0));
        let writes = writable.iter().map(|length| (*length, WRITE));
        let mut chain = Vec::new();
        for (position, (length, flags)) in reads.chain(writes).enumerate() {
            // Odd addresses are as good as even ones.
            let address = piece(queue, indices[position]) + position as u64 % 7;
            if let Some(bytes) = readable.get(position) {
                self.ram.write_slice(bytes, GuestAddress(address)).unwrap();
            }
            let next = indices.get(position + 1).copied();
            let flags = flags | if next.is_some() { NEXT } else { 0 };
            let next = next.unwrap_or(0);
            chain.push(Descriptor { address, length: length as u32, flags, next });
        }
        chain
    }

    /// Writes a descriptor of the ring's table, whatever it says.
    pub(crate) fn set_descriptor(&self, queue: usize, index: u16, descriptor: Descriptor) {
        self.store(self.rings[queue].base + u64::from(index) * 16, descriptor);
    }

    /// Puts a descriptor into a table of its own.
    pub(crate) fn store(&self, at: u64, descriptor: Descriptor) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&descriptor.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&descriptor.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&descriptor.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&descriptor.next.to_le_bytes());
        self.ram.write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    /// Takes a descriptor of the ring for a chain of the test's own.
    pub(crate) fn reserve(&mut self, queue: usize) -> u16 {
        let index = self.rings[queue].free.pop().unwrap();
        self.rings[queue]
            .chains
            .insert(index, vec![Descriptor { address: 0, length: 0, flags: 0, next: 0 }]);
        index
    }

    /// Makes a chain of `descriptors` available as they are, but for the links between them, and
    /// gives its first one.
    pub(crate) fn add_raw(&mut self, queue: usize, descriptors: &[Descriptor]) -> u16 {
        let indices: Vec<u16> = descriptors.iter().map(|_| self.reserve(queue)).collect();
        for (position, descriptor) in descriptors.iter().enumerate() {
            let mut descriptor = *descriptor;
            if let Some(next) = indices.get(position + 1) {
                descriptor.flags |= NEXT;
                descriptor.next = *next;
            }
            self.set_descriptor(queue, indices[position], descriptor);
        }
        self.make_available(queue, indices[0]);
        indices[0]
    }

    /// Puts a chain, or nonsense, into the available ring.
    pub(crate) fn make_available(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let slot = ring.avail_ring() + 4 + u64::from(ring.avail.0 % ring.size) * 2;
        self.ram.write_obj(head, GuestAddress(slot)).unwrap();
        ring.avail += 1;
        let index = ring.avail.0;
        self.set_available_index(queue, index);
    }

    /// Sets the available ring's index, whatever it says.
    pub(crate) fn set_available_index(&self, queue: usize, index: u16) {
        let at = GuestAddress(self.rings[queue].avail_ring() + 2);
        self.ram.store(index, at, Ordering::Release).unwrap();
    }

    /// Rings, as KVM does, if the device asked for it.
    pub(crate) fn kick(&mut self, queue: usize) {
        fence(Ordering::SeqCst);
        let ring = &mut self.rings[queue];
        let event = ring.used_ring() + 4 + u64::from(ring.size) * 8;
        let event: u16 = self.ram.load(GuestAddress(event), Ordering::Acquire).unwrap();
        let (new, old) = (ring.avail, ring.rung);
        ring.rung = new;
        if (new - Wrapping(event) - Wrapping(1)).0 < (new - old).0 {
            self.ring(queue);
        }
    }

    /// Rings, wanted or not.
    pub(crate) fn ring(&self, queue: usize) {
        self.transport.doorbells()[queue].write(1).unwrap();
    }

    /// How many chains the device has given back since the queue was set up.
    pub(crate) fn given_back(&self, queue: usize) -> u16 {
        let index = GuestAddress(self.rings[queue].used_ring() + 2);
        self.ram.load(index, Ordering::Acquire).unwrap()
    }

    /// The next chain that the device has given back: its first descriptor and what was written.
    pub(crate) fn take(&mut self, queue: usize) -> Option<(u16, Vec<u8>)> {
        let (head, length, mut room) = self.take_whole(queue)?;
        assert!(length as usize <= room.len(), "no more was written than there was room for");
        room.truncate(length as usize);
        Some((head, room))
    }

    /// The same: its first descriptor, how much the device says it has written, and all that lies
    /// where it could write.
    pub(crate) fn take_whole(&mut self, queue: usize) -> Option<(u16, u32, Vec<u8>)> {
        let index = self.given_back(queue);
        let ring = &mut self.rings[queue];
        if index == ring.used.0 {
            return None;
        }
        let element = ring.used_ring() + 4 + u64::from(ring.used.0 % ring.size) * 8;
        let [head, length]: [u32; 2] = self.ram.read_obj(GuestAddress(element)).unwrap();
        ring.used += 1;
        let head = u16::try_from(head).unwrap();
        let chain = ring.chains.remove(&head).expect("the device had the chain");
        let mut room = Vec::new();
        let mut index = head;
        for descriptor in chain {
            if descriptor.flags & WRITE != 0 {
                let mut bytes = vec![0; descriptor.length as usize];
                self.ram.read_slice(&mut bytes, GuestAddress(descriptor.address)).unwrap();
                room.extend(bytes);
            }
            ring.free.push(index);
            index = descriptor.next;
        }
        Some((head, length, room))
    }

    /// The same, waiting for the interrupt if nothing has been given back.
    pub(crate) fn wait(&mut self, queue: usize) -> (u16, Vec<u8>) {
        self.wait_for(queue, Self::take)
    }

    /// The same for all that lies where the device could write.
    pub(crate) fn wait_whole(&mut self, queue: usize) -> (u16, u32, Vec<u8>) {
        self.wait_for(queue, Self::take_whole)
    }

    /// Asks for an interrupt with the next chain of any queue.
    pub(crate) fn ask_for_interrupts(&self) {
        (0..self.rings.len()).for_each(|queue| self.ask_for_interrupt(queue));
    }

    fn ask_for_interrupt(&self, queue: usize) {
        let ring = &self.rings[queue];
        let event = ring.avail_ring() + 4 + u64::from(ring.size) * 2;
        self.ram.store(ring.used.0, GuestAddress(event), Ordering::Release).unwrap();
        fence(Ordering::SeqCst);
    }

    fn wait_for<T>(&mut self, queue: usize, take: fn(&mut Self, usize) -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            // Asks for the interrupt, then looks again, as a driver must.
            self.ask_for_interrupt(queue);
            if let Some(chain) = take(self, queue) {
                return chain;
            }
            assert!(self.wait_interrupt(deadline), "nothing came back from queue {queue}");
        }
    }

    /// How many interrupts came that nobody has waited for.
    pub(crate) fn interrupts(&self) -> u64 {
        self.line.event().read().unwrap_or(0)
    }

    /// Waits for an interrupt and acknowledges it; false if none came.
    pub(crate) fn wait_interrupt(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        // SAFETY: the line lives as long as `self`.
        let event = unsafe { BorrowedFd::borrow_raw(self.line.event().as_raw_fd()) };
        let count = poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&timeout)).unwrap();
        if count == 0 {
            return false;
        }
        self.line.event().read().unwrap();
        let status = self.read(register::INTERRUPT_STATUS);
        self.write(register::INTERRUPT_ACK, status);
        true
    }
}

/// The memory of descriptor `index` of `queue`.
fn piece(queue: usize, index: u16) -> u64 {
    MEMORY + queue as u64 * MEMORY_OF_QUEUE + u64::from(index) * PIECE
}
