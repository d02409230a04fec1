//! One connection, as the [model](super::model) has seen it from both ends: the rules are here.

use super::ROOM;
use crate::vsock::connection::Ports;
use crate::vsock::credit::BUF_ALLOC;
use crate::vsock::packet::{Header, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, op};
use std::io::Read;
use std::os::unix::net::UnixStream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The guest has asked, and was not answered.
    Asked,
    /// The host has asked, and was not answered.
    Offered,
    Open,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stage: Stage,
    /// The host program's end; none when it has gone.
    pub(super) host: Option<UnixStream>,
    /// Bytes sent by the guest, and of these what the host program has read.
    pub(super) sent: u64,
    read: u64,
    /// What the guest was told of the latter last.
    told: u32,
    /// The host program's end of the stream was seen.
    read_end: bool,
    /// What the host program reads before the guest's bytes.
    preamble: Vec<u8>,
    /// Bytes written by the host program, and of these what the guest has got.
    pub(super) written: u64,
    pub(super) received: u64,
    /// What the guest has granted: the size of its buffer, and what it has taken from it.
    pub(super) granted: (u32, u32),
    /// What the guest has shut down, what the host has told to have, and whether its program did.
    guest_shutdown: u32,
    host_shutdown: u32,
    pub(super) write_ended: bool,
    /// The guest may be reset: it has not kept to the protocol, or there is nobody to talk to.
    pub(super) doomed: bool,
}

impl Connection {
    pub(super) fn new(stage: Stage, host: Option<UnixStream>) -> Self {
        Self {
            stage,
            host,
            sent: 0,
            read: 0,
            told: 0,
            read_end: false,
            preamble: Vec::new(),
            written: 0,
            received: 0,
            granted: (0, 0),
            guest_shutdown: 0,
            host_shutdown: 0,
            write_ended: false,
            doomed: false,
        }
    }

    /// The host program reads up to `count` bytes; how many there were.
    pub(super) fn read(&mut self, ports: Ports, count: usize) -> usize {
        let Some(host) = &mut self.host else { return 0 };
        let mut bytes = vec![0; count];
        let length = match host.read(&mut bytes) {
            Ok(0) if count > 0 => {
                self.read_end = true;
                0
            }
            Ok(length) => length,
            Err(_) => 0,
        };
        let mut bytes = &bytes[..length];
        if !self.preamble.is_empty() {
            let early = self.preamble.len().min(bytes.len());
            assert_eq!(bytes[..early], self.preamble[..early], "the answer comes first");
            self.preamble.drain(..early);
            bytes = &bytes[early..];
        }
        check(bytes, ports, self.read, false);
        self.read += bytes.len() as u64;
        assert!(self.read <= self.sent, "what is read was sent");
        length
    }
}

impl Connection {
    pub(super) fn guest_sent(&mut self, ports: Ports, header: &Header) {
        self.granted = (header.buf_alloc.get(), header.fwd_cnt.get());
        match (self.stage, header.op.get()) {
            (Stage::Asked | Stage::Open, op::RW) => {
                self.sent += u64::from(header.length.get());
                // What the guest may send is what it was told.
                let on_the_way = self.sent - u64::from(self.told);
                self.doomed |= self.stage == Stage::Asked
                    || self.guest_shutdown & SHUTDOWN_SEND != 0
                    || on_the_way > BUF_ALLOC.into();
            }
            (Stage::Asked | Stage::Open, op::SHUTDOWN) => {
                self.guest_shutdown |= header.flags.get() & SHUTDOWN_BOTH;
                // To shut down both is to ask for a reset.
                self.doomed |= self.stage == Stage::Asked || self.guest_shutdown == SHUTDOWN_BOTH;
            }
            (Stage::Asked | Stage::Open, op::CREDIT_UPDATE | op::CREDIT_REQUEST) => {}
            (Stage::Offered, op::RESPONSE) => {
                self.stage = Stage::Open;
                self.preamble = format!("OK {}\n", ports.host).into_bytes();
            }
            _ => self.doomed = true,
        }
    }

    pub(super) fn guest_got(&mut self, ports: Ports, header: &Header, payload: &[u8]) {
        let told = header.fwd_cnt.get();
        assert!(self.told <= told && u64::from(told) <= self.sent, "{told} of {}", self.sent);
        self.told = told;
        match header.op.get() {
            op::REQUEST => {}
            op::RESPONSE => {
                assert_eq!(self.stage, Stage::Asked, "an answer is to a question");
                self.stage = Stage::Open;
            }
            op::RW => {
                self.stays_open();
                assert_eq!(self.guest_shutdown & SHUTDOWN_RECEIVE, 0, "the guest receives");
                assert_eq!(self.host_shutdown & SHUTDOWN_SEND, 0, "the host sends");
                let (size, taken) = self.granted;
                let on_the_way = (self.received as u32).wrapping_sub(taken);
                let room = size.saturating_sub(on_the_way) as usize;
                assert!((1..=room).contains(&payload.len()), "{} in {room}", payload.len());
                check(payload, ports, self.received, true);
                self.received += payload.len() as u64;
                assert!(self.received <= self.written, "what comes was written");
            }
            op::SHUTDOWN => {
                self.stays_open();
                let flags = header.flags.get();
                let ended = self.write_ended && self.guest_shutdown & SHUTDOWN_SEND != 0;
                match flags {
                    SHUTDOWN_SEND => assert!(self.write_ended || self.host.is_none()),
                    SHUTDOWN_BOTH => assert!(ended || self.host.is_none()),
                    other => panic!("a shutdown of {other:#x}"),
                }
                let all = self.received == self.written;
                let receives = self.guest_shutdown & SHUTDOWN_RECEIVE == 0;
                assert!(all || self.host.is_none() || !receives, "the end comes last");
                self.host_shutdown |= flags;
            }
            op::CREDIT_UPDATE | op::CREDIT_REQUEST => self.stays_open(),
            other => panic!("operation {other}"),
        }
    }

    fn stays_open(&self) {
        assert_eq!(self.stage, Stage::Open, "the connection is open");
    }

    /// Both sides have taken all that there is, and the guest has granted room for all.
    pub(super) fn finish(&self, key: (u32, u32)) {
        let half_gone = self.stage == Stage::Open && self.guest_shutdown == SHUTDOWN_BOTH;
        assert!(!half_gone, "{key:?} is shut down, and is to end");
        if self.doomed || self.stage == Stage::Offered {
            return;
        }
        assert_eq!(self.stage, Stage::Open, "{key:?} is answered");
        assert_eq!(self.read, self.sent, "all that the guest has sent is read");
        assert!(self.preamble.is_empty() || self.sent == 0, "the answer is read");
        let ends = self.guest_shutdown & SHUTDOWN_SEND != 0;
        assert!(!ends || self.read_end, "the host program sees the end");
        if self.granted.0 == ROOM && self.guest_shutdown & SHUTDOWN_RECEIVE == 0 {
            assert_eq!(self.received, self.written, "all that was written has come");
            let told = self.host_shutdown & SHUTDOWN_SEND != 0;
            assert!(!self.write_ended || told, "the guest sees the end");
        }
    }
}

/// The byte at a place of a stream; each connection and direction has its own.
fn byte_of(ports: Ports, at: u64, to_guest: bool) -> u8 {
    let seed = ports.guest.wrapping_mul(31) ^ ports.host.wrapping_mul(7) ^ u32::from(to_guest) << 3;
    (at ^ at >> 8 ^ u64::from(seed)) as u8
}

fn check(bytes: &[u8], ports: Ports, at: u64, to_guest: bool) {
    let right = bytes.iter().zip(at..).all(|(byte, at)| *byte == byte_of(ports, at, to_guest));
    assert!(right, "the bytes of {ports:?} are its own, in order");
}

pub(super) fn stream_of(ports: Ports, at: u64, count: usize, to_guest: bool) -> Vec<u8> {
    (at..).take(count).map(|at| byte_of(ports, at, to_guest)).collect()
}
