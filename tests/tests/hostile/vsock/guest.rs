//! A guest that speaks vsock as it is told to: packets through a puppet's rings.

use super::packet::{CREDIT_UPDATE, Packet, Ports, REQUEST, RESPONSE, RST, RW, STREAM};
use crate::VMM;
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tests::puppet::{Descriptor, Driver, NAME, Puppet, Setting, linked};
use vmm::runtime::Runtime;

pub(crate) const RECEIVE: usize = 0;
pub(crate) const TRANSMIT: usize = 1;
/// The number of the device's type.
const KIND: u32 = 19;
/// Descriptors of a queue. Those behind the packets' own are for what is scattered.
pub(crate) const QUEUE: u16 = 256;
const OWN: u16 = 128;
/// Where packets lie, and where the receive buffers, each as long as the longest packet.
const PACKETS: u64 = 0x100_0000;
const BUFFERS: u64 = PACKETS + OWN as u64 * PLACE;
const PLACE: u64 = 0x1_1000;
/// Receive buffers at most, and behind them memory for whatever a test wants.
pub(crate) const BUFFERS_MAX: u16 = 64;
pub(crate) const ASIDE: u64 = BUFFERS + BUFFERS_MAX as u64 * PLACE;
/// Where nobody is, on either side.
const NOBODY: Ports = Ports { guest: 9, host: 9 };
/// A bound against hanging.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The guest, and the host around it.
pub(crate) struct Guest {
    pub(crate) puppet: Rc<Puppet>,
    pub(crate) driver: Driver,
    /// Chains of the receive queue that came back and were looked at.
    seen: Cell<u16>,
    /// Bytes of each receive buffer.
    room: Cell<u32>,
    next_port: Cell<u32>,
    /// Came while something else was looked for.
    kept: RefCell<Vec<Packet>>,
}

impl Guest {
    /// A guest with receive buffers as Linux has them.
    pub(crate) fn new() -> Self {
        let guest = Self::without_buffers();
        guest.post(BUFFERS_MAX, 4096);
        guest
    }

    pub(crate) fn without_buffers() -> Self {
        let puppet = Rc::new(Puppet::start(&Setting::new(VMM)));
        // What it will write to is there, and does not look as if the monitor grew.
        puppet.poke(PACKETS, &vec![0; (ASIDE - PACKETS) as usize + 4096 * 16]);
        let driver = Driver::of(&puppet, KIND);
        driver.bring_up(0);
        assert_eq!(driver.sizes()[..2], [u32::from(QUEUE); 2]);
        let (seen, room) = (Cell::default(), Cell::default());
        let next_port = Cell::new(10_000);
        Self { puppet, driver, seen, room, next_port, kept: RefCell::default() }
    }

    /// A port of the guest that was not used before.
    pub(crate) fn fresh_port(&self) -> u32 {
        self.next_port.replace(self.next_port.get() + 1)
    }

    // The host's side.

    /// The socket of the machine, or the one where the guest finds `port` of the host.
    pub(crate) fn path(&self, port: Option<u32>) -> PathBuf {
        let name = port.map_or("vsock.sock".into(), |port| format!("vsock.sock_{port}"));
        Runtime::at(self.puppet.runtime()).control(NAME).with_file_name(name)
    }

    /// A program of the host that listens on `port`.
    pub(crate) fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(Some(port))).unwrap()
    }

    /// A program of the host that has said `words` to the machine's socket.
    pub(crate) fn program(&self, words: &str) -> UnixStream {
        let mut program = UnixStream::connect(self.path(None)).unwrap();
        patient(&program);
        program.write_all(words.as_bytes()).unwrap();
        program
    }

    // The guest's side.

    /// Gives the device `count` receive buffers of `room` bytes each, anew whenever one was used.
    pub(crate) fn post(&self, count: u16, room: u32) {
        assert!(count <= BUFFERS_MAX && u64::from(room) <= PLACE);
        self.room.set(room);
        for index in 0..count {
            let at = BUFFERS + u64::from(index) * PLACE;
            self.driver.describe(RECEIVE, index, &[Descriptor::writable(at, room)]);
            self.driver.offer(RECEIVE, index);
        }
        self.driver.notify(RECEIVE);
    }

    /// What has come back is looked at no more.
    pub(crate) fn forget_all(&self) {
        self.seen.set(self.driver.used(RECEIVE));
    }

    /// All packets that have come; their buffers are given to the device again.
    pub(crate) fn drain(&self) -> Vec<Packet> {
        let mut packets = self.kept.take();
        let used = self.driver.used(RECEIVE);
        let count = used.wrapping_sub(self.seen.get());
        if count == 0 {
            return packets;
        }
        assert!(count <= QUEUE, "more came back than there was");
        for _ in 0..count {
            let index = self.seen.get().wrapping_add(1);
            self.seen.set(index);
            let (head, length) = self.driver.given_back(RECEIVE, index);
            assert!(length <= self.room.get(), "{length} bytes in a buffer of {}", self.room.get());
            let at = BUFFERS + u64::from(head) * PLACE;
            if length > 0 {
                packets.push(Packet::of_host(&self.puppet.peek(at, length as usize)));
            }
            self.driver.offer(RECEIVE, head as u16);
        }
        self.driver.notify(RECEIVE);
        packets
    }

    /// The next packet.
    pub(crate) fn receive(&self) -> Packet {
        self.receive_that("a packet", |_| true)
    }

    /// The next packet that is `wanted`; those before it are kept for whom they concern.
    pub(crate) fn receive_that(&self, what: &str, wanted: impl Fn(&Packet) -> bool) -> Packet {
        let mut found = None;
        self.puppet.wait_for(what, || {
            let mut packets = self.drain();
            found = packets.iter().position(&wanted).map(|index| packets.remove(index));
            self.kept.replace(packets);
            found.is_some()
        });
        found.unwrap()
    }

    /// The next packet, which must be `op` for the connection of `ports`.
    pub(crate) fn expect(&self, ports: Ports, op: u16) -> Packet {
        let packet = self.receive();
        assert_eq!((packet.ports(), packet.op, packet.kind), (ports, op, STREAM), "{packet:?}");
        packet
    }

    /// Puts packets into the transmit queue, as many as fit and no more, and does not wait.
    pub(crate) fn send_later(&self, packets: &[Packet]) {
        assert!(packets.len() <= usize::from(OWN));
        let mut descriptors = Vec::new();
        for (at, packet) in (PACKETS..).step_by(PLACE as usize).zip(packets) {
            let bytes = packet.to_bytes();
            self.puppet.poke(at, &bytes);
            descriptors.push(Descriptor::readable(at, bytes.len() as u32));
        }
        self.driver.describe(TRANSMIT, 0, &descriptors);
        let ring = self.driver.ring(TRANSMIT);
        let index = self.driver.available(TRANSMIT);
        for head in 0..packets.len() as u16 {
            let place = u64::from(index.wrapping_add(head) % QUEUE);
            self.puppet.poke(ring.available + 4 + place * 2, &head.to_le_bytes());
        }
        self.driver.set_available(TRANSMIT, index.wrapping_add(packets.len() as u16));
        self.driver.notify(TRANSMIT);
    }

    /// Whether the device has taken all that was sent.
    pub(crate) fn is_taken(&self) -> bool {
        self.driver.used(TRANSMIT) == self.driver.available(TRANSMIT)
    }

    /// Waits until the device has taken all that was sent.
    pub(crate) fn await_taken(&self) {
        self.driver.await_used(TRANSMIT, self.driver.available(TRANSMIT));
    }

    /// Sends packets, and waits until the device has taken them.
    pub(crate) fn send_all(&self, packets: &[Packet]) {
        for packets in packets.chunks(OWN.into()) {
            self.send_later(packets);
            self.await_taken();
        }
    }

    /// Sends a packet, and waits until the device has taken it.
    pub(crate) fn send(&self, packet: &Packet) {
        self.send_all(std::slice::from_ref(packet));
    }

    /// Sends bytes in one chain of descriptors that end at `cuts`, and waits until the device has
    /// taken it.
    pub(crate) fn send_cut(&self, bytes: &[u8], cuts: &[usize], indirect: bool) {
        let mut chain = Vec::new();
        let (mut from, mut at) = (0, PACKETS);
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            self.puppet.poke(at, &bytes[from..cut]);
            chain.push(Descriptor::readable(at, (cut - from) as u32));
            // Never one behind the other.
            at += (cut - from) as u64 + 5;
            from = cut;
        }
        if indirect {
            let table = tests::puppet::bytes_of(&linked(&chain, 0));
            self.puppet.poke(ASIDE, &table);
            chain = vec![Descriptor::table(ASIDE, chain.len() as u32)];
        }
        self.driver.describe(TRANSMIT, 0, &linked(&chain, 0));
        self.driver.offer(TRANSMIT, 0);
        self.driver.notify(TRANSMIT);
        self.await_taken();
    }

    /// The packets that come until the device has taken everything sent so far and has no more to say
    /// of it: each time round it answers a packet to nobody, before it says anything else, and in a round
    /// after the first that brings nothing else, whatever the packets before have caused is there.
    pub(crate) fn settle(&self) -> Vec<Packet> {
        let mut others = Vec::new();
        for round in 0.. {
            let before = others.len();
            self.send(&Packet::new(NOBODY, CREDIT_UPDATE));
            let mut answered = false;
            self.puppet.wait_for("the answer of nobody", || {
                let (answers, more): (Vec<_>, Vec<_>) =
                    self.drain().into_iter().partition(|packet| packet.ports() == NOBODY);
                assert!(answers.iter().all(|answer| answer.op == RST), "{answers:?}");
                others.extend(more);
                answered |= !answers.is_empty();
                answered
            });
            // This one is taken in a turn after that of the answer, which is complete by then.
            self.send(&Packet::new(NOBODY, RST));
            others.extend(self.drain());
            if round > 0 && others.len() == before {
                break;
            }
        }
        others
    }

    /// The device has nothing to say.
    pub(crate) fn expect_silence(&self, when: &str) {
        assert_eq!(self.settle(), [], "{when}");
    }

    /// Dials `port` of the host, where `listener` is, from `guest`; gives the host's end.
    pub(crate) fn dial_from(&self, guest: u32, listener: &UnixListener) -> (Ports, UnixStream) {
        let ports = Ports { guest, host: port_of(listener) };
        self.send(&Packet::new(ports, REQUEST));
        self.receive_that("a response", |it| it.ports() == ports && it.op == RESPONSE);
        let (stream, _) = listener.accept().unwrap();
        patient(&stream);
        (ports, stream)
    }

    /// The same from a port that was not used before.
    pub(crate) fn dial(&self, listener: &UnixListener) -> (Ports, UnixStream) {
        self.dial_from(self.fresh_port(), listener)
    }

    /// Accepts a program of the host that dials `port`.
    pub(crate) fn accept(&self, port: u32) -> (Ports, UnixStream) {
        let mut program = self.program(&format!("CONNECT {port}\n"));
        let ports = self.dialled(port);
        self.send(&Packet::new(ports, RESPONSE));
        assert_eq!(line(&mut program), format!("OK {}\n", ports.host));
        (ports, program)
    }

    /// The connection that a program of the host has asked for.
    pub(crate) fn dialled(&self, port: u32) -> Ports {
        let wanted = |it: &Packet| it.op == REQUEST && it.to_port == port;
        self.receive_that("a request", wanted).ports()
    }

    /// So many bytes of data that come for the connection of `ports`, whatever else comes.
    pub(crate) fn data(&self, ports: Ports, count: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < count {
            let wanted = |it: &Packet| it.ports() == ports && it.op == RW;
            data.extend(self.receive_that("data", wanted).payload);
        }
        assert_eq!(data.len(), count, "more data than there was");
        data
    }

    /// The monitor does nothing, from some moment on, for a while.
    pub(crate) fn is_idle(&self, when: &str) {
        let idle = |millis| {
            let before = self.puppet.usage();
            std::thread::sleep(Duration::from_millis(millis));
            self.puppet.usage().idle_since(&before)
        };
        self.puppet.wait_for(&format!("{when}: the monitor's rest"), || idle(3) && idle(150));
    }
}

/// The port that a listener is found at.
fn port_of(listener: &UnixListener) -> u32 {
    let address = listener.local_addr().unwrap();
    let name = address.as_pathname().unwrap().to_str().unwrap();
    name.rsplit('_').next().unwrap().parse().unwrap()
}

/// Whoever waits on `stream` does not wait for ever.
fn patient(stream: &UnixStream) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
}

/// A line, and nothing behind it.
pub(crate) fn line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.extend(byte);
    }
    String::from_utf8(line).unwrap()
}

/// What a program can still read until its connection's end; that it was broken off is an end.
pub(crate) fn rest(stream: &mut UnixStream) -> Vec<u8> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => rest,
    }
}

/// Writes what the kernel takes at once; how much that was.
pub(crate) fn flood(stream: &mut UnixStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut written = 0;
    while let Ok(count) = stream.write(&[b'f'; 4096]) {
        written += count;
    }
    stream.set_nonblocking(false).unwrap();
    written
}

/// Bytes that differ from their neighbours.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}
