//! A tap that cannot be read.

use super::service::{RECEIVE, Service, WIRE};
use super::test_wire::{Guest, RECEIVE as RECEIVE_QUEUE, packet};
use crate::io::Source;
use crate::io::by_hand::ByHand;
use crate::virtio::queue::TURN;
use rustix::net::{AddressFamily, SocketType, socket};
use std::fs::File;
use std::os::fd::OwnedFd;

/// A guest for which packets have come, served by hand.
fn guest() -> (Guest, ByHand<Service>) {
    let (mut guest, mut service) = Guest::by_hand();
    guest.gives(&[70_000]);
    guest.gives(&[70_000]);
    guest.gives(&[70_000]);
    assert_eq!(service.ready(), [RECEIVE]);
    service.turn(RECEIVE);
    guest.host_sends(&packet(100, 1));
    guest.host_sends(&packet(100, 2));
    assert_eq!(service.ready(), [WIRE]);
    (guest, service)
}

/// Something of which every read fails: there is no connection.
fn unreadable() -> OwnedFd {
    socket(AddressFamily::INET, SocketType::STREAM, None).unwrap()
}

/// The thread hears of what has rung since, and serves `token`.
fn serve(service: &mut ByHand<Service>, token: u32) {
    service.ready();
    service.turn(token);
}

/// Nothing is left to be done: the thread would sleep, and no packet wake it.
fn sleeps(service: &mut ByHand<Service>) -> bool {
    service.ready().is_empty() && service.source.deadline().is_none()
}

#[test]
fn a_packet_that_cannot_be_read_takes_none_behind_it_along() {
    for failing in [1, 2, TURN - 3] {
        let (mut guest, mut service) = guest();
        guest.reads(unreadable(), failing);
        service.turn(WIRE);
        assert_eq!((guest.gets(), guest.gets()), (packet(100, 1), packet(100, 2)));
        assert!(sleeps(&mut service));
        guest.host_sends(&packet(100, 3));
        assert_eq!(service.ready(), [WIRE]);
        service.turn(WIRE);
        assert_eq!(guest.gets(), packet(100, 3));
    }
}

#[test]
fn a_tap_that_cannot_be_read_at_all_is_tried_again_and_again_with_pauses() {
    let (mut guest, mut service) = guest();
    guest.reads(unreadable(), usize::MAX);
    for tries in 1..=3 {
        if tries == 1 {
            service.turn(WIRE);
        } else {
            service.expire();
        }
        assert_eq!(guest.reads_left(), usize::MAX - tries * TURN);
        assert!(service.ready().is_empty(), "the thread does not spin");
        assert!(service.source.deadline().is_some(), "the thread comes back");
    }
    guest.reads(unreadable(), 0);
    service.expire();
    assert_eq!((guest.gets(), guest.gets()), (packet(100, 1), packet(100, 2)));
    assert!(sleeps(&mut service));
}

#[test]
fn buffers_for_the_longest_packet_are_waited_for_but_not_for_ever() {
    let (mut guest, mut service) = Guest::by_hand();
    guest.gives(&[1526]);
    guest.host_sends(&packet(100, 1));
    guest.host_sends(&packet(9000, 2));
    serve(&mut service, RECEIVE);
    serve(&mut service, WIRE);
    assert_eq!(guest.driver.take(RECEIVE_QUEUE), None, "more may come");
    // They do: the long one is not lost.
    guest.gives(&[70_000]);
    serve(&mut service, RECEIVE);
    assert_eq!((guest.gets(), guest.gets()), (packet(100, 1), packet(9000, 2)));
    assert!(sleeps(&mut service));
    guest.gives(&[1526]);
    guest.gives(&[1526]);
    for seed in [3, 4] {
        guest.host_sends(&packet(100, seed));
    }
    serve(&mut service, WIRE);
    let due = service.source.deadline();
    assert!(due.is_some(), "the thread comes back");
    serve(&mut service, RECEIVE);
    assert_eq!(service.source.deadline(), due, "and is not put off");
    service.expire();
    assert_eq!((guest.gets(), guest.gets()), (packet(100, 3), packet(100, 4)));
    assert!(sleeps(&mut service));
    // From now on they come at once, until there is room again.
    guest.gives(&[1526]);
    guest.host_sends(&packet(100, 5));
    serve(&mut service, WIRE);
    assert_eq!(guest.gets(), packet(100, 5));
}

#[test]
fn a_tap_that_has_gone_is_not_read_until_it_says_something() {
    // What is no tap yet is what one is that is none any more.
    let Ok(tun) = File::options().read(true).write(true).open("/dev/net/tun") else {
        ::tests::not_tested("only root, on a host with /dev/net/tun, can make taps");
        return;
    };
    let (mut guest, mut service) = guest();
    guest.reads(tun, usize::MAX);
    service.turn(WIRE);
    assert_eq!(guest.reads_left(), usize::MAX - 1);
    assert!(sleeps(&mut service));
    guest.reads(unreadable(), 0);
    service.turn(WIRE);
    assert_eq!((guest.gets(), guest.gets()), (packet(100, 1), packet(100, 2)));
}
