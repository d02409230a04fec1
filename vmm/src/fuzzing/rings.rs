//! Guest memory with rings in it, chains of every kind, and what a device may make of them.
//!
//! ```text
//! 0          0x1_0000   0x4_0000    0x7_0000  0x8_0000      0x10_0000   0x14_0000
//! | rings    | tables   | buffers             |  nothing ... | more RAM  |
//! ```
//!
//! As long as the driver keeps to the rules (its chains may be any nonsense, its rings are in order)
//! a device gives back only what it has got, with no more bytes than there was room for, and never
//! needs a reset. Once the driver has broken them, anything goes that harms nobody but the guest.

use super::input::Input;
use crate::memory::{self, GuestRam};
use std::collections::HashMap;
use vm_memory::{Bytes, GuestAddress};

const REGIONS: [(u64, u64); 2] = [(0, 0x8_0000), (0x10_0000, 0x4_0000)];
/// From one queue's rings to the next, and in them from the descriptors to the available ring.
const RING: u64 = 0x4000;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const TABLES: u64 = 0x1_0000;
/// Bytes of a table.
const TABLE: u64 = 0x80;
const BUFFERS: u64 = 0x4_0000;
const BUFFERS_END: u64 = 0x7_0000;
const LOW_END: u64 = 0x8_0000;
const HIGH: u64 = 0x10_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Bytes of all chains of one input, not counting lengths that no buffer can have.
const BUDGET: u64 = 1 << 20;
/// Descriptors of a chain.
const CHAIN_MAX: u8 = 8;

/// A queue as its driver sees it.
pub(super) struct Ring {
    index: u64,
    pub(super) size: u16,
    /// The first descriptor that is free; all behind it are.
    free: u16,
    avail: u16,
    used: u16,
    /// The room of the chains that the device has, by their first descriptors.
    held: HashMap<u16, u64>,
}

impl Ring {
    pub(super) fn descriptors(&self) -> u64 {
        self.index * RING
    }

    pub(super) fn avail(&self) -> u64 {
        self.descriptors() + AVAIL
    }

    pub(super) fn used(&self) -> u64 {
        self.descriptors() + USED
    }
}

/// How a device reads a chain.
pub(super) struct Manner<'a> {
    /// What the chain begins with, where it is not nonsense.
    pub(super) header: &'a [u8],
    /// Whether what else it reads can do nothing to the rings.
    pub(super) harmless: bool,
}

/// The guest's memory and its queues.
pub(super) struct Rings {
    pub(super) ram: GuestRam,
    pub(super) rings: Vec<Ring>,
    /// Where the next buffer is.
    next: u64,
    /// Bytes that chains may still have: what they are moved by is paid for.
    budget: u64,
    /// Whether the driver has kept to the rules so far.
    pub(super) honest: bool,
}

impl Rings {
    pub(super) fn new() -> Self {
        let ram = memory::map_ranges(&REGIONS).expect("memory is left");
        Self { ram, rings: Vec::new(), next: BUFFERS, budget: BUDGET, honest: true }
    }

    /// Forgets all queues, and empties their memory.
    pub(super) fn clear(&mut self) {
        self.rings.clear();
        self.honest = true;
        self.write(0, &[0; TABLES as usize]);
    }

    /// One more queue.
    pub(super) fn add(&mut self, size: u16) -> &Ring {
        let index = self.rings.len() as u64;
        let held = HashMap::new();
        self.rings.push(Ring { index, size, free: 0, avail: 0, used: 0, held });
        &self.rings[self.rings.len() - 1]
    }

    /// Writes to guest memory, where there is some.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) {
        let _ = self.ram.write(bytes, GuestAddress(address));
    }

    fn u16_at(&self, address: u64) -> u16 {
        self.ram.read_obj(GuestAddress(address)).expect("the rings are in RAM")
    }

    /// Makes a chain that `input` describes available to `queue`, if it has room.
    pub(super) fn offer(&mut self, queue: usize, input: &mut Input<'_>, manner: &Manner<'_>) {
        let shape = input.byte();
        let (indirect, circle) = (shape & 1 != 0, shape & 2 != 0);
        let count = u16::from(1 + (shape >> 2) % CHAIN_MAX);
        let wanted = if indirect { 1 } else { count };
        let first = self.rings[queue].free;
        if self.rings[queue].size - first < wanted {
            return;
        }
        // In a table of its own a chain begins with 0.
        let start = if indirect { 0 } else { first };
        let mut room = 0_u64;
        let mut descriptors = Vec::new();
        for index in 0..count {
            let header = if index == 0 { manner.header } else { &[] };
            let mut descriptor = self.descriptor(input, header, manner.harmless);
            let last = index + 1 == count;
            if !last || circle {
                descriptor.flags |= NEXT;
                descriptor.next = if last { input.u16() } else { start + index + 1 };
            }
            if descriptor.flags & WRITE != 0 {
                room += u64::from(descriptor.length);
            }
            descriptors.extend(descriptor.bytes());
        }
        let own = self.rings[queue].descriptors() + u64::from(first) * 16;
        if indirect {
            let table = TABLES + (queue as u64 * 256 + u64::from(first)) * TABLE;
            self.write(table, &descriptors);
            let length = match shape >> 6 {
                0 | 1 => u32::from(count) * 16,
                2 => u32::from(count) * 16 - 1,
                _ => input.u32(),
            };
            // A longer table, or one in itself, reads what lies behind.
            let extra = if shape >> 6 == 3 { u16::from(input.byte()) } else { 0 };
            let flags = INDIRECT | extra;
            self.honest &= extra & WRITE == 0;
            room = if shape >> 6 == 3 { u64::MAX } else { room };
            let descriptor = Descriptor { address: table, length, flags, next: input.u16() };
            self.write(own, &descriptor.bytes());
        } else {
            self.write(own, &descriptors);
        }
        self.rings[queue].free += wanted;
        // Who goes round finds more room than there is.
        self.rings[queue].held.insert(first, if circle { u64::MAX } else { room });
        self.publish(queue, first);
    }

    /// A descriptor of any kind; the first of a chain has its header.
    fn descriptor(&mut self, input: &mut Input<'_>, header: &[u8], harmless: bool) -> Descriptor {
        let kind = input.byte();
        let writes = kind & 1 != 0;
        let mut length = match (kind >> 4) & 7 {
            0 => 16,
            1 => 1,
            2 => 100,
            3 => 512,
            4 => 4096,
            5 => 0,
            6 => 70_000,
            _ => input.u32(),
        };
        if u64::from(length) <= LOW_END {
            length = u64::from(length).min(self.budget) as u32;
            self.budget -= u64::from(length);
        }
        let content = if kind & 0x80 != 0 { input.short_piece() } else { &[] };
        let content = if writes || header.is_empty() { content } else { header };
        if !content.is_empty() && kind & 0x70 == 0 {
            length = content.len() as u32;
        }
        let place = (kind >> 1) & 7;
        let address = match place {
            0..4 => self.buffer(length),
            4 => LOW_END - 4,
            5 => HIGH + u64::from(input.u16()),
            6 => input.choose(&[LOW_END, HIGH - 1, u64::MAX, u64::MAX - 15, 1 << 40, 1 << 63]),
            _ => input.u32().into(),
        };
        if writes {
            // What is written over the rings breaks them.
            self.honest &= address >= BUFFERS;
        } else {
            let known = place < 4 && !header.is_empty() && length as usize == content.len();
            self.honest &= harmless || known;
        }
        if address >= BUFFERS {
            self.write(address, content);
        }
        Descriptor { address, length, flags: if writes { WRITE } else { 0 }, next: 0 }
    }

    /// Memory for `length` bytes, which others may have at the same time.
    fn buffer(&mut self, length: u32) -> u64 {
        let length = u64::from(length).min(0x1_8000).next_multiple_of(16);
        if self.next + length > BUFFERS_END {
            self.next = BUFFERS;
        }
        let address = self.next;
        self.next += length;
        address
    }

    /// Puts `head` into the available ring, and moves the index.
    fn publish(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let slot = ring.avail() + 4 + u64::from(ring.avail % ring.size) * 2;
        ring.avail = ring.avail.wrapping_add(1);
        let (index, at) = (ring.avail, ring.avail() + 2);
        self.write(slot, &head.to_le_bytes());
        self.write(at, &index.to_le_bytes());
    }

    /// Takes what the device has given back, and judges it.
    pub(super) fn collect(&mut self) {
        if !self.honest {
            return;
        }
        for queue in 0..self.rings.len() {
            let index = self.u16_at(self.rings[queue].used() + 2);
            while self.rings[queue].used != index {
                let ring = &self.rings[queue];
                let at = ring.used() + 4 + u64::from(ring.used % ring.size) * 8;
                let element: [u32; 2] = self.ram.read_obj(GuestAddress(at)).expect("it is in RAM");
                let [head, length] = element;
                let ring = &mut self.rings[queue];
                let held = u16::try_from(head).ok().and_then(|head| ring.held.remove(&head));
                let room = held.expect("the device has what it gives back");
                assert!(u64::from(length) <= room, "{length} bytes are in {room}");
                ring.used = ring.used.wrapping_add(1);
            }
            let ring = &mut self.rings[queue];
            if ring.held.is_empty() {
                ring.free = 0;
            }
        }
    }

    /// Whether the device has chains of `queue`, which the driver has offered by the rules.
    pub(super) fn owes(&self, queue: usize) -> bool {
        self.honest && !self.rings[queue].held.is_empty()
    }
}

struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}
