//! Figures: many connections at once, many one after the other, and much data through many of them.
//!
//! A part of them is played unless `VMM_SOAK` is set.

use super::crowds::{allow_descriptors, open_many};
use super::guest::{BUFFERS_MAX, Guest, LIMIT, rest};
use super::packet::{
    BUFFER, CREDIT_UPDATE, HEADER, NEITHER, PAYLOAD_MAX, Packet, Ports, REQUEST, RESPONSE, RST, RW,
    SHUTDOWN,
};
use super::scene::{OPEN, Scene};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tests::puppet::Usage;

/// Whether all of it is to be played.
fn whole() -> bool {
    std::env::var_os("VMM_SOAK").is_some()
}

/// That a figure has not grown: of so many samples, those of the last half are not above those of the
/// first, but for `noise`.
fn is_level(samples: &[u64], noise: u64, what: &str) {
    let (first, last) = samples.split_at(samples.len() / 2);
    let (before, after) = (first.iter().max().unwrap(), last.iter().max().unwrap());
    assert!(*after <= before + noise, "{what} grew: {samples:?}");
}

#[test]
fn a_thousand_connections_at_once_and_ten_thousands_one_after_the_other_leave_nothing_behind() {
    allow_descriptors();
    let scene = Scene::new();
    let guest = &scene.guest;
    let before = guest.puppet.usage();

    let rounds = if whole() { 5 } else { 2 };
    let mut samples: Vec<Usage> = Vec::new();
    for _ in 0..rounds {
        let mut open = open_many(guest, &scene.listener, 1000);
        let during = guest.puppet.usage();
        assert_eq!(during.descriptors, before.descriptors + 1000);
        assert_eq!(during.threads, before.threads);
        for (ports, stream) in &mut open {
            stream.write_all(b"x").unwrap();
            guest.send(&Packet::data(*ports, b"y"));
            assert_eq!(guest.data(*ports, 1), b"x");
            let mut heard = [0];
            stream.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"y");
        }
        guest.is_idle("a thousand connections");
        samples.push(guest.puppet.usage());
        let ends: Vec<Packet> =
            open.iter().map(|(ports, _)| Packet::shutdown(*ports, NEITHER)).collect();
        guest.send_all(&ends[..500]);
        let half = open.split_off(500);
        drop(half);
        guest.send_all(
            &ends[500..].iter().map(|it| Packet { op: RST, ..it.clone() }).collect::<Vec<_>>(),
        );
        for (_, stream) in &mut open {
            assert_eq!(rest(stream), b"");
        }
        guest.settle();
        let after = guest.puppet.usage();
        assert_eq!((after.threads, after.descriptors), (before.threads, before.descriptors));
    }
    let memory: Vec<u64> = samples.iter().map(|it| it.memory).collect();
    is_level(&memory, crate::KEPT, "a thousand at once: memory");

    // Opened, used and closed, each by another end.
    let count = if whole() { 100_000 } else { 10_000 };
    let mut memory = Vec::new();
    let each = 64;
    for round in 0..count / each + 1 {
        let ports: Vec<Ports> =
            (0..each).map(|_| Ports { guest: guest.fresh_port(), host: OPEN }).collect();
        let packets: Vec<Packet> = ports
            .iter()
            .flat_map(|ports| [Packet::new(*ports, REQUEST), Packet::data(*ports, b"hello")])
            .collect();
        guest.send_all(&packets);
        let mut streams = Vec::new();
        for ports in &ports {
            guest.receive_that("a response", |it| it.ports() == *ports && it.op == RESPONSE);
            let (mut stream, _) = scene.listener.accept().unwrap();
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).unwrap();
            streams.push(stream);
        }
        let end = match round % 3 {
            0 => RST,
            1 => SHUTDOWN,
            _ => {
                streams.clear();
                RST
            }
        };
        let ends: Vec<Packet> = ports
            .iter()
            .map(|ports| Packet { flags: NEITHER, ..Packet::new(*ports, end) })
            .collect();
        guest.send_all(&ends);
        for stream in &mut streams {
            assert_eq!(rest(stream), b"");
        }
        let left = guest.settle();
        assert!(left.iter().all(|it| [RST, SHUTDOWN].contains(&it.op)), "{left:?}");
        if round % 10 == 9 {
            let now = guest.puppet.usage();
            assert_eq!((now.threads, now.descriptors), (before.threads, before.descriptors));
            memory.push(now.memory);
        }
    }
    is_level(&memory, crate::KEPT, "one after the other: memory");
    eprintln!("{count} connections; memory in KiB: {:?}", memory.first().zip(memory.last()));
    scene.nobody_came("the last");
    scene.ends_well("so many connections");
}

/// Data for all: from each place on it goes on, and round at the end.
struct Source {
    bytes: Vec<u8>,
}

/// Of a length that no power of two is a multiple of, so that no two connections agree for long.
const PERIOD: usize = 1_000_003;

impl Source {
    fn new() -> Arc<Self> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        bytes.extend_from_within(..PAYLOAD_MAX);
        Arc::new(Self { bytes })
    }

    /// `length` bytes of the stream `which` from `at` on; no more than a payload's.
    fn at(&self, which: u32, at: usize, length: usize) -> &[u8] {
        let from = (which as usize * 7919 + at) % PERIOD;
        &self.bytes[from..from + length]
    }
}

/// A program of the host that sends and takes so much, each byte of which it looks at, on threads of
/// its own for either direction. It closes when it has sent `until`.
struct Program {
    sends: JoinHandle<()>,
    takes: JoinHandle<usize>,
}

impl Program {
    fn start(
        stream: UnixStream,
        which: u32,
        total: usize,
        until: usize,
        source: &Arc<Source>,
    ) -> Self {
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut reads = stream.try_clone().unwrap();
        let mut writes = stream;
        let data = source.clone();
        let sends = thread::spawn(move || {
            let mut at = 0;
            while at < until {
                let length = PAYLOAD_MAX.min(until - at);
                writes.write_all(data.at(2 * which + 1, at, length)).unwrap();
                at += length;
            }
            if until < total {
                // In the middle of everything.
                let _ = writes.shutdown(Shutdown::Both);
            }
        });
        let data = source.clone();
        let takes = thread::spawn(move || {
            let mut buffer = vec![0; PAYLOAD_MAX];
            let mut at = 0;
            while at < total {
                match reads.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => {
                        let same = buffer[..length] == *data.at(2 * which, at, length);
                        assert!(same, "connection {which}: other data than was sent, at {at}");
                        at += length;
                    }
                    Err(error) => {
                        assert!(until < total, "connection {which}: {error} at {at}");
                        break;
                    }
                }
            }
            at
        });
        Self { sends, takes }
    }
}

/// What the guest has of a connection.
struct Transfer {
    which: u32,
    /// Sent; of that taken by the host; taken from it.
    sent: usize,
    told: usize,
    taken: usize,
    /// What was taken when the host was told last.
    said: usize,
    over: bool,
}

#[test]
fn megabytes_through_fifty_connections_both_ways_arrive_whole_while_a_hundred_programs_leave() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let total = if whole() { 20 << 20 } else { 1 << 20 };
    guest.post_anew(HEADER as u32 + PAYLOAD_MAX as u32);
    let source = Source::new();
    let before_programs = guest.puppet.usage();
    let mut programs = BTreeMap::new();
    let mut transfers = BTreeMap::new();
    for (which, (ports, stream)) in (0..).zip(open_many(guest, &scene.listener, 150)) {
        // Those who leave do it somewhere between a first byte and the last.
        let until = if which < 50 { total } else { total / 101 * (which as usize - 49) };
        let program = Program::start(stream, which, total, until, &source);
        programs.insert(ports, (until, program));
        let transfer = Transfer { which, sent: 0, told: 0, taken: 0, said: 0, over: false };
        transfers.insert(ports, transfer);
    }
    let mut memory = Vec::new();
    let mut rounds = 0_usize;
    let unfinished = |it: &Transfer| !it.over && (it.sent < total || it.taken < total);
    while transfers.values().any(unfinished) {
        let mut packets = Vec::new();
        let mut came = guest.drain();
        let moved = !came.is_empty();
        for packet in came.drain(..) {
            let Some(it) = transfers.get_mut(&packet.ports()) else { panic!("{packet:?}") };
            it.told = packet.taken as usize;
            assert!(it.told <= it.sent, "more was taken than was sent");
            match packet.op {
                RW => {
                    let length = packet.payload.len();
                    let same = packet.payload == source.at(2 * it.which + 1, it.taken, length);
                    assert!(same, "connection {}: other data than was sent", it.which);
                    it.taken += length;
                }
                RST | SHUTDOWN => {
                    assert!(it.which >= 50, "{packet:?}");
                    if packet.op == SHUTDOWN && packet.flags == NEITHER {
                        packets.push(Packet::new(packet.ports(), RST));
                        it.over = true;
                    } else if packet.op == RST {
                        it.over = true;
                    }
                }
                _ => {}
            }
        }
        for (ports, it) in transfers.iter_mut().filter(|(_, it)| !it.over) {
            let taken = it.taken as u32;
            if it.taken - it.said >= BUFFER as usize / 2 {
                it.said = it.taken;
                packets.push(Packet::new(*ports, CREDIT_UPDATE).credit(BUFFER, taken));
            }
            let room = BUFFER as usize - (it.sent - it.told);
            let length = room.min(total - it.sent).min(PAYLOAD_MAX);
            if length > 0 && (length >= 16 << 10 || it.sent + length == total) {
                let data = Packet::data(*ports, source.at(2 * it.which, it.sent, length));
                packets.push(data.credit(BUFFER, taken));
                it.sent += length;
                it.said = it.taken;
            }
        }
        let moves = moved || !packets.is_empty();
        guest.send_all(&packets);
        if !moves {
            // It is the programs' turn.
            thread::sleep(std::time::Duration::from_micros(200));
        }
        rounds += 1;
        if rounds % 64 == 0 {
            memory.push(guest.puppet.usage().memory);
        }
        alive(&scene, rounds);
    }
    let mut left = 0;
    for (ports, (until, program)) in programs {
        program.sends.join().unwrap_or_else(|_| assert!(until < total, "{ports:?}"));
        let taken = program.takes.join().unwrap();
        if until == total {
            assert_eq!(taken, total, "{ports:?}");
        } else {
            left += 1;
        }
    }
    assert_eq!(left, 100);
    let ends: Vec<Packet> = transfers.keys().map(|ports| Packet::new(*ports, RST)).collect();
    guest.send_all(&ends);
    guest.settle();
    let after = guest.puppet.usage();
    assert_eq!(
        (after.threads, after.descriptors),
        (before_programs.threads, before_programs.descriptors)
    );
    // A buffer of each connection, and what an allocator makes of that.
    let most = memory.iter().max().copied().unwrap_or_default();
    let buffers = 150 * 2 * u64::from(BUFFER) / 1024;
    assert!(
        most <= before_programs.memory + buffers + 20 * 1024,
        "{before_programs:?}: {memory:?}"
    );
    eprintln!(
        "{total} bytes each way; memory in KiB before {}, at most {most}",
        before_programs.memory
    );
    scene.ends_well("so much data");
}

/// Something like a bound against hanging.
fn alive(scene: &Scene, rounds: usize) {
    assert!(rounds < 4_000_000, "it never ends");
    if rounds % 1000 == 999 {
        crate::answers(&scene.guest.puppet);
    }
}

impl Guest {
    /// Posts receive buffers of another size, when those of before have been used up.
    fn post_anew(&self, room: u32) {
        self.starve();
        self.post(BUFFERS_MAX, room);
    }
}
