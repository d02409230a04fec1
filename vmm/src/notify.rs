//! Readiness without an agent: what the guest's systemd says of its own boot.
//!
//! A service manager tells its own supervisor how far it is with the protocol of `sd_notify(3)`. In
//! a virtual machine the supervisor is the monitor: systemd's PID 1 looks for the credential
//! `vmm.notify_socket`, which comes in the SMBIOS tables (systemd(1), "Readiness Protocol"):
//!
//! ```text
//! io.systemd.credential:vmm.notify_socket=vsock-stream:2:22094
//!
//! PID 1                                     monitor
//!   | connect from any port                    |
//!   | "READY=1\n..."                           |
//!   | shut down for writing                    |
//!   |----------------------------------------->|  the message is whole
//!   |                                 close    |
//!   |<-----------------------------------------|  PID 1, which has waited for this, goes on
//! ```
//!
//! Each message has a connection of its own: lines of `KEY=VALUE`. `READY=1` comes when the boot is
//! complete, and again after a reload; `EXIT_STATUS=n` with the end. systemd 254 is the first to
//! understand this spelling of the address; the 252 of Debian 12 says nothing. What else is said (which
//! units are active, what the host is called) is passed over.
//!
//! A message that cannot be sent is lost, for PID 1 does not try again: if the guest has no driver for
//! vsock yet, then `READY=1` is not heard in this boot. systemd loads it first of all, but only for a
//! device on a PCI bus; ours is on none, and udev, which loads it otherwise, may do so when the boot is
//! complete. Hence the [drop-in](driver) that comes with the address. systemd 254 and 255 take no
//! drop-ins from a machine: there a file in `/etc/modules-load.d` does it.
//!
//! PID 1 stands still while it waits for the close, so nothing here waits for anything: the
//! connections are [served](Listener) by the thread that moves their bytes. Any process of the guest
//! can dial the port (not every systemd binds a privileged one), so all of this is the guest's
//! claim, and good for nothing but to know when to begin. Whoever floods the port loses connections,
//! the oldest first: a message that is whole has been read long before its turn comes.

use crate::events::{EventKind, Events};
use crate::io::{Registry, Source};
use crate::kit::credential;
use crate::vsock::device::Service;
use crate::x86::smbios::{OEM_STRINGS_COUNT, OEM_STRINGS_MAX};
use crossbeam_channel::{Receiver, bounded};
use protocol::{HOST_CID, NOTIFY_PORT};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

/// Bytes that a message may have.
pub const MESSAGE_MAX: usize = 4096;
/// Connections at once; the oldest is dropped for one more.
pub const CONNECTIONS_MAX: usize = 64;

/// The credentials that name the address, in both of their spellings.
const CREDENTIALS: [&str; 2] =
    ["io.systemd.credential:vmm.notify_socket=", "io.systemd.credential.binary:vmm.notify_socket="];

/// What loads the driver, before `sysinit.target` and so long before the boot is complete. The unit that
/// it is a drop-in of is part of every boot, even where its own conditions keep it from running.
const DRIVER: (&str, &str) = (
    "systemd.unit-dropin.systemd-modules-load.service",
    "[Unit]\nWants=modprobe@vmw_vsock_virtio_transport.service\n",
);

/// Tokens: the bell, and then the connections.
const BELL: u32 = 0;
const FIRST_CONNECTION: u32 = 1;

/// `strings` with the one that tells systemd where to report to: unless the user has named another
/// place, or the table would become too long.
#[must_use]
pub fn with_address(strings: &[String]) -> Cow<'_, [String]> {
    let named = |string: &String| CREDENTIALS.iter().any(|name| string.starts_with(name));
    if strings.iter().any(named) {
        return strings.into();
    }
    let address = format!("{}vsock-stream:{HOST_CID}:{NOTIFY_PORT}", CREDENTIALS[0]);
    let bytes: usize = strings.iter().chain([&address]).map(|string| string.len() + 1).sum();
    if strings.len() >= OEM_STRINGS_COUNT || bytes > OEM_STRINGS_MAX {
        tracing::warn!("the OEM strings leave no room for the address of the readiness protocol");
        return strings.into();
    }
    let mut strings = strings.to_vec();
    strings.push(address);
    strings.into()
}

/// The string that has systemd 256 or newer load the driver in time.
#[must_use]
pub fn driver() -> String {
    credential(DRIVER.0, DRIVER.1)
}

/// How far the guest is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The machine is off.
    #[default]
    Off,
    /// The guest boots, or does not say more.
    Booting,
    /// It has said that it is ready.
    Ready,
}

/// What the guest has told of its boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// How far it is.
    pub phase: Phase,
    /// Milliseconds from the beginning of the boot until it was ready.
    pub ready_ms: Option<u64>,
    /// With what its init has ended, in its last boot.
    pub exit_status: Option<u8>,
    /// Messages of this boot that were understood.
    pub messages: u64,
    /// Those that were not, that were too long, or that made room for others.
    pub dropped: u64,
}

/// What a machine's guest has told, and to whom it is told on.
#[derive(Clone)]
pub struct Readiness {
    told: Arc<Mutex<(Told, Instant)>>,
    events: Events,
}

impl Readiness {
    /// Of a machine that is off. Whoever listens to `events` hears when the guest is ready.
    #[must_use]
    pub fn new(events: Events) -> Self {
        Self { told: Arc::new(Mutex::new((Told::default(), Instant::now()))), events }
    }

    /// What the guest has told.
    #[must_use]
    pub fn told(&self) -> Told {
        self.lock().0.clone()
    }

    /// The guest begins to boot: what it said before was of another boot.
    pub fn boot_begins(&self) {
        let told = Told { phase: Phase::Booting, ..Told::default() };
        *self.lock() = (told, Instant::now());
    }

    /// The machine is off; with what the guest has ended is kept.
    pub fn machine_ended(&self) {
        self.lock().0.phase = Phase::Off;
    }

    /// Takes a message of the guest.
    fn heard(&self, message: &[u8]) {
        if message.is_empty() {
            // Nobody has said anything: PID 1 gives up a connection that it waits for longer than 2 s,
            // as when the host is held up, and resets it when the answer comes.
            return tracing::debug!("the guest gave up a connection before it said anything");
        }
        let Some(lines) = understood(message) else {
            return self.dropped(&format!("{} bytes that are no fields", message.len()));
        };
        let mut lock = self.lock();
        let (told, begun) = &mut *lock;
        told.messages += 1;
        let mut became_ready = false;
        for line in lines {
            if line == "READY=1" && told.phase == Phase::Booting {
                told.phase = Phase::Ready;
                told.ready_ms = u64::try_from(begun.elapsed().as_millis()).ok();
                became_ready = true;
            } else if let Some(status) = line.strip_prefix("EXIT_STATUS=") {
                // No number is no status.
                told.exit_status = status.parse().ok().or(told.exit_status);
            }
        }
        drop(lock);
        if became_ready {
            tracing::info!("the guest says that it is ready");
            self.events.publish(EventKind::GuestReady);
        }
    }

    fn dropped(&self, why: &str) {
        tracing::debug!(why, "a message of the guest's init was dropped");
        self.lock().0.dropped += 1;
    }

    fn lock(&self) -> MutexGuard<'_, (Told, Instant)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lines of a message, if one of them is of the protocol.
fn understood(message: &[u8]) -> Option<std::str::Lines<'_>> {
    let lines = std::str::from_utf8(message).ok()?.lines();
    let is_field = |line: &str| line.split_once('=').is_some_and(|(key, _)| !key.is_empty());
    lines.clone().any(is_field).then_some(lines)
}

/// The connections of one boot.
pub struct Listener {
    readiness: Readiness,
    incoming: Receiver<UnixStream>,
    /// Rung when something is incoming.
    bell: Arc<EventFd>,
    /// The oldest first.
    connections: BTreeMap<u32, Connection>,
    next: u32,
}

/// A connection, and what has come through it.
struct Connection {
    stream: UnixStream,
    message: Vec<u8>,
}

/// What a connection has come to.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// There may be more.
    Waits,
    /// The message is whole.
    Whole,
    /// It is longer than any can be, or the connection failed.
    Failed,
}

/// The service that the guest dials, and who serves it.
///
/// # Errors
/// No descriptor is left.
pub fn service(readiness: Readiness) -> io::Result<(Service, Listener)> {
    let bell = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
    let (accept, incoming) = bounded(CONNECTIONS_MAX);
    let service =
        Service { port: NOTIFY_PORT, privileged: false, accept, bell: Some(bell.clone()) };
    let connections = BTreeMap::new();
    Ok((service, Listener { readiness, incoming, bell, connections, next: FIRST_CONNECTION }))
}

impl Listener {
    /// Takes a new connection, for which the oldest makes room if there are too many.
    fn take(&mut self, stream: UnixStream, registry: &mut Registry<'_>) {
        if self.connections.len() >= CONNECTIONS_MAX
            && let Some((_, oldest)) = self.connections.pop_first()
        {
            registry.forget(&oldest.stream);
            self.readiness.dropped("it made room for a newer one");
        }
        let token = self.next;
        // Four thousand million connections later the first one's number is surely free again.
        self.next = token.checked_add(1).unwrap_or(FIRST_CONNECTION);
        let watched = stream
            .set_nonblocking(true)
            .and_then(|()| registry.watch(&stream, token, EventSet::IN));
        match watched {
            Ok(()) => {
                let connection = Connection { stream, message: Vec::new() };
                drop(self.connections.insert(token, connection));
            }
            Err(error) => self.readiness.dropped(&error.to_string()),
        }
    }

    /// Reads on; a connection that is done with is closed, which is the answer to it.
    fn read(&mut self, token: u32, registry: &mut Registry<'_>) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let progress = connection.read();
        if progress == Progress::Waits {
            return;
        }
        let Some(connection) = self.connections.remove(&token) else { return };
        registry.forget(&connection.stream);
        if progress == Progress::Whole {
            self.readiness.heard(&connection.message);
        } else {
            self.readiness.dropped("it is too long, or its connection failed");
        }
    }
}

impl Connection {
    fn read(&mut self) -> Progress {
        let mut bytes = [0; MESSAGE_MAX];
        match self.stream.read(&mut bytes) {
            Ok(0) => Progress::Whole,
            Ok(count) if self.message.len() + count > MESSAGE_MAX => Progress::Failed,
            Ok(count) => {
                self.message.extend_from_slice(&bytes[..count]);
                Progress::Waits
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Progress::Waits,
                _ => Progress::Failed,
            },
        }
    }
}

impl Source for Listener {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        registry.watch(self.bell.as_ref(), BELL, EventSet::IN)
    }

    fn ready(&mut self, token: u32, _: EventSet, registry: &mut Registry<'_>) {
        if token != BELL {
            return self.read(token, registry);
        }
        // Non-blocking, and only this thread reads it.
        let _ = self.bell.read();
        // They are put there by this thread too, so there are no more than the channel takes.
        while let Ok(stream) = self.incoming.try_recv() {
            self.take(stream, registry);
        }
    }
}

#[cfg(test)]
#[path = "notify_tests.rs"]
mod tests;
