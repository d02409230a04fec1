//! Threads that serve many descriptors from one epoll. The one named `io` has a machine's queues, but
//! for those of disks and networks, its host sockets and console, the one named `control` its control
//! socket.
//!
//! What it serves are [sources](Source): objects that own descriptors and are called when one of
//! them is ready. A source is put on the thread and taken off from outside; taking off is
//! synchronous, so that afterwards nobody touches the guest's memory on the source's behalf.

use crate::confine::{self, Role};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// Ready descriptors taken from the kernel at once.
const BATCH: usize = 64;
/// The thread's own descriptor among those of the sources, whose numbers begin with 1.
const COMMANDS: u64 = 0;

/// What the thread serves.
///
/// Descriptors are watched level-triggered, but where a source says otherwise (`EDGE_TRIGGERED`): one that
/// leaves a descriptor ready and does not take it out of the [`Registry`] is called again at once, for
/// ever. The thread is shared: a source does a
/// bounded piece of work in a call and leaves the rest for its next.
///
/// A source that panics ends the thread, and all its sources are dropped: whoever waits for the
/// thread is answered, and nobody touches the guest's memory any more.
pub trait Source: Send {
    /// The source is on the thread now: it puts its descriptors into `registry`.
    ///
    /// # Errors
    /// A descriptor cannot be watched. The source is taken off again.
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()>;

    /// The descriptor that was registered as `token` is ready.
    fn ready(&mut self, token: u32, events: EventSet, registry: &mut Registry<'_>);

    /// When [`expired`](Self::expired) is to be called, if no descriptor is ready before.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The [`deadline`](Self::deadline) has passed.
    fn expired(&mut self, _registry: &mut Registry<'_>) {}
}

/// The descriptors of one source that are watched.
pub struct Registry<'a> {
    epoll: &'a Epoll,
    source: u32,
    watched: &'a mut HashMap<RawFd, u32>,
    forgotten: &'a mut HashSet<u64>,
}

impl Registry<'_> {
    /// Watches `fd` for `events`, or changes for what it is watched.
    ///
    /// # Errors
    /// The kernel cannot watch it: it is a regular file, or resources are short.
    pub fn watch(&mut self, fd: &impl AsRawFd, token: u32, events: EventSet) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        let operation = if self.watched.contains_key(&fd) {
            ControlOperation::Modify
        } else {
            ControlOperation::Add
        };
        let event = EpollEvent::new(events, event_data(self.source, token));
        self.epoll.ctl(operation, fd, event)?;
        self.watched.insert(fd, token);
        Ok(())
    }

    /// Watches `fd` no longer. This must come before the descriptor is closed.
    ///
    /// What was reported of it and not delivered yet is dropped, so that its token can be given to
    /// another descriptor at once.
    pub fn forget(&mut self, fd: &impl AsRawFd) {
        let fd = fd.as_raw_fd();
        if let Some(token) = self.watched.remove(&fd) {
            self.forgotten.insert(event_data(self.source, token));
            // It is watched, so this fails only for a descriptor that was closed too early.
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
    }

    /// Watches none of the source's descriptors any longer.
    pub fn forget_all(&mut self) {
        let fds: Vec<RawFd> = self.watched.keys().copied().collect();
        fds.iter().for_each(|fd| self.forget(fd));
    }
}

/// What an event of `source` carries.
fn event_data(source: u32, token: u32) -> u64 {
    u64::from(source) << 32 | u64::from(token)
}

enum Command {
    Add(u32, Box<dyn Source>, Sender<io::Result<()>>),
    Remove(u32, Sender<()>),
    Stop,
}

/// The thread. Dropping it takes all sources off and waits for its end.
pub struct IoThread {
    handle: IoHandle,
    thread: Option<JoinHandle<()>>,
    /// Is disconnected when the thread is confined.
    ready: Receiver<()>,
    /// Is disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// A way to put sources on the thread and to take them off.
#[derive(Clone)]
pub struct IoHandle {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    next: Arc<std::sync::atomic::AtomicU32>,
    /// What does the thread's work where there is none.
    #[cfg(any(test, fuzzing))]
    hand: Option<by_hand::Hand>,
}

/// Names a source on the thread.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceId(u32);

/// A thread that is still to be started. Meanwhile its sources are put on it by whoever has it.
pub struct Unstarted {
    served: Served,
    commands: Receiver<Command>,
    handle: IoHandle,
}

impl Unstarted {
    /// One without sources.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let (sender, commands) = unbounded();
        let served = Served::new()?;
        let event = EpollEvent::new(EventSet::IN, COMMANDS);
        served.epoll.ctl(ControlOperation::Add, wake.as_raw_fd(), event)?;
        let handle = IoHandle {
            commands: sender,
            wake,
            next: Arc::new(1.into()),
            #[cfg(any(test, fuzzing))]
            hand: None,
        };
        Ok(Self { served, commands, handle })
    }

    /// A handle to the thread. Who adds or removes something by it waits until the thread has started: not
    /// whoever is to start it.
    #[must_use]
    pub fn handle(&self) -> IoHandle {
        self.handle.clone()
    }

    /// Puts `source` on the thread.
    ///
    /// # Errors
    /// The source could not [start](Source::start).
    pub fn add(&mut self, source: Box<dyn Source>) -> io::Result<SourceId> {
        let id = self.handle.next();
        self.served.add(id, source)?;
        Ok(SourceId(id))
    }

    /// Starts the thread, which is named `name` and has this [role](Role). It drops `held` when it ends,
    /// however that comes.
    ///
    /// # Errors
    /// No thread is left.
    pub fn spawn(self, role: Role, name: &str, held: impl Send + 'static) -> io::Result<IoThread> {
        let Self { served, commands, handle } = self;
        let (alive, ended) = bounded::<()>(0);
        let (unready, ready) = bounded::<()>(0);
        #[cfg(any(test, fuzzing))]
        if by_hand::is_wanted() {
            let hand = Some(by_hand::Hand::new(served, held));
            let handle = IoHandle { hand, ..handle };
            return Ok(IoThread { handle, thread: None, ready, ended });
        }
        let wake = handle.wake.clone();
        let serve = move || {
            confine::narrow(role);
            drop(unready);
            let _alive = alive;
            let _held = held;
            served.serve(&commands, &wake);
        };
        let thread = thread::Builder::new().name(name.into()).spawn(serve)?;
        Ok(IoThread { handle, thread: Some(thread), ready, ended })
    }
}

impl IoThread {
    /// Starts the thread, which is named `name` and has the [role](Role) `io`.
    ///
    /// # Errors
    /// No descriptor or no thread is left.
    pub fn spawn(name: &str) -> io::Result<Self> {
        Self::spawn_holding(Role::Io, name, ())
    }

    /// The same, of another `role`; the thread drops `held` when it ends, however that comes.
    ///
    /// # Errors
    /// As for [`spawn`](Self::spawn).
    pub fn spawn_holding(role: Role, name: &str, held: impl Send + 'static) -> io::Result<Self> {
        Unstarted::new()?.spawn(role, name, held)
    }

    /// A handle to the thread.
    #[must_use]
    pub fn handle(&self) -> IoHandle {
        self.handle.clone()
    }

    /// Waits until the thread has the filter of its role, if its process is confined.
    pub fn wait_until_ready(&self) {
        // Nothing is ever sent.
        let _ = self.ready.recv();
    }

    /// Ends the thread as dropping it does, but waits no longer than `limit`: a thread that the
    /// kernel holds in a call is left behind, with its sources, and ends when it comes back. Says
    /// whether it has ended.
    pub fn end_within(mut self, limit: Duration) -> bool {
        self.handle.send(Command::Stop);
        let ended = self.ended.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected);
        if !ended {
            self.thread = None;
        }
        ended
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.handle.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

impl IoHandle {
    /// Puts `source` on the thread.
    ///
    /// # Errors
    /// The source could not [start](Source::start), or the thread has ended.
    pub fn add(&self, source: Box<dyn Source>) -> io::Result<SourceId> {
        let id = self.next();
        let (reply, answer) = bounded(1);
        self.send(Command::Add(id, source, reply));
        answer.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        Ok(SourceId(id))
    }

    /// Takes the source off the thread; when this returns, it has been dropped.
    pub fn remove(&self, id: SourceId) {
        // No answer means that the thread has ended, and with it all sources.
        let _ = self.begin_remove(id).recv();
    }

    /// Takes the source off the thread when that comes to it; from then on something can be received
    /// from the channel, or it is disconnected.
    #[must_use]
    pub fn begin_remove(&self, id: SourceId) -> Receiver<()> {
        let (reply, answer) = bounded(1);
        self.send(Command::Remove(id.0, reply));
        answer
    }

    /// A number for a source.
    fn next(&self) -> u32 {
        self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    fn send(&self, command: Command) {
        #[cfg(any(test, fuzzing))]
        if let Some(hand) = &self.hand {
            return hand.obey(command);
        }
        // Without a receiver there is nobody to obey; the counter cannot become full.
        let _ = self.commands.send(command);
        let _ = self.wake.write(1);
    }
}

struct Entry {
    source: Box<dyn Source>,
    /// The descriptors that are watched, with their tokens.
    watched: HashMap<RawFd, u32>,
}

/// What lives on the thread.
struct Served {
    epoll: Epoll,
    sources: HashMap<u32, Entry>,
    /// Data of events that are no longer wanted, should they be among those taken already.
    forgotten: HashSet<u64>,
}

impl Served {
    fn new() -> io::Result<Self> {
        let epoll = Epoll::new()?;
        Ok(Self { epoll, sources: HashMap::new(), forgotten: HashSet::new() })
    }

    fn serve(mut self, commands: &Receiver<Command>, wake: &EventFd) {
        let obey_all = |served: &mut Self| {
            // Non-blocking, and only this thread reads it.
            let _ = wake.read();
            std::iter::from_fn(|| commands.try_recv().ok()).all(|command| served.obey(command))
        };
        while self.turn(self.timeout(), obey_all) {}
    }

    /// Waits, for so many milliseconds, until something is ready, and serves it; `obey_all` does what
    /// was commanded. False to end the thread.
    fn turn(&mut self, timeout: i32, obey_all: impl Fn(&mut Self) -> bool) -> bool {
        let mut ready = [EpollEvent::default(); BATCH];
        let count = match self.epoll.wait(timeout, &mut ready) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                tracing::error!(%error, "a thread that serves descriptors cannot wait, and ends");
                return false;
            }
        };
        self.forgotten.clear();
        for event in ready.iter().take(count) {
            if event.data() == COMMANDS {
                if !obey_all(self) {
                    return false;
                }
                continue;
            }
            if self.forgotten.contains(&event.data()) {
                continue;
            }
            let (id, token) = ((event.data() >> 32) as u32, event.data() as u32);
            self.call(id, |source, registry| source.ready(token, event.event_set(), registry));
        }
        let now = Instant::now();
        let expired = |entry: &Entry| entry.source.deadline().is_some_and(|time| time <= now);
        let ids: Vec<u32> =
            self.sources.iter().filter(|(_, e)| expired(e)).map(|(id, _)| *id).collect();
        for id in ids {
            self.call(id, |source, registry| source.expired(registry));
        }
        true
    }

    /// Milliseconds until the first deadline, rounded up; -1 if there is none.
    fn timeout(&self) -> i32 {
        let first = self.sources.values().filter_map(|entry| entry.source.deadline()).min();
        first.map_or(-1, |time| {
            let left = time.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
            i32::try_from(left.as_millis()).unwrap_or(i32::MAX)
        })
    }

    /// Calls the source `id`, unless it was taken off since the event was taken from the kernel.
    fn call(&mut self, id: u32, call: impl FnOnce(&mut dyn Source, &mut Registry<'_>)) {
        if let Some(Entry { source, watched }) = self.sources.get_mut(&id) {
            let forgotten = &mut self.forgotten;
            let mut registry = Registry { epoll: &self.epoll, source: id, watched, forgotten };
            call(source.as_mut(), &mut registry);
        }
    }

    /// Does what `command` says; false to end the thread.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Add(id, source, reply) => {
                // Who asked waits for the answer.
                let _ = reply.send(self.add(id, source));
            }
            Command::Remove(id, reply) => {
                self.take_off(id);
                let _ = reply.send(());
            }
            Command::Stop => return false,
        }
        true
    }

    fn add(&mut self, id: u32, source: Box<dyn Source>) -> io::Result<()> {
        self.sources.insert(id, Entry { source, watched: HashMap::new() });
        let mut started = Ok(());
        self.call(id, |source, registry| started = source.start(registry));
        if started.is_err() {
            self.take_off(id);
        }
        started
    }

    fn take_off(&mut self, id: u32) {
        self.call(id, |_, registry| registry.forget_all());
        self.sources.remove(&id);
    }
}

#[cfg(any(test, fuzzing))]
#[path = "io_by_hand.rs"]
pub(crate) mod by_hand;
#[cfg(test)]
#[path = "io_tests.rs"]
mod tests;
