//! The `io` thread: all queues, host sockets and the console's input, served from one epoll.
//!
//! What it serves are [sources](Source): objects that own descriptors and are called when one of
//! them is ready. A source is put on the thread and taken off from outside; taking off is
//! synchronous, so that afterwards nobody touches the guest's memory on the source's behalf.

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
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
/// Descriptors are watched level-triggered: a source that leaves one ready and does not take it
/// out of the [`Registry`] is called again at once, for ever.
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
    watched: &'a mut HashSet<RawFd>,
}

impl Registry<'_> {
    /// Watches `fd` for `events`, or changes for what it is watched.
    ///
    /// # Errors
    /// The kernel cannot watch it: it is a regular file, or resources are short.
    pub fn watch(&mut self, fd: &impl AsRawFd, token: u32, events: EventSet) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        let operation = if self.watched.contains(&fd) {
            ControlOperation::Modify
        } else {
            ControlOperation::Add
        };
        let data = u64::from(self.source) << 32 | u64::from(token);
        self.epoll.ctl(operation, fd, EpollEvent::new(events, data))?;
        self.watched.insert(fd);
        Ok(())
    }

    /// Watches `fd` no longer. This must come before the descriptor is closed.
    pub fn forget(&mut self, fd: &impl AsRawFd) {
        let fd = fd.as_raw_fd();
        if self.watched.remove(&fd) {
            // It is watched, so this fails only for a descriptor that was closed too early.
            let _ = self.epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
        }
    }
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
}

/// A way to put sources on the thread and to take them off.
#[derive(Clone)]
pub struct IoHandle {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    next: Arc<std::sync::atomic::AtomicU32>,
}

/// Names a source on the thread.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceId(u32);

impl IoThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// No descriptor or no thread is left.
    pub fn spawn() -> io::Result<Self> {
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let (commands, receiver) = unbounded();
        let epoll = Epoll::new()?;
        let event = EpollEvent::new(EventSet::IN, COMMANDS);
        epoll.ctl(ControlOperation::Add, wake.as_raw_fd(), event)?;
        let served = Served { epoll, sources: HashMap::new() };
        let thread = {
            let wake = wake.clone();
            thread::Builder::new()
                .name("io".into())
                .spawn(move || served.serve(&receiver, &wake))?
        };
        let handle = IoHandle { commands, wake, next: Arc::new(1.into()) };
        Ok(Self { handle, thread: Some(thread) })
    }

    /// A handle to the thread.
    #[must_use]
    pub fn handle(&self) -> IoHandle {
        self.handle.clone()
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
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (reply, answer) = bounded(1);
        self.send(Command::Add(id, source, reply));
        answer.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        Ok(SourceId(id))
    }

    /// Takes the source off the thread; when this returns, it has been dropped.
    pub fn remove(&self, id: SourceId) {
        let (reply, answer) = bounded(1);
        self.send(Command::Remove(id.0, reply));
        // No answer means that the thread has ended, and with it all sources.
        let _ = answer.recv();
    }

    fn send(&self, command: Command) {
        // Without a receiver there is nobody to obey; the counter cannot become full.
        let _ = self.commands.send(command);
        let _ = self.wake.write(1);
    }
}

struct Entry {
    source: Box<dyn Source>,
    watched: HashSet<RawFd>,
}

/// What lives on the thread.
struct Served {
    epoll: Epoll,
    sources: HashMap<u32, Entry>,
}

impl Served {
    fn serve(mut self, commands: &Receiver<Command>, wake: &EventFd) {
        let mut ready = [EpollEvent::default(); BATCH];
        loop {
            let count = match self.epoll.wait(self.timeout(), &mut ready) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => {
                    tracing::error!(%error, "the io thread cannot wait, and ends");
                    return;
                }
            };
            for event in ready.iter().take(count) {
                if event.data() == COMMANDS {
                    // Non-blocking, and only this thread reads it.
                    let _ = wake.read();
                    while let Ok(command) = commands.try_recv() {
                        if !self.obey(command) {
                            return;
                        }
                    }
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
        }
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
            let mut registry = Registry { epoll: &self.epoll, source: id, watched };
            call(source.as_mut(), &mut registry);
        }
    }

    /// Does what `command` says; false to end the thread.
    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Add(id, mut source, reply) => {
                let mut watched = HashSet::new();
                let mut registry =
                    Registry { epoll: &self.epoll, source: id, watched: &mut watched };
                let started = source.start(&mut registry);
                let failed = started.is_err();
                self.sources.insert(id, Entry { source, watched });
                if failed {
                    self.take_off(id);
                }
                // Who asked waits for the answer.
                let _ = reply.send(started);
            }
            Command::Remove(id, reply) => {
                self.take_off(id);
                let _ = reply.send(());
            }
            Command::Stop => return false,
        }
        true
    }

    fn take_off(&mut self, id: u32) {
        if let Some(mut entry) = self.sources.remove(&id) {
            let fds: Vec<RawFd> = entry.watched.iter().copied().collect();
            let mut registry =
                Registry { epoll: &self.epoll, source: id, watched: &mut entry.watched };
            fds.iter().for_each(|fd| registry.forget(fd));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    const LIMIT: Duration = Duration::from_secs(10);

    /// Counts how often its eventfd became ready.
    struct Counter {
        event: Arc<EventFd>,
        count: Arc<AtomicU32>,
        told: Sender<()>,
    }

    impl Source for Counter {
        fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
            registry.watch(self.event.as_ref(), 7, EventSet::IN)
        }

        fn ready(&mut self, token: u32, _events: EventSet, _registry: &mut Registry<'_>) {
            assert_eq!(token, 7);
            self.event.read().unwrap();
            self.count.fetch_add(1, Ordering::SeqCst);
            self.told.send(()).unwrap();
        }
    }

    #[test]
    fn a_source_is_called_until_it_is_taken_off() {
        let thread = IoThread::spawn().unwrap();
        let event = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let count = Arc::new(AtomicU32::new(0));
        for round in 0..3 {
            let (told, hears) = unbounded();
            let counter = Counter { event: event.clone(), count: count.clone(), told };
            let id = thread.handle().add(Box::new(counter)).unwrap();
            event.write(1).unwrap();
            hears.recv_timeout(LIMIT).unwrap();
            thread.handle().remove(id);
            assert!(hears.recv_timeout(LIMIT).is_err(), "the source was dropped");
            event.write(1).unwrap();
            assert_eq!(count.load(Ordering::SeqCst), round + 1, "nobody is called any more");
            event.read().unwrap();
        }
    }

    #[test]
    fn a_source_that_cannot_start_is_refused() {
        struct Bad;
        impl Source for Bad {
            fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
                registry.watch(&-1, 0, EventSet::IN)
            }
            fn ready(&mut self, _: u32, _: EventSet, _: &mut Registry<'_>) {}
        }
        let thread = IoThread::spawn().unwrap();
        assert!(thread.handle().add(Box::new(Bad)).is_err());
        let handle = thread.handle();
        drop(thread);
        assert!(handle.add(Box::new(Bad)).is_err(), "after its end the thread takes none");
    }

    #[test]
    fn a_deadline_calls_its_source() {
        struct Alarm(Option<Instant>, Arc<Mutex<Option<Sender<()>>>>);
        impl Source for Alarm {
            fn start(&mut self, _: &mut Registry<'_>) -> io::Result<()> {
                Ok(())
            }
            fn ready(&mut self, _: u32, _: EventSet, _: &mut Registry<'_>) {}
            fn deadline(&self) -> Option<Instant> {
                self.0
            }
            fn expired(&mut self, _: &mut Registry<'_>) {
                self.0 = None;
                self.1.lock().unwrap().take().unwrap().send(()).unwrap();
            }
        }
        let thread = IoThread::spawn().unwrap();
        let (told, hears) = unbounded();
        let soon = Instant::now() + Duration::from_millis(5);
        let alarm = Alarm(Some(soon), Arc::new(Mutex::new(Some(told))));
        thread.handle().add(Box::new(alarm)).unwrap();
        hears.recv_timeout(LIMIT).unwrap();
        assert!(Instant::now() >= soon);
    }
}
