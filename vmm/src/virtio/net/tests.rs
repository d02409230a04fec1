//! Packets of an honest driver.

use super::test_wire::*;
use super::{LONGEST, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_MRG_RXBUF};
use crate::tap::{HEADER, Offloads};
use crate::virtio::test_driver::Manner;
use std::fs;
use std::thread;
use std::time::Duration;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4};

#[test]
fn a_packet_is_sent_whole_whatever_its_shape_and_length() {
    let mut guest = Guest::start();
    for length in [14, 60, 1514, 9000, 65_550] {
        let packet = packet(length, length);
        for cut in [1, 11, 12, 13, 20] {
            let (first, second) = packet.split_at(cut);
            guest.sends(&[first, second]);
            assert_eq!(guest.host_gets(), packet);
        }
        let pieces: Vec<&[u8]> = packet.chunks(length.div_ceil(200)).collect();
        guest.sends(&pieces);
        assert_eq!(guest.host_gets(), packet);
        guest.driver.add_indirect(SEND, &pieces);
        guest.driver.kick(SEND);
        guest.driver.wait(SEND);
        assert_eq!(guest.host_gets(), packet);
    }
}

#[test]
fn a_packet_takes_as_many_buffers_as_it_needs_and_leaves_the_others() {
    let mut guest = Guest::start();
    for _ in 0..200 {
        guest.gives(&[1536]);
    }
    for (length, buffers) in [(60, 1), (1524, 1), (1525, 2), (9000, 6), (65_550, 43), (14, 1)] {
        let packet = packet(length, length);
        let room = guest.driver.room(RECEIVE);
        guest.host_sends(&packet);
        assert_eq!(guest.gets(), packet);
        assert_eq!(guest.driver.room(RECEIVE) - room, buffers, "{length}");
    }
}

#[test]
fn a_ring_that_holds_less_than_the_longest_packet_gets_all_that_fit() {
    let mut guest = Guest::start_as(Manner { size: 32, ..Manner::default() }, 0);
    let fill = |guest: &mut Guest| {
        while guest.driver.room(RECEIVE) > 0 {
            guest.gives(&[1536]);
        }
    };
    for length in [60, 1514, 9000, 32 * 1536 - HEADER, 14] {
        fill(&mut guest);
        let packet = packet(length, length);
        guest.host_sends(&packet);
        assert_eq!(guest.gets(), packet);
    }
    // One that fits into no ring like that is lost, and takes no other with it.
    fill(&mut guest);
    guest.host_sends(&packet(32 * 1536 - HEADER + 1, 0));
    guest.host_sends(&packet(500, 1));
    assert_eq!(guest.gets(), packet(500, 1));
}

#[test]
fn a_ring_that_is_full_of_chains_for_less_than_the_longest_packet_gets_all_that_fit() {
    // The header lies apart, so 32 chains are all that there is room for: no pause is needed.
    let mut guest = Guest::start_as(Manner { size: 64, ..Manner::default() }, 0);
    for length in [60, 1514, 9000, 14] {
        while guest.driver.room(RECEIVE) > 1 {
            guest.gives(&[HEADER, 1514]);
        }
        let packet = packet(length, length);
        guest.host_sends(&packet);
        assert_eq!(guest.gets(), packet);
    }
}

#[test]
fn a_driver_that_gives_few_buffers_gets_all_that_fit() {
    let mut guest = Guest::start();
    for _ in 0..16 {
        guest.gives(&[1526]);
    }
    for (length, buffers) in [(60, 1), (1514, 1), (9000, 6), (14, 1)] {
        let packet = packet(length, length);
        guest.host_sends(&packet);
        assert_eq!(guest.gets(), packet);
        (0..buffers).for_each(|_| guest.gives(&[1526]));
    }
    // Longer than all of them.
    guest.host_sends(&packet(16 * 1526, 0));
    guest.host_sends(&packet(500, 1));
    assert_eq!(guest.gets(), packet(500, 1));
}

#[test]
fn a_driver_that_does_not_merge_buffers_gets_each_packet_in_one() {
    let mut guest = Guest::start_refusing(&[VIRTIO_NET_F_MRG_RXBUF], 0);
    for shape in [&[LONGEST][..], &[1, 10, 2, 100_000], &[12, 65_550], &[0, 5, 70_000]] {
        for length in [14, 1514, 65_550] {
            let packet = packet(length, shape.len());
            guest.host_sends(&packet);
            guest.gives(shape);
            let (_, mut bytes) = guest.driver.wait(RECEIVE);
            assert_eq!(&bytes[10..12], [1, 0]);
            bytes[10..12].fill(0);
            assert_eq!(bytes, packet, "{shape:?}");
        }
    }
}

#[test]
fn a_packet_without_room_in_a_buffer_that_cannot_be_merged_is_lost_and_no_other() {
    let mut guest = Guest::start_refusing(&[VIRTIO_NET_F_MRG_RXBUF], 0);
    guest.gives(&[HEADER + 100]);
    guest.host_sends(&packet(101, 0));
    guest.host_sends(&packet(100, 1));
    assert_eq!(guest.gets()[HEADER..], packet(100, 1)[HEADER..]);
}

#[test]
fn the_host_leaves_undone_what_the_driver_says_it_does() {
    let all = Offloads::all();
    for (refused, expected) in [
        (&[][..], all),
        (&[VIRTIO_NET_F_GUEST_TSO6], all - Offloads::TSO6),
        (&[VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_ECN], Offloads::CSUM | Offloads::TSO6),
        // The kernel refuses notices where nothing is cut.
        (&[VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6], Offloads::CSUM),
        // Without checksums there is nothing to build the rest on.
        (&[VIRTIO_NET_F_GUEST_CSUM], Offloads::empty()),
    ] {
        let mut guest = Guest::start_refusing(refused, 0);
        assert_eq!(guest.offloads(), [expected], "{refused:?}");
        guest.driver.restart();
        assert_eq!(guest.offloads(), [expected, expected]);
    }
}

#[test]
fn the_driver_reads_its_address_and_that_the_cable_is_in() {
    use crate::bus::BusDevice;
    let mut guest = Guest::start();
    let mut config = [0xff; 12];
    guest.driver.transport.read(0x100, &mut config);
    assert_eq!(config[..6], ADDRESS);
    assert_eq!(config[6..], [1, 0, 0, 0, 0, 0]);
    let mut byte = [0xff];
    guest.driver.transport.read(0x105, &mut byte);
    assert_eq!(byte, [0xef]);
}

#[test]
fn packets_wait_for_buffers_and_keep_their_order() {
    let mut guest = Guest::start();
    let mut sent = 0;
    while sent < 300 && guest.try_host_sends(&packet(200, sent)) {
        sent += 1;
    }
    for number in 0..sent {
        guest.gives(&[70_000]);
        assert_eq!(guest.gets(), packet(200, number));
    }
    // More at once than one turn takes, while buffers lie ready.
    for _ in 0..3 {
        while guest.driver.room(RECEIVE) > 0 {
            guest.gives(&[4096]);
        }
        for number in 0..100 {
            guest.host_sends(&packet(200, number));
        }
        for number in 0..100 {
            assert_eq!(guest.gets(), packet(200, number));
        }
    }
}

#[test]
fn more_packets_than_one_turn_takes_are_all_sent() {
    let mut guest = Guest::start();
    for round in 0..4 {
        let first = round * 250;
        for number in first..first + 250 {
            guest.driver.add(SEND, &[&packet(60, number)], &[]);
        }
        guest.driver.kick(SEND);
        for number in first..first + 250 {
            assert_eq!(guest.host_gets(), packet(60, number));
            guest.driver.wait(SEND);
        }
    }
}

#[test]
fn what_goes_and_comes_is_counted_without_headers() {
    let mut guest = Guest::start();
    guest.sends(&[&packet(100, 0)]);
    guest.host_gets();
    guest.gives(&[70_000]);
    guest.host_sends(&packet(1000, 0));
    guest.gets();
    let used = guest.usage.used();
    assert_eq!((used.network_bytes_sent, used.network_bytes_received), (100, 1000));
}

#[test]
fn after_a_reset_in_flight_the_device_starts_again_without_packets_for_the_former_driver() {
    let mut guest = Guest::start();
    for round in 0..50 {
        while guest.driver.room(SEND) > 0 {
            guest.driver.add(SEND, &[&packet(60, round)], &[]);
        }
        for _ in 0..50 {
            guest.gives(&[2000]);
            guest.try_host_sends(&packet(100, round));
        }
        guest.driver.kick(SEND);
        guest.driver.restart();
    }
    while guest.try_host_gets().is_some() {}
    guest.still_works();
}

/// The time that the thread of that name has run.
fn run_time(name: &str) -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
    let named = |path: &std::path::PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let task = tasks.into_iter().find(named).expect("there is such a thread");
    let said = fs::read_to_string(task.join("schedstat")).unwrap();
    Duration::from_nanos(said.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn neither_a_guest_without_buffers_nor_a_host_that_does_not_read_costs_time() {
    let mut guest = Guest::start_refusing(&[], 77);
    guest.still_works();
    // Some room, but less than a packet may need; and a host that takes nothing.
    guest.gives(&[100]);
    while guest.try_host_sends(&packet(1000, 0)) {}
    for _ in 0..10 {
        while guest.driver.room(SEND) > 0 {
            guest.driver.add(SEND, &[&packet(1000, 0)], &[]);
        }
        guest.driver.kick(SEND);
        guest.driver.wait(SEND);
        while guest.driver.take(SEND).is_some() {}
    }
    let before = run_time("net-77");
    thread::sleep(Duration::from_secs(1));
    let spent = run_time("net-77") - before;
    assert!(spent < Duration::from_millis(10), "{spent:?} of a second");
}
