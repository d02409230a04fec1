//! The guest's side of a virtio-mmio device, which keeps to no rule unless it is told to.

use super::{Call, Op, Puppet};
use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

/// The registers (section 4.2.2 of the specification).
#[expect(missing_docs, reason = "named as in the specification")]
pub mod register {
    pub const MAGIC: u64 = 0x00;
    pub const VERSION: u64 = 0x04;
    pub const DEVICE_ID: u64 = 0x08;
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SELECT: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SELECT: u64 = 0x24;
    pub const QUEUE_SELECT: u64 = 0x30;
    pub const QUEUE_SIZE_MAX: u64 = 0x34;
    pub const QUEUE_SIZE: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const DESCRIPTORS: u64 = 0x80;
    pub const AVAILABLE: u64 = 0x90;
    pub const USED: u64 = 0xa0;
    pub const CONFIG: u64 = 0x100;
}

/// A descriptor's flag: another follows.
pub const NEXT: u16 = 1;
/// A descriptor's flag: the device writes.
pub const WRITE: u16 = 2;
/// A descriptor's flag: what it describes is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// The first device's registers, and how far those of the next are.
const DEVICES: u64 = 0xd000_0000;
const DEVICE: u64 = 0x1000;
/// Devices that there can be.
const DEVICES_MAX: u64 = 14;
/// Rings of the first queue, and how far those of the next are: enough for 32,768 descriptors.
const RINGS: u64 = 0x40_0000;
const RING: u64 = 0x10_0000;
/// Status bits up to `FEATURES_OK`, and `DRIVER_OK`.
const AGREED: u32 = 11;
const DRIVER_OK: u32 = 4;
/// The only feature that is not optional.
pub(super) const VERSION_1: u64 = 1 << 32;

/// A descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Where.
    pub address: u64,
    /// How many bytes.
    pub length: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// The one that follows.
    pub next: u16,
}

impl Descriptor {
    /// What the device may read.
    #[must_use]
    pub fn readable(address: u64, length: u32) -> Self {
        Self { address, length, ..Self::default() }
    }

    /// What the device may write.
    #[must_use]
    pub fn writable(address: u64, length: u32) -> Self {
        Self { address, length, flags: WRITE, next: 0 }
    }

    /// A table of `count` descriptors.
    #[must_use]
    pub fn table(address: u64, count: u32) -> Self {
        Self { address, length: count.wrapping_mul(16), flags: INDIRECT, next: 0 }
    }

    /// The same with `next` behind it.
    #[must_use]
    pub fn then(self, next: u16) -> Self {
        Self { flags: self.flags | NEXT, next, ..self }
    }

    /// As it lies in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let address = u128::from(self.address);
        let length = u128::from(self.length) << 64;
        let flags = u128::from(self.flags) << 96;
        (address | length | flags | u128::from(self.next) << 112).to_le_bytes()
    }
}

/// `descriptors`, each linked with the one behind it; the first is to lie at index `first`.
#[must_use]
pub fn linked(descriptors: &[Descriptor], first: u16) -> Vec<Descriptor> {
    let last = descriptors.len().saturating_sub(1);
    let next = |index: usize| first.wrapping_add(index as u16).wrapping_add(1);
    let link = |(index, descriptor): (usize, &Descriptor)| {
        if index == last { *descriptor } else { descriptor.then(next(index)) }
    };
    descriptors.iter().enumerate().map(link).collect()
}

/// Where a queue is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Descriptors.
    pub size: u32,
    /// Their table.
    pub descriptors: u64,
    /// The available ring.
    pub available: u64,
    /// The used ring.
    pub used: u64,
}

impl Ring {
    /// The usual place for queue `index`.
    #[must_use]
    pub fn usual(index: usize, size: u32) -> Self {
        let descriptors = RINGS + index as u64 * RING;
        let (available, used) = (descriptors + 0x8_0000, descriptors + 0xa_0000);
        Self { size, descriptors, available, used }
    }
}

/// The guest's driver of one device.
pub struct Driver {
    puppet: Rc<Puppet>,
    /// Where the registers are.
    pub base: u64,
    rings: RefCell<Vec<Ring>>,
    sizes: OnceCell<Vec<u32>>,
}

impl Driver {
    /// A driver for the first device of the type `kind`.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn of(puppet: &Rc<Puppet>, kind: u32) -> Self {
        let bases = (0..DEVICES_MAX).map(|index| DEVICES + index * DEVICE);
        let base = bases.into_iter().find(|base| puppet.read32(base + register::DEVICE_ID) == kind);
        let base = base.unwrap_or_else(|| panic!("the machine has no device of type {kind}"));
        Self { puppet: puppet.clone(), base, rings: RefCell::default(), sizes: OnceCell::new() }
    }

    /// Reads a register.
    #[must_use]
    pub fn get(&self, register: u64) -> u32 {
        self.puppet.read32(self.base + register)
    }

    /// Writes a register.
    pub fn set(&self, register: u64, value: u32) {
        self.puppet.write32(self.base + register, value);
    }

    /// Writes registers, one after the other.
    pub fn set_all(&self, writes: &[(u64, u32)]) {
        let calls: Vec<Call> = writes
            .iter()
            .map(|(register, value)| Call::write32(self.base + register, *value))
            .collect();
        for done in self.puppet.calls(&calls) {
            assert_eq!(done.exception(), None, "{done:?}");
        }
    }

    /// Writes registers, one after the other, and all of that `times` times. The list is put into
    /// memory at `scratch`.
    pub fn storm(&self, writes: &[(u64, u32)], times: u64, scratch: u64) {
        self.puppet.call_for_effect(self.storm_call(writes, times, scratch));
    }

    /// The call that is a [`storm`](Self::storm).
    #[must_use]
    pub fn storm_call(&self, writes: &[(u64, u32)], times: u64, scratch: u64) -> Call {
        let pairs = writes.iter().flat_map(|(register, value)| {
            [self.base + register, u64::from(*value)].into_iter().flat_map(u64::to_le_bytes)
        });
        self.puppet.poke(scratch, &pairs.collect::<Vec<u8>>());
        let (rdx, rsi) = (writes.len() as u64, scratch);
        Call { rcx: times, rdx, rsi, ..Call::new(Op::Storm) }
    }

    /// The status register.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.get(register::STATUS)
    }

    /// Resets the device.
    pub fn reset(&self) {
        self.set(register::STATUS, 0);
        self.rings.borrow_mut().clear();
    }

    /// The features that the device offers.
    #[must_use]
    pub fn offered(&self) -> u64 {
        let half = |half: u32| {
            self.set(register::DEVICE_FEATURES_SELECT, half);
            u64::from(self.get(register::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// From a reset to `FEATURES_OK` with `features` and version 1.
    pub fn agree(&self, features: u64) {
        let features = features | VERSION_1;
        self.rings.borrow_mut().clear();
        self.set_all(&[
            (register::STATUS, 0),
            (register::STATUS, 1),
            (register::STATUS, 3),
            (register::DRIVER_FEATURES_SELECT, 0),
            (register::DRIVER_FEATURES, features as u32),
            (register::DRIVER_FEATURES_SELECT, 1),
            (register::DRIVER_FEATURES, (features >> 32) as u32),
            (register::STATUS, AGREED),
        ]);
    }

    /// The sizes of the queues that the device has.
    #[must_use]
    pub fn sizes(&self) -> &[u32] {
        self.sizes.get_or_init(|| {
            let sizes = (0..).map(|index| {
                self.set(register::QUEUE_SELECT, index);
                self.get(register::QUEUE_SIZE_MAX)
            });
            sizes.take_while(|size| *size != 0).collect()
        })
    }

    /// The register writes that set queue `index` up as `ring` says.
    #[must_use]
    pub fn set_up(index: u32, ring: &Ring) -> Vec<(u64, u32)> {
        let mut writes = vec![(register::QUEUE_SELECT, index), (register::QUEUE_SIZE, ring.size)];
        for (register, address) in [
            (register::DESCRIPTORS, ring.descriptors),
            (register::AVAILABLE, ring.available),
            (register::USED, ring.used),
        ] {
            writes.push((register, address as u32));
            writes.push((register + 4, (address >> 32) as u32));
        }
        writes.push((register::QUEUE_READY, 1));
        writes
    }

    /// Sets the queues up as `rings` say, and says that the driver is ready.
    pub fn begin(&self, rings: &[Ring]) {
        let set_up = |(index, ring)| Self::set_up(index, ring);
        let mut writes: Vec<(u64, u32)> = (0..).zip(rings).flat_map(set_up).collect();
        writes.push((register::STATUS, AGREED | DRIVER_OK));
        self.set_all(&writes);
        self.rings.replace(rings.to_vec());
    }

    /// Brings the device up by the book with `features`, and queues that are empty, at the usual
    /// places and as large as can be.
    ///
    /// # Panics
    /// The device does not come up.
    pub fn bring_up(&self, features: u64) {
        self.agree(features);
        self.begin(&self.empty_rings());
        assert_eq!(self.status(), AGREED | DRIVER_OK, "the device does not come up");
    }

    /// Rings for all queues, as large as can be, at the usual places, and empty.
    #[must_use]
    pub fn empty_rings(&self) -> Vec<Ring> {
        let sizes = self.sizes().iter().enumerate();
        let rings: Vec<Ring> = sizes.map(|(index, size)| Ring::usual(index, *size)).collect();
        for ring in &rings {
            let size = ring.size as usize;
            self.puppet.poke(ring.descriptors, &vec![0; size * 16]);
            self.puppet.poke(ring.available, &vec![0; 6 + size * 2]);
            self.puppet.poke(ring.used, &vec![0; 6 + size * 8]);
        }
        rings
    }

    /// Queue `queue`, as it was set up last.
    ///
    /// # Panics
    /// It was not.
    #[must_use]
    pub fn ring(&self, queue: usize) -> Ring {
        self.rings.borrow()[queue]
    }

    /// Writes `descriptors` to the table of `queue`, from the index `first` on.
    pub fn describe(&self, queue: usize, first: u16, descriptors: &[Descriptor]) {
        let at = self.ring(queue).descriptors + u64::from(first) * 16;
        self.puppet.poke(at, &bytes_of(descriptors));
    }

    /// The index of the available ring.
    #[must_use]
    pub fn available(&self, queue: usize) -> u16 {
        self.puppet.peek16(self.ring(queue).available + 2)
    }

    /// Says that so many chains have been made available.
    pub fn set_available(&self, queue: usize, index: u16) {
        self.puppet.poke(self.ring(queue).available + 2, &index.to_le_bytes());
    }

    /// Makes the chain that begins with descriptor `head` available, and does not tell.
    pub fn offer(&self, queue: usize, head: u16) {
        let ring = self.ring(queue);
        let index = self.available(queue);
        let place = u64::from(index) % u64::from(ring.size);
        self.puppet.poke(ring.available + 4 + place * 2, &head.to_le_bytes());
        self.set_available(queue, index.wrapping_add(1));
    }

    /// Tells the device that there is something in `queue`.
    pub fn notify(&self, queue: usize) {
        self.set(register::QUEUE_NOTIFY, queue as u32);
    }

    /// How many chains the device has given back, modulo 65,536.
    #[must_use]
    pub fn used(&self, queue: usize) -> u16 {
        self.puppet.peek16(self.ring(queue).used + 2)
    }

    /// The head and the length of the chain that was given back before the `index`th.
    #[must_use]
    pub fn given_back(&self, queue: usize, index: u16) -> (u32, u32) {
        let ring = self.ring(queue);
        let place = u64::from(index.wrapping_sub(1)) % u64::from(ring.size);
        let element = ring.used + 4 + place * 8;
        (self.puppet.peek32(element), self.puppet.peek32(element + 4))
    }

    /// Waits until the device has given `index` chains back, and gives head and length of the last.
    ///
    /// # Panics
    /// It never does.
    pub fn await_used(&self, queue: usize, index: u16) -> (u32, u32) {
        self.puppet.wait_for("a chain that was given back", || self.used(queue) == index);
        self.given_back(queue, index)
    }

    /// Puts `descriptors`, as they are, into the table of `queue`, makes the first available, tells,
    /// and waits until it is given back with so many bytes.
    ///
    /// # Panics
    /// It never is, or another one is.
    pub fn submit(&self, queue: usize, descriptors: &[Descriptor]) -> u32 {
        self.describe(queue, 0, descriptors);
        self.offer(queue, 0);
        self.notify(queue);
        let (head, length) = self.await_used(queue, self.available(queue));
        assert_eq!(head, 0, "another chain was given back");
        length
    }
}

/// `descriptors` as they lie in memory.
#[must_use]
pub fn bytes_of(descriptors: &[Descriptor]) -> Vec<u8> {
    descriptors.iter().flat_map(|descriptor| descriptor.to_bytes()).collect()
}
