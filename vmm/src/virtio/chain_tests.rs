//! What a device sees of a chain, whatever the driver does meanwhile.

use super::*;
use crate::memory;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

const MOST: u16 = 16;
/// Where there is nothing else in the guest's RAM.
const TABLE: u64 = 0x8_0000;
const DATA: u64 = 0x9_0000;
const RAM: u64 = 1 << 20;

const NEXT: u32 = VRING_DESC_F_NEXT;
const WRITE: u32 = VRING_DESC_F_WRITE;

fn descriptor(address: u64, length: u32, flags: u32, next: u16) -> RawDescriptor {
    Descriptor::new(address, length, flags as u16, next).into()
}

/// Looks at the chain of these descriptors, which lie in a table of their own.
fn look(ram: &GuestRam, descriptors: &[RawDescriptor]) -> Result<Whole, Malformed> {
    for (index, one) in descriptors.iter().enumerate() {
        ram.write_obj(*one, GuestAddress(TABLE + 16 * index as u64)).unwrap();
    }
    let queue = MockSplitQueue::new(ram, MOST);
    let length = 16 * descriptors.len() as u32;
    let head = descriptor(TABLE, length, VRING_DESC_F_INDIRECT, 0);
    Whole::of(queue.build_desc_chain(&[head]).unwrap(), MOST)
}

#[test]
fn case_07_what_the_driver_does_to_its_descriptors_after_the_look_counts_no_more() {
    let ram = memory::map(1 << 20).unwrap();
    let honest = [descriptor(DATA, 3, NEXT, 1), descriptor(DATA + 8, 5, WRITE, 0)];
    let chain = look(&ram, &honest).unwrap();
    // The same table goes round now, lies elsewhere, and is to be read where it was to be written.
    let circle = [descriptor(0, 4096, NEXT, 1), descriptor(4096, 4096, NEXT, 0)];
    assert_eq!(look(&ram, &circle).unwrap_err(), Malformed);
    ram.write_slice(b"abc", GuestAddress(DATA)).unwrap();
    let mut read = Vec::new();
    assert_eq!(chain.reader(&ram).unwrap().read_to_end(&mut read).unwrap(), 3);
    assert_eq!(read, b"abc");
    let mut writer = chain.writer(&ram).unwrap();
    assert_eq!(writer.available_bytes(), 5);
    writer.write_all(b"defgh").unwrap();
    assert!(writer.write_all(b"i").is_err(), "there is no room");
    let mut written = [0; 6];
    ram.read_slice(&mut written, GuestAddress(DATA + 8)).unwrap();
    assert_eq!(&written, b"defgh\0");
}

#[test]
fn bytes_go_through_the_pieces_in_their_order_however_they_are_cut() {
    let ram = memory::map(1 << 20).unwrap();
    let pieces = [
        descriptor(DATA + 20, 2, WRITE | NEXT, 1),
        descriptor(DATA, 0, WRITE | NEXT, 2),
        descriptor(DATA + 10, 3, WRITE | NEXT, 3),
        descriptor(DATA, 1, WRITE, 0),
    ];
    let chain = look(&ram, &pieces).unwrap();
    for cut in 0..=6 {
        let mut writer = chain.writer(&ram).unwrap();
        let (first, second) = b"abcdef".split_at(cut);
        writer.write_all(first).unwrap();
        assert_eq!(writer.available_bytes(), 6 - cut);
        writer.write_all(second).unwrap();
        let mut there = [0; 22];
        ram.read_slice(&mut there, GuestAddress(DATA)).unwrap();
        assert_eq!((&there[20..], &there[10..13], there[0]), (&b"ab"[..], &b"cde"[..], b'f'));
        ram.write_slice(&[0; 22], GuestAddress(DATA)).unwrap();
    }
    assert_eq!(chain.reader(&ram).unwrap().available_bytes(), 0);
}

#[test]
fn what_is_no_ram_is_neither_read_nor_written() {
    let ram = memory::map(1 << 20).unwrap();
    let read = look(&ram, &[descriptor((1 << 20) - 4, 5, 0, 0)]).unwrap();
    assert!(read.reader(&ram).is_err() && read.writer(&ram).is_ok());
    let written = look(&ram, &[descriptor(u64::MAX - 1, 4, WRITE, 0)]).unwrap();
    assert!(written.writer(&ram).is_err() && written.reader(&ram).is_ok());
}

/// Address, length, flags and, unless it is the one behind, the next descriptor: most of them make
/// sense.
type Anything = (u64, u32, u32, Option<u16>);

fn anything() -> impl Strategy<Value = Anything> {
    let addresses = prop_oneof![
        12 => DATA..DATA + 0x1000,
        1 => RAM - 32..RAM + 32,
        1 => any::<u64>(),
    ];
    let lengths = prop_oneof![12 => 0_u32..64, 1 => any::<u32>()];
    let flags = prop_oneof![
        4 => Just(NEXT),
        4 => Just(NEXT | WRITE),
        1 => Just(0),
        1 => Just(WRITE),
        1 => 0_u32..8,
    ];
    (addresses, lengths, flags, option::weighted(0.1, 0..MOST + 4))
}

/// RAM with data and a queue in it, and the chain that begins with the first descriptor of `table`,
/// which is the queue's or, if it is its `own`, that of an indirect one.
fn chain_in<'a>(ram: &'a GuestRam, table: &[Anything], own: bool) -> Chain<'a> {
    let data: Vec<u8> = (0..0x1100_u32).map(|number| (number / 3) as u8).collect();
    ram.write_slice(&data, GuestAddress(DATA)).unwrap();
    let queue = MockSplitQueue::new(ram, MOST);
    for (index, &(address, length, flags, next)) in (0_u16..).zip(table) {
        let one = descriptor(address, length, flags, next.unwrap_or(index + 1));
        if own {
            ram.write_obj(one, GuestAddress(TABLE + 16 * u64::from(index))).unwrap();
        } else {
            queue.desc_table().store(index, one).unwrap();
        }
    }
    if own {
        let head = descriptor(TABLE, 16 * table.len() as u32, VRING_DESC_F_INDIRECT, 0);
        queue.desc_table().store(0, head).unwrap();
    }
    queue.avail().ring().ref_at(0).unwrap().store(0);
    queue.avail().idx().store(1);
    queue.create_queue::<Queue>().unwrap().pop_descriptor_chain(ram).unwrap()
}

fn bytes_of(ram: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; RAM as usize];
    ram.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

proptest! {
    /// What it calls a chain is one to virtio-queue, too, with the same bytes in the same order, to be
    /// read and to be written; and what it does not, has no end, is too long, or out of order.
    #[test]
    fn a_chain_is_what_virtio_queue_reads(
        table in vec(anything(), 1..=usize::from(MOST)),
        own: bool,
        cut in 0_usize..64,
    ) {
        let (ram, theirs) = (memory::map(RAM).unwrap(), memory::map(RAM).unwrap());
        let chain = chain_in(&ram, &table, own);
        let found: Vec<Descriptor> = chain.clone().collect();
        let ends = found.last().is_some_and(|last| !last.has_next());
        let sorted = found.is_sorted_by_key(|one| one.is_write_only());
        let whole = Whole::of(chain.clone(), MOST);
        prop_assert_eq!(whole.is_ok(), ends && sorted, "{:?}", found);
        let Ok(whole) = whole else { return Ok(()) };
        prop_assert_eq!(format!("{:?}", whole.0), format!("{found:?}"));

        match (whole.reader(&ram), chain.clone().reader(&ram)) {
            (Ok(mut mine), Ok(mut other)) => {
                prop_assert_eq!(mine.available_bytes(), other.available_bytes());
                let [mut first, mut second] = [Vec::new(), Vec::new()];
                mine.by_ref().take(cut as u64).read_to_end(&mut first).unwrap();
                mine.read_to_end(&mut first).unwrap();
                other.read_to_end(&mut second).unwrap();
                prop_assert_eq!(first, second);
            }
            (mine, other) => prop_assert_eq!(mine.is_ok(), other.is_ok()),
        }
        match (whole.writer(&ram), chain_in(&theirs, &table, own).writer(&theirs)) {
            (Ok(mut mine), Ok(mut other)) => {
                prop_assert_eq!(mine.available_bytes(), other.available_bytes());
                let bytes: Vec<u8> = (0..mine.available_bytes()).map(|at| !at as u8).collect();
                let (first, second) = bytes.split_at(cut.min(bytes.len()));
                mine.write_all(first).unwrap();
                mine.write_all(second).unwrap();
                other.write_all(&bytes).unwrap();
                prop_assert!(bytes_of(&ram) == bytes_of(&theirs));
            }
            (mine, other) => prop_assert_eq!(mine.is_ok(), other.is_ok()),
        }
    }
}
