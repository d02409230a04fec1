//! Cases 23 and 24: programs of the host that stall, leave, end a half, or flood; whoever is stuck costs
//! nothing.

use super::credit::fill;
use super::crowds::open_many;
use super::guest::{LIMIT, flood, line, pattern, rest};
use super::packet::{
    BUFFER, CREDIT_UPDATE, NEITHER, Packet, Ports, REQUEST, RESPONSE, RST, RW, SENDS, SHUTDOWN,
};
use super::scene::{OPEN, Scene};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[test]
fn case_23_a_program_that_stalls_holds_the_guest_back_and_loses_nothing() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let (ports, mut stream) = scene.open();
    let sent = fill(guest, ports);
    assert!(sent >= BUFFER as usize);
    guest.is_idle("it stalls");
    scene.others_are_unharmed("it stalls");
    // It takes a little, and then nothing more.
    let chunk = pattern(10_000);
    let mut heard = vec![0; 10_000];
    stream.read_exact(&mut heard).unwrap();
    assert!(heard == chunk);
    guest.is_idle("it stalls again");
    let mut heard = vec![0; sent - 10_000];
    stream.read_exact(&mut heard).unwrap();
    // The guest is told, without asking, of so much room that it can go on.
    guest.receive_that("credit", |it| {
        it.ports() == ports
            && it.op == CREDIT_UPDATE
            && sent - it.taken as usize <= BUFFER as usize / 2
    });
    guest.send(&Packet::data(ports, b"on"));
    stream.read_exact(&mut heard[..2]).unwrap();
    assert_eq!(&heard[..2], b"on");
    // What it has not read when the guest ends the connection is its own all the same.
    let more = fill_on(&scene, ports, sent + 2);
    guest.send(&Packet::shutdown(ports, NEITHER));
    guest.is_idle("the end waits");
    assert_eq!(rest(&mut stream).len(), more);
    guest.receive_that("the end", |it| it.ports() == ports && it.op == RST);
    guest.settle();
    scene.ends_well("stalls");
}

/// Sends until no credit is left, when so much has been sent before and taken; how much that was.
fn fill_on(scene: &Scene, ports: Ports, before: usize) -> usize {
    let guest = &scene.guest;
    let (mut sent, mut taken) = (before, before);
    for packet in guest.settle() {
        assert_eq!((packet.ports(), packet.op), (ports, CREDIT_UPDATE));
    }
    loop {
        guest.send(&Packet::new(ports, super::packet::CREDIT_REQUEST));
        let wanted = |it: &Packet| it.ports() == ports && it.op == CREDIT_UPDATE;
        let told = guest.receive_that("credit", wanted).taken as usize;
        let room = BUFFER as usize - (sent - told);
        if room == 0 && told == taken {
            return sent - before;
        }
        taken = told;
        if room > 0 {
            guest.send(&Packet::data(ports, &pattern(room)));
            sent += room;
        }
    }
}

#[test]
fn case_23_a_program_that_leaves_is_told_of_once_whatever_was_on_its_way() {
    let scene = Scene::new();
    let guest = &scene.guest;
    // Before it has said anything, within a word, and after it.
    for words in ["", "CONN", "CONNECT 80", "CONNECT 80\n"] {
        drop(guest.program(words));
    }
    let ports = guest.dialled(80);
    let after = guest.receive_that("the end", |it| it.ports() == ports);
    assert_eq!(after.op, RST);
    guest.send(&Packet::new(ports, RESPONSE));
    guest.expect(ports, RST);
    guest.expect_silence("before the response");
    for (to_guest, to_host) in [(false, false), (true, false), (false, true), (true, true)] {
        let when = format!("data to the guest: {to_guest}, to the host: {to_host}");
        let (ports, mut stream) = scene.open();
        if to_host {
            // It is not read, and some of it waits in the monitor.
            fill(guest, ports);
        }
        if to_guest {
            stream.write_all(b"last").unwrap();
        }
        drop(stream);
        let ends = |it: &Packet| it.ports() == ports && [RST, SHUTDOWN].contains(&it.op);
        let end = guest.receive_that("the end", ends);
        assert!(end.op == RST || end.flags == NEITHER, "{when}: {end:?}");
        // Before it came what was said before it.
        let before = guest.settle();
        let data: Vec<u8> = before.iter().flat_map(|it| it.payload.clone()).collect();
        let whole = to_guest && end.op == SHUTDOWN;
        assert!(data == b"last" || !whole && data.is_empty(), "{when}: {before:?}");
        // Data that cannot be taken any more is answered with the end.
        guest.send(&Packet::data(ports, b"too late"));
        let late = guest.settle();
        assert!(late.iter().all(|it| [RST, SHUTDOWN].contains(&it.op)), "{when}: {late:?}");
        guest.send(&Packet::new(ports, RST));
        guest.expect_silence(&when);
    }
    scene.ends_well("programs that leave");
}

#[test]
fn case_23_a_half_that_is_ended_leaves_the_other_and_a_guest_that_does_not_care_costs_nothing() {
    let scene = Scene::new();
    let guest = &scene.guest;
    // The host's half.
    let (ports, mut stream) = scene.open();
    stream.write_all(b"last").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.data(ports, 4), b"last");
    assert_eq!(guest.expect(ports, SHUTDOWN).flags, SENDS);
    guest.is_idle("a half");
    guest.send(&Packet::data(ports, b"still here"));
    let mut heard = [0; 10];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");
    // Then the other, of which the guest is told, and does not care.
    drop(stream);
    assert_eq!(guest.expect(ports, SHUTDOWN).flags, NEITHER);
    guest.is_idle("the guest does not care");
    guest.expect_silence("the guest does not care");
    guest.send(&Packet::new(ports, RST));

    // The guest's half.
    let (ports, mut stream) = scene.open();
    guest.send(&Packet::shutdown(ports, SENDS));
    assert_eq!(rest(&mut stream), b"");
    guest.is_idle("the guest's half");
    stream.write_all(b"still here").unwrap();
    assert_eq!(guest.data(ports, 10), b"still here");
    stream.shutdown(Shutdown::Write).unwrap();
    // Now nothing goes either way.
    assert_eq!(guest.expect(ports, SHUTDOWN).flags, NEITHER);
    guest.is_idle("both halves");
    drop(stream);
    guest.is_idle("both halves, and nobody there");
    guest.expect_silence("both halves, and nobody there");
    guest.send(&Packet::new(ports, RST));

    // A program that reads no more, and does not say so to the monitor before it writes.
    let (ports, stream) = scene.open();
    stream.shutdown(Shutdown::Read).unwrap();
    guest.is_idle("nobody reads");
    guest.send(&Packet::data(ports, b"for nobody"));
    guest.expect(ports, RST);
    guest.expect_silence("nobody reads");
    scene.ends_well("halves");
}

#[test]
fn case_23_programs_that_flood_starve_nobody_and_are_held_in_their_streams() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let flooded = open_many(guest, &scene.listener, 20);
    let all: Vec<Packet> = flooded
        .iter()
        .map(|(ports, _)| Packet::new(*ports, CREDIT_UPDATE).credit(u32::MAX, 0))
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let programs: Vec<_> = flooded
        .into_iter()
        .map(|(_, mut stream)| {
            let stop = stop.clone();
            thread::spawn(move || {
                stream.set_write_timeout(Some(LIMIT)).unwrap();
                while !stop.load(Ordering::Relaxed) && stream.write_all(&[0; 4096]).is_ok() {}
                stream
            })
        })
        .collect();
    guest.send_all(&all);
    let (ports, mut speaks) = {
        // In the middle of it.
        let ports = Ports { guest: guest.fresh_port(), host: OPEN };
        guest.send(&Packet::new(ports, REQUEST));
        guest.receive_that("a response", |it| it.ports() == ports && it.op == RESPONSE);
        (ports, scene.listener.accept().unwrap().0)
    };
    let before = guest.puppet.usage();
    let mut others = 0;
    for round in 0..30 {
        // It is not what was kept from before that is counted.
        guest.drain();
        speaks.write_all(b"me too").unwrap();
        loop {
            let packet = guest.receive();
            if packet.ports() == ports {
                assert_eq!(packet.payload, b"me too");
                break;
            }
            assert_eq!(packet.op, RW);
            others += 1;
            assert!(others < 30 * 5_000, "it is starved in round {round}");
        }
    }
    assert!(others > 0, "nobody floods");
    let after = guest.puppet.usage();
    assert!(after.memory < before.memory + crate::KEPT, "{before:?} {after:?}");
    stop.store(true, Ordering::Relaxed);
    let ends: Vec<Packet> = all.iter().map(|it| Packet { op: RST, ..it.clone() }).collect();
    guest.send_all(&ends);
    guest.send(&Packet::new(ports, RST));
    for program in programs {
        drop(program.join().unwrap());
    }
    guest.settle();
    scene.ends_well("floods");
}

#[test]
fn case_23_programs_that_do_not_say_whom_they_want_keep_nobody_out_for_long() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let before = guest.puppet.usage();
    // Nonsense ends at once.
    for words in ["HELLO\n", "CONNECT\n", "CONNECT -1\n", "CONNECT 4294967296\n", "\n", "\0\n"] {
        assert_eq!(rest(&mut guest.program(words)), b"", "{words:?}");
    }
    let mut endless = guest.program("");
    let _ = endless.write_all(&[b'C'; 100_000]);
    assert_eq!(rest(&mut endless), b"");
    // Many who come and go, and say something or nothing.
    for round in 0..500 {
        drop(guest.program(["", "C", "CONNECT", "CONNECT x\n"][round % 4]));
    }
    guest.expect_silence("nonsense");
    // More than can be heard at once, who say nothing, or a letter from time to time.
    let mut idle: Vec<UnixStream> = (0..80).map(|_| guest.program("CONNECT 8")).collect();
    guest.is_idle("nobody speaks");
    let during = guest.puppet.usage().descriptors;
    // Nor did it rest only when their time was over.
    assert_eq!(during, before.descriptors + 64, "so many at once");
    scene.others_are_unharmed("nobody speaks");
    let (ports, _program) = guest.accept(81);
    guest.send(&Packet::new(ports, RST));
    for program in &mut idle {
        assert_eq!(rest(program), b"");
    }
    crate::is_flat(&guest.puppet, &before, "nobody speaks");
    scene.ends_well("nobody speaks");
}

#[test]
fn case_24_whoever_is_stuck_costs_no_cpu() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let mut kept = Vec::new();
    let open = || scene.open();

    let (ports, stream) = open();
    fill(guest, ports);
    guest.is_idle("a program that does not read");
    kept.push(stream);

    let (ports, stream) = open();
    fill(guest, ports);
    guest.send(&Packet::shutdown(ports, SENDS));
    guest.is_idle("a program that does not read, and the guest's end behind it");
    kept.push(stream);

    let (ports, mut stream) = open();
    guest.send(&Packet::new(ports, CREDIT_UPDATE).credit(0, 0));
    flood(&mut stream);
    guest.is_idle("a guest that grants nothing");
    kept.push(stream);

    let (ports, mut stream) = open();
    guest.send(&Packet::new(ports, CREDIT_UPDATE).credit(0, 0));
    flood(&mut stream);
    drop(stream);
    guest.is_idle("a guest that grants nothing to a program that has left");

    let (ports, stream) = open();
    drop(stream);
    guest.expect(ports, SHUTDOWN);
    guest.is_idle("a program that has left, and a guest that does not care");

    let (ports, stream) = open();
    fill(guest, ports);
    drop(stream);
    guest.receive_that("the end", |it| it.ports() == ports && it.op != CREDIT_UPDATE);
    guest.is_idle("a program that has left what was sent to it");

    let (ports, stream) = open();
    stream.shutdown(Shutdown::Write).unwrap();
    guest.expect(ports, SHUTDOWN);
    guest.is_idle("a program that says no more");
    kept.push(stream);

    let (ports, stream) = open();
    guest.send(&Packet::shutdown(ports, SENDS));
    stream.shutdown(Shutdown::Write).unwrap();
    guest.expect(ports, SHUTDOWN);
    guest.is_idle("two that have no more to say");
    kept.push(stream);

    let program = guest.program("CONNECT 80\n");
    guest.dialled(80);
    guest.is_idle("a guest that does not answer");
    kept.push(program);
    let mut program = guest.program("CONNECT 80\n");
    guest.dialled(80);
    flood(&mut program);
    guest.is_idle("a guest that does not answer who says a lot");
    kept.push(program);
    let (_, mut program) = guest.accept(80);
    program.write_all(b"x").unwrap();
    assert_eq!(guest.receive().op, RW);
    kept.push(program);

    // More than can be heard; none of them is waited for with open eyes.
    kept.extend((0..70).map(|_| guest.program("CONNECT ")));
    guest.is_idle("programs that do not say whom they want");
    scene.others_are_unharmed("all are stuck");

    // Those who come now are not even looked at.
    let before = guest.puppet.usage();
    thread::sleep(std::time::Duration::from_millis(500));
    let after = guest.puppet.usage();
    // Once for each of those whose time is over by now, and for each who takes the place.
    assert!(after.runs - before.runs <= 200, "{before:?} {after:?}");
    drop(kept);
    guest.settle();
    scene.ends_well("all are stuck");
}

/// A line that comes letter by letter is a line.
#[test]
fn case_24_a_slow_program_is_served_and_waited_for_in_sleep() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let mut program = guest.program("");
    for letter in "CONNECT 80\n".chars() {
        guest.is_idle("between two letters");
        program.write_all(letter.to_string().as_bytes()).unwrap();
    }
    let ports = guest.dialled(80);
    guest.send(&Packet::new(ports, RESPONSE));
    assert_eq!(line(&mut program), format!("OK {}\n", ports.host));
    guest.send(&Packet::new(ports, RST));
    assert_eq!(rest(&mut program), b"");
    scene.ends_well("a slow program");
}
