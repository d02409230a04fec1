//! One connection: its state, its credit, and the stream on the host's side.
//!
//! # Life
//!
//! ```text
//! guest dials:  REQUEST  -> Established, RESPONSE is due
//! host dials:   Requested, REQUEST is due;  RESPONSE -> Established
//!
//! the stream ends          SHUTDOWN (send) is due
//! the stream is gone       SHUTDOWN (both) is due, the guest answers RST
//! SHUTDOWN (send)          the stream is shut down for writing, after what is buffered
//! SHUTDOWN (both)          as above, then RST is due
//! RST, or nonsense         the connection is over
//! ```
//!
//! # Credit
//!
//! Each side tells in every packet how much its receive buffer holds (`buf_alloc`) and how much it
//! has taken out of it since the beginning (`fwd_cnt`, modulo 2^32). A sender may have
//! `buf_alloc` bytes on the way at most: what it has sent minus the other's `fwd_cnt`. The guest's
//! numbers are its own affair: whatever they are, nothing is sent that it has no buffers for. Our
//! buffer is [`BUF_ALLOC`] bytes; a guest that sends more loses the connection.

use crate::vsock::packet::{
    Header, MAX_PAYLOAD, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, op,
};
use bitflags::bitflags;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::num::Wrapping;
use std::os::unix::net::UnixStream;
use vmm_sys_util::epoll::EventSet;

/// Bytes that wait for a host program that does not read.
pub const BUF_ALLOC: u32 = 64 * 1024;
/// The guest is told unasked when it can know of less than this many free bytes.
const CREDIT_LOW: u32 = BUF_ALLOC / 2;

bitflags! {
    /// Packets that are due to the guest.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Due: u8 {
        const RST = 1;
        const REQUEST = 2;
        const RESPONSE = 4;
        const SHUTDOWN = 8;
        const CREDIT_UPDATE = 16;
        const CREDIT_REQUEST = 32;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The host has dialled, and the guest has not answered.
    Requested,
    Established,
    /// Nothing may follow; at most a RST is due.
    Over,
}

/// The two ports that name a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    /// On the host.
    pub host: u32,
    /// In the guest.
    pub guest: u32,
}

/// A connection.
pub struct Connection {
    ports: Ports,
    stream: UnixStream,
    state: State,
    due: Due,
    /// From the guest, on the way to the stream.
    buffer: VecDeque<u8>,
    /// Bytes that left the buffer.
    forwarded: Wrapping<u32>,
    /// The same, as the guest was told last.
    forwarded_told: Wrapping<u32>,
    /// Bytes sent to the guest.
    sent: Wrapping<u32>,
    peer_alloc: u32,
    peer_forwarded: Wrapping<u32>,
    /// The stream may have something to read.
    readable: bool,
    /// The stream has been read to its end.
    ended: bool,
    /// The other end of the stream is gone: nobody reads what is written, either.
    gone: bool,
    /// What the guest has shut down.
    guest_shutdown: u32,
    /// The stream has been shut down for writing.
    write_closed: bool,
}

impl Connection {
    /// A connection that the guest has dialled with `request`, to `stream`.
    #[must_use]
    pub fn accepted(ports: Ports, stream: UnixStream, request: &Header) -> Self {
        let mut connection = Self::new(ports, stream, State::Established, Due::RESPONSE);
        connection.take_credit(request);
        connection
    }

    /// A connection that the host dials from `stream`.
    #[must_use]
    pub fn dialled(ports: Ports, stream: UnixStream) -> Self {
        Self::new(ports, stream, State::Requested, Due::REQUEST)
    }

    fn new(ports: Ports, stream: UnixStream, state: State, due: Due) -> Self {
        Self {
            ports,
            stream,
            state,
            due,
            buffer: VecDeque::new(),
            forwarded: Wrapping(0),
            forwarded_told: Wrapping(0),
            sent: Wrapping(0),
            peer_alloc: 0,
            peer_forwarded: Wrapping(0),
            readable: false,
            ended: false,
            gone: false,
            guest_shutdown: 0,
            write_closed: false,
        }
    }

    /// The stream, to watch it.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether nothing is left to be done.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::Over && !self.due.contains(Due::RST)
    }

    /// For what the stream is to be watched; none if it is not to be watched at all, because its
    /// other end is gone, which the kernel would report for ever.
    #[must_use]
    pub fn interest(&self) -> Option<EventSet> {
        if self.gone || self.state == State::Over {
            return None;
        }
        let mut interest = EventSet::empty();
        if self.reads() && !self.readable {
            interest |= EventSet::IN;
        }
        if !self.buffer.is_empty() {
            interest |= EventSet::OUT;
        }
        Some(interest)
    }

    /// Whether what the stream has is wanted by the guest.
    fn reads(&self) -> bool {
        self.state == State::Established
            && !self.ended
            && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
    }

    /// Bytes that may be sent to the guest now.
    fn credit(&self) -> u32 {
        self.peer_alloc.saturating_sub((self.sent - self.peer_forwarded).0)
    }

    fn take_credit(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc.get();
        self.peer_forwarded = Wrapping(header.fwd_cnt.get());
    }

    /// Takes a packet of the guest.
    pub fn receive(&mut self, header: &Header, payload: &[u8]) {
        self.take_credit(header);
        match (self.state, header.op.get()) {
            (State::Over, _) => {}
            (_, op::RST) => {
                // What it sent before is still the host program's, as far as that takes it now.
                self.flush();
                self.state = State::Over;
                self.due = Due::empty();
            }
            (State::Requested, op::RESPONSE) => {
                self.state = State::Established;
                let line = format!("OK {}\n", self.ports.host);
                // The first bytes of a stream fit its buffer; if nobody is there, the next read
                // or write says so.
                let _ = self.stream.write(line.as_bytes());
            }
            (State::Established, op::RW) => self.take_payload(payload),
            (State::Established, op::SHUTDOWN) => {
                self.guest_shutdown |= header.flags.get() & SHUTDOWN_BOTH;
                self.flush();
            }
            (State::Established, op::CREDIT_UPDATE) => {}
            (State::Established, op::CREDIT_REQUEST) => self.due |= Due::CREDIT_UPDATE,
            // Everything else does not belong here.
            _ => self.break_off(),
        }
    }

    fn take_payload(&mut self, payload: &[u8]) {
        if self.guest_shutdown & SHUTDOWN_SEND != 0
            || self.buffer.len() + payload.len() > BUF_ALLOC as usize
        {
            self.break_off();
            return;
        }
        let written = if self.buffer.is_empty() { self.write(payload) } else { Some(0) };
        if let Some(written) = written {
            self.buffer.extend(&payload[written..]);
        }
        self.consider_credit_update();
    }

    /// Writes `bytes` to the stream as far as it takes them; none if it takes no more ever.
    fn write(&mut self, bytes: &[u8]) -> Option<usize> {
        let written = match self.stream.write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.break_off();
                return None;
            }
        };
        // At most the length of a packet or of the buffer.
        self.forwarded += Wrapping(written as u32);
        Some(written)
    }

    /// Writes what is buffered, and does what waited for that.
    fn flush(&mut self) {
        while !self.buffer.is_empty() {
            let (first, _) = self.buffer.as_slices();
            let first = first.to_vec();
            match self.write(&first) {
                Some(0) => break,
                Some(written) => drop(self.buffer.drain(..written)),
                None => return,
            }
        }
        self.consider_credit_update();
        if !self.buffer.is_empty() || self.state != State::Established {
            return;
        }
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && !self.write_closed {
            self.write_closed = true;
            // It fails only where the other end is gone already.
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
        }
        if self.guest_shutdown == SHUTDOWN_BOTH {
            self.break_off();
        }
    }

    /// Tells the guest of free room before it runs out of what it knows of.
    fn consider_credit_update(&mut self) {
        let untold = (self.forwarded - self.forwarded_told).0;
        if self.state == State::Established && untold > BUF_ALLOC - CREDIT_LOW {
            self.due |= Due::CREDIT_UPDATE;
        }
    }

    /// Ends the connection, and tells the guest.
    fn break_off(&mut self) {
        self.state = State::Over;
        self.due = Due::RST;
    }

    /// Ends the connection because the monitor cannot serve it.
    pub fn reset(&mut self) {
        self.break_off();
    }

    /// The stream has become ready.
    pub fn stream_ready(&mut self, events: EventSet) {
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.gone = true;
            if self.state == State::Requested {
                self.break_off();
                return;
            }
            if self.ended {
                // The guest knows that nothing more comes; now it learns that nobody listens.
                self.due |= Due::SHUTDOWN;
            }
        }
        if events.intersects(EventSet::IN | EventSet::HANG_UP | EventSet::ERROR) {
            self.readable = true;
        }
        if events.contains(EventSet::OUT) {
            self.flush();
        }
    }

    /// Whether there may be something for the guest.
    #[must_use]
    pub fn has_packet(&self) -> bool {
        !self.due.is_empty() || (self.readable && self.reads() && self.credit() > 0)
    }

    /// The next packet for the guest; its payload, of at most `room` bytes, is put into `payload`.
    pub fn next_packet(&mut self, room: usize, payload: &mut Vec<u8>) -> Option<Header> {
        payload.clear();
        for (due, op, flags) in [
            (Due::RST, op::RST, 0),
            (Due::REQUEST, op::REQUEST, 0),
            (Due::RESPONSE, op::RESPONSE, 0),
        ] {
            if self.take_due(due) {
                return Some(self.header(op, flags, 0));
            }
        }
        if self.readable && self.reads() {
            let count = room.min(MAX_PAYLOAD).min(self.credit() as usize);
            if count > 0
                && let Some(header) = self.read(count, payload)
            {
                return Some(header);
            }
        }
        if self.take_due(Due::SHUTDOWN) {
            let flags = if self.gone { SHUTDOWN_BOTH } else { SHUTDOWN_SEND };
            return Some(self.header(op::SHUTDOWN, flags, 0));
        }
        if self.take_due(Due::CREDIT_REQUEST) {
            return Some(self.header(op::CREDIT_REQUEST, 0, 0));
        }
        if self.take_due(Due::CREDIT_UPDATE) {
            return Some(self.header(op::CREDIT_UPDATE, 0, 0));
        }
        None
    }

    /// Reads up to `count` bytes of the stream for the guest.
    fn read(&mut self, count: usize, payload: &mut Vec<u8>) -> Option<Header> {
        payload.resize(count, 0);
        match self.stream.read(payload) {
            Ok(0) => {
                self.ended = true;
                self.due |= Due::SHUTDOWN;
                None
            }
            Ok(length) => {
                payload.truncate(length);
                // At most a payload's length.
                self.sent += Wrapping(length as u32);
                if self.credit() == 0 {
                    self.due |= Due::CREDIT_REQUEST;
                }
                if length < count && !self.gone {
                    // The stream is empty; if not, it becomes ready at once.
                    self.readable = false;
                }
                Some(self.header(op::RW, 0, length as u32))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                None
            }
            Err(_) => {
                self.ended = true;
                self.gone = true;
                self.due |= Due::SHUTDOWN;
                None
            }
        }
    }

    fn take_due(&mut self, due: Due) -> bool {
        let is_due = self.due.contains(due);
        self.due -= due;
        is_due
    }

    /// A header from the host; with it the guest knows our credit.
    fn header(&mut self, op: u16, flags: u32, length: u32) -> Header {
        self.forwarded_told = self.forwarded;
        self.due -= Due::CREDIT_UPDATE;
        Header {
            src_port: self.ports.host.into(),
            dst_port: self.ports.guest.into(),
            length: length.into(),
            op: op.into(),
            flags: flags.into(),
            buf_alloc: BUF_ALLOC.into(),
            fwd_cnt: self.forwarded.0.into(),
            ..Header::default()
        }
    }
}
