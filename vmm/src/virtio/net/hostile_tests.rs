//! Chains and rings that no honest driver makes.

use super::test_wire::*;
use super::{LONGEST, QUEUE_SIZE, VIRTIO_NET_F_MRG_RXBUF, service};
use crate::tap::HEADER;
use crate::virtio::queue::TURN;
use crate::virtio::test_driver::{
    Descriptor, Driver, INDIRECT, LIMIT, NEXT, WRITE, readable, writable,
};
use crate::virtio::test_turns::{LONG, turns};
use std::time::Instant;
use vm_memory::{Bytes, GuestAddress};

/// Bytes of the guest's RAM.
const RAM: u64 = 128 << 20;
/// Where there is nothing else in the guest's RAM.
const FREE: u64 = 100 << 20;

impl Guest {
    /// Makes a chain of `descriptors` available as they are, but for the links between them, and
    /// gives its head.
    fn raw(&mut self, queue: usize, descriptors: &[Descriptor]) -> u16 {
        let head = self.driver.add_raw(queue, descriptors);
        self.driver.kick(queue);
        head
    }

    /// `descriptors` come back as they were, and nothing is sent.
    fn sends_nothing(&mut self, descriptors: &[Descriptor]) {
        let head = self.raw(SEND, descriptors);
        let (came_back, length, _) = self.driver.wait_whole(SEND);
        assert_eq!((came_back, length), (head, 0), "{descriptors:?}");
        assert_eq!(self.try_host_gets(), None, "{descriptors:?}");
        self.driver.restart();
        self.still_works();
    }

    /// `descriptors` come back as they were, and the packet goes into the next buffer.
    fn receives_nothing_in(&mut self, descriptors: &[Descriptor]) {
        self.host_sends(&packet(500, 3));
        let head = self.raw(RECEIVE, descriptors);
        let (came_back, length, _) = self.driver.wait_whole(RECEIVE);
        assert_eq!((came_back, length), (head, 0), "{descriptors:?}");
        self.gives(&[70_000]);
        assert_eq!(self.gets(), packet(500, 3), "{descriptors:?}");
        self.driver.restart();
        self.still_works();
    }
}

/// Descriptors that do not lie in RAM.
fn outside() -> Vec<(u64, u32)> {
    vec![
        (RAM, 100),
        (RAM - 99, 100),
        (0xd000_0000, 100),
        (u64::MAX - 50, 100),
        (u64::MAX, 1),
        (1 << 63, 100),
        (0, u32::MAX),
    ]
}

#[test]
fn what_is_no_packet_is_not_sent() {
    let mut guest = Guest::start();
    guest.driver.ram.write_slice(&packet(500, 0), GuestAddress(FREE)).unwrap();
    // A header that is cut, or not there.
    for length in [0, 1, HEADER as u32 - 1] {
        guest.sends_nothing(&[readable(FREE, length)]);
        guest.sends_nothing(&[readable(FREE, 0), readable(FREE, length), readable(FREE, 0)]);
    }
    // What the device would have to write, first or last.
    guest.sends_nothing(&[writable(FREE, 100)]);
    guest.sends_nothing(&[readable(FREE, 100), writable(FREE, 100)]);
    guest.sends_nothing(&[writable(FREE, 0), readable(FREE, 100)]);
    // Outside of RAM, the header or what follows.
    for (address, length) in outside() {
        guest.sends_nothing(&[readable(address, length)]);
        guest.sends_nothing(&[readable(FREE, 100), readable(address, length)]);
    }
    // More than a packet has, in one and in many.
    guest.sends_nothing(&[readable(FREE, LONGEST as u32 + 1)]);
    guest.sends_nothing(&[readable(FREE, 40_000); 2]);
    guest.sends_nothing(&[readable(0, 127 << 20); 40]);
}

#[test]
fn what_cannot_be_filled_goes_back_and_takes_no_packet() {
    for refused in [&[][..], &[VIRTIO_NET_F_MRG_RXBUF]] {
        let mut guest = Guest::start_refusing(refused, 0);
        // Less than a header.
        for length in [0, 1, HEADER as u32 - 1] {
            guest.receives_nothing_in(&[writable(FREE, length)]);
        }
        guest.receives_nothing_in(&[writable(FREE, 0), writable(FREE, 5), writable(FREE, 6)]);
        // What the device may not write, first or last.
        guest.receives_nothing_in(&[readable(FREE, 70_000)]);
        guest.receives_nothing_in(&[readable(FREE, 0), writable(FREE, 70_000)]);
        guest.receives_nothing_in(&[writable(FREE, 70_000), readable(FREE, 1)]);
        for (address, length) in outside() {
            guest.receives_nothing_in(&[writable(address, length)]);
            guest.receives_nothing_in(&[writable(FREE, 70_000), writable(address, length)]);
        }
    }
}

#[test]
fn chains_in_a_circle_or_into_nothing_or_without_end_go_back() {
    let mut guest = Guest::start();
    for (queue, write) in [(RECEIVE, WRITE), (SEND, 0)] {
        for own_next in [true, false] {
            guest.host_sends(&packet(100, 0));
            let index = guest.driver.reserve(queue);
            let next = if own_next { index } else { 0x7fff };
            let circle = Descriptor { address: FREE, length: 16, flags: NEXT | write, next };
            guest.driver.set_descriptor(queue, index, circle);
            guest.driver.make_available(queue, index);
            guest.driver.kick(queue);
            let (head, length, _) = guest.driver.wait_whole(queue);
            assert_eq!((head, length), (index, 0));
            guest.driver.restart();
            guest.still_works();
        }
        // A table of its own with more descriptors than a chain may have, and one in a table.
        for (count, flags) in [(QUEUE_SIZE + 1, NEXT), (2, NEXT | INDIRECT)] {
            guest.host_sends(&packet(100, 0));
            let table = FREE + 0x10_000;
            for position in 0..count {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&FREE.to_le_bytes());
                bytes[8..12].copy_from_slice(&16_u32.to_le_bytes());
                let flags = if position + 1 == count { 0 } else { flags } | write;
                bytes[12..14].copy_from_slice(&flags.to_le_bytes());
                bytes[14..].copy_from_slice(&(position + 1).to_le_bytes());
                let at = GuestAddress(table + u64::from(position) * 16);
                guest.driver.ram.write_slice(&bytes, at).unwrap();
            }
            let length = u32::from(count) * 16;
            let head =
                guest.raw(queue, &[Descriptor { flags: INDIRECT, ..readable(table, length) }]);
            let (came_back, length, _) = guest.driver.wait_whole(queue);
            assert_eq!((came_back, length), (head, 0));
            guest.driver.restart();
            guest.still_works();
        }
    }
    assert_eq!(guest.try_host_gets(), None);
}

#[test]
fn a_header_in_single_bytes_still_says_how_many_buffers_there_are() {
    let mut guest = Guest::start();
    for _ in 0..2 {
        guest.gives(&[1; 110]);
    }
    guest.gives(&[70_000]);
    guest.host_sends(&packet(200, 7));
    // 110 bytes in the first one, as many in the second one, none in the third one.
    let room = guest.driver.room(RECEIVE);
    assert_eq!(guest.gets(), packet(200, 7));
    assert_eq!(guest.driver.room(RECEIVE) - room, 220);
}

#[test]
fn buffers_on_top_of_each_other_and_of_the_ring_harm_only_the_guest() {
    let mut guest = Guest::start();
    guest.raw(RECEIVE, &[writable(FREE, 70_000), writable(FREE, 70_000)]);
    guest.host_sends(&packet(60_000, 0));
    guest.driver.wait_whole(RECEIVE);
    // Both queues and all that they have are below 1 MiB.
    guest.raw(RECEIVE, &[writable(0x1_0000, 0x2_0000)]);
    guest.host_sends(&vec![0xff; 60_000]);
    guest.driver.ring(SEND);
    guest.driver.restart();
    guest.still_works();
    guest.raw(SEND, &[readable(0x1_0000, 60_000)]);
    guest.host_gets();
    guest.driver.restart();
    guest.still_works();
}

#[test]
fn a_ring_or_a_head_that_is_nonsense_stops_the_device_until_it_is_reset() {
    for (queue, head) in [(RECEIVE, false), (RECEIVE, true), (SEND, false), (SEND, true)] {
        let mut guest = Guest::start();
        guest.host_sends(&packet(60, 0));
        if head {
            guest.driver.make_available(queue, QUEUE_SIZE);
        } else {
            guest.driver.set_available_index(queue, 0x8000);
        }
        guest.driver.ring(queue);
        let deadline = Instant::now() + LIMIT;
        while guest.driver.status() & 64 == 0 {
            assert!(guest.driver.wait_interrupt(deadline));
        }
        guest.driver.restart();
        guest.still_works();
    }
}

/// The queues by their numbers and those of their doorbells.
const SENDING: (usize, u32) = (SEND, service::SEND);
const RECEIVING: (usize, u32) = (RECEIVE, service::RECEIVE);

#[test]
fn one_turn_sends_so_many_packets_and_leaves_the_rest_for_the_next() {
    for (chain, sent) in [(readable(FREE, 60), true), (writable(FREE, 1), false)] {
        let (mut guest, mut service) = Guest::by_hand();
        guest.driver.repeat(SEND, chain, 2 * TURN + 10);
        let turn = TURN as u64;
        let given_back = |driver: &Driver| driver.given_back(SEND).into();
        assert_eq!(turns(&guest.driver, &mut service, SENDING, given_back), [turn, turn, 10]);
        let count = std::iter::from_fn(|| guest.try_host_gets()).count();
        assert_eq!(count, if sent { 2 * TURN + 10 } else { 0 });
    }
}

#[test]
fn one_turn_receives_so_many_packets_and_leaves_the_rest_for_the_next() {
    let (mut guest, mut service) = Guest::by_hand();
    guest.driver.repeat(RECEIVE, writable(FREE, 70_000), usize::from(LONG));
    for number in 0..TURN + 10 {
        guest.host_sends(&packet(60, number));
    }
    assert!(service.ready().contains(&service::WIRE));
    let given_back = |driver: &Driver| driver.given_back(RECEIVE).into();
    service.turn(service::WIRE);
    assert_eq!(guest.driver.given_back(RECEIVE), TURN as u16);
    assert_eq!(turns(&guest.driver, &mut service, RECEIVING, given_back), [10]);
}

#[test]
fn one_turn_looks_at_so_many_chains_that_cannot_be_filled() {
    let (mut guest, mut service) = Guest::by_hand();
    guest.host_sends(&packet(60, 0));
    guest.driver.repeat(RECEIVE, writable(FREE, HEADER as u32 - 1), 2 * usize::from(QUEUE_SIZE));
    guest.driver.repeat(RECEIVE, writable(FREE, 70_000), 1);
    service.turn(service::WIRE);
    assert_eq!(guest.driver.given_back(RECEIVE), QUEUE_SIZE);
    let turn = u64::from(QUEUE_SIZE);
    let given_back = |driver: &Driver| driver.given_back(RECEIVE).into();
    assert_eq!(turns(&guest.driver, &mut service, RECEIVING, given_back), [turn, 1]);
}
