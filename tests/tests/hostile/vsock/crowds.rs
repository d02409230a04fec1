//! Cases 21 and 22: storms, more connections than there can be, and too little room for the answers.

use super::guest::{BUFFERS_MAX, Guest, QUEUE, RECEIVE, TRANSMIT, flood, rest};
use super::packet::{
    CREDIT_REQUEST, CREDIT_UPDATE, HEADER, NEITHER, Packet, Ports, REQUEST, RESPONSE, RST, RW,
};
use super::scene::{OPEN, Scene};
use crate::is_flat;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

/// Connections that there can be, and resets that wait for the guest to take them.
const CONNECTIONS: usize = 1024;
const RESETS: u16 = 256;

/// Lets this process have as many descriptors as it may.
pub(super) fn allow_descriptors() {
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }).unwrap();
}

/// Opens `count` connections at once.
pub(super) fn open_many(
    guest: &Guest,
    listener: &UnixListener,
    count: usize,
) -> Vec<(Ports, UnixStream)> {
    let mut open = Vec::new();
    let wanted: Vec<Ports> =
        (0..count).map(|_| Ports { guest: guest.fresh_port(), host: OPEN }).collect();
    for ports in wanted.chunks(128) {
        let requests: Vec<Packet> = ports.iter().map(|it| Packet::new(*it, REQUEST)).collect();
        guest.send_all(&requests);
        for ports in ports {
            // They are served in order.
            guest.receive_that("a response", |it| it.ports() == *ports && it.op == RESPONSE);
            open.push((*ports, listener.accept().unwrap().0));
        }
    }
    open
}

#[test]
fn case_21_a_storm_of_resets_is_answered_by_nothing_and_harms_nobody() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let mut packets = Vec::new();
    for index in 0..128 {
        let host = if index % 2 == 0 { OPEN } else { index };
        let ports = Ports { guest: 20_000 + index, host };
        let flags = if index % 3 == 0 { NEITHER } else { 0 };
        packets.push(Packet { flags, ..Packet::new(ports, RST) });
    }
    guest.send_all(&packets);
    let before = guest.puppet.usage();
    for _ in 0..200 {
        guest.send_all(&packets);
    }
    guest.expect_silence("resets");
    scene.nobody_came("resets");
    is_flat(&guest.puppet, &before, "resets");
    scene.ends_well("resets");
}

#[test]
fn case_21_connections_that_are_reset_as_soon_as_they_are_asked_for_leave_nothing_behind() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let mut packets = Vec::new();
    for index in 0..64 {
        let ports = Ports { guest: 20_000 + index, host: OPEN };
        packets.extend([REQUEST, RST].map(|op| Packet::new(ports, op)));
    }
    let rounds = |count| {
        for _ in 0..count {
            guest.send_all(&packets);
            for _ in 0..64 {
                let (mut stream, _) = scene.listener.accept().unwrap();
                assert_eq!(rest(&mut stream), b"");
            }
            // Those whose answer was on its way before the reset came.
            assert!(guest.drain().iter().all(|it| it.op == RESPONSE));
        }
    };
    rounds(2);
    let before = guest.puppet.usage();
    rounds(60);
    guest.settle();
    is_flat(&guest.puppet, &before, "requests and resets");
    scene.nobody_came("requests and resets");
    scene.ends_well("requests and resets");
}

#[test]
fn case_21_a_storm_of_requests_to_dead_ports_is_refused_one_by_one() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let dead = |port| guest.path(Some(port));
    // Nothing, what nobody listens at any more, what is no socket, and one that takes no streams.
    drop(UnixListener::bind(dead(901)).unwrap());
    std::fs::write(dead(902), "a file").unwrap();
    std::fs::create_dir(dead(903)).unwrap();
    std::os::unix::fs::symlink(dead(904), dead(904)).unwrap();
    let _packets = std::os::unix::net::UnixDatagram::bind(dead(905)).unwrap();
    // One that has no room for anybody: who waits for it waits for ever.
    let full = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&full, &SocketAddrUnix::new(dead(906)).unwrap()).unwrap();
    listen(&full, 0).unwrap();
    let _in_front = UnixStream::connect(dead(906)).unwrap();
    let before = guest.puppet.usage();
    let hosts = [900, 901, 902, 903, 904, 905, 906, 0, u32::MAX];
    for round in 0..100_u32 {
        let ports =
            |index: u32| Ports { guest: round << 16 | index, host: hosts[index as usize % 9] };
        let packets: Vec<Packet> =
            (0..128).map(|index| Packet::new(ports(index), REQUEST)).collect();
        guest.send_all(&packets);
        for index in 0..128 {
            guest.expect(ports(index), RST);
        }
    }
    guest.expect_silence("dead ports");
    is_flat(&guest.puppet, &before, "dead ports");
    scene.ends_well("dead ports");
}

#[test]
fn case_21_more_connections_than_there_can_be_are_refused_until_others_end() {
    allow_descriptors();
    let scene = Scene::new();
    let guest = &scene.guest;
    let before = guest.puppet.usage();
    // One is the bystander's.
    let mut open = open_many(guest, &scene.listener, CONNECTIONS - 1);
    assert_eq!(guest.puppet.usage().descriptors, before.descriptors + CONNECTIONS - 1);
    for _ in 0..3 {
        let one_more = Ports { guest: guest.fresh_port(), host: OPEN };
        guest.send_all(&vec![Packet::new(one_more, REQUEST); 100]);
        for _ in 0..100 {
            guest.expect(one_more, RST);
        }
        scene.nobody_came("one too many");
        assert_eq!(rest(&mut guest.program("CONNECT 80\n")), b"", "nor does the host get through");
        guest.expect_silence("one too many");
        scene.others_are_unharmed("one too many");
    }
    // Whoever ends it, and in whatever place.
    let (gone, _stream) = open.swap_remove(500);
    guest.send(&Packet::new(gone, RST));
    open.push(guest.dial(&scene.listener));
    let (gone, stream) = open.swap_remove(0);
    drop(stream);
    guest.receive_that("the end", |it| it.ports() == gone);
    guest.send(&Packet::new(gone, RST));
    open.push(guest.accept(80));
    let last = open.len() - 1;
    for index in [0, 1, 499, 500, last - 1, last] {
        let (ports, stream) = &mut open[index];
        stream.write_all(b"unharmed").unwrap();
        assert_eq!(guest.data(*ports, 8), b"unharmed");
    }
    guest.is_idle("as many as there can be");
    let ends: Vec<Packet> = open.iter().map(|(ports, _)| Packet::new(*ports, RST)).collect();
    guest.send_all(&ends);
    assert!(open.iter_mut().all(|(_, stream)| rest(stream).is_empty()), "they are over");
    guest.settle();
    let after = guest.puppet.usage();
    assert_eq!((after.threads, after.descriptors), (before.threads, before.descriptors));
    scene.ends_well("as many as there can be");
}

#[test]
fn case_21_a_port_is_used_again_at_once_and_nothing_of_before_comes_through() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let (ports, mut old) = scene.open();
    for round in 0..300_u32 {
        let (word, answer) = (format!("new {round:6}"), format!("old {round:6}"));
        // On its way both ways, when the end and the new beginning come.
        old.write_all(answer.as_bytes()).unwrap();
        let first = Packet::data(ports, word.as_bytes());
        let packets = [Packet::new(ports, RST), Packet::new(ports, REQUEST), first];
        if round % 2 == 0 {
            guest.send_all(&packets);
            drop(old);
        } else {
            drop(old);
            guest.send_all(&packets);
        }
        // What the old one has said may come first.
        while guest.receive().op != RESPONSE {}
        let (mut new, _) = scene.listener.accept().unwrap();
        new.set_read_timeout(Some(super::guest::LIMIT)).unwrap();
        let mut heard = vec![0; word.len()];
        new.read_exact(&mut heard).unwrap();
        assert_eq!(heard, word.as_bytes());
        // What the program of before has said is not said by the new one.
        let late = guest.settle();
        let shut = |it: &Packet| it.op == RW || it.op == RST;
        assert!(!late.iter().any(shut), "round {round}: {late:?}");
        old = new;
    }
    scene.nobody_came("a port again");
    guest.send(&Packet::new(ports, RST));
    scene.ends_well("a port again");
}

impl Guest {
    /// Uses all receive buffers up, and posts no others.
    pub(super) fn starve(&self) {
        let all = self.driver.available(RECEIVE);
        let nobody = Packet::new(Ports { guest: 1, host: 1 }, CREDIT_UPDATE);
        while self.driver.used(RECEIVE) != all {
            // One is used for each, so no answer is left that waits for a buffer.
            let used = self.driver.used(RECEIVE);
            self.send(&nobody);
            self.puppet.wait_for("an answer", || self.driver.used(RECEIVE) != used);
        }
        self.is_idle("starved");
        self.forget_all();
    }
}

#[test]
fn case_22_without_receive_buffers_the_guests_own_packets_wait_and_cost_nothing() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let before = guest.puppet.usage();
    guest.starve();
    // Resets that wait, from the answers that found no room.
    let ports = |index: u32| Ports { guest: 30_000 + index, host: 901 };
    let requests = |from: u32| -> Vec<Packet> {
        (from..from + 128).map(|index| Packet::new(ports(index), REQUEST)).collect()
    };
    let taken = guest.driver.used(TRANSMIT);
    guest.send_later(&requests(0));
    guest.await_taken();
    guest.send_later(&requests(128));
    guest.is_idle("no buffers");
    guest.await_taken();
    guest.send_later(&requests(256));
    for _ in 0..20 {
        guest.driver.notify(TRANSMIT);
        guest.driver.notify(RECEIVE);
    }
    guest.is_idle("no buffers");
    assert_eq!(guest.driver.used(TRANSMIT).wrapping_sub(taken), RESETS, "so many can wait");
    is_flat(&guest.puppet, &before, "no buffers");
    crate::answers(&guest.puppet);
    // With each reset that is taken there is room for another, of which nobody has to be told again.
    guest.post(3, 4096);
    guest.puppet.wait_for("as many packets as there were buffers", || {
        guest.driver.used(TRANSMIT).wrapping_sub(taken) == RESETS + 3
    });
    guest.is_idle("few buffers");
    // All of them are answered, in order, once.
    for index in 0..384 {
        guest.expect(ports(index), RST);
    }
    assert!(guest.is_taken());
    guest.expect_silence("buffers again");
    scene.ends_well("buffers again");
}

#[test]
fn case_22_without_receive_buffers_connections_wait_and_nothing_is_lost() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let mut open = open_many(guest, &scene.listener, 50);
    let before = guest.puppet.usage();
    guest.starve();
    let mut written = Vec::new();
    for (_, stream) in &mut open {
        written.push(flood(stream));
    }
    // All that there is to be told of a connection is told once.
    let asks: Vec<Packet> =
        open.iter().map(|(ports, _)| Packet::new(*ports, CREDIT_REQUEST)).collect();
    for _ in 0..100 {
        guest.send_all(&asks);
    }
    let new = Ports { guest: guest.fresh_port(), host: OPEN };
    guest.send(&Packet::new(new, REQUEST));
    let mut program = guest.program("CONNECT 80\n");
    guest.is_idle("no buffers for data");
    is_flat_but_for(&scene, &before, 2);
    guest.post(BUFFERS_MAX, 4096);
    guest.receive_that("a response", |it| it.op == RESPONSE && it.ports() == new);
    let dialled = guest.dialled(80);
    guest.send(&Packet::new(dialled, RST));
    assert_eq!(rest(&mut program), b"");
    for ((ports, _), written) in open.iter().zip(written) {
        guest.send(&Packet::new(*ports, CREDIT_UPDATE).credit(u32::MAX, 0));
        assert_eq!(guest.data(*ports, written).len(), written);
    }
    drop(open);
    scene.listener.accept().unwrap();
    guest.puppet.wait_for("all ends", || {
        for end in guest.drain() {
            guest.send(&Packet::new(end.ports(), RST));
        }
        guest.puppet.usage().descriptors == before.descriptors - 50
    });
    scene.ends_well("buffers again");
}

/// The monitor has no more than `before`, but for so many descriptors.
fn is_flat_but_for(scene: &Scene, before: &tests::puppet::Usage, descriptors: usize) {
    let allowed = tests::puppet::Usage { descriptors: before.descriptors + descriptors, ..*before };
    is_flat(&scene.guest.puppet, &allowed, "no buffers");
}

#[test]
fn case_22_buffers_without_room_for_a_byte_come_back_empty_and_with_room_for_one_are_filled() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let (ports, mut stream) = scene.open();
    guest.starve();
    let nobody = Ports { guest: 1, host: 901 };
    for room in [1, 10, HEADER as u32 - 1, HEADER as u32] {
        let back = guest.driver.used(RECEIVE);
        guest.post(BUFFERS_MAX, room);
        guest.send(&Packet::new(nobody, REQUEST));
        let all = guest.driver.available(RECEIVE);
        guest.driver.await_used(RECEIVE, all);
        for index in 1..=BUFFERS_MAX {
            let (_, length) = guest.driver.given_back(RECEIVE, back.wrapping_add(index));
            assert_eq!(length, 0, "of {room} bytes");
        }
        guest.forget_all();
        guest.is_idle("buffers without room");
    }
    // Again and again, as fast as they come back.
    stream.write_all(b"one byte each").unwrap();
    for _ in 0..20 {
        guest.post(BUFFERS_MAX, HEADER as u32);
        let all = guest.driver.available(RECEIVE);
        guest.driver.await_used(RECEIVE, all);
        guest.forget_all();
    }
    guest.is_idle("buffers without room");
    guest.post(BUFFERS_MAX, HEADER as u32 + 1);
    let mut heard = Vec::new();
    while heard.len() < 13 {
        let packet = guest.receive();
        match packet.op {
            RST => assert_eq!(packet.ports(), nobody),
            RW => {
                assert_eq!((packet.ports(), packet.payload.len()), (ports, 1));
                heard.extend(packet.payload);
            }
            _ => panic!("{packet:?}"),
        }
    }
    assert_eq!(heard, b"one byte each");
    guest.send(&Packet::new(ports, RST));
    assert!(guest.settle().iter().all(|it| it.op == RST), "the rest of those that were refused");
    assert!(u32::from(QUEUE) > u32::from(BUFFERS_MAX));
    scene.ends_well("buffers of a byte");
}
