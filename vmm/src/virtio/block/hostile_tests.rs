//! Chains and rings that no honest driver makes.

use super::test_disk::*;
use crate::config::DiskFormat;
use crate::virtio::test_driver::{Descriptor, INDIRECT, NEXT, WRITE, readable, writable};
use vm_memory::{Bytes, GuestAddress};

const MIB: u64 = 1 << 20;
/// Bytes of the guest's RAM.
const RAM: u64 = 128 << 20;
/// Where there is nothing else in the guest's RAM.
const FREE: u64 = 100 << 20;

fn guest() -> (Guest, tempfile::TempDir) {
    let (disk, directory) = new_disk(DiskFormat::Raw, MIB);
    let mut guest = Guest::start(&disk);
    assert_eq!(guest.write(0, &[0x55; 4096]), OK);
    (guest, directory)
}

impl Guest {
    /// Puts a header for `kind` into free memory and gives its descriptor.
    fn place_header(&self, kind: u32, sector: u64) -> Descriptor {
        self.driver.ram.write_slice(&header(kind, sector), GuestAddress(FREE)).unwrap();
        readable(FREE, 16)
    }

    /// Makes a chain of `descriptors` available as they are, but for the links between them, and
    /// gives what the device says it has written.
    fn raw(&mut self, descriptors: &[Descriptor]) -> u32 {
        let added = self.driver.add_raw(0, descriptors);
        self.driver.kick(0);
        let (head, length, _) = self.driver.wait_whole(0);
        assert_eq!(head, added);
        // The others of the chain were reserved one by one; a new ring has them all again.
        self.driver.restart();
        length
    }

    fn byte(&self, address: u64) -> u8 {
        self.driver.ram.read_obj(GuestAddress(address)).unwrap()
    }

    /// The device still works, and the disk is as it was.
    fn still_works(&mut self) {
        assert_eq!(self.driver.status(), 15);
        let read = self.read(0, 4096);
        assert!(read.status == OK && read.data == [0x55; 4096]);
    }
}

#[test]
fn a_chain_without_a_place_for_the_status_goes_back_as_it_came() {
    let (mut guest, _directory) = guest();
    let header = guest.place_header(OUT, 0);
    for chain in [
        &[header][..],
        &[header, readable(FREE + 4096, 512)],
        &[header, writable(FREE + 4096, 0)],
        &[readable(FREE, 0)],
        &[header, writable(RAM, 1)],
        &[header, writable(0xd000_0000, 1)],
        &[header, writable(u64::MAX, 1)],
    ] {
        assert_eq!(guest.raw(chain), 0, "{chain:?}");
        guest.still_works();
    }
}

#[test]
fn buffers_outside_of_ram_are_refused_before_anything_is_done() {
    let (mut guest, _directory) = guest();
    let status = FREE + 8192;
    for (address, length) in [
        (RAM, 512),
        (RAM - 511, 512),
        (0xd000_0000, 512),
        (u64::MAX - 255, 512),
        (u64::MAX, u32::MAX),
        (0, u32::MAX),
        (1 << 63, 512),
    ] {
        for (kind, buffer) in [(OUT, readable(address, length)), (IN, writable(address, length))] {
            let header = guest.place_header(kind, 0);
            guest.driver.ram.write_obj(NO_STATUS, GuestAddress(status)).unwrap();
            assert_eq!(guest.raw(&[header, buffer, writable(status, 1)]), 0, "{address:#x}");
            assert_eq!(guest.byte(status), NO_STATUS);
            guest.still_works();
        }
    }
    let header = writable(status, 1);
    assert_eq!(guest.raw(&[readable(RAM - 8, 16), header]), 0, "a header half outside");
    guest.still_works();
}

#[test]
fn what_the_device_reads_comes_before_what_it_writes() {
    let (mut guest, _directory) = guest();
    let header = guest.place_header(OUT, 0);
    let status = writable(FREE + 8192, 1);
    assert_eq!(guest.raw(&[header, status, readable(FREE + 4096, 512)]), 0);
    guest.still_works();
    assert_eq!(guest.raw(&[status, header]), 0);
    guest.still_works();
    // A read whose buffer is readable has no room, so it reads nothing; a write whose data are
    // where the device writes has none, so it writes nothing.
    let header = guest.place_header(IN, 0);
    assert_eq!(guest.raw(&[header, readable(FREE + 4096, 512), status]), 1);
    assert_eq!(guest.byte(FREE + 4096), 0);
    let header = guest.place_header(OUT, 0);
    assert_eq!(guest.raw(&[header, writable(FREE + 4096, 512), status]), 0);
    guest.still_works();
}

#[test]
fn a_header_that_is_too_short_is_an_error_with_a_status() {
    let (mut guest, _directory) = guest();
    for length in 0..16 {
        let answer = guest.ask(&header(IN, 0)[..length], &[], &[512]);
        assert_eq!((answer.status, answer.length), (IO_ERROR, 0), "{length}");
    }
    let status = FREE + 8192;
    assert_eq!(guest.raw(&[writable(status, 1)]), 1, "no header at all");
    assert_eq!(guest.byte(status), IO_ERROR);
    guest.still_works();
}

#[test]
fn chains_in_a_circle_or_into_nothing_go_back_as_they_came() {
    let (mut guest, _directory) = guest();
    for (own_next, flags) in
        [(true, NEXT), (true, NEXT | WRITE), (false, NEXT), (false, NEXT | WRITE)]
    {
        let index = guest.driver.reserve(0);
        let next = if own_next { index } else { 0x7fff };
        let descriptor = Descriptor { address: FREE, length: 16, flags, next };
        guest.driver.set_descriptor(0, index, descriptor);
        guest.driver.make_available(0, index);
        guest.driver.kick(0);
        let (head, length, _) = guest.driver.wait_whole(0);
        assert_eq!((head, length), (index, 0));
        guest.driver.restart();
        guest.still_works();
    }
}

#[test]
fn tables_of_their_own_are_checked_as_the_rings_table_is() {
    let (mut guest, _directory) = guest();
    let table = FREE + 0x10_000;
    let put = |guest: &Guest, position: u64, descriptor: Descriptor| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&descriptor.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&descriptor.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&descriptor.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&descriptor.next.to_le_bytes());
        let at = GuestAddress(table + position * 16);
        guest.driver.ram.write_slice(&bytes, at).unwrap();
    };
    let indirect = |address, length| Descriptor { address, length, flags: INDIRECT, next: 0 };
    let header = guest.place_header(IN, 0);
    let status = FREE + 8192;
    // A good one first, so that the others fail for what is wrong with them.
    put(&guest, 0, Descriptor { flags: NEXT, next: 1, ..header });
    put(&guest, 1, Descriptor { flags: NEXT | WRITE, next: 2, ..writable(FREE + 4096, 512) });
    put(&guest, 2, writable(status, 1));
    assert_eq!(guest.raw(&[indirect(table, 48)]), 513);
    assert_eq!((guest.byte(status), guest.byte(FREE + 4096)), (OK, 0x55));

    for (address, length) in [
        (table, 0),
        (table, 47),
        (table, 32),
        (table, 0xffff_fff0),
        (RAM, 48),
        (RAM - 32, 48),
        (u64::MAX, 48),
    ] {
        assert_eq!(guest.raw(&[indirect(address, length)]), 0, "{address:#x} {length}");
        guest.still_works();
    }
    // A table in a table.
    put(&guest, 1, Descriptor { flags: INDIRECT | NEXT, next: 2, ..indirect(table, 48) });
    assert_eq!(guest.raw(&[indirect(table, 48)]), 0);
    guest.still_works();
    // More than a chain may have: 60,000 buffers, all of the same memory.
    for position in 0..60_000_u64 {
        let next = position as u16 + 1;
        put(&guest, position, Descriptor { flags: NEXT, next, ..readable(FREE, 16) });
    }
    put(&guest, 60_000, writable(status, 1));
    assert_eq!(guest.raw(&[indirect(table, 60_001 * 16)]), 0);
    guest.still_works();
}

#[test]
fn more_data_than_the_disk_has_is_an_error_at_once() {
    let (mut guest, _directory) = guest();
    // Nearly 4 GiB in one chain, all of it the same 127 MiB.
    for kind in [IN, OUT] {
        let mut chain = vec![guest.place_header(kind, 0)];
        for _ in 0..32 {
            let flags = if kind == IN { WRITE } else { 0 };
            chain.push(Descriptor { flags, ..readable(MIB, 127 << 20) });
        }
        let status = FREE + 8192;
        chain.push(writable(status, 1));
        guest.raw(&chain);
        assert_eq!(guest.byte(status), IO_ERROR);
        guest.still_works();
    }
    // 4 GiB and more: no chain may have that.
    let mut chain = vec![guest.place_header(OUT, 0)];
    chain.extend([readable(0, 127 << 20); 40]);
    chain.push(writable(FREE + 8192, 1));
    assert_eq!(guest.raw(&chain), 0);
    guest.still_works();
}

#[test]
fn buffers_on_top_of_each_other_and_of_the_ring_harm_only_the_guest() {
    let (disk, _directory) = new_disk(DiskFormat::Raw, MIB);
    let mut guest = Guest::start(&disk);
    // The status on top of the header, and the data on both.
    let header = guest.place_header(IN, 0);
    assert_eq!(guest.raw(&[header, writable(FREE, 512), writable(FREE, 1)]), 513);
    // A read onto the whole queue, whose rings are below 1 MiB.
    let header = guest.place_header(IN, 0);
    let (first, second, third) =
        (guest.driver.reserve(0), guest.driver.reserve(0), guest.driver.reserve(0));
    guest.driver.set_descriptor(0, first, Descriptor { flags: NEXT, next: second, ..header });
    let rings = Descriptor { flags: NEXT | WRITE, next: third, ..writable(0x1_0000, 0x1_0000) };
    guest.driver.set_descriptor(0, second, rings);
    guest.driver.set_descriptor(0, third, writable(FREE + 8192, 1));
    guest.driver.make_available(0, first);
    guest.driver.ring(0);
    guest.driver.restart();
    assert_eq!(guest.write(0, &[1; 512]), OK, "after a reset all is well");
}

#[test]
fn a_ring_that_is_nonsense_stops_the_device_until_it_is_reset() {
    let (mut guest, _directory) = guest();
    guest.driver.set_available_index(0, 0x8000);
    guest.driver.ring(0);
    let deadline = std::time::Instant::now() + crate::virtio::test_driver::LIMIT;
    while guest.driver.status() & 64 == 0 {
        assert!(guest.driver.wait_interrupt(deadline));
    }
    guest.driver.restart();
    guest.still_works();
}

#[test]
fn an_endless_supply_of_requests_does_not_keep_a_reset_waiting() {
    let (mut guest, _directory) = guest();
    let index = guest.driver.reserve(0);
    // The same chain again and again, without end.
    let header = guest.place_header(IN, 0);
    let (data, status) = (guest.driver.reserve(0), guest.driver.reserve(0));
    guest.driver.set_descriptor(0, index, Descriptor { flags: NEXT, next: data, ..header });
    let room = Descriptor { flags: NEXT | WRITE, next: status, ..writable(FREE + 4096, 4096) };
    guest.driver.set_descriptor(0, data, room);
    guest.driver.set_descriptor(0, status, writable(FREE + 8192, 1));
    for _ in 0..2000 {
        guest.driver.make_available(0, index);
        guest.driver.ring(0);
    }
    guest.driver.restart();
    guest.still_works();
}
