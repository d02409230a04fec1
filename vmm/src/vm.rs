//! A virtual machine as its owner holds it: start, state, guest, end.
//!
//! This is the only place that changes a machine's state. A thread named `vm` runs the machine; a
//! guest that reboots gets a new [`Machine`] made from the same configuration, so that nothing of
//! the earlier boot is left, and the integration channel is told that a boot has begun.

use crate::config::MachineConfig;
use crate::console::{ConsoleError, HostConsole};
use crate::error::chain;
use crate::integration::Integration;
use crate::integration::guest::GuestOs;
use crate::machine::{Links, Machine, MachineControl, MachineError};
use crate::outcome::Outcome;
use crate::state::{StateCell, VmState};
use crate::task::Tasks;
use crossbeam_channel::bounded;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Connections of agents that may wait for the integration channel to take them.
const AGENT_BACKLOG: usize = 4;

/// Why a machine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine could not be put together.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The console could not be connected.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The socket for host programs could not be made.
    #[error("cannot listen on {}", path.display())]
    Socket {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Why a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered itself off.
    PowerOff,
    /// The host turned it off.
    TurnedOff,
    /// The guest's kernel panicked; with its last words, if the console showed them.
    Panic(Option<String>),
    /// A processor of the guest triple-faulted.
    TripleFault,
    /// The monitor or KVM could not go on.
    Failed(String),
}

/// What the owner, the `vm` thread and the control server share.
struct Shared {
    ending: Mutex<Ending>,
    ended: Condvar,
}

#[derive(Default)]
struct Ending {
    /// The host wants the machine off.
    requested: bool,
    /// The machine that runs now.
    control: Option<MachineControl>,
    end: Option<End>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running machine. Dropping it turns the machine off and waits for its end.
pub struct Vm {
    config: MachineConfig,
    state: StateCell,
    tasks: Tasks,
    guest: GuestOs,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Vm {
    /// Starts a machine in this process.
    ///
    /// With `vsock`, host programs reach the guest's vsock ports through a Unix socket at that
    /// path, by the hybrid protocol: `CONNECT <port>\n` is answered with `OK <port>\n`. What the
    /// guest dials on the host arrives at the socket `<path>_<port>`. The file must not exist, and
    /// is removed when the machine ends.
    ///
    /// # Errors
    /// The configuration is not valid, a file cannot be loaded, or the host cannot run machines.
    pub fn start(config: MachineConfig, vsock: Option<&Path>) -> Result<Self, StartError> {
        // Before the console's file is truncated.
        config.validate().map_err(MachineError::from)?;
        let state = StateCell::new(VmState::TurningOn);
        let tasks = Tasks::default();
        let (agents, incoming) = bounded(AGENT_BACKLOG);
        let integration = Integration::spawn(state.clone(), tasks.clone(), incoming)
            .map_err(StartError::Thread)?;
        let guest = integration.guest_os();
        let socket = vsock.map(Socket::bind).transpose()?;
        let links = Links {
            agents,
            vsock_listener: socket.as_ref().map(Socket::listener).transpose()?,
            vsock_path: vsock.map(Path::to_owned),
            console: HostConsole::open(&config.console)?,
        };
        let machine = Machine::new(&config, &links)?;
        let kept = config.clone();
        let shared = Arc::new(Shared { ending: Mutex::default(), ended: Condvar::new() });
        let driver =
            Driver { config, links, integration, state: state.clone(), shared: shared.clone() };
        let thread = thread::Builder::new()
            .name("vm".into())
            .spawn(move || {
                driver.drive(machine);
                drop(socket);
            })
            .map_err(StartError::Thread)?;
        Ok(Self { config: kept, state, tasks, guest, shared, thread: Some(thread) })
    }

    /// The machine's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What the machine was made of.
    #[must_use]
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// The machine's state, now and as it changes.
    #[must_use]
    pub fn state(&self) -> &StateCell {
        &self.state
    }

    /// The guest's operating system.
    #[must_use]
    pub fn guest_os(&self) -> &GuestOs {
        &self.guest
    }

    /// The machine's tasks.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Turns the machine off, as if its plug was pulled; [`wait`](Self::wait) tells when it is off.
    pub fn turn_off(&self) {
        let mut ending = self.shared.lock();
        ending.requested = true;
        if let Some(control) = &ending.control {
            control.stop();
        }
    }

    /// Waits for the machine's end, and says why it ended.
    #[must_use]
    pub fn wait(&self) -> End {
        self.end_waiter().wait()
    }

    /// What waits for the machine's end without holding the machine.
    #[must_use]
    pub fn end_waiter(&self) -> EndWaiter {
        EndWaiter { shared: self.shared.clone() }
    }
}

/// Waits for a machine's end.
pub struct EndWaiter {
    shared: Arc<Shared>,
}

impl EndWaiter {
    /// Waits for the machine's end, and says why it ended.
    #[must_use]
    pub fn wait(&self) -> End {
        let mut ending = self.shared.lock();
        loop {
            if let Some(end) = &ending.end {
                return end.clone();
            }
            ending = self.shared.ended.wait(ending).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.turn_off();
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// What the `vm` thread owns.
struct Driver {
    config: MachineConfig,
    links: Links,
    integration: Integration,
    state: StateCell,
    shared: Arc<Shared>,
}

impl Driver {
    /// Runs one boot after the other until the machine ends for good.
    fn drive(self, first: Machine) {
        let mut next = Ok(first);
        let end = loop {
            let outcome = match next {
                Ok(machine) => self.boot(machine),
                Err(error) => break End::Failed(chain(&error)),
            };
            match outcome {
                Ok(Outcome::Reset) => next = Machine::new(&self.config, &self.links),
                Ok(Outcome::PowerOff) => break End::PowerOff,
                Ok(Outcome::Stopped) => break End::TurnedOff,
                Ok(Outcome::Panic(text)) => break End::Panic(text),
                Ok(Outcome::TripleFault) => break End::TripleFault,
                Ok(Outcome::InternalError(text)) => break End::Failed(text),
                Err(error) => break End::Failed(chain(&error)),
            }
        };
        tracing::info!(name = self.config.name, ?end, "machine ended");
        self.state.set(VmState::TurningOff);
        self.integration.machine_ended();
        self.state.set(VmState::TurnedOff);
        let mut ending = self.shared.lock();
        ending.control = None;
        ending.end = Some(end);
        self.shared.ended.notify_all();
    }

    /// Runs one boot to its end.
    fn boot(&self, machine: Machine) -> Result<Outcome, MachineError> {
        {
            let mut ending = self.shared.lock();
            if ending.requested {
                return Ok(Outcome::Stopped);
            }
            ending.control = Some(machine.control());
        }
        self.integration.boot_started();
        self.state.set(VmState::Running);
        tracing::info!(name = self.config.name, "boot begins");
        machine.run()
    }
}

/// The Unix socket of the hybrid vsock protocol: it outlives the guest's reboots.
struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    fn bind(path: &Path) -> Result<Self, StartError> {
        let failed = |source| StartError::Socket { path: path.to_owned(), source };
        let listener = UnixListener::bind(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), listener })
    }

    fn listener(&self) -> Result<UnixListener, StartError> {
        self.listener
            .try_clone()
            .map_err(|source| StartError::Socket { path: self.path.clone(), source })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}
