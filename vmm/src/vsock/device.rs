//! The device: three queues, and the multiplexer behind them.
//!
//! The guest's packets come through the transmit queue, ours go through the receive queue, the
//! event queue tells of migrations and is never used. The transmit queue is not looked at while
//! too many resets wait for the receive queue: a guest that takes no packets sends none. The buffers of
//! what it sent go back with the next packet that it gets, or after a while. When a queue is nonsense,
//! all connections end, and nothing is served until the guest resets the device.

use crate::io::{IoHandle, Registry, Source, SourceId};
use crate::memory::GuestRam;
use crate::virtio::chain::Whole;
use crate::virtio::queue::{Broken, DeviceQueue, Malformed, TURN};
use crate::virtio::{Activation, VirtioDevice, read_bytes};
use crate::vsock::mux::{Mux, TOKENS};
use crate::vsock::packet::{self, op};
use crate::vsock::room::Room;
use crossbeam_channel::Sender;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

const DEVICE_TYPE: u32 = 19;
const QUEUE_SIZES: [u16; 3] = [256, 256, 64];
/// How long a packet's buffers are kept after it has been taken, if nothing comes between. What is
/// fuzzed is to do the same each time.
const KEEP: Duration = Duration::from_millis(if cfg!(fuzzing) { 0 } else { 1 });
/// Tokens of the doorbells, after those of the multiplexer.
const RECEIVE: u32 = TOKENS;
const TRANSMIT: u32 = TOKENS + 1;

/// What the device connects.
pub struct VsockConfig {
    /// The guest's context id: 3 or more, and less than 2^32 - 1.
    pub guest_cid: u64,
    /// Where host programs connect to reach the guest.
    pub listener: Option<UnixListener>,
    /// What the guest dials and no service takes goes to the socket `<this>_<port>`.
    pub guest_sockets: Option<PathBuf>,
    /// The monitor's own services.
    pub services: Vec<Service>,
}

impl VsockConfig {
    fn try_clone(&self) -> io::Result<Self> {
        let listener = self.listener.as_ref().map(UnixListener::try_clone).transpose()?;
        if let Some(listener) = &listener {
            listener.set_nonblocking(true)?;
        }
        Ok(Self {
            guest_cid: self.guest_cid,
            listener,
            guest_sockets: self.guest_sockets.clone(),
            services: self.services.clone(),
        })
    }
}

/// A service inside the monitor that the guest can dial.
#[derive(Clone)]
pub struct Service {
    /// Its port on the host.
    pub port: u32,
    /// Only privileged processes of the guest may dial it: those that could bind a source port
    /// below [`protocol::PRIVILEGED_PORTS`].
    pub privileged: bool,
    /// Takes the service's ends of new connections; when it is full, the guest is refused.
    pub accept: Sender<UnixStream>,
    /// Rung when one has been given to it.
    pub bell: Option<Arc<EventFd>>,
}

/// The device.
pub struct Vsock {
    config: VsockConfig,
    io: IoHandle,
    active: Option<SourceId>,
    /// See [`Mux::new`].
    logged: Arc<AtomicBool>,
}

impl Vsock {
    /// A device that is served on `io`.
    #[must_use]
    pub fn new(config: VsockConfig, io: IoHandle) -> Self {
        Self { config, io, active: None, logged: Arc::default() }
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config_is_fixed(&self) -> bool {
        true
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let mux = Mux::new(self.config.try_clone()?, self.logged.clone());
        let mut queues = activation.queues.into_iter();
        let (Some(receive), Some(transmit)) = (queues.next(), queues.next()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let ram = Arc::new(activation.ram);
        let queues = Queues { ram, receive, transmit, taken: Taken::default(), mux };
        self.active = Some(self.io.add(Box::new(queues))?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take() {
            self.io.remove(active);
        }
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.reset();
    }
}

/// The device on the `io` thread.
struct Queues {
    ram: Arc<GuestRam>,
    receive: DeviceQueue,
    transmit: DeviceQueue,
    taken: Taken,
    mux: Mux,
}

/// Chains of the transmit queue whose packets have been taken, and that the guest has not got back.
///
/// It would be interrupted for them, and all that it does then is to free memory. Most packets are soon
/// answered by one that interrupts it anyway: they go back with that. If none comes, they go back after a
/// while, or before there are so many of them that the guest could run out of descriptors. A driver that
/// waits for each is slowed down by that only once, until something comes for it again.
#[derive(Default)]
struct Taken {
    chains: Vec<(u16, u32)>,
    /// Those that they have.
    descriptors: usize,
    /// From when on they are to go back; none if there are none.
    until: Option<Instant>,
    /// The last ones were kept for nothing: the next are not, until something comes for the guest.
    in_vain: bool,
}

impl Taken {
    fn add(&mut self, head: u16, descriptors: usize) {
        self.chains.push((head, 0));
        self.descriptors += descriptors;
        self.until.get_or_insert_with(|| Instant::now() + KEEP);
    }

    /// Whether they are to go back to a queue of this size now, at the end of a turn in which the guest
    /// `gets_packets` or does not.
    fn is_due(&mut self, size: u16, gets_packets: bool) -> bool {
        self.in_vain &= !gets_packets;
        gets_packets || self.in_vain || self.descriptors > usize::from(size / 4)
    }

    /// Gives them back to `queue`, from which they are.
    fn give_back(&mut self, queue: &mut DeviceQueue) -> Result<(), Broken> {
        self.descriptors = 0;
        self.until = None;
        let outcome = queue.add_used_together(&self.chains);
        self.chains.clear();
        outcome
    }
}

impl Queues {
    /// Moves packets for one turn: the guest's if it `rang`, and ours.
    fn serve(&mut self, rang: bool, registry: &mut Registry<'_>) {
        let taken = if rang { self.take_packets(registry) } else { Ok(()) };
        let given = taken.and_then(|()| self.give_packets(registry));
        let is_due = self.taken.is_due(self.transmit.size(), self.receive.has_given());
        self.conclude(given, is_due, registry);
    }

    /// Ends a turn: gives back what was taken, if that `is_due`, and interrupts the guest. When what was done
    /// has shown that a queue is broken, that is the last that it gets.
    fn conclude(&mut self, done: Result<(), Broken>, is_due: bool, registry: &mut Registry<'_>) {
        let transmit = &mut self.transmit;
        let given_back = match done {
            Ok(()) if !is_due => Ok(()),
            _ => self.taken.give_back(transmit),
        };
        transmit.notify_with(&mut self.receive);
        if done.and(given_back).is_err() {
            registry.forget_all();
            self.mux.close();
        }
    }

    /// Takes the guest's packets.
    fn take_packets(&mut self, registry: &mut Registry<'_>) -> Result<(), Broken> {
        let ram = self.ram.clone();
        for _ in 0..TURN {
            if !self.mux.accepts_packets() {
                // `give_packets` comes back to the rest when the guest has taken a reset.
                return Ok(());
            }
            let Some(chain) = self.transmit.pop(&ram)? else {
                if self.transmit.await_buffers()? {
                    continue;
                }
                return Ok(());
            };
            let (head, most) = (chain.head_index(), self.transmit.size());
            let chain = Whole::of(chain, most);
            let descriptors = chain.as_ref().map_or(most.into(), Whole::count);
            // What is no chain is no packet, and one that has no header has no sender to tell.
            if let Ok(chain) = chain
                && let Ok(mut reader) = chain.reader(&ram)
                && let Ok(mut header) = packet::read_header(&mut reader)
            {
                let mut payload = Vec::new();
                // Only data has a payload, whatever the length says.
                if header.op.get() == op::RW {
                    match packet::payload(&header, &mut reader) {
                        Ok(slices) => payload = slices,
                        // A stream with a hole is no stream any more.
                        Err(Malformed) => header.op = op::INVALID.into(),
                    }
                }
                self.mux.receive(&header, &payload, registry);
            }
            self.taken.add(head, descriptors);
        }
        self.transmit.ring();
        Ok(())
    }

    /// Gives the guest its packets, as far as it has buffers.
    fn give_packets(&mut self, registry: &mut Registry<'_>) -> Result<(), Broken> {
        let ram = self.ram.clone();
        let held_up = !self.mux.accepts_packets();
        let mut room = Room::default();
        let mut turn = TURN;
        while self.mux.has_packets() {
            if turn == 0 {
                self.receive.ring();
                break;
            }
            let refused = self.take_buffers(self.mux.appetite().min(turn), &mut room, &ram)?;
            turn -= refused;
            if room.buffers() == 0 {
                if refused == 0 {
                    if !self.receive.await_buffers()? {
                        break;
                    }
                    // One that the driver has added and taken back has its part of the turn, too.
                    turn -= 1;
                }
                continue;
            }
            let header = self.mux.next_packet(room.payload(), registry);
            let filled = header.map_or_else(Vec::new, |header| room.fill(&header));
            for _ in filled.len()..room.buffers() {
                self.receive.unpop();
            }
            self.receive.add_used_together(&filled)?;
            turn -= filled.len();
            if header.is_none() {
                break;
            }
        }
        if held_up && self.mux.accepts_packets() {
            self.transmit.ring();
        }
        Ok(())
    }

    /// Takes up to `count` of the guest's buffers into `room`. One that is none, that holds no header,
    /// or nothing beside it, goes back empty when it is the first; gives how many did.
    fn take_buffers<'a>(
        &mut self,
        count: usize,
        room: &mut Room<'a>,
        ram: &'a GuestRam,
    ) -> Result<usize, Broken> {
        let mut refused = 0;
        room.clear();
        while room.buffers() + refused < count && !room.is_full() {
            let Some(chain) = self.receive.pop(ram)? else { break };
            let head = chain.head_index();
            match room.add(chain, self.receive.size(), ram) {
                Ok(()) => {}
                Err(Malformed) if room.buffers() == 0 => {
                    refused += 1;
                    self.receive.add_used(head, 0)?;
                }
                Err(Malformed) => {
                    self.receive.unpop();
                    break;
                }
            }
        }
        Ok(refused)
    }
}

impl Source for Queues {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        // Each ring is heard, and need not be taken off the doorbell.
        let rings = EventSet::IN | EventSet::EDGE_TRIGGERED;
        registry.watch(self.receive.doorbell().as_ref(), RECEIVE, rings)?;
        registry.watch(self.transmit.doorbell().as_ref(), TRANSMIT, rings)?;
        self.mux.start(registry)
    }

    fn ready(&mut self, token: u32, events: EventSet, registry: &mut Registry<'_>) {
        if token < TOKENS {
            self.mux.ready(token, events, registry);
        }
        self.serve(token == TRANSMIT, registry);
    }

    fn deadline(&self) -> Option<Instant> {
        self.mux.deadline().into_iter().chain(self.taken.until).min()
    }

    fn expired(&mut self, registry: &mut Registry<'_>) {
        self.mux.expired(registry);
        if self.taken.until.is_some_and(|until| until <= Instant::now()) {
            self.taken.in_vain = true;
            self.conclude(Ok(()), true, registry);
        }
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile_tests;

#[cfg(test)]
#[path = "ring_tests.rs"]
mod ring_tests;
