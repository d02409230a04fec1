//! What a device sees of a chain, whatever the driver does meanwhile.

use super::*;
use crate::memory;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress};

const MOST: u16 = 16;
/// Where there is nothing else in the guest's RAM.
const TABLE: u64 = 0x8_0000;
const DATA: u64 = 0x9_0000;

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
