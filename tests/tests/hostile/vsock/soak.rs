//! Figures: many connections at once, many one after the other, and much data through many of them.
//!
//! A part of them is played unless `VMM_SOAK` is set. The packets are a puppet's here, too, and go
//! through the whole monitor, as do those of the cases.

use super::credit::fill;
use super::crowds::{allow_descriptors, open_many};
use super::guest::{BUFFERS_MAX, LIMIT, flood, rest};
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
use std::time::{Duration, Instant};
use tests::level::{Level, say, whole};

#[test]
fn a_thousand_connections_at_once_and_ten_thousands_one_after_the_other_leave_nothing_behind() {
    allow_descriptors();
    let scene = Scene::new();
    let guest = &scene.guest;
    let before = guest.puppet.usage();

    let rounds = if whole() { 5 } else { 2 };
    let mut level = None;
    for round in 0..rounds {
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
        // What the first thousand have taken may be kept for those who follow.
        let level = level.get_or_insert_with(|| {
            Level::of(guest.puppet.pid(), "times a thousand connections more")
        });
        if round > 0 {
            level.sample(round);
        }
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
        // Those that the guest has ended last until it has taken the answers.
        guest.puppet.wait_for("all ends", || {
            let answers = guest.drain();
            assert!(answers.iter().all(|it| [RST, SHUTDOWN].contains(&it.op)), "{answers:?}");
            guest.puppet.usage().descriptors == before.descriptors
        });
        assert_eq!(guest.puppet.usage().threads, before.threads);
    }
    level.expect("there was a round").is_flat();

    // Opened, used and closed, each by another end.
    let count = if whole() { 100_000 } else { 10_000 };
    let each = 64;
    let mut level = None;
    for round in 0..=count / each {
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
        match &mut level {
            None => {
                let now = guest.puppet.usage();
                assert_eq!((now.threads, now.descriptors), (before.threads, before.descriptors));
                level = Some(Level::of(guest.puppet.pid(), "connections, one after the other"));
            }
            Some(level) if round % 10 == 0 => level.sample(round * each),
            Some(_) => {}
        }
    }
    level.expect("there was a round").is_flat();
    scene.nobody_came("the last");
    scene.ends_well("so many connections");
}

/// What is spent on many who are stuck, each in one of the ways that last: by a program that does not
/// read, by a guest that grants nothing, by one that does not answer.
#[test]
fn case_24_many_who_are_stuck_cost_less_than_a_hundredth_of_a_processor() {
    let scene = Scene::new();
    let guest = &scene.guest;
    let mut kept = Vec::new();
    for _ in 0..20 {
        let (ports, stream) = scene.open();
        fill(guest, ports);
        kept.push(stream);
        let (_, mut stream) = scene.open_with(0, 0);
        flood(&mut stream);
        kept.push(stream);
        let mut program = guest.program("CONNECT 80\n");
        guest.dialled(80);
        flood(&mut program);
        kept.push(program);
    }
    guest.expect_silence("all are stuck");
    let before = guest.puppet.usage();
    let begun = Instant::now();
    thread::sleep(Duration::from_secs(if whole() { 60 } else { 2 }));
    let (after, elapsed) = (guest.puppet.usage(), begun.elapsed());
    // Those that have ended took their time along.
    assert_eq!((after.threads, after.descriptors), (before.threads, before.descriptors));
    let spent = after.time - before.time;
    let share = spent.as_secs_f64() / elapsed.as_secs_f64();
    say(&format!(
        "{} who are stuck: {spent:?} of a processor's time in {elapsed:?}, {:.4} %",
        kept.len(),
        share * 100.0
    ));
    assert!(share < 0.01, "{spent:?} of {elapsed:?}: {before:?} {after:?}");
    scene.others_are_unharmed("all are stuck");
    drop(kept);
    guest.settle();
    scene.ends_well("all are stuck");
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
                let written = writes.write_all(data.at(2 * which + 1, at, length));
                assert!(written.is_ok(), "connection {which}: {written:?} at {at}");
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
    ports: Ports,
    which: u32,
    /// Bytes that are to go each way.
    total: usize,
    /// Sent; of that taken by the host; taken from it; of that told to the host.
    sent: usize,
    told: usize,
    taken: usize,
    said: usize,
    over: bool,
}

impl Transfer {
    fn new(ports: Ports, which: u32, total: usize) -> Self {
        Self { ports, which, total, sent: 0, told: 0, taken: 0, said: 0, over: false }
    }

    /// Everything was sent, and has arrived, and the other way.
    fn is_whole(&self) -> bool {
        self.told == self.total && self.taken == self.total
    }

    fn hear(&mut self, packet: &Packet, source: &Source, answers: &mut Vec<Packet>) {
        self.told = packet.taken as usize;
        assert!(self.told <= self.sent, "more was taken than was sent: {packet:?}");
        match packet.op {
            RW => {
                let wanted = source.at(2 * self.which + 1, self.taken, packet.payload.len());
                assert!(packet.payload == wanted, "connection {}: other data", self.which);
                self.taken += packet.payload.len();
            }
            RST => self.over = true,
            SHUTDOWN if packet.flags == NEITHER => {
                answers.push(Packet::new(self.ports, RST));
                self.over = true;
            }
            _ => {}
        }
        assert!(!self.over || self.which >= STAYING || self.is_whole(), "{packet:?}");
    }

    fn speak(&mut self, source: &Source, packets: &mut Vec<Packet>) {
        let room = BUFFER as usize - (self.sent - self.told);
        let length = room.min(self.total - self.sent);
        let credit = |packet: Packet| packet.credit(BUFFER, self.taken as u32);
        // Not crumb by crumb.
        if length >= 16 << 10 || length > 0 && self.sent + length == self.total {
            let data = source.at(2 * self.which, self.sent, length);
            packets.push(credit(Packet::data(self.ports, data)));
            self.sent += length;
        } else if self.taken - self.said >= BUFFER as usize / 2 {
            packets.push(credit(Packet::new(self.ports, CREDIT_UPDATE)));
        } else {
            return;
        }
        self.said = self.taken;
    }
}

/// Connections whose programs stay to the end, and those whose programs close on the way.
const STAYING: u32 = 50;
const LEAVING: u32 = 100;

/// Every byte that arrives is compared with the one that was sent.
#[test]
fn megabytes_through_fifty_connections_both_ways_arrive_whole_while_a_hundred_programs_leave() {
    allow_descriptors();
    let scene = Scene::new();
    let guest = &scene.guest;
    let total = if whole() { 20 << 20 } else { 1 << 20 };
    guest.starve();
    guest.post(BUFFERS_MAX, HEADER as u32 + PAYLOAD_MAX as u32);
    let source = Source::new();
    let before = guest.puppet.usage();
    let (mut programs, mut transfers) = (Vec::new(), BTreeMap::new());
    let open = open_many(guest, &scene.listener, (STAYING + LEAVING) as usize);
    for (which, (ports, stream)) in (0_u32..).zip(open) {
        // Those who leave do it somewhere between the first byte and the last.
        let part = which.checked_sub(STAYING).map(|index| total / 101 * (index as usize + 1));
        let until = part.unwrap_or(total);
        programs.push((until, Program::start(stream, which, total, until, &source)));
        transfers.insert(ports, Transfer::new(ports, which, total));
    }
    let mut most = 0;
    for round in 0_usize.. {
        let mut packets = Vec::new();
        let came = guest.drain();
        for packet in &came {
            let transfer = transfers.get_mut(&packet.ports()).expect("it is one of these");
            transfer.hear(packet, &source, &mut packets);
        }
        let mut unfinished = false;
        for transfer in transfers.values_mut().filter(|it| !it.over && !it.is_whole()) {
            transfer.speak(&source, &mut packets);
            unfinished = true;
        }
        if !unfinished {
            guest.send_all(&packets);
            break;
        }
        if came.is_empty() && packets.is_empty() {
            // It is the programs' turn; they do not wait for ever.
            thread::sleep(Duration::from_micros(200));
        }
        guest.send_all(&packets);
        if round % 64 == 0 {
            most = most.max(guest.puppet.usage().memory);
        }
    }
    for (until, program) in programs {
        program.sends.join().unwrap();
        let taken = program.takes.join().unwrap();
        assert!(taken == total || until < total);
    }
    assert!(transfers.values().all(|it| it.which >= STAYING || it.is_whole()));
    let ends: Vec<Packet> = transfers.keys().map(|ports| Packet::new(*ports, RST)).collect();
    guest.send_all(&ends);
    guest.settle();
    let after = guest.puppet.usage();
    assert_eq!((after.threads, after.descriptors), (before.threads, before.descriptors));
    // A buffer of each connection, twice for its way of growing, and what an allocator keeps.
    let buffers = u64::from((STAYING + LEAVING) * 2 * BUFFER / 1024);
    assert!(most < before.memory + buffers + crate::KEPT, "{before:?}: {most} KiB");
    let memory = (before.memory, most, after.memory);
    say(&format!(
        "{total} bytes each way through each of {STAYING} connections, while {LEAVING} programs leave; \
         memory in KiB before, at most, after: {memory:?}"
    ));
    scene.ends_well("so much data");
}
