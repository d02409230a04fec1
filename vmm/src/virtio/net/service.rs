//! The queues while the driver runs, on the device's thread.
//!
//! The tap is watched for changes, not for what is so: it wakes the thread when a packet comes, and
//! then it is read until it is empty. If the driver has no buffers, reading stops; packets wait in
//! the tap, which throws away what it has no room for, and the doorbell says when to go on. Nothing
//! of this costs time while nothing can be done. Doorbells are watched for changes, too: each ring is
//! one, so that no call is needed to take it off.
//!
//! A packet may be as long as the driver has said that it takes, so for that long it is waited until
//! there are buffers. A driver that has not given them after a pause gives no more than those: then
//! packets are read all the same, and one that does not fit is lost.
//!
//! A read that fails says that the tap is empty (`EAGAIN`), that it is there no more (`EBADFD`), or
//! that a packet was taken off it and lost. After the last of these there may be more packets, of
//! which the tap says nothing new, so reading goes on; should nothing else come of that for a whole
//! turn, then after a pause.

use super::buffers::Buffers;
use super::{Interface, LONGEST, LONGEST_CUT, OFFLOADS, QUEUE_SIZE, Told};
use crate::io::{Registry, Source};
use crate::memory::GuestRam;
use crate::tap::{HEADER, Offloads, Wire};
use crate::usage::Usage;
use crate::virtio::Activation;
use crate::virtio::queue::{Broken, Chain, DeviceQueue, Malformed, TURN, walk};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use vm_memory::{GuestMemoryBackend, VolatileSlice};
use vmm_sys_util::epoll::EventSet;

/// With any of these, long packets come.
const UNCUT: Offloads = Offloads::TSO4.union(Offloads::TSO6);

pub(super) const WIRE: u32 = 0;
pub(super) const RECEIVE: u32 = 1;
pub(super) const SEND: u32 = 2;

/// Packets that may have waited in the tap for a driver, and are thrown away when one comes. The
/// kernel's limit for a tap that nobody has changed is 1,000.
const STALE: usize = 10_000;

/// How long a tap is left alone of which a whole turn of reads has failed, and how long buffers for
/// uncut packets are waited for.
const PAUSE: Duration = Duration::from_millis(100);

/// The device's queues, and what packets need.
pub(super) struct Service {
    ram: Arc<GuestRam>,
    wire: Arc<dyn Wire>,
    receive: DeviceQueue,
    send: DeviceQueue,
    buffers: Buffers,
    offloads: Offloads,
    /// Whether a packet may take several chains.
    merged: bool,
    /// There may be packets in the tap.
    waiting: bool,
    /// When they are looked for again, after a turn of reads that failed.
    again: Option<Instant>,
    /// When buffers for uncut packets have been waited for long enough.
    patience: Option<Instant>,
    /// The driver has given too few for them all that time.
    scarce: bool,
    usage: Usage,
    told: Arc<Told>,
}

impl Service {
    pub(super) fn new(activation: Activation, interface: &Interface) -> io::Result<Self> {
        let mut queues = activation.queues.into_iter();
        let mut queue = || queues.next().ok_or(io::ErrorKind::InvalidInput);
        let has = |feature: u32| activation.features & 1 << feature != 0;
        let accepted = OFFLOADS.iter().filter(|(feature, _)| has(*feature));
        let mut offloads: Offloads = accepted.map(|(_, offload)| *offload).collect();
        // Whoever does no checksums cannot do the rest, and notices are in packets that are cut
        // (section 5.1.3.1).
        if !offloads.contains(Offloads::CSUM) {
            offloads = Offloads::empty();
        } else if !offloads.intersects(UNCUT) {
            offloads.remove(Offloads::ECN);
        }
        Ok(Self {
            ram: Arc::new(activation.ram),
            wire: interface.wire.clone(),
            receive: queue()?,
            send: queue()?,
            buffers: Buffers::default(),
            offloads,
            merged: has(VIRTIO_NET_F_MRG_RXBUF),
            waiting: false,
            again: None,
            patience: None,
            scarce: false,
            usage: interface.usage.clone(),
            told: interface.told.clone(),
        })
    }

    /// Gives packets that have come to the driver, until there are none or it has no room.
    fn receive(&mut self) -> Result<(), Broken> {
        let ram = self.ram.clone();
        self.again = None;
        let mut read = false;
        for _ in 0..TURN {
            if !self.waiting || !self.gather(&ram)? {
                return Ok(());
            }
            read |= self.receive_one(&ram)?;
        }
        match (self.waiting, read) {
            (true, true) => self.receive.ring(),
            (true, false) => self.again = Some(Instant::now() + PAUSE),
            (false, _) => {}
        }
        Ok(())
    }

    /// Takes buffers from the driver, and says whether they suffice for a packet. If not, the
    /// doorbell tells of more.
    fn gather(&mut self, ram: &GuestRam) -> Result<bool, Broken> {
        for _ in 0..QUEUE_SIZE {
            let enough =
                if self.merged { self.buffers.suffice() } else { !self.buffers.is_empty() };
            if enough {
                (self.patience, self.scarce) = (None, false);
                return Ok(true);
            }
            if let Some(chain) = self.receive.pop(ram)? {
                let head = chain.head_index();
                if self.buffers.add(chain, ram).is_err() {
                    self.receive.add_used(head, 0)?;
                }
            } else if !self.receive.await_buffers()? {
                // A ring may hold less than that: then there is nothing to wait for.
                let full = self.buffers.pieces() >= usize::from(self.receive.size());
                let enough = self.buffers.have(if full { LONGEST_CUT } else { self.least() });
                if !enough && self.buffers.have(LONGEST_CUT) {
                    self.patience.get_or_insert_with(|| Instant::now() + PAUSE);
                }
                return Ok(enough);
            }
        }
        // So many that make no sense: whatever else there is to do comes first.
        self.receive.ring();
        Ok(false)
    }

    /// The room without which no packet is read. A driver that takes uncut packets has room for
    /// them, as a rule: soon if not now.
    fn least(&self) -> usize {
        if self.offloads.intersects(UNCUT) && !self.scarce { LONGEST } else { LONGEST_CUT }
    }

    /// Reads a packet, if there is one, into the buffers, and gives those to the driver. Says whether
    /// the tap could be read.
    fn receive_one(&mut self, ram: &GuestRam) -> Result<bool, Broken> {
        let room = self.buffers.room(self.merged);
        // SAFETY: this is guest RAM, which `self` keeps mapped, and the guest expects that anything is
        // written there.
        let read = unsafe { read_packet(self.wire.as_ref(), self.buffers.vectors(self.merged)) };
        match read {
            Ok(length) if length > room => {
                self.told.guest_has_lost("it is longer than the guest's buffers");
            }
            Ok(length) if length >= HEADER => {
                self.usage.has_received(length - HEADER);
                let checked = self.offloads.contains(Offloads::CSUM);
                let filled = self.buffers.take(length, checked, ram);
                self.receive.add_used_together(&filled)?;
            }
            // No packet is so short: there is none.
            Ok(_) => self.waiting = false,
            Err(error) => {
                self.waiting = !has_nothing(&error);
                if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
                    self.told.host_has_failed(&error);
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends the packets that the driver has made available.
    fn send(&mut self) -> Result<(), Broken> {
        let ram = self.ram.clone();
        for _ in 0..TURN {
            let Some(chain) = self.send.pop(&ram)? else {
                if self.send.await_buffers()? {
                    continue;
                }
                return Ok(());
            };
            let head = chain.head_index();
            match packet(chain, &ram) {
                Ok(packet) => self.send_one(&packet),
                Err(Malformed) => self.told.guest_has_lost("the guest's driver made none"),
            }
            self.send.add_used(head, 0)?;
        }
        self.send.ring();
        Ok(())
    }

    fn send_one(&mut self, packet: &[VolatileSlice<'_>]) {
        match write_packet(self.wire.as_ref(), packet) {
            Ok(length) => self.usage.has_sent(length.saturating_sub(HEADER)),
            // The tap does not like what the header says.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.told.guest_has_lost("the guest's driver gave it a header of nonsense");
            }
            Err(error) => self.told.host_has_failed(&error),
        }
    }

    /// Throws away what has come for a former driver, which may have done other things itself.
    fn empty(&self) {
        let mut bytes = [0; 64];
        for _ in 0..STALE {
            let vector = vector(&VolatileSlice::from(bytes.as_mut_slice()));
            // SAFETY: these are the bytes above.
            match unsafe { read_packet(self.wire.as_ref(), [vector].into_iter()) } {
                Ok(0) => return,
                Err(error) if has_nothing(&error) => return,
                _ => {}
            }
        }
    }
}

/// A packet that the driver wants sent, with its header; it is checked as a whole.
fn packet<'a>(chain: Chain<'_>, ram: &'a GuestRam) -> Result<Vec<VolatileSlice<'a>>, Malformed> {
    let mut slices = Vec::new();
    let mut bytes = 0_usize;
    walk(chain, QUEUE_SIZE, |descriptor| {
        bytes = bytes.saturating_add(descriptor.len() as usize);
        if descriptor.is_write_only() || bytes > LONGEST {
            return Err(Malformed);
        }
        for slice in ram.get_slices(descriptor.addr(), descriptor.len() as usize) {
            slices.push(slice.map_err(|_| Malformed)?);
        }
        Ok(())
    })?;
    if bytes < HEADER { Err(Malformed) } else { Ok(slices) }
}

/// Reads a packet into `vectors`, and gives its bytes: more than these have if it did not fit.
///
/// # Safety
/// The vectors are memory that this process has, and anything can be written there.
unsafe fn read_packet(
    wire: &dyn Wire,
    vectors: impl Iterator<Item = libc::iovec>,
) -> io::Result<usize> {
    let mut over = 0_u8;
    let over = libc::iovec { iov_base: (&raw mut over).cast(), iov_len: 1 };
    let vectors: Vec<libc::iovec> = vectors.chain([over]).collect();
    // SAFETY: each vector is what the caller says, or the byte above.
    let length = unsafe { libc::readv(wire.as_raw_fd(), vectors.as_ptr(), count_of(&vectors)) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Whether the `error` of a read says that there is no packet: none has come, or none can come any
/// more.
fn has_nothing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBADFD))
}

/// Writes the packet that lies in `slices`, and gives its bytes.
fn write_packet(wire: &dyn Wire, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let vectors: Vec<libc::iovec> = slices.iter().map(vector).collect();
    // SAFETY: each vector is a slice of guest RAM, which the slices keep mapped; they are only read.
    let length = unsafe { libc::writev(wire.as_raw_fd(), vectors.as_ptr(), count_of(&vectors)) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// A slice as the system takes it. It is not kept longer than the slice.
fn vector(slice: &VolatileSlice<'_>) -> libc::iovec {
    libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() }
}

/// How many vectors there are: fewer than the 1,024 that the system takes, for the buffers that lie
/// ready are at most two chains' descriptors but one, and one is added.
fn count_of(vectors: &[libc::iovec]) -> libc::c_int {
    vectors.len() as libc::c_int
}

impl Source for Service {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        self.wire.set_offloads(self.offloads)?;
        self.empty();
        let change = EventSet::IN | EventSet::EDGE_TRIGGERED;
        registry.watch(self.receive.doorbell().as_ref(), RECEIVE, change)?;
        registry.watch(self.send.doorbell().as_ref(), SEND, change)?;
        registry.watch(&self.wire.as_raw_fd(), WIRE, change)
    }

    fn ready(&mut self, token: u32, _events: EventSet, registry: &mut Registry<'_>) {
        let served = match token {
            SEND => self.send(),
            RECEIVE => self.receive(),
            _ => {
                self.waiting = true;
                self.receive()
            }
        };
        self.receive.notify();
        self.send.notify();
        if served.is_err() {
            registry.forget_all();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.again.or(self.patience)
    }

    fn expired(&mut self, registry: &mut Registry<'_>) {
        // Never both: a tap is read only if there are buffers, and these end the waiting for more. A
        // driver that was found to give few is not found to give many by a tap that cannot be read.
        self.scarce |= self.patience.take().is_some();
        let served = self.receive();
        self.receive.notify();
        if served.is_err() {
            registry.forget_all();
        }
    }
}
