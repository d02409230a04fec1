//! Case 19: packets that come before their time, twice, unasked, or after the end.

use super::credit::fill;
use super::guest::{line, rest};
use super::packet::{
    BUFFER, CREDIT_REQUEST, CREDIT_UPDATE, NEITHER, Packet, Ports, RECEIVES, REQUEST, RESPONSE,
    RST, RW, SENDS, SHUTDOWN,
};
use super::scene::{OPEN, Scene};
use std::io::{Read, Write};
use std::net::Shutdown;

/// What only a connection that is there may have.
fn early(ports: Ports) -> Vec<Packet> {
    let mut packets: Vec<Packet> = [RW, CREDIT_UPDATE, CREDIT_REQUEST, RESPONSE]
        .into_iter()
        .map(|op| Packet::new(ports, op))
        .collect();
    packets.push(Packet::data(ports, b"early"));
    for flags in [0, RECEIVES, SENDS, NEITHER, u32::MAX] {
        packets.push(Packet::shutdown(ports, flags));
    }
    packets
}

impl Scene {
    /// There is no connection of `ports`: what is asked about it is refused.
    fn is_gone(&self, ports: Ports, when: &str) {
        self.guest.send(&Packet::new(ports, CREDIT_REQUEST));
        assert_eq!(self.guest.expect(ports, RST).length, 0, "{when}");
        self.guest.expect_silence(when);
    }
}

#[test]
fn case_19_what_comes_before_the_request_is_refused_and_the_request_is_served_after_it() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let ports = Ports { guest: guest.fresh_port(), host: OPEN };
    for packet in early(ports) {
        let when = format!("{packet:?} before the request");
        guest.send(&packet);
        guest.expect(ports, RST);
        guest.expect_silence(&when);
        scene.nobody_came(&when);
        let (_, mut stream) = guest.dial_from(ports.guest, &scene.listener);
        guest.send(&Packet::data(ports, b"in time"));
        guest.send(&Packet::new(ports, RST));
        assert_eq!(rest(&mut stream), b"in time", "{when}");
    }
    // All of it at once, with the request among it.
    let mut packets = early(ports);
    packets.insert(4, Packet::new(ports, REQUEST));
    guest.send_all(&packets);
    let answers = guest.settle();
    assert!(
        answers.iter().all(|it| [RST, RESPONSE, CREDIT_UPDATE].contains(&it.op)),
        "{answers:?}"
    );
    let (mut stream, _) = scene.listener.accept().unwrap();
    guest.send(&Packet::new(ports, RST));
    assert_eq!(rest(&mut stream), b"early");
    scene.nobody_came("all at once");
    scene.ends_well("before the request");
}

#[test]
fn case_19_what_comes_before_the_response_ends_that_connection_only() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let nowhere = Ports { guest: 80, host: 0 };
    let wrong = early(nowhere).into_iter().filter(|packet| packet.op != RESPONSE);
    for packet in wrong.chain([Packet::new(nowhere, REQUEST)]) {
        let when = format!("{packet:?} before the response");
        let mut program = guest.program("CONNECT 80\nhello");
        let ports = guest.dialled(80);
        guest.send(&Packet { to_port: ports.host, ..packet });
        assert_eq!(rest(&mut program), b"", "{when}");
        guest.expect(ports, RST);
        // Now it comes too late.
        guest.send(&Packet::new(ports, RESPONSE));
        guest.expect(ports, RST);
        guest.expect_silence(&when);
    }
    // A refusal is none of this.
    let mut program = guest.program("CONNECT 80\n");
    let ports = guest.dialled(80);
    guest.send(&Packet::new(ports, RST));
    assert_eq!(rest(&mut program), b"");
    guest.expect_silence("a refusal");
    scene.ends_well("before the response");
}

#[test]
fn case_19_a_request_twice_ends_that_connection_and_lets_nobody_in_twice() {
    let scene = Scene::new();
    let guest = &scene.guest;
    for together in [true, false] {
        let ports = Ports { guest: guest.fresh_port(), host: OPEN };
        let request = Packet::new(ports, REQUEST);
        if together {
            guest.send_all(&[request.clone(), request]);
        } else {
            guest.send(&request);
            guest.expect(ports, RESPONSE);
            guest.send(&request);
        }
        let ops: Vec<u16> = guest.settle().iter().map(|packet| packet.op).collect();
        assert!(ops == [RST] || ops == [RESPONSE, RST], "{ops:?}");
        let (mut stream, _) = scene.listener.accept().unwrap();
        assert_eq!(rest(&mut stream), b"");
        scene.nobody_came("a request twice");
        scene.is_gone(ports, "a request twice");
    }
    // Of those that the host has dialled, too.
    let (ports, mut program) = guest.accept(80);
    guest.send(&Packet::new(ports, REQUEST));
    assert_eq!(rest(&mut program), b"");
    guest.expect(ports, RST);
    scene.is_gone(ports, "a request for what the host dialled");
    scene.ends_well("a request twice");
}

#[test]
fn case_19_a_response_that_nobody_waits_for_ends_that_connection_only() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let (ports, mut stream) = scene.open();
    guest.send(&Packet::new(ports, RESPONSE));
    assert_eq!(rest(&mut stream), b"");
    guest.expect(ports, RST);
    // Twice, to a program of the host.
    let mut program = guest.program("CONNECT 80\n");
    let ports = guest.dialled(80);
    guest.send_all(&[Packet::new(ports, RESPONSE), Packet::new(ports, RESPONSE)]);
    assert_eq!(line(&mut program), format!("OK {}\n", ports.host));
    assert_eq!(rest(&mut program), b"", "it is told once");
    guest.expect(ports, RST);
    // For a port that is not the one it was asked for, and for the connection of another program.
    let mut program = guest.program("CONNECT 80\n");
    let ports = guest.dialled(80);
    for others in [Ports { guest: 81, ..ports }, Ports { host: ports.host + 1, ..ports }] {
        guest.send(&Packet::new(others, RESPONSE));
        guest.expect(others, RST);
    }
    guest.send(&Packet::new(ports, RESPONSE));
    assert_eq!(line(&mut program), format!("OK {}\n", ports.host));
    guest.send(&Packet::new(ports, RST));
    assert_eq!(rest(&mut program), b"");
    scene.ends_well("responses unasked");
}

#[test]
fn case_19_what_comes_after_the_guests_own_end_ends_that_connection_only() {
    let scene = Scene::new();
    let guest = &scene.guest;
    for flags in [SENDS, NEITHER] {
        let (ports, mut stream) = scene.open();
        guest.send_all(&[
            Packet::data(ports, b"last"),
            Packet::shutdown(ports, flags),
            Packet::data(ports, b"and more"),
        ]);
        assert_eq!(rest(&mut stream), b"last");
        let answers = guest.settle();
        assert!(answers.iter().all(|it| it.op == RST && it.ports() == ports), "{answers:?}");
        scene.is_gone(ports, "data after the end");
    }
    // Also while what came before it still waits for the program, so that the end does, too.
    let (ports, mut stream) = scene.open();
    let sent = fill(guest, ports);
    stream.read_exact(&mut vec![0; 20_000]).unwrap();
    guest.settle();
    guest.send_all(&[Packet::shutdown(ports, SENDS), Packet::new(ports, CREDIT_REQUEST)]);
    let told = guest.receive_that("credit", |it| it.ports() == ports && it.op == CREDIT_UPDATE);
    // There would be room for more.
    let waits = sent - told.taken as usize;
    assert!((1..BUFFER as usize - 100).contains(&waits), "{waits} bytes wait");
    guest.send(&Packet::data(ports, b"and more"));
    guest.receive_that("a reset", |it| it.ports() == ports && it.op == RST);
    rest(&mut stream);
    guest.settle();
    scene.is_gone(ports, "data after an end that waits");
    // An end may be told again, or in parts, or of nothing.
    let (ports, mut stream) = scene.open();
    for flags in [0, !NEITHER, SENDS, SENDS, 0, SENDS | !NEITHER] {
        guest.send(&Packet::shutdown(ports, flags));
    }
    assert_eq!(rest(&mut stream), b"");
    guest.expect_silence("an end of one direction");
    stream.write_all(b"still here").unwrap();
    assert_eq!(guest.data(ports, 10), b"still here");
    guest.send(&Packet::shutdown(ports, RECEIVES));
    guest.expect(ports, RST);
    assert!(stream.write_all(b"?").is_err(), "nobody would read it");
    scene.is_gone(ports, "an end in parts");
    // Who receives no more is sent nothing, though there is something, and room for it.
    let (ports, mut stream) = scene.open();
    guest.send(&Packet::new(ports, CREDIT_UPDATE).credit(0, 0));
    stream.write_all(b"too late").unwrap();
    guest.send(&Packet::shutdown(ports, RECEIVES));
    guest.expect_silence("a guest that receives no more");
    guest.is_idle("a guest that receives no more");
    assert!(stream.write_all(b"?").is_err(), "nobody would read it");
    guest.send(&Packet::new(ports, RST));
    assert_eq!(rest(&mut stream), b"");
    scene.is_gone(ports, "a guest that receives no more");
    // After the end of all, nothing is answered but what asks.
    guest.send(&Packet::new(ports, RST));
    guest.expect_silence("a reset of what is over");
    scene.ends_well("after the end");
}

#[test]
fn case_19_both_ends_shut_down_at_once_and_the_connection_ends_once() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let mut seen = [0; 4];
    for round in 0..240 {
        let when = format!("round {round}");
        let (ports, mut stream) = scene.open();
        let flags = [RECEIVES, SENDS, NEITHER][round % 3];
        let mut packets = vec![Packet::data(ports, b"last"), Packet::shutdown(ports, flags)];
        if round % 5 == 0 {
            packets.push(Packet::new(ports, RST));
        }
        if round % 2 == 0 {
            stream.write_all(b"last").unwrap();
        }
        // Who is first is open, and both are on their way.
        let how = round / 3 % 4;
        if round % 7 < 4 {
            guest.send_later(&packets);
        }
        // It may have been shut down already, by the other end.
        let _ = match how {
            1 => stream.shutdown(Shutdown::Write),
            2 => stream.shutdown(Shutdown::Read),
            3 => stream.shutdown(Shutdown::Both),
            _ => Ok(()),
        };
        let _open = (how > 0).then_some(stream);
        if round % 7 >= 4 {
            guest.send_later(&packets);
        }
        guest.await_taken();
        let mut answers = guest.settle();
        guest.send(&Packet::new(ports, RST));
        answers.extend(guest.settle());
        assert!(answers.iter().all(|it| it.ports() == ports), "{when}: {answers:?}");
        let count = |op| answers.iter().filter(|it| it.op == op).count();
        assert!(count(RST) <= 2, "{when}: {answers:?}");
        assert!(count(SHUTDOWN) <= 2, "{when}: {answers:?}");
        let data: Vec<u8> = answers.iter().flat_map(|it| it.payload.clone()).collect();
        assert!(b"last".starts_with(&data), "{when}: {answers:?}");
        seen[count(RST).min(3)] += 1;
        scene.is_gone(ports, &when);
    }
    assert!(seen[1] > 0, "a connection ended by itself: {seen:?}");
    scene.nobody_came("both at once");
    scene.ends_well("both at once");
}

/// What is left in the program's stream when the guest ends the connection is still its own.
#[test]
fn case_19_the_guests_end_loses_nothing_that_it_has_sent() {
    let scene = Scene::new();
    let guest = &scene.guest;
    for last in [Packet::shutdown, |ports, _| Packet::new(ports, RST)] {
        let (ports, mut stream) = scene.open();
        let sent = super::guest::pattern(40_000);
        guest.send_all(&[Packet::data(ports, &sent), last(ports, NEITHER)]);
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert!(heard == sent, "{} of {}", heard.len(), sent.len());
        guest.settle();
        scene.is_gone(ports, "after its data");
    }
    scene.ends_well("data before the end");
}
