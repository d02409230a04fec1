//! The host's end of the guest's console: what it prints, and what is typed to it.
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
pub mod port;
mod sink;

use crate::config::Console;
use crate::error::code_of;
use crate::io::{Registry, Source};
use crate::outcome::{Outcome, OutcomeSlot};
use hub::{ConsoleHub, free_room, type_keys};
pub use output::ConsoleOutput;
use port::{InputRoom, SharedPort};
use protocol::HResult;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use sink::{Sink, unblocked};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
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
/// Keys of a terminal that wait for the guest to read them: as many as Linux keeps of a line.
const WAITING_KEYS: usize = 4096;

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

impl ConsoleError {
    /// The documented code of this error.
    #[must_use]
    pub fn code(&self) -> HResult {
        match self {
            Self::File { path, source } => code_of(source, path),
            Self::Descriptor(_) => HResult::VM_E_OUT_OF_RESOURCE,
        }
    }
}

/// How many characters a terminal has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// In a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Where the console's output goes and its input comes from; it outlives the guest's reboots.
pub struct HostConsole {
    output: ConsoleOutput,
    sink: Option<Arc<Sink>>,
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
                let unwritable = |source| ConsoleError::File { path: path.clone(), source };
                (Some(Arc::new(Sink::file(path).map_err(unwritable)?)), None)
            }
            Console::Stdio => {
                // In a jail it cannot be opened once more. It is read only when there is something.
                let stdin = || io::stdin().as_fd().try_clone_to_owned().map(File::from);
                let keys = unblocked(0, OFlags::RDONLY).or_else(|_| stdin()).ok();
                (Some(Arc::new(Sink::stdout()?)), keys.map(Arc::new))
            }
        };
        let terminal = keys.as_ref().is_some_and(|keys| keys.is_terminal());
        Ok(Self { output, sink, keys, terminal, hub })
    }

    /// What the guest's ports print into.
    #[must_use]
    pub fn output(&self) -> &ConsoleOutput {
        &self.output
    }

    /// How large the terminal is on which the console is, where it is on one.
    #[must_use]
    pub fn terminal_size(&self) -> Option<TerminalSize> {
        let terminal = self.keys.as_ref().filter(|_| self.terminal)?;
        let size = rustix::termios::tcgetwinsize(terminal).ok()?;
        // Terminals that do not know say zero.
        let size = TerminalSize { columns: size.ws_col, rows: size.ws_row };
        (size.columns > 0 && size.rows > 0).then_some(size)
    }

    /// Where people attach to the console, if they can.
    #[must_use]
    pub fn hub(&self) -> Option<&ConsoleHub> {
        self.hub.as_ref()
    }

    /// The console of one boot, to be served on the `io` thread: it types into `port`, and turns
    /// the machine off through `outcome`.
    #[must_use]
    pub fn connect(&self, port: SharedPort, outcome: OutcomeSlot) -> Box<dyn Source> {
        if let Some(hub) = &self.hub {
            return hub.connect(self.output.clone(), port);
        }
        let room = port.lock().unwrap_or_else(PoisonError::into_inner).input_room();
        Box::new(Connected {
            output: self.output.clone(),
            sink: self.sink.clone().filter(|sink| !sink.is_lost()),
            unsent: Vec::new(),
            waits: false,
            keys: self.keys.clone(),
            terminal: self.terminal,
            escaped: false,
            waiting: VecDeque::new(),
            port,
            room,
            outcome,
        })
    }
}

/// Tokens.
const FILLED: u32 = 0;
const SINK: u32 = 1;
const KEYS: u32 = 2;
const ROOM: u32 = 3;

/// The console on the `io` thread.
struct Connected {
    output: ConsoleOutput,
    sink: Option<Arc<Sink>>,
    /// Taken out of the buffer and not written yet.
    unsent: Vec<u8>,
    /// The sink is watched, because it took nothing.
    waits: bool,
    keys: Option<Arc<File>>,
    terminal: bool,
    /// The last key was the escape.
    escaped: bool,
    /// Typed, and not taken by the port yet.
    waiting: VecDeque<u8>,
    port: SharedPort,
    room: InputRoom,
    outcome: OutcomeSlot,
}

/// What has become of the output.
enum Written {
    All,
    /// The sink takes no more now.
    Part,
    /// It never will again.
    Nothing,
}

impl Connected {
    /// Writes as much as the sink takes.
    fn write(&mut self) -> Written {
        let Some(sink) = &self.sink else {
            drop(self.output.take());
            return Written::All;
        };
        loop {
            if self.unsent.is_empty() {
                self.unsent = self.output.take();
            }
            if self.unsent.is_empty() {
                return Written::All;
            }
            match sink.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Part,
                Err(error) => {
                    tracing::debug!(%error, "the console cannot be written");
                    return Written::Nothing;
                }
            }
        }
    }

    fn serve_output(&mut self, registry: &mut Registry<'_>) {
        let written = self.write();
        let Some(sink) = &self.sink else { return };
        match written {
            Written::All => {
                registry.forget(sink.as_ref());
                self.waits = false;
            }
            Written::Part if self.waits => {}
            Written::Part => match registry.watch(sink.as_ref(), SINK, EventSet::OUT) {
                Ok(()) => self.waits = true,
                Err(_) => self.end_output(registry),
            },
            Written::Nothing => self.end_output(registry),
        }
    }

    /// Nobody reads what is printed any more. The guest need not know.
    fn end_output(&mut self, registry: &mut Registry<'_>) {
        if let Some(sink) = self.sink.take() {
            registry.forget(sink.as_ref());
            if sink.lose() {
                tracing::warn!("nobody reads the console: its output is lost from here on");
            }
        }
        self.unsent = Vec::new();
        self.waits = false;
    }

    /// Takes what was typed. A pipe is read as the port has room; a terminal in any case, or the
    /// keys that turn the machine off would not get past a guest that does not read.
    fn serve_input(&mut self, registry: &mut Registry<'_>) {
        let Some(keys) = self.keys.clone() else { return };
        let mut bytes = [0; 64];
        let most = match self.terminal {
            true => bytes.len(),
            false => free_room(&self.port, &self.room).min(bytes.len()),
        };
        if most == 0 {
            registry.forget(keys.as_ref());
            return;
        }
        match keys.as_ref().read(&mut bytes[..most]) {
            Ok(0) => self.end_input(registry),
            Ok(count) => self.take_keys(&bytes[..count]),
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

    fn take_keys(&mut self, keys: &[u8]) {
        for key in keys {
            let escaped = std::mem::take(&mut self.escaped);
            match *key {
                TURN_OFF if escaped => self.outcome.put(Outcome::Stopped),
                ESCAPE if self.terminal && !escaped => self.escaped = true,
                key if self.waiting.len() < WAITING_KEYS => self.waiting.push_back(key),
                _ => {}
            }
        }
        self.type_keys();
    }

    /// Types as much of what waits as the port has room for.
    fn type_keys(&mut self) {
        while !self.waiting.is_empty() {
            let room = free_room(&self.port, &self.room);
            if room == 0 {
                return;
            }
            let count = room.min(self.waiting.len());
            let keys: Vec<u8> = self.waiting.drain(..count).collect();
            type_keys(&self.port, &keys);
        }
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
            // An error alone: the reader has gone.
            SINK => self.end_output(registry),
            KEYS => self.serve_input(registry),
            ROOM => {
                let _ = self.room.event().read();
                self.type_keys();
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
        while let Written::Part = self.write() {
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

#[cfg(test)]
mod tests;
