//! A console that people attach to and detach from while the machine runs.
//!
//! Everyone who is attached sees what the guest prints and may type. Who comes later sees the last
//! of what was printed before, so that a prompt is not missed. Who does not read is detached, so
//! that nobody waits for them; the guest never does.

use crate::console::ConsoleOutput;
use crate::console::port::{InputRoom, SharedPort};
use crate::io::{Registry, Source};
use rustix::net::{SendFlags, send};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

/// Bytes of past output that somebody who attaches is shown.
pub const HISTORY: usize = 64 * 1024;
/// Bytes of output that may wait for somebody who is attached.
const BEHIND: usize = 256 * 1024;
/// People attached at once.
pub const MAX_ATTACHED: usize = 16;

/// Where people attach; it outlives the guest's reboots.
#[derive(Clone)]
pub struct ConsoleHub {
    waiting: Arc<Mutex<Waiting>>,
    bell: Arc<EventFd>,
}

#[derive(Default)]
struct Waiting {
    history: VecDeque<u8>,
    /// Attached, and not served by a boot yet.
    people: Vec<Attached>,
}

/// Somebody who is attached.
struct Attached {
    stream: UnixStream,
    /// What it is still to be shown.
    unsent: VecDeque<u8>,
    /// What it has typed before it was served.
    typed: Vec<u8>,
    /// It has typed more than the port has room for, and is not read until there is some.
    held_up: bool,
}

impl Attached {
    /// For what its stream is to be watched.
    fn interest(&self) -> EventSet {
        let mut interest = EventSet::empty();
        if !self.held_up {
            interest |= EventSet::IN;
        }
        if !self.unsent.is_empty() {
            interest |= EventSet::OUT;
        }
        interest
    }
}

impl ConsoleHub {
    /// A console that nobody is attached to.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let bell = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { waiting: Arc::default(), bell: Arc::new(bell) })
    }

    /// Attaches `stream`, whose other end has typed `typed` already.
    ///
    /// # Errors
    /// The stream cannot be made non-blocking.
    pub fn attach(&self, stream: UnixStream, typed: Vec<u8>) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let mut waiting = self.lock();
        let unsent = waiting.history.clone();
        waiting.people.push(Attached { stream, unsent, typed, held_up: false });
        drop(waiting);
        // Full means that it is readable, which is all that is wanted.
        let _ = self.bell.write(1);
        Ok(())
    }

    /// The console of one boot, to be served on the `io` thread: it types into `port`.
    pub(super) fn connect(&self, output: ConsoleOutput, port: SharedPort) -> Box<dyn Source> {
        let room = port.lock().unwrap_or_else(PoisonError::into_inner).input_room();
        let people = BTreeMap::new();
        Box::new(Connected { hub: self.clone(), output, port, room, people, next: FIRST })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens; people have those from the last one on.
const FILLED: u32 = 0;
const ROOM: u32 = 1;
const BELL: u32 = 2;
const FIRST: u32 = 3;

/// The console on the `io` thread.
struct Connected {
    hub: ConsoleHub,
    output: ConsoleOutput,
    port: SharedPort,
    room: InputRoom,
    people: BTreeMap<u32, Attached>,
    next: u32,
}

impl Connected {
    /// Takes whoever has attached.
    fn welcome(&mut self, registry: &mut Registry<'_>) {
        let newcomers = std::mem::take(&mut self.hub.lock().people);
        for newcomer in newcomers {
            let token = self.next;
            let watched = registry.watch(&newcomer.stream, token, EventSet::IN);
            if self.people.len() >= MAX_ATTACHED || watched.is_err() {
                registry.forget(&newcomer.stream);
                continue;
            }
            self.next = self.next.checked_add(1).unwrap_or(FIRST);
            self.people.insert(token, newcomer);
            self.type_waiting(token);
            self.show(token, registry);
        }
    }

    /// Gives what was printed to everybody.
    fn spread(&mut self, registry: &mut Registry<'_>) {
        let printed = self.output.take();
        {
            let mut waiting = self.hub.lock();
            waiting.history.extend(&printed);
            let surplus = waiting.history.len().saturating_sub(HISTORY);
            waiting.history.drain(..surplus);
        }
        let tokens: Vec<u32> = self.people.keys().copied().collect();
        for token in tokens {
            if let Some(person) = self.people.get_mut(&token) {
                person.unsent.extend(&printed);
            }
            self.show(token, registry);
        }
    }

    /// Sends somebody what they are still to be shown.
    fn show(&mut self, token: u32, registry: &mut Registry<'_>) {
        let Some(person) = self.people.get_mut(&token) else { return };
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut stays = true;
        while stays && !person.unsent.is_empty() {
            match send(&person.stream, person.unsent.as_slices().0, flags) {
                Ok(count) => drop(person.unsent.drain(..count)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => stays = false,
            }
        }
        stays &= person.unsent.len() <= BEHIND;
        if !stays || registry.watch(&person.stream, token, person.interest()).is_err() {
            self.detach(token, registry);
        }
    }

    fn detach(&mut self, token: u32, registry: &mut Registry<'_>) {
        if let Some(person) = self.people.remove(&token) {
            registry.forget(&person.stream);
        }
    }

    /// Types what somebody has typed, as much as the port has room for.
    fn listen(&mut self, token: u32, registry: &mut Registry<'_>) {
        let Some(person) = self.people.get_mut(&token) else { return };
        let mut keys = [0; 64];
        let room = free_room(&self.port, &self.room).min(keys.len());
        if room == 0 {
            person.held_up = true;
            // It is still shown what is printed.
            return self.show(token, registry);
        }
        match person.stream.read(&mut keys[..room]) {
            Ok(0) => self.detach(token, registry),
            Ok(count) => type_keys(&self.port, &keys[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.detach(token, registry),
        }
    }

    /// Types what somebody had typed before they were served, as much as the port has room for.
    fn type_waiting(&mut self, token: u32) {
        let Some(person) = self.people.get_mut(&token) else { return };
        person.held_up = false;
        while !person.typed.is_empty() && !person.held_up {
            let room = free_room(&self.port, &self.room).min(person.typed.len());
            let keys: Vec<u8> = person.typed.drain(..room).collect();
            person.held_up = keys.is_empty();
            type_keys(&self.port, &keys);
        }
    }
}

/// Types `keys`, for which the port has room. One that its guest tests in loop mode takes nothing
/// all the same: then they are lost, as they would be on the wire.
pub(super) fn type_keys(port: &SharedPort, keys: &[u8]) {
    port.lock().unwrap_or_else(PoisonError::into_inner).receive(keys);
}

/// Bytes that the port takes; if it takes none, it has been asked to say when it does again.
pub(super) fn free_room(port: &SharedPort, room: &InputRoom) -> usize {
    let free = || port.lock().unwrap_or_else(PoisonError::into_inner).room();
    match free() {
        0 => {
            room.want();
            // It may have been emptied before it was asked.
            free()
        }
        free => free,
    }
}

impl Source for Connected {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        registry.watch(self.output.filled().as_ref(), FILLED, EventSet::IN)?;
        registry.watch(self.room.event().as_ref(), ROOM, EventSet::IN)?;
        registry.watch(self.hub.bell.as_ref(), BELL, EventSet::IN)?;
        self.welcome(registry);
        Ok(())
    }

    fn ready(&mut self, token: u32, events: EventSet, registry: &mut Registry<'_>) {
        match token {
            FILLED => {
                // Non-blocking, and only this thread reads it; as are those below.
                let _ = self.output.filled().read();
                self.spread(registry);
            }
            ROOM => {
                let _ = self.room.event().read();
                let tokens: Vec<u32> = self.people.keys().copied().collect();
                for token in tokens {
                    self.type_waiting(token);
                    self.show(token, registry);
                }
            }
            BELL => {
                let _ = self.hub.bell.read();
                self.welcome(registry);
            }
            token => {
                if events.contains(EventSet::OUT) {
                    self.show(token, registry);
                }
                let gone = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
                let held_up = self.people.get(&token).is_some_and(|person| person.held_up);
                if gone && held_up {
                    // It would be reported for as long as the guest reads nothing.
                    self.detach(token, registry);
                } else if gone || events.contains(EventSet::IN) {
                    self.listen(token, registry);
                }
            }
        }
    }
}

impl Drop for Connected {
    /// Whoever is attached stays attached to the next boot.
    fn drop(&mut self) {
        let printed = self.output.take();
        let mut waiting = self.hub.lock();
        waiting.history.extend(&printed);
        for mut person in std::mem::take(&mut self.people).into_values() {
            person.unsent.extend(&printed);
            // The next boot has a port of its own.
            person.held_up = false;
            // What the peer does not take now it may take in the next boot, if there is one.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            if let Ok(count) = send(&person.stream, person.unsent.make_contiguous(), flags) {
                person.unsent.drain(..count);
            }
            waiting.people.push(person);
        }
    }
}
