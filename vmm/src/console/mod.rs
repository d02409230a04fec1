//! The host's end of the serial console: what the guest prints, and what is typed to it.
//!
//! Whoever reads the console may stop reading: a pager, a stopped terminal, a full pipe. The guest
//! must not stand still for that, or its agent would fall silent and nobody could be logged off.
//! So the port prints into a [bounded buffer](output::OUTPUT_LIMIT), which the `io` thread empties
//! as fast as the reader takes it.
//!
//! On a terminal the two keys `Ctrl-A x` turn the machine off, and `Ctrl-A Ctrl-A` types one
//! `Ctrl-A`.

pub mod hub;
pub mod output;

use crate::config::Console;
use crate::devices::serial::{InputRoom, SharedSerial};
use crate::io::{Registry, Source};
use crate::outcome::{Outcome, OutcomeSlot};
use hub::{ConsoleHub, free_room};
pub use output::ConsoleOutput;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use vmm_sys_util::epoll::EventSet;

/// `Ctrl-A`: the next key is for the monitor.
const ESCAPE: u8 = 0x01;
/// After the escape: turn the machine off.
const TURN_OFF: u8 = b'x';
/// How long the rest of the output may take when the machine ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Why the console cannot be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The file cannot be written.
    #[error("cannot write the console to {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No descriptor is left.
    #[error("cannot make the console")]
    Descriptor(#[from] io::Error),
}

/// Where the console's output goes and its input comes from; it outlives the guest's reboots.
pub struct HostConsole {
    output: ConsoleOutput,
    sink: Option<Arc<File>>,
    keys: Option<Arc<File>>,
    terminal: bool,
    hub: Option<ConsoleHub>,
}

impl HostConsole {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(config: &Console) -> Result<Self, ConsoleError> {
        let output = ConsoleOutput::new()?;
        let hub = match config {
            Console::Attach => Some(ConsoleHub::new()?),
            _ => None,
        };
        let (sink, keys) = match config {
            Console::None | Console::Attach => (None, None),
            Console::File(path) => {
                let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
                let file =
                    file.map_err(|source| ConsoleError::File { path: path.clone(), source })?;
                (Some(Arc::new(file)), None)
            }
            Console::Stdio => {
                let sink = unblocked(1, OFlags::WRONLY).or_else(|_| duplicate(io::stdout()));
                let keys = unblocked(0, OFlags::RDONLY).ok();
                (Some(Arc::new(sink?)), keys.map(Arc::new))
            }
        };
        let terminal = keys.as_ref().is_some_and(|keys| keys.is_terminal());
        Ok(Self { output, sink, keys, terminal, hub })
    }

    /// What the serial port prints into.
    #[must_use]
    pub fn output(&self) -> &ConsoleOutput {
        &self.output
    }

    /// Where people attach to the console, if they can.
    #[must_use]
    pub fn hub(&self) -> Option<&ConsoleHub> {
        self.hub.as_ref()
    }

    /// The console of one boot, to be served on the `io` thread: it types into `serial`, and turns
    /// the machine off through `outcome`.
    #[must_use]
    pub fn connect(&self, serial: SharedSerial, outcome: OutcomeSlot) -> Box<dyn Source> {
        if let Some(hub) = &self.hub {
            return hub.connect(self.output.clone(), serial);
        }
        let room = serial.lock().unwrap_or_else(PoisonError::into_inner).input_room();
        Box::new(Connected {
            output: self.output.clone(),
            sink: self.sink.clone(),
            unsent: Vec::new(),
            waits: false,
            keys: self.keys.clone(),
            terminal: self.terminal,
            escaped: false,
            serial,
            room,
            outcome,
        })
    }
}

/// The open descriptor `fd` once more, without blocking: the flag belongs to what is opened here,
/// not to the terminal or pipe that this process shares with others.
fn unblocked(fd: u32, access: OFlags) -> io::Result<File> {
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = rustix::fs::open(format!("/proc/self/fd/{fd}"), flags, Mode::empty())?;
    Ok(File::from(opened))
}

fn duplicate(stream: impl AsFd) -> io::Result<File> {
    Ok(File::from(stream.as_fd().try_clone_to_owned()?))
}

/// Tokens.
const FILLED: u32 = 0;
const SINK: u32 = 1;
const KEYS: u32 = 2;
const ROOM: u32 = 3;

/// The console on the `io` thread.
struct Connected {
    output: ConsoleOutput,
    sink: Option<Arc<File>>,
    /// Taken out of the buffer and not written yet.
    unsent: Vec<u8>,
    /// The sink is watched, because it took nothing.
    waits: bool,
    keys: Option<Arc<File>>,
    terminal: bool,
    /// The last key was the escape.
    escaped: bool,
    serial: SharedSerial,
    room: InputRoom,
    outcome: OutcomeSlot,
}

impl Connected {
    /// Writes as much as the sink takes; false if it takes no more now.
    fn write(&mut self) -> bool {
        let Some(sink) = &self.sink else {
            drop(self.output.take());
            return true;
        };
        loop {
            if self.unsent.is_empty() {
                self.unsent = self.output.take();
            }
            if self.unsent.is_empty() {
                return true;
            }
            match sink.as_ref().write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    // The reader has gone. The guest need not know.
                    tracing::warn!(%error, "the console's output is lost from here on");
                    self.sink = None;
                    self.unsent.clear();
                    return true;
                }
            }
        }
    }

    fn serve_output(&mut self, registry: &mut Registry<'_>) {
        let done = self.write();
        if let Some(sink) = self.sink.clone()
            && self.waits == done
        {
            if done {
                registry.forget(sink.as_ref());
            } else if registry.watch(sink.as_ref(), SINK, EventSet::OUT).is_err() {
                self.sink = None;
            }
        }
        self.waits = !done && self.sink.is_some();
    }

    /// Types as much as the port has room for.
    fn serve_input(&mut self, registry: &mut Registry<'_>) {
        let Some(keys) = self.keys.clone() else { return };
        let mut bytes = [0; 64];
        let room = free_room(&self.serial, &self.room).min(bytes.len());
        if room == 0 {
            registry.forget(keys.as_ref());
            return;
        }
        match keys.as_ref().read(&mut bytes[..room]) {
            Ok(0) => self.end_input(registry),
            Ok(count) => self.type_keys(&bytes[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.end_input(registry),
        }
    }

    fn end_input(&mut self, registry: &mut Registry<'_>) {
        if let Some(keys) = self.keys.take() {
            registry.forget(keys.as_ref());
        }
    }

    fn type_keys(&mut self, keys: &[u8]) {
        let mut typed = Vec::with_capacity(keys.len());
        for key in keys {
            let escaped = std::mem::take(&mut self.escaped);
            match *key {
                TURN_OFF if escaped => self.outcome.put(Outcome::Stopped),
                ESCAPE if self.terminal && !escaped => self.escaped = true,
                key => typed.push(key),
            }
        }
        // No more than the port said it has room for.
        self.serial.lock().unwrap_or_else(PoisonError::into_inner).receive(&typed);
    }

    fn watch_keys(&mut self, registry: &mut Registry<'_>) {
        if let Some(keys) = &self.keys
            && registry.watch(keys.as_ref(), KEYS, EventSet::IN).is_err()
        {
            // A file or /dev/null: nobody types.
            self.keys = None;
        }
    }
}

impl Source for Connected {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        registry.watch(self.output.filled().as_ref(), FILLED, EventSet::IN)?;
        registry.watch(self.room.event().as_ref(), ROOM, EventSet::IN)?;
        self.watch_keys(registry);
        Ok(())
    }

    fn ready(&mut self, token: u32, events: EventSet, registry: &mut Registry<'_>) {
        match token {
            FILLED => {
                // Non-blocking, and only this thread reads it.
                let _ = self.output.filled().read();
                if !self.waits {
                    self.serve_output(registry);
                }
            }
            SINK if events.contains(EventSet::OUT) => self.serve_output(registry),
            SINK => {
                // Nobody will ever read it.
                if let Some(sink) = self.sink.take() {
                    registry.forget(sink.as_ref());
                }
                self.unsent.clear();
                self.waits = false;
            }
            KEYS => self.serve_input(registry),
            ROOM => {
                let _ = self.room.event().read();
                self.watch_keys(registry);
            }
            _ => {}
        }
    }
}

impl Drop for Connected {
    /// The last words of a boot are the most interesting ones: they get a moment to be written.
    fn drop(&mut self) {
        let deadline = Instant::now() + FLUSH_LIMIT;
        while !self.write() {
            let Some(sink) = &self.sink else { return };
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec {
                // No more than the limit.
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(sink.as_ref(), PollFlags::OUT)];
            match poll(&mut fds, Some(&left)) {
                Ok(1..) | Err(Errno::INTR) if Instant::now() < deadline => {}
                _ => return,
            }
        }
    }
}
