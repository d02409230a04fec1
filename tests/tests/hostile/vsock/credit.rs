//! Case 20: credit that is none, that shrinks, that is a lie, and ours that is ignored.

use super::guest::{Guest, flood, pattern, rest};
use super::packet::{
    BUFFER, CREDIT_REQUEST, CREDIT_UPDATE, Packet, Ports, REQUEST, RESPONSE, RST, RW,
};
use super::scene::{OPEN, Scene};
use crate::{KEPT, is_flat};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

impl Scene {
    /// Opens a connection whose guest says this of its buffer.
    pub(super) fn open_with(&self, holds: u32, taken: u32) -> (Ports, UnixStream) {
        let ports = Ports { guest: self.guest.fresh_port(), host: OPEN };
        self.guest.send(&Packet::new(ports, REQUEST).credit(holds, taken));
        self.guest.expect(ports, RESPONSE);
        (ports, self.listener.accept().unwrap().0)
    }
}

/// Bytes of data in `packets`, all of which must be of the connection of `ports`: data, and a question
/// for more if that was all that could be sent.
fn data_of(packets: &[Packet], ports: Ports, when: &str) -> usize {
    assert!(packets.iter().all(|it| it.ports() == ports), "{when}: {packets:?}");
    let (data, asks): (Vec<_>, Vec<_>) = packets.iter().partition(|it| it.op == RW);
    assert!(asks.iter().all(|it| it.op == CREDIT_REQUEST), "{when}: {packets:?}");
    assert!(asks.len() <= 1, "{when}: it is asked once: {packets:?}");
    data.iter().map(|it| it.payload.len()).sum()
}

#[test]
fn case_20_the_guest_is_sent_what_it_has_granted_to_the_byte_whatever_its_numbers_are() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let (ports, mut stream) = scene.open_with(1000, 0);
    let written = flood(&mut stream);
    assert!(written > 100_000, "{written} bytes");
    let mut sent = data_of(&guest.settle(), ports, "at first");
    // What the packets before have caused is there, but the program's data may be on its way.
    while sent < 1000 {
        let packet = guest.receive_that("data", |it| it.ports() == ports);
        sent += data_of(&[packet], ports, "at first");
    }
    assert_eq!(sent, 1000);
    let half = 1 << 31;
    for (holds, taken, more) in [
        (1000, 0, 0),
        (0, 0, 0),
        // Shrunk below what is on its way, and by one.
        (500, 0, 0),
        (999, 0, 0),
        (1, 0, 0),
        // So much has been taken out, and the rest is on its way.
        (500, 600, 100),
        (500, 600, 0),
        // Now it is 1,100.
        (0, 1100, 0),
        (1, 1100, 1),
        (1, 1100, 0),
        // Taken out before it was sent.
        (1000, 1102, 0),
        (1000, 50_000, 0),
        (u32::MAX, 1102, 0),
        (half, 1101 + half, 0),
        (1, u32::MAX, 0),
        (1000, u32::MAX, 0),
        // Of a time long ago, with all the room there can be.
        (1101, 0, 0),
        (1102, 0, 1),
        // As it should be.
        (500, 1102, 500),
        (501, 1102, 1),
    ] {
        for op in [CREDIT_UPDATE, RW] {
            // Any packet tells of credit. The second finds nothing more to be had.
            let packet = Packet::new(ports, op).credit(holds, taken);
            guest.send(&packet);
            let when = format!("{holds} at {taken}, {sent} sent");
            let more = if op == CREDIT_UPDATE { more } else { 0 };
            let came = data_of(&guest.settle(), ports, &when);
            assert_eq!(came, more, "{when}");
            sent += came;
        }
        guest.is_idle("without credit");
    }
    guest.send(&Packet::new(ports, CREDIT_UPDATE).credit(u32::MAX, sent as u32));
    assert_eq!(guest.data(ports, written - sent).len(), written - sent);
    scene.ends_well("credit of any number");
}

#[test]
fn case_20_a_guest_that_grants_nothing_costs_nothing_however_much_waits_for_it() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let before = guest.puppet.usage();
    let mut stuck = Vec::new();
    for round in 0..100 {
        let (ports, mut stream) = scene.open_with(0, [0, 1, u32::MAX][round % 3]);
        flood(&mut stream);
        stuck.push((ports, stream));
    }
    guest.expect_silence("no credit");
    guest.is_idle("no credit");
    let after = guest.puppet.usage();
    assert_eq!(after.threads, before.threads);
    assert_eq!(after.descriptors, before.descriptors + stuck.len());
    // What the guest does not take stays in the streams.
    assert!(after.memory < before.memory + KEPT, "{before:?} {after:?}");
    scene.others_are_unharmed("no credit");
    for (ports, stream) in stuck {
        guest.send(&Packet::new(ports, RST));
        drop(stream);
    }
    guest.expect_silence("no credit");
    is_flat(&guest.puppet, &before, "no credit");
    scene.ends_well("no credit");
}

#[test]
fn case_20_all_the_credit_there_can_be_makes_the_monitor_hold_nothing_back() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let before = guest.puppet.usage();
    let (ports, mut stream) = scene.open_with(u32::MAX, 0);
    let data = pattern(8 << 20);
    let sends = data.clone();
    let program = thread::spawn(move || {
        stream.write_all(&sends).unwrap();
        stream
    });
    // It does not look for a while.
    guest.is_idle("nobody takes anything");
    let during = guest.puppet.usage();
    assert!(during.memory < before.memory + KEPT, "{before:?} {during:?}");
    let mut heard = Vec::new();
    while heard.len() < data.len() {
        // Without a word on what was taken.
        heard.extend(guest.receive_that("data", |it| it.ports() == ports).payload);
    }
    assert!(heard == data);
    drop(program.join().unwrap());
    guest.send(&Packet::new(ports, RST));
    guest.settle();
    is_flat(&guest.puppet, &before, "all the credit there can be");
    scene.ends_well("all the credit there can be");
}

/// Sends on the connection of `ports`, whose program does not read, without a look at the credit that
/// the guest has, until the connection is over; how much that was.
fn overdraw(guest: &Guest, ports: Ports, size: usize) -> usize {
    let data = pattern(size);
    let mut sent = 0;
    loop {
        guest.send(&Packet::data(ports, &data));
        sent += size;
        for packet in guest.drain() {
            if packet.op == RST {
                assert_eq!(packet.ports(), ports);
                return sent;
            }
            assert_eq!(packet.op, CREDIT_UPDATE);
        }
        assert!(sent < 64 << 20, "it goes on for ever");
    }
}

#[test]
fn case_20_a_guest_that_ignores_our_credit_loses_that_connection_and_has_cost_one_buffer() {
    let scene = Scene::new();
    let guest = &scene.guest;
    for size in [BUFFER as usize, 1000, 10_001] {
        let (ports, mut stream) = scene.open();
        let sent = overdraw(guest, ports, size);
        guest.settle();
        let heard = rest(&mut stream);
        // What had room before it was too much is a beginning of what was sent.
        assert!(heard.len() < sent, "{} of {sent}", heard.len());
        let data = pattern(size);
        assert!(heard.chunks(size).all(|chunk| data.starts_with(chunk)), "of {size}");
    }
    // Many of them at once, just before the end.
    let before = guest.puppet.usage();
    let mut stuck = Vec::new();
    for _ in 0..64 {
        let (ports, stream) = scene.open();
        fill(guest, ports);
        stuck.push((ports, stream));
    }
    guest.is_idle("full");
    let full = guest.puppet.usage();
    let buffers = stuck.len() as u64 * u64::from(BUFFER) / 1024;
    assert!(full.memory < before.memory + 2 * buffers + KEPT, "{before:?} {full:?}");
    scene.others_are_unharmed("full");
    for (ports, _) in &stuck {
        guest.send(&Packet::data(*ports, b"x"));
        guest.receive_that("a reset", |it| it.ports() == *ports && it.op == RST);
    }
    drop(stuck);
    guest.settle();
    let last = guest.puppet.usage();
    assert_eq!((last.threads, last.descriptors), (before.threads, before.descriptors));
    scene.ends_well("credit that was ignored");
}

/// Sends until the host grants no more, by the book; how much that was.
pub(super) fn fill(guest: &Guest, ports: Ports) -> usize {
    let chunk = pattern(10_000);
    let (mut sent, mut taken) = (0_usize, 0_usize);
    loop {
        let room = BUFFER as usize - (sent - taken);
        if room == 0 {
            // It may not have told of all there is.
            guest.send(&Packet::new(ports, CREDIT_REQUEST));
            let wanted = |it: &Packet| it.ports() == ports && it.op == CREDIT_UPDATE;
            let told = guest.receive_that("credit", wanted);
            assert_eq!(told.holds, BUFFER);
            if taken == told.taken as usize {
                return sent;
            }
            taken = told.taken as usize;
        } else {
            let size = room.min(chunk.len());
            guest.send(&Packet::data(ports, &chunk[..size]));
            sent += size;
            for packet in guest.drain() {
                assert_eq!((packet.ports(), packet.op), (ports, CREDIT_UPDATE));
                taken = packet.taken as usize;
            }
        }
        assert!(taken <= sent, "more was taken out than was sent");
    }
}

#[test]
fn case_20_credit_is_asked_for_as_often_as_one_likes_and_answered_as_often_as_there_is_room() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let (ports, mut stream) = scene.open();
    let before = guest.puppet.usage();
    let mut answers = Vec::new();
    for _ in 0..40 {
        guest.send_all(&vec![Packet::new(ports, CREDIT_REQUEST).credit(0, 0); 128]);
        answers.extend(guest.drain());
    }
    answers.extend(guest.settle());
    assert!((1..=40 * 128).contains(&answers.len()), "{} answers", answers.len());
    assert!(answers.iter().all(|it| it.op == CREDIT_UPDATE && it.ports() == ports));
    is_flat(&guest.puppet, &before, "many questions");
    guest.send(&Packet::data(ports, b"unharmed"));
    let mut heard = [0; 8];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"unharmed");
    scene.ends_well("many questions");
}
