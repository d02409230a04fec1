//! All connections of the device: who is connected to whom, and whose turn it is.
//!
//! Everything is bounded: connections, programs that have not said what they want, resets that
//! wait for the guest to take them. A connection that has something for the guest stands in line
//! once; it gives what it has for the few buffers that are taken for it, and goes to the end of the
//! line, so that a busy one does not starve the others. Resets for connections that there are not stand in the same line: a process of the
//! guest that goes on dialling what nobody serves keeps nobody else's packets back.

use crate::io::Registry;
use crate::vsock::connection::{Connection, Ports};
use crate::vsock::credit::BUF_ALLOC;
use crate::vsock::device::{Service, VsockConfig};
use crate::vsock::handshake::{Handshake, Progress};
use crate::vsock::packet::{HOST_CID, Header, TYPE_STREAM, op};
use protocol::PRIVILEGED_PORTS;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, socket_with,
};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vm_memory::VolatileSlice;
use vmm_sys_util::epoll::EventSet;

/// Connections at once.
pub const MAX_CONNECTIONS: usize = 1024;
/// Host programs at once that have connected and not said where to.
pub const MAX_HANDSHAKES: usize = 64;
/// Resets for unknown connections that wait for the guest's buffers. When there are so many, the
/// guest's own packets wait.
pub const MAX_RESETS: usize = 256;

/// How long no host programs are taken after one could not be, for want of descriptors say. The
/// listener stays ready meanwhile, and must not be asked again and again.
const PAUSE: Duration = Duration::from_millis(100);

/// Host ports of connections that host programs dial begin here, above those that users choose.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// Tokens: the listener, then handshakes, then connections, each with its place.
const LISTENER: u32 = 0;
const HANDSHAKES: u32 = 1;
const CONNECTIONS: u32 = HANDSHAKES + MAX_HANDSHAKES as u32;
/// The first token that the multiplexer does not use.
pub const TOKENS: u32 = CONNECTIONS + MAX_CONNECTIONS as u32;

/// A connection in its place.
struct Slot {
    connection: Connection,
    ports: Ports,
    /// It stands in line.
    queued: bool,
    /// For what its stream is watched.
    watched: Option<EventSet>,
}

/// Who stands in line for the guest's buffers.
enum Waiting {
    /// The connection in this place.
    Connection(usize),
    /// What says that there is no such connection.
    Reset(Header),
}

/// The connections.
pub struct Mux {
    config: VsockConfig,
    listening: bool,
    /// Host programs are taken again from here on.
    paused: Option<Instant>,
    handshakes: Vec<Option<Handshake>>,
    slots: Vec<Option<Slot>>,
    by_ports: HashMap<Ports, usize>,
    line: VecDeque<Waiting>,
    /// How many of those in line are resets.
    resets: usize,
    next_host_port: u32,
    /// The log has heard of an unprivileged process that dialled a privileged service.
    logged: Arc<AtomicBool>,
}

impl Mux {
    /// No connections yet. `logged` is set with the first refusal of an unprivileged process, and
    /// no other is logged: the guest could cause them for ever.
    #[must_use]
    pub fn new(config: VsockConfig, logged: Arc<AtomicBool>) -> Self {
        Self {
            config,
            listening: false,
            paused: None,
            handshakes: Vec::new(),
            slots: Vec::new(),
            by_ports: HashMap::new(),
            line: VecDeque::new(),
            resets: 0,
            next_host_port: FIRST_HOST_PORT,
            logged,
        }
    }

    /// Begins to watch the listener.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        let room =
            self.paused.is_none() && self.handshakes.iter().flatten().count() < MAX_HANDSHAKES;
        if let Some(listener) = &self.config.listener
            && self.listening != room
        {
            if room {
                registry.watch(listener, LISTENER, EventSet::IN)?;
            } else {
                registry.forget(listener);
            }
            self.listening = room;
        }
        Ok(())
    }

    /// Whether the guest's packets can be taken: each may cause a reset that has to wait.
    #[must_use]
    pub fn accepts_packets(&self) -> bool {
        self.resets < MAX_RESETS
    }

    /// When a host program's time for its handshake is over, or others are taken again.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let handshakes = self.handshakes.iter().flatten().map(Handshake::deadline);
        handshakes.chain(self.paused).min()
    }

    /// Ends the handshakes whose time is over, and takes host programs again.
    pub fn expired(&mut self, registry: &mut Registry<'_>) {
        let now = Instant::now();
        for place in &mut self.handshakes {
            if let Some(late) = place.take_if(|handshake| handshake.deadline() <= now) {
                registry.forget(late.stream());
            }
        }
        self.paused = self.paused.filter(|until| *until > now);
        self.listen(registry);
    }

    /// Ends everything, without a word to the guest: its queues cannot be used any more. Nothing
    /// may be watched.
    pub fn close(&mut self) {
        self.config.listener = None;
        self.handshakes.clear();
        self.slots.clear();
        self.by_ports.clear();
        self.line.clear();
        self.resets = 0;
        self.paused = None;
    }

    /// A descriptor is ready.
    pub fn ready(&mut self, token: u32, events: EventSet, registry: &mut Registry<'_>) {
        if token == LISTENER {
            self.accept(registry);
        } else if let Some(index) = token.checked_sub(CONNECTIONS) {
            let index = index as usize;
            if let Some(Some(slot)) = self.slots.get_mut(index) {
                slot.connection.stream_ready(events);
            }
            self.settle(index, registry);
        } else {
            self.proceed((token - HANDSHAKES) as usize, registry);
        }
    }

    fn listen(&mut self, registry: &mut Registry<'_>) {
        if let Err(error) = self.start(registry) {
            tracing::warn!(%error, "host programs can no longer reach the guest");
        }
    }

    /// Takes a host program that has connected. Others are taken when it is their turn: the listener
    /// stays ready.
    fn accept(&mut self, registry: &mut Registry<'_>) {
        let Some(place) = free_place(&mut self.handshakes, MAX_HANDSHAKES) else { return };
        let Some(listener) = &self.config.listener else { return };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match accept_with(listener, flags) {
            Ok(stream) => {
                self.handshakes[place] = Some(Handshake::new(stream.into()));
                // Most have said already what they want.
                self.proceed(place, registry);
            }
            Err(Errno::AGAIN) => {}
            Err(error) => {
                tracing::warn!(%error, "a host program could not be connected to the guest");
                self.paused = Some(Instant::now() + PAUSE);
                self.listen(registry);
            }
        }
    }

    /// A host program may have said something.
    fn proceed(&mut self, place: usize, registry: &mut Registry<'_>) {
        let Some(Some(handshake)) = self.handshakes.get_mut(place) else { return };
        let progress = handshake.proceed();
        let token = HANDSHAKES + place as u32;
        if progress == Progress::Waits
            && registry.watch(handshake.stream(), token, EventSet::IN).is_ok()
        {
            self.listen(registry);
            return;
        }
        let Some(handshake) = self.handshakes[place].take() else { return };
        if let Progress::Wants(guest) = progress
            // There is a place for it then, so its stream is not dropped while it is watched.
            && self.by_ports.len() < MAX_CONNECTIONS
            && let Some(host) = self.free_host_port(guest)
        {
            let ports = Ports { host, guest };
            let connection = Connection::dialled(ports, handshake.into_stream());
            if let Some(index) = self.insert(ports, connection) {
                // The stream is watched as a connection's from now on.
                self.settle(index, registry);
            }
        } else {
            registry.forget(handshake.stream());
        }
        self.listen(registry);
    }

    /// A port of the host that no connection to `guest` has.
    fn free_host_port(&mut self, guest: u32) -> Option<u32> {
        for _ in 0..=MAX_CONNECTIONS {
            let host = self.next_host_port;
            self.next_host_port = host.wrapping_add(1).max(FIRST_HOST_PORT);
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return Some(host);
            }
        }
        None
    }

    fn insert(&mut self, ports: Ports, connection: Connection) -> Option<usize> {
        let index = free_place(&mut self.slots, MAX_CONNECTIONS)?;
        self.slots[index] = Some(Slot { connection, ports, queued: false, watched: None });
        self.by_ports.insert(ports, index);
        Some(index)
    }

    /// Brings the connection's watch and its place in line up to date, or removes it.
    fn settle(&mut self, index: usize, registry: &mut Registry<'_>) {
        let Some(Some(slot)) = self.slots.get_mut(index) else { return };
        let interest = slot.connection.interest();
        if interest != slot.watched {
            let token = CONNECTIONS + index as u32;
            match interest {
                Some(events) => {
                    if registry.watch(slot.connection.stream(), token, events).is_err() {
                        slot.connection.break_off();
                    }
                }
                None => registry.forget(slot.connection.stream()),
            }
            slot.watched = interest;
        }
        if slot.connection.has_packet() && !slot.queued {
            slot.queued = true;
            self.line.push_back(Waiting::Connection(index));
        }
        if slot.connection.is_over() {
            registry.forget(slot.connection.stream());
            self.by_ports.remove(&slot.ports);
            if slot.queued {
                // Else the line would grow with every connection that ends while it stands there.
                self.line.retain(|it| !matches!(it, Waiting::Connection(at) if *at == index));
            }
            self.slots[index] = None;
        }
    }

    /// Takes a packet of the guest.
    pub fn receive(
        &mut self,
        header: &Header,
        payload: &[VolatileSlice<'_>],
        registry: &mut Registry<'_>,
    ) {
        if header.src_cid.get() != self.config.guest_cid || header.dst_cid.get() != HOST_CID {
            // Whoever it claims to be is not behind this device.
            return;
        }
        let ports = Ports { host: header.dst_port.get(), guest: header.src_port.get() };
        let known = self.by_ports.get(&ports).copied();
        let stream = header.kind.get() == TYPE_STREAM;
        match (known, header.op.get()) {
            (Some(index), _) if stream => {
                if let Some(Some(slot)) = self.slots.get_mut(index) {
                    slot.connection.receive(header, payload);
                }
                self.settle(index, registry);
            }
            (None, op::REQUEST) if stream => match self.dial(ports) {
                Some(peer) => {
                    let connection = Connection::accepted(ports, peer, header);
                    match self.insert(ports, connection) {
                        Some(index) => self.settle(index, registry),
                        None => self.refuse(header),
                    }
                }
                None => self.refuse(header),
            },
            // A reset is never answered by another.
            (_, op::RST) => {}
            _ => self.refuse(header),
        }
    }

    /// Says that there is no such connection.
    fn refuse(&mut self, header: &Header) {
        self.resets += 1;
        self.line.push_back(Waiting::Reset(Header {
            src_port: header.dst_port,
            dst_port: header.src_port,
            kind: header.kind,
            op: op::RST.into(),
            buf_alloc: BUF_ALLOC.into(),
            ..Header::default()
        }));
    }

    /// The host's end of a connection that the guest dials, if anybody there wants it.
    fn dial(&self, ports: Ports) -> Option<UnixStream> {
        if self.by_ports.len() >= MAX_CONNECTIONS {
            return None;
        }
        let service = self.config.services.iter().find(|service| service.port == ports.host);
        let stream = match (service, &self.config.guest_sockets) {
            (Some(service), _) => self.offer(service, ports)?,
            (None, Some(path)) => dial_socket(path, ports.host).ok()?,
            (None, None) => return None,
        };
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    }

    /// Gives one end of a new pair to `service`, if it has room and the guest's port is good enough.
    fn offer(&self, service: &Service, ports: Ports) -> Option<UnixStream> {
        if service.privileged && ports.guest >= PRIVILEGED_PORTS {
            if !self.logged.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    port = ports.guest,
                    "an unprivileged process of the guest dialled a privileged service; refused, \
                     as others will be without a word"
                );
            }
            return None;
        }
        let (theirs, ours) = UnixStream::pair().ok()?;
        service.accept.try_send(theirs).ok()?;
        if let Some(bell) = &service.bell {
            // Full means that it is readable, which is all that is wanted.
            let _ = bell.write(1);
        }
        Some(ours)
    }

    /// Whether there may be a packet for the guest.
    #[must_use]
    pub fn has_packets(&self) -> bool {
        !self.line.is_empty()
    }

    /// How many of the guest's buffers the next packet can fill, by what has been so far.
    #[must_use]
    pub fn appetite(&self) -> usize {
        match self.line.front() {
            Some(Waiting::Connection(index)) => {
                let slot = self.slots.get(*index).and_then(Option::as_ref);
                slot.map_or(1, |slot| slot.connection.appetite())
            }
            _ => 1,
        }
    }

    /// The next packet for the guest; its payload has been put into `room`.
    pub fn next_packet(
        &mut self,
        room: &[VolatileSlice<'_>],
        registry: &mut Registry<'_>,
    ) -> Option<Header> {
        while let Some(first) = self.line.pop_front() {
            let index = match first {
                Waiting::Connection(index) => index,
                Waiting::Reset(reset) => {
                    self.resets -= 1;
                    return Some(self.addressed(reset));
                }
            };
            let Some(Some(slot)) = self.slots.get_mut(index) else { continue };
            slot.queued = false;
            let header = slot.connection.next_packet(room);
            self.settle(index, registry);
            if let Some(header) = header {
                let header = Header { kind: TYPE_STREAM.into(), ..header };
                return Some(self.addressed(header));
            }
        }
        None
    }

    fn addressed(&self, header: Header) -> Header {
        Header { src_cid: HOST_CID.into(), dst_cid: self.config.guest_cid.into(), ..header }
    }
}

/// The first free place, if fewer than `most` are taken.
fn free_place<T>(places: &mut Vec<Option<T>>, most: usize) -> Option<usize> {
    if let Some(free) = places.iter().position(Option::is_none) {
        return Some(free);
    }
    (places.len() < most).then(|| {
        places.push(None);
        places.len() - 1
    })
}

/// Connects to the socket of the host program that serves `port`, without waiting for it.
fn dial_socket(path: &Path, port: u32) -> io::Result<UnixStream> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("_{port}"));
    let address = SocketAddrUnix::new(Path::new(&name))?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(UnixStream::from(socket))
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;
