//! Cases 16 to 18: packets that lie about their length, their kind, or who they are of.

use super::guest::{ASIDE, BUFFERS_MAX, Guest, RECEIVE, TRANSMIT, pattern, rest};
use super::packet::{
    BUFFER, CREDIT_REQUEST, CREDIT_UPDATE, GUEST, HEADER, HOST, NEITHER, PAYLOAD_MAX, Packet,
    Ports, REQUEST, RESPONSE, RST, RW, SENDS, SHUTDOWN, STREAM,
};
use super::scene::{OPEN, Scene};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use tests::puppet::{Descriptor, linked};

/// The connection of `ports` is over: its program reads `before` and no more, and the guest is told.
fn is_over(scene: &Scene, ports: Ports, stream: &mut UnixStream, before: &[u8], when: &str) {
    let read = rest(stream);
    assert!(read == before, "{when}: {} bytes instead of {}", read.len(), before.len());
    scene.guest.expect(ports, RST);
    scene.guest.expect_silence(when);
}

/// The connection of `ports` takes data both ways.
fn serves(scene: &Scene, ports: Ports, stream: &mut UnixStream, when: &str) {
    scene.guest.send(&Packet::data(ports, b"to the host"));
    let mut heard = [0; 11];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"to the host", "{when}");
    stream.write_all(b"to the guest").unwrap();
    assert_eq!(scene.guest.data(ports, 12), b"to the guest", "{when}");
    // It may take more from here on.
    scene.guest.send(&Packet::new(ports, CREDIT_UPDATE).credit(u32::MAX, 0));
}

#[test]
fn case_16_a_length_past_the_payload_or_over_the_longest_ends_that_connection_only() {
    let scene = Scene::new();
    for (length, payload) in [
        (1, 0),
        (2, 1),
        (1001, 1000),
        (65_536, 65_535),
        (65_537, 65_536),
        // There is so much, and more, but no packet may be so long.
        (65_537, 65_537),
        (69_000, 69_000),
        (0x1_0000_u32.wrapping_neg(), 44),
        (1 << 31, 65_536),
        (u32::MAX - 43, 10),
        (u32::MAX, 0),
        (u32::MAX, 65_536),
    ] {
        let when = format!("{length} bytes of {payload}");
        let (ports, mut stream) = scene.open();
        let lies = Packet::data(ports, &pattern(payload)).of_length(length);
        scene.guest.send(&lies);
        is_over(&scene, ports, &mut stream, b"", &when);
        // To nobody it is as wrong as any other, and asks for as many answers.
        scene.guest.send(&lies);
        scene.guest.expect(ports, RST);
    }
    scene.ends_well("lengths that lie");
}

/// Descriptors may name the same memory as often as there are descriptors.
#[test]
fn case_16_a_packet_longer_than_all_memory_is_not_even_read() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let before = guest.puppet.usage();
    let (ports, mut stream) = scene.open();
    let lump = 16 << 20;
    for count in [1, 20] {
        let packet = Packet::data(ports, b"").of_length(count * lump);
        guest.puppet.poke(ASIDE, &packet.to_bytes());
        let mut chain = vec![Descriptor::readable(ASIDE, HEADER as u32)];
        chain.extend(vec![Descriptor::readable(0, lump); count as usize]);
        guest.driver.submit(TRANSMIT, &linked(&chain, 0));
        guest.receive_that("a reset", |it| it.ports() == ports && it.op == RST);
    }
    assert_eq!(rest(&mut stream), b"");
    crate::is_flat(&guest.puppet, &before, "a packet longer than all memory");
    scene.ends_well("a packet longer than all memory");
}

#[test]
fn case_16_a_length_short_of_the_payload_takes_so_much_and_no_more() {
    let scene = Scene::new();
    let (ports, mut stream) = scene.open();
    let data = pattern(PAYLOAD_MAX);
    for (length, payload) in
        [(0, 0), (0, 100), (1, 100), (99, 100), (100, 65_536), (65_536, 65_540)]
    {
        let mut heard = vec![0; length];
        let packet = Packet::data(ports, &pattern(payload));
        scene.guest.send(&packet.of_length(length as u32));
        stream.read_exact(&mut heard).unwrap();
        assert!(heard == data[..length], "{length} of {payload}");
        serves(&scene, ports, &mut stream, "short of the payload");
        assert!(scene.guest.settle().iter().all(|it| it.op == CREDIT_UPDATE));
    }
    scene.ends_well("lengths that are short");
}

#[test]
fn case_16_a_header_split_over_descriptors_is_one() {
    let scene = Scene::new();
    let (ports, mut stream) = scene.open();
    let packet = Packet::data(ports, b"in pieces").to_bytes();
    let places: Vec<Vec<usize>> = (1..packet.len()).map(|cut| vec![cut]).collect();
    let bytes = vec![(1..packet.len()).collect()];
    let thirds = vec![vec![8, 16, 20, 24, 28, 30, 32, 36, 40, HEADER], vec![7, 23, 41, 45]];
    for cuts in places.iter().chain(&bytes).chain(&thirds) {
        for indirect in [false, true] {
            scene.guest.send_cut(&packet, cuts, indirect);
            let mut heard = [0; 9];
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"in pieces", "{cuts:?}");
        }
    }
    scene.ends_well("headers in pieces");
}

#[test]
fn case_16_a_part_of_a_header_is_no_packet() {
    let scene = Scene::new();
    let (ports, mut stream) = scene.open();
    // What would end the connection, ask for one, or be answered.
    for packet in [
        Packet::new(ports, RST),
        Packet::new(ports, REQUEST),
        Packet::data(ports, b""),
        Packet::new(Ports { guest: 1, host: OPEN }, REQUEST),
    ] {
        let bytes = packet.to_bytes();
        for length in 0..HEADER {
            scene.guest.send_cut(&bytes[..length], &[], false);
        }
        for length in [1, 20, 43] {
            scene.guest.send_cut(&bytes[..length], &(1..length).collect::<Vec<_>>(), true);
        }
    }
    scene.guest.expect_silence("parts of a header");
    scene.nobody_came("parts of a header");
    serves(&scene, ports, &mut stream, "parts of a header");
    scene.ends_well("parts of a header");
}

#[test]
fn case_16_a_payload_scattered_over_many_descriptors_arrives_whole() {
    let scene = Scene::new();
    let (ports, mut stream) = scene.open();
    let data = pattern(PAYLOAD_MAX);
    let packet = Packet::data(ports, &data).to_bytes();
    let every = |step: usize| -> Vec<usize> { (HEADER..packet.len()).step_by(step).collect() };
    for (indirect, cuts) in [
        // As Linux does: the header, then pages.
        (false, every(4096)),
        (true, every(4096)),
        // The header together with a part of the payload.
        (false, vec![HEADER + 10]),
        (false, every(4096)[1..].to_vec()),
        // As many descriptors as a queue has.
        (false, every(259)),
        (true, every(259)),
        // Bytes, then a lump.
        (true, (1..HEADER + 200).collect()),
        // Lumps of any length.
        (true, vec![1, 2, 43, 45, 46, 1000, 5096, 40_000, 65_579]),
    ] {
        assert!(cuts.len() < 256, "{} pieces", cuts.len());
        scene.guest.send_cut(&packet, &cuts, indirect);
        let mut heard = vec![0; data.len()];
        stream.read_exact(&mut heard).unwrap();
        assert!(heard == data, "in {} pieces", cuts.len() + 1);
        assert!(scene.guest.settle().iter().all(|it| it.op == CREDIT_UPDATE));
    }
    scene.ends_well("payloads in pieces");
}

#[test]
fn case_16_a_receive_buffer_of_many_pieces_is_filled_whole_and_not_beyond() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let (ports, mut stream) = scene.open();
    // Those that were posted are used up, and what comes next finds buffers in pieces.
    let shapes: [&[usize]; 6] =
        [&[1; 60], &[44, 100], &[43, 2, 100], &[10, 10, 10, 10, 10], &[30, 1, 90, 7], &[45]];
    let mut writable = vec![];
    for shape in shapes {
        let mut at = ASIDE;
        let chain: Vec<Descriptor> = shape
            .iter()
            .map(|length| {
                let piece = Descriptor::writable(at, *length as u32);
                at += *length as u64 + 3;
                piece
            })
            .collect();
        writable.push(chain);
    }
    for _ in 0..BUFFERS_MAX {
        guest.send(&Packet::new(Ports { guest: 1, host: 1 }, CREDIT_REQUEST));
    }
    let full = guest.driver.available(RECEIVE);
    guest.driver.await_used(RECEIVE, full);
    let sent = pattern(1000);
    stream.write_all(&sent).unwrap();
    let mut heard = Vec::new();
    for (round, chain) in (1_u16..).zip(writable.iter().cycle()) {
        guest.puppet.poke(ASIDE, &[0xa5; 1000]);
        guest.driver.describe(RECEIVE, 100, &linked(chain, 100));
        guest.driver.offer(RECEIVE, 100);
        guest.driver.notify(RECEIVE);
        let (_, length) = guest.driver.await_used(RECEIVE, full.wrapping_add(round));
        let memory = guest.puppet.peek(ASIDE, 1000);
        let (mut packet, mut left, mut before) = (Vec::new(), length as usize, 0);
        for piece in chain {
            let from = (piece.address - ASIDE) as usize;
            assert!(memory[before..from].iter().all(|byte| *byte == 0xa5), "between the pieces");
            let taken = left.min(piece.length as usize);
            packet.extend(&memory[from..from + taken]);
            (left, before) = (left - taken, from + taken);
        }
        assert_eq!(left, 0, "more than there was room for");
        assert!(memory[before..].iter().all(|byte| *byte == 0xa5), "behind the pieces");
        let packet = Packet::of_host(&packet);
        assert_eq!((packet.ports(), packet.op), (ports, RW));
        heard.extend(packet.payload);
        if heard.len() == sent.len() {
            break;
        }
    }
    assert!(heard == sent);
    // As it was before.
    guest.forget_all();
    guest.post(BUFFERS_MAX, 4096);
    scene.ends_well("buffers in pieces");
}

/// The flaw of CVE-2019-18960: what such a packet said of its length was believed.
#[test]
fn case_16_a_payload_on_a_packet_without_data_means_nothing() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let lies = [(u32::MAX, 0), (u32::MAX, 5000), (65_536, 65_536), (1, 0), (100, 3000), (0, 3000)];
    for (length, payload) in lies {
        let when = format!("{length} bytes of {payload}");
        let with = |packet: Packet| packet.with(&pattern(payload)).of_length(length);
        // A request is one all the same.
        let ports = Ports { guest: guest.fresh_port(), host: OPEN };
        guest.send(&with(Packet::new(ports, REQUEST)));
        guest.expect(ports, RESPONSE);
        let (mut stream, _) = scene.listener.accept().unwrap();
        guest.send(&with(Packet::new(ports, CREDIT_UPDATE)));
        guest.expect_silence(&when);
        guest.send(&with(Packet::new(ports, CREDIT_REQUEST)));
        let answer = guest.expect(ports, CREDIT_UPDATE);
        assert_eq!((answer.holds, answer.taken), (BUFFER, 0), "{when}");
        serves(&scene, ports, &mut stream, &when);
        // The end of one direction is nothing but that.
        guest.send(&with(Packet::shutdown(ports, SENDS)));
        assert_eq!(rest(&mut stream), b"", "{when}");
        guest.expect_silence(&when);
        guest.send(&with(Packet::new(ports, RST)));
        guest.expect_silence(&when);

        let mut program = guest.program("CONNECT 80\n");
        let ports = guest.dialled(80);
        guest.send(&with(Packet::new(ports, RESPONSE)));
        guest.send(&with(Packet::shutdown(ports, NEITHER)));
        is_over(&scene, ports, &mut program, format!("OK {}\n", ports.host).as_bytes(), &when);

        // To nobody.
        for op in [REQUEST, RESPONSE, RST, SHUTDOWN, CREDIT_UPDATE, CREDIT_REQUEST] {
            let nobody = Ports { guest: 1, host: 1 };
            guest.send(&with(Packet::new(nobody, op)));
            if op != RST {
                guest.expect(nobody, RST);
            }
            guest.expect_silence(&when);
        }
    }
    scene.nobody_came("payloads without data");
    scene.ends_well("payloads without data");
}

/// Operations that there are not, some of them only if their upper or lower half is looked at.
const NO_OPS: [u16; 9] = [0, 8, 9, 0xff, 0x100, 0x101, 0x105, 0x500, 0xffff];

#[test]
fn case_17_an_operation_that_there_is_not_ends_that_connection_only() {
    let scene = Scene::new();
    let guest = &scene.guest;
    for op in NO_OPS {
        let when = format!("operation {op:#x}");
        let (ports, mut stream) = scene.open();
        guest.send(&Packet::new(ports, op).with(b"data"));
        is_over(&scene, ports, &mut stream, b"", &when);
        // As for one that there never was.
        let nobody = Ports { guest: guest.fresh_port(), host: OPEN };
        guest.send(&Packet::new(nobody, op).with(b"data"));
        guest.expect(nobody, RST);
        // And for one that the host has asked for.
        let mut program = guest.program("CONNECT 80\n");
        let ports = guest.dialled(80);
        guest.send(&Packet::new(ports, op));
        is_over(&scene, ports, &mut program, b"", &when);
    }
    scene.nobody_came("operations that there are not");
    scene.ends_well("operations that there are not");
}

#[test]
fn case_17_a_type_that_there_is_not_has_no_connections() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let (ports, mut stream) = scene.open();
    for kind in [0, 2, 3, 0xff, 0x100, 0x101, 0x201, 0xffff] {
        let of_kind = |ports, op| Packet { kind, ..Packet::new(ports, op) };
        // Neither one that is new nor one that is there as a stream.
        let new = Ports { guest: guest.fresh_port(), host: OPEN };
        for (ports, op) in [REQUEST, RESPONSE, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 8]
            .into_iter()
            .flat_map(|op| [(new, op), (ports, op)])
        {
            guest.send(&Packet { flags: NEITHER, ..of_kind(ports, op) });
            let answer = guest.receive();
            assert_eq!((answer.ports(), answer.op, answer.kind), (ports, RST, kind), "{op}");
        }
        for ports in [new, ports] {
            guest.send(&of_kind(ports, RST));
        }
        guest.expect_silence("a type that there is not");
        serves(&scene, ports, &mut stream, "a type that there is not");
    }
    assert_ne!(STREAM, 0);
    scene.nobody_came("types that there are not");
    scene.ends_well("types that there are not");
}

#[test]
fn case_18_a_packet_of_or_to_somebody_else_is_heard_by_nobody() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let (ports, mut stream) = scene.open();
    let (dialled, mut program) = guest.accept(80);
    let new = Ports { guest: guest.fresh_port(), host: OPEN };
    for (from, to) in [
        (HOST, HOST),
        (HOST, GUEST),
        (GUEST, GUEST),
        (0, HOST),
        (1, HOST),
        (4, HOST),
        (GUEST, 0),
        (GUEST, 1),
        (GUEST, 4),
        (u64::MAX, HOST),
        (GUEST, u64::MAX),
        (u64::from(u32::MAX), HOST),
        (GUEST, u64::from(u32::MAX)),
        // Right, but for bits that are more than a context id has.
        (GUEST | 1 << 32, HOST),
        (GUEST, HOST | 1 << 32),
        (GUEST | 1 << 63, HOST),
        (GUEST, HOST | 1 << 63),
        (GUEST | 1 << 32, HOST | 1 << 32),
    ] {
        let ops = [REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST, 0];
        let packets: Vec<Packet> = ops
            .into_iter()
            .flat_map(|op| [ports, dialled, new].map(|ports| Packet::new(ports, op)))
            // What it says of credit is not heard, either.
            .map(|it| Packet { from, to, flags: NEITHER, ..it.credit(0, 77) }.with(b"spoofed"))
            .collect();
        guest.send_all(&packets);
    }
    guest.expect_silence("spoofed");
    scene.nobody_came("spoofed");
    serves(&scene, ports, &mut stream, "spoofed");
    serves(&scene, dialled, &mut program, "spoofed");
    scene.ends_well("spoofed");
}

/// Each machine has its own vsock: nothing that one guest says is heard in the other's.
#[test]
fn case_18_another_machines_connections_cannot_be_named() {
    let scene = Scene::new();
    let other = Guest::new();
    let listener = other.listen(OPEN);
    let guest_port = scene.guest.fresh_port();
    let (ports, mut stream) = other.dial_from(guest_port, &listener);
    for op in [RST, SHUTDOWN, RW, REQUEST, 0] {
        for from in [GUEST, GUEST + 1, HOST, 0] {
            let packet = Packet { from, flags: NEITHER, ..Packet::new(ports, op) };
            scene.guest.send(&packet.with(b"spoofed"));
        }
    }
    let answers = scene.guest.settle();
    assert!(answers.iter().all(|it| [RST, RESPONSE].contains(&it.op)), "{answers:?}");
    stream.write_all(b"unharmed").unwrap();
    assert_eq!(other.expect(ports, RW).payload, b"unharmed");
    other.expect_silence("spoofed in another machine");
    assert_eq!(other.driver.used(TRANSMIT), other.driver.available(TRANSMIT));
}
