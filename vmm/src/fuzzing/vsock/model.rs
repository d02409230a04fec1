//! The judge of a sequence of packets (section 5.10.6): what it has seen of each connection, from the
//! guest's end and from the host's, and what may be seen next.
//!
//! As long as the guest keeps to the protocol and the host program is there, a connection loses no
//! byte, adds none, and is not reset; nothing is sent that the guest has not granted; whoever asks
//! gets one answer. A guest that does not keep to it may be reset, once, and bytes of other
//! connections never appear.

use super::FIRST_HOST_PORT;
use super::connection::{Connection, Stage, stream_of};
use crate::vsock::connection::Ports;
use crate::vsock::credit::BUF_ALLOC;
use crate::vsock::packet::{Header, MAX_PAYLOAD, TYPE_STREAM, op};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// Orders connections, so that the same bytes name the same one each time.
type Key = (u32, u32);

fn key(ports: Ports) -> Key {
    (ports.host, ports.guest)
}

fn ports_of((host, guest): Key) -> Ports {
    Ports { host, guest }
}

/// All that has been seen.
#[derive(Default)]
pub(super) struct Model {
    connections: BTreeMap<Key, Connection>,
    /// Resets that are due for packets to nobody, by connection and type.
    resets: BTreeMap<(Key, u16), usize>,
    /// Host programs that the guest has not heard of, by the port that they want.
    dialled: BTreeMap<u32, UnixStream>,
    dials: usize,
    /// What is not judged any more: the guest has spoken for a host program's connection before it had
    /// heard of it, or has reset one that may have been reset already, and cannot tell what is an
    /// answer to what.
    spoiled: BTreeSet<Key>,
}

impl Model {
    /// A connection, by any number; none if there is none.
    pub(super) fn ports(&self, which: u8) -> Option<Ports> {
        let place = usize::from(which) % self.connections.len().max(1);
        self.connections.keys().nth(place).map(|key| ports_of(*key))
    }

    pub(super) fn open_ports(&self) -> Vec<Ports> {
        let open = self.connections.iter().filter(|(_, c)| c.stage == Stage::Open);
        open.map(|(key, _)| ports_of(*key)).collect()
    }

    /// Bytes that the guest has got, as it tells.
    pub(super) fn received(&self, ports: Ports) -> u32 {
        self.connections.get(&key(ports)).map_or(0, |connection| connection.received as u32)
    }

    /// What the guest sends next.
    pub(super) fn next_payload(&self, ports: Ports, count: usize) -> Vec<u8> {
        let sent = self.connections.get(&key(ports)).map_or(0, |connection| connection.sent);
        stream_of(ports, sent, count.min(MAX_PAYLOAD), false)
    }

    /// A packet of the guest's, from where it is to where the host is; `room` says whether the one
    /// that it asks for would take it.
    pub(super) fn guest_sent(&mut self, header: &Header, room: bool) {
        let ports = Ports { host: header.dst_port.get(), guest: header.src_port.get() };
        let (key, kind, op) = (key(ports), header.kind.get(), header.op.get());
        let unheard = ports.host >= FIRST_HOST_PORT && self.dialled.contains_key(&ports.guest);
        if unheard && !self.connections.contains_key(&key) {
            self.spoil(key);
        }
        if self.spoiled.contains(&key) {
            return;
        }
        let connection = self.connections.get_mut(&key).filter(|_| kind == TYPE_STREAM);
        let Some(connection) = connection else {
            if op == op::REQUEST && kind == TYPE_STREAM && room {
                let mut connection = Connection::new(Stage::Asked, None);
                connection.granted = (header.buf_alloc.get(), header.fwd_cnt.get());
                self.connections.insert(key, connection);
            } else if op != op::RST {
                *self.resets.entry((key, kind)).or_default() += 1;
            }
            return;
        };
        if op == op::RST {
            if connection.doomed {
                self.spoil(key);
            }
            self.connections.remove(&key);
            return;
        }
        connection.guest_sent(ports, header);
    }

    fn spoil(&mut self, key: Key) {
        self.spoiled.insert(key);
        self.resets.retain(|(of, _), _| *of != key);
    }

    /// The service that the guest has asked for with `header` has been given a stream.
    pub(super) fn arrived(&mut self, header: &Header, stream: UnixStream) {
        let ports = Ports { host: header.dst_port.get(), guest: header.src_port.get() };
        if self.spoiled.contains(&key(ports)) {
            return;
        }
        let connection = self.connections.get_mut(&key(ports)).expect("it was let in");
        assert!(connection.stage == Stage::Asked && connection.host.is_none(), "it comes once");
        stream.set_nonblocking(true).expect("it is a socket");
        connection.host = Some(stream);
    }

    /// A packet of the host's.
    pub(super) fn guest_got(&mut self, header: &Header, payload: &[u8]) {
        let ports = Ports { host: header.src_port.get(), guest: header.dst_port.get() };
        let (key, kind) = (key(ports), header.kind.get());
        assert_eq!(header.length.get() as usize, payload.len());
        assert_eq!(header.buf_alloc.get(), BUF_ALLOC);
        if self.spoiled.contains(&key) {
            return;
        }
        if header.op == op::RST {
            self.guest_was_reset(key, kind);
            return;
        }
        assert_eq!(kind, TYPE_STREAM);
        if header.op == op::REQUEST {
            let host = self.dialled.remove(&ports.guest).expect("a host program has asked");
            let before = self.connections.insert(key, Connection::new(Stage::Offered, Some(host)));
            assert!(before.is_none(), "no connection begins twice");
        }
        let connection = self.connections.get_mut(&key).expect("there is such a connection");
        connection.guest_got(ports, header, payload);
    }

    fn guest_was_reset(&mut self, key: Key, kind: u16) {
        if let Some(due) = self.resets.get_mut(&(key, kind)).filter(|due| **due > 0) {
            *due -= 1;
            return;
        }
        assert_eq!(kind, TYPE_STREAM);
        let connection = self.connections.remove(&key).expect("no reset of what is not there");
        assert!(connection.doomed, "no reset without a reason: {connection:?}");
    }

    pub(super) fn dials(&self) -> usize {
        self.dials
    }

    /// A host program wants this port of the guest.
    pub(super) fn dialled(&mut self, guest: u32, program: UnixStream) {
        program.set_nonblocking(true).expect("it is a socket");
        self.dialled.insert(guest, program);
        self.dials += 1;
    }

    /// A connection with a host program, by any number.
    fn with_host(&mut self, which: u8) -> Option<(Ports, &mut Connection)> {
        let with_host = |connection: &Connection| connection.host.is_some();
        let count = self.connections.values().filter(|c| with_host(c)).count();
        let mut all = self.connections.iter_mut().filter(|(_, c)| with_host(c));
        let (key, connection) = all.nth(usize::from(which) % count.max(1))?;
        Some((ports_of(*key), connection))
    }

    pub(super) fn host_writes(&mut self, which: u8, count: usize) {
        let Some((ports, connection)) = self.with_host(which) else { return };
        if connection.write_ended {
            return;
        }
        let bytes = stream_of(ports, connection.written, count, true);
        // It may have no room, or be shut down by the guest.
        let write = |mut host: &UnixStream| host.write(&bytes).unwrap_or(0);
        connection.written += connection.host.as_ref().map_or(0, write) as u64;
    }

    pub(super) fn host_reads(&mut self, which: u8, count: usize) {
        if let Some((ports, connection)) = self.with_host(which) {
            connection.read(ports, count);
        }
    }

    /// All host programs read all that there is; whether there was something.
    pub(super) fn host_reads_all(&mut self) -> bool {
        let mut busy = false;
        for (key, connection) in &mut self.connections {
            while connection.read(ports_of(*key), MAX_PAYLOAD) > 0 {
                busy = true;
            }
        }
        busy
    }

    pub(super) fn host_shuts_down(&mut self, which: u8) {
        if let Some((_, connection)) = self.with_host(which)
            && let Some(host) = &connection.host
        {
            connection.write_ended = true;
            let _ = host.shutdown(Shutdown::Write);
        }
    }

    pub(super) fn host_goes(&mut self, which: u8) {
        if let Some((_, connection)) = self.with_host(which) {
            connection.host = None;
            connection.doomed = true;
        }
    }

    /// Nothing happens any more.
    pub(super) fn finish(&self) {
        assert!(self.resets.values().all(|due| *due == 0), "every reset has come");
        for (key, connection) in &self.connections {
            connection.finish(*key);
        }
    }
}
