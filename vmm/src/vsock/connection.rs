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
//! Either side may be slow: what the stream does not take waits in a buffer as large as the
//! [credit](crate::vsock::credit) that the guest is given, and a guest that sends more loses the
//! connection; what the guest does not take is left in the stream.

use crate::vsock::credit::{BUF_ALLOC, Credit};
use crate::vsock::packet::{
    Header, MAX_PAYLOAD, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, op,
};
use crate::vsock::stream;
use bitflags::bitflags;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::EventSet;

/// Buffers of the guest that are filled at once at most: with those of Linux, a payload's length.
const APPETITE_MAX: usize = 16;

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
    credit: Credit,
    /// The stream may have something to read.
    readable: bool,
    /// It became readable again before it was read: the guest takes nothing now.
    stalled: bool,
    /// The stream has been read to its end.
    ended: bool,
    /// The other end of the stream is gone: nobody reads what is written, either.
    gone: bool,
    /// How many of the guest's buffers are tried to be filled at once.
    appetite: usize,
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
        connection.credit.hear(request);
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
            credit: Credit::default(),
            readable: false,
            stalled: false,
            ended: false,
            gone: false,
            appetite: 1,
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
        if (self.reads() || self.state == State::Requested) && !self.stalled {
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

    /// Takes a packet of the guest.
    pub fn receive(&mut self, header: &Header, payload: &[VolatileSlice<'_>]) {
        self.credit.hear(header);
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
                // The first bytes of a stream fit its buffer.
                if write(&self.stream, line.as_bytes()).is_err() {
                    self.break_off();
                }
            }
            (State::Established, op::RW) => self.take_payload(payload),
            (State::Established, op::SHUTDOWN) => {
                self.guest_shutdown |= header.flags.get() & SHUTDOWN_BOTH;
                self.flush();
                if self.state != State::Over && self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
                    // The host program's next write fails; this one only if it is gone already.
                    let _ = self.stream.shutdown(Shutdown::Read);
                }
            }
            (State::Established, op::CREDIT_UPDATE) => {}
            (State::Established, op::CREDIT_REQUEST) => self.due |= Due::CREDIT_UPDATE,
            // Everything else does not belong here.
            _ => self.break_off(),
        }
    }

    fn take_payload(&mut self, payload: &[VolatileSlice<'_>]) {
        let length: usize = payload.iter().map(VolatileSlice::len).sum();
        if self.guest_shutdown & SHUTDOWN_SEND != 0
            || self.buffer.len() + length > BUF_ALLOC as usize
        {
            self.break_off();
            return;
        }
        // The way past the buffer is the usual one.
        let straight = if self.buffer.is_empty() { payload } else { &[] };
        let written = match stream::send(&self.stream, straight) {
            Ok(written) => written,
            Err(_) => {
                self.break_off();
                return;
            }
        };
        self.credit.forwarded(written);
        stream::copy_rest(payload, written, &mut self.buffer);
        self.consider_credit_update();
    }

    /// Writes what is buffered, as far as the stream takes it, and does what waited for that.
    fn flush(&mut self) {
        while !self.buffer.is_empty() {
            match write(&self.stream, self.buffer.as_slices().0) {
                Ok(0) => break,
                Ok(written) => {
                    self.buffer.drain(..written);
                    self.credit.forwarded(written);
                }
                Err(_) => {
                    self.break_off();
                    return;
                }
            }
        }
        self.consider_credit_update();
        if !self.buffer.is_empty() {
            return;
        }
        // Only a connection that is behind keeps the room.
        self.buffer = VecDeque::new();
        if self.guest_shutdown == SHUTDOWN_BOTH {
            self.break_off();
        } else if self.guest_shutdown & SHUTDOWN_SEND != 0 && !self.write_closed {
            self.write_closed = true;
            // It fails only where the other end is gone already.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// Tells the guest of free room before it runs out of what it knows of.
    fn consider_credit_update(&mut self) {
        if self.credit.must_tell() {
            self.due |= Due::CREDIT_UPDATE;
        }
    }

    /// Ends the connection: the host program sees the end at once, and the guest is told unless it
    /// never heard of the connection.
    pub fn break_off(&mut self) {
        let unheard = self.due.contains(Due::REQUEST);
        self.due = if unheard { Due::empty() } else { Due::RST };
        self.state = State::Over;
        self.buffer = VecDeque::new();
        // It fails only where the other end is gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// The stream has become ready.
    pub fn stream_ready(&mut self, events: EventSet) {
        if events.intersects(EventSet::HANG_UP | EventSet::ERROR) {
            self.gone = true;
            // Nothing goes either way any more, or never did.
            if self.state == State::Requested || self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
                self.break_off();
                return;
            }
            if self.ended {
                // The guest knows that nothing more comes; now it learns that nobody listens.
                self.due |= Due::SHUTDOWN;
            }
        }
        if events.intersects(EventSet::IN | EventSet::HANG_UP | EventSet::ERROR) {
            self.stalled = self.readable;
            self.readable = true;
        }
        if events.contains(EventSet::OUT) {
            self.flush();
        }
    }

    /// Whether there may be something for the guest.
    #[must_use]
    pub fn has_packet(&self) -> bool {
        !self.due.is_empty() || (self.readable && self.reads() && self.credit.available() > 0)
    }

    /// How many of the guest's buffers it fills at once, by what it has done so far.
    #[must_use]
    pub fn appetite(&self) -> usize {
        self.appetite
    }

    /// The next packet for the guest; its payload has been put into `room`.
    pub fn next_packet(&mut self, room: &[VolatileSlice<'_>]) -> Option<Header> {
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
            let room = stream::first(room, MAX_PAYLOAD.min(self.credit.available() as usize));
            if !room.is_empty() {
                let length = self.read(&room);
                if length > 0 {
                    // At most a payload's length.
                    return Some(self.header(op::RW, 0, length as u32));
                }
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

    /// Reads from the stream for the guest; how many bytes there were.
    fn read(&mut self, room: &[VolatileSlice<'_>]) -> usize {
        match stream::receive(&self.stream, room) {
            Ok(0) => {
                self.ended = true;
                self.due |= Due::SHUTDOWN;
                0
            }
            Ok(length) => {
                self.credit.sent(length);
                if self.credit.available() == 0 {
                    self.due |= Due::CREDIT_REQUEST;
                }
                let full = length == room.iter().map(VolatileSlice::len).sum::<usize>();
                self.appetite = if full { APPETITE_MAX.min(self.appetite * 4) } else { 1 };
                if !full && !self.gone {
                    // The stream is empty; if not, it becomes ready at once.
                    self.drained();
                }
                length
            }
            Err(error) if stream::is_for_later(&error) => {
                // If there is something after all, it becomes ready at once.
                self.drained();
                0
            }
            Err(_) => {
                self.ended = true;
                self.gone = true;
                self.due |= Due::SHUTDOWN;
                0
            }
        }
    }

    /// The stream has nothing more for now.
    fn drained(&mut self) {
        self.readable = false;
        self.stalled = false;
    }

    fn take_due(&mut self, due: Due) -> bool {
        let is_due = self.due.contains(due);
        self.due -= due;
        is_due
    }

    /// A header from the host; with it the guest knows our credit.
    fn header(&mut self, op: u16, flags: u32, length: u32) -> Header {
        self.due -= Due::CREDIT_UPDATE;
        Header {
            src_port: self.ports.host.into(),
            dst_port: self.ports.guest.into(),
            length: length.into(),
            op: op.into(),
            flags: flags.into(),
            buf_alloc: BUF_ALLOC.into(),
            fwd_cnt: self.credit.tell().into(),
            ..Header::default()
        }
    }
}

/// Writes to `stream` as far as it takes something now.
///
/// Without the signal that a stream raises whose reader is gone: the monitor may live in a program
/// that does not ignore it.
fn write(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    match send(stream, bytes, SendFlags::NOSIGNAL) {
        Ok(written) => Ok(written),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
