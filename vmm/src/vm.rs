//! A virtual machine as its owner holds it: startup, state, guest, end.
//!
//! This is the only place that changes a machine's [state](crate::state). A verb is admitted and
//! the state changed under one lock, so that of two callers one is first. A thread named `vm` runs
//! the machine from startup to end, and waits for the next startup: whoever asks for that may have
//! [given up](crate::confine) starting threads. A guest that reboots gets a new [`Machine`] made from the same
//! configuration, so that nothing of the earlier boot is left, and the integration channel is told
//! that a boot has begun. A machine that has ended can be started again.

use crate::config::{Components, ConfigError, DEVICES_MAX, MachineConfig, Net};
use crate::confine::{self, Role};
use crate::console::hub::ConsoleHub;
use crate::console::{ConsoleError, HostConsole};
use crate::disk::DiskError;
use crate::error::{CallError, chain, code_of, code_of_causes};
use crate::events::{EventKind, Events};
use crate::integration::Integration;
use crate::integration::guest::GuestOs;
use crate::kit::{self, Kit, KitError};
use crate::kvm::KvmError;
use crate::machine::{Links, Machine, MachineControl, MachineError};
use crate::notify::{self, Readiness, Told};
use crate::outcome::Outcome;
use crate::sockets::Bound;
use crate::state::{StateCell, Verb, VmState, admit};
use crate::tap::TapError;
use crate::task::{Task, Tasks, Work};
use crate::usage::{Usage, Used};
use crate::virtio::balloon::{BalloonControl, BalloonInfo};
use crate::virtio::block::Drive;
use crate::virtio::net::Interface;
use crossbeam_channel::{Sender, bounded};
use protocol::HResult;
use protocol::task::TaskResult;
use std::fs::File;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Connections of agents that may wait for the integration channel to take them.
const AGENT_BACKLOG: usize = 4;
/// How long a guest may take to say how its memory is used; then what it said before has to do.
const STATS_PATIENCE: Duration = Duration::from_secs(1);

/// Why a machine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine could not be put together.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The console could not be connected.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A tap cannot be used.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// What was to be brought along for the guest cannot be.
    #[error(transparent)]
    Kit(#[from] KitError),
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

impl StartError {
    /// The documented code that fits best.
    #[must_use]
    pub fn code(&self) -> HResult {
        match self {
            Self::Machine(MachineError::Config(error)) => error.code(),
            Self::Disk(error) => error.code(),
            Self::Tap(error) => error.code(),
            Self::Kit(error) => error.code(),
            Self::Console(error) => error.code(),
            Self::Socket { path, source } => code_of(source, path),
            Self::Machine(MachineError::Cpus { .. }) => HResult::E_INVALIDARG,
            Self::Machine(MachineError::Memory(_)) | Self::Thread(_) => {
                HResult::VM_E_OUT_OF_RESOURCE
            }
            Self::Machine(MachineError::Kvm(error)) => match error {
                KvmError::Missing => HResult::VM_E_HARDWARE_VIRTUALIZATION_DISABLED,
                KvmError::Permission => HResult::ERROR_ACCESS_DENIED,
                KvmError::Version(_) | KvmError::Capability(_) => {
                    HResult::VM_E_UNSUPPORTED_HARDWARE
                }
                error => code_of_causes(error),
            },
            Self::Machine(MachineError::Boot(error)) if error.is_missing_file() => {
                HResult::ERROR_FILE_NOT_FOUND
            }
            error => code_of_causes(error),
        }
    }
}

impl From<StartError> for CallError {
    fn from(error: StartError) -> Self {
        Self::new(error.code(), chain(&error))
    }
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
    /// The machine could not be started.
    NotStarted(CallError),
    /// The monitor or KVM could not go on.
    Failed(String),
}

/// A virtual machine. Dropping it turns the machine off and waits for its end.
pub struct Vm {
    inner: Arc<Inner>,
}

/// What the owner, the `vm` thread and whoever waits for the end share.
struct Inner {
    config: MachineConfig,
    vsock: Option<PathBuf>,
    /// The vsock socket, if it is to outlive the machine's runs.
    kept: OnceLock<UnixListener>,
    state: StateCell,
    tasks: Tasks,
    events: Events,
    integration: Integration,
    readiness: Readiness,
    usage: Usage,
    /// Takes the host's ends of the agent's connections.
    agents: Sender<UnixStream>,
    life: Mutex<Life>,
    ended: Condvar,
}

/// What belongs to a machine that is on, guarded together with the changes of its state.
#[derive(Default)]
struct Life {
    /// Has the `vm` thread run the machine; it ends when this is dropped.
    starter: Option<Sender<Arc<Inner>>>,
    thread: Option<JoinHandle<()>>,
    /// The boot that runs now.
    control: Option<MachineControl>,
    /// Where people attach to the console.
    console: Option<ConsoleHub>,
    /// What the host wants of the balloon.
    balloon: Option<BalloonControl>,
    /// The host wants the machine off.
    unwanted: bool,
    /// It is not to be started again.
    once: bool,
    /// Whoever waits for the machine to run, to boot anew, to be off.
    startup: Option<Work>,
    resets: Vec<Work>,
    turn_off: Option<Work>,
    /// How the machine ended last.
    end: Option<End>,
}

impl Vm {
    /// A machine that is turned off.
    ///
    /// With `vsock`, host programs reach the guest's vsock ports through a Unix socket at that
    /// path, by the hybrid protocol: `CONNECT <port>\n` is answered with `OK <port>\n`. What the
    /// guest dials on the host arrives at the socket `<path>_<port>`. The file must not exist, and
    /// is there while the machine is on. A [confined](crate::confine) process can make none when a
    /// machine starts: there a machine with a socket is a [host's](crate::host::Host), which makes it
    /// before.
    ///
    /// # Errors
    /// The configuration is not valid, or the host is short of threads.
    pub fn new(config: MachineConfig, vsock: Option<&Path>) -> Result<Self, CallError> {
        Self::with_tasks(config, vsock, Tasks::default())
    }

    /// As [`new`](Self::new), with its tasks.
    pub(crate) fn with_tasks(
        config: MachineConfig,
        vsock: Option<&Path>,
        tasks: Tasks,
    ) -> Result<Self, CallError> {
        let invalid = |error: ConfigError| CallError::new(error.code(), chain(&error));
        config.validate().map_err(invalid)?;
        // One order at a time: a machine is started that is turned off. The thread is the first, so that
        // it is ready for the first order when the others are.
        let (starter, starts) = bounded::<Arc<Inner>>(1);
        let thread = thread::Builder::new().name("vm".into()).spawn(move || {
            confine::narrow(Role::Vm);
            starts.iter().for_each(|inner| inner.run());
        });
        let thread = thread.map_err(StartError::Thread)?;
        let state = StateCell::new(VmState::TurnedOff);
        let (agents, incoming) = bounded(AGENT_BACKLOG);
        let integration = Integration::spawn(state.clone(), tasks.clone(), incoming)
            .map_err(StartError::Thread)?;
        let events = Events::of(&config.name);
        integration.set_machine_name(&config.name);
        integration.tell_events(&events);
        let inner = Inner {
            readiness: Readiness::new(events.clone()),
            events,
            vsock: vsock.map(Path::to_owned),
            kept: OnceLock::new(),
            config,
            state,
            tasks,
            integration,
            usage: Usage::default(),
            agents,
            life: Mutex::new(Life {
                starter: Some(starter),
                thread: Some(thread),
                ..Life::default()
            }),
            ended: Condvar::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Has the vsock socket, which is at the path that the machine was made with, outlive its runs.
    pub(crate) fn keep_socket(&self, listener: UnixListener) {
        // It has one already, and that does.
        let _ = self.inner.kept.set(listener);
    }

    /// Makes a machine and turns it on: [`new`](Self::new), [`startup`](Self::startup), and the
    /// wait for it.
    ///
    /// # Errors
    /// The configuration is not valid, a file cannot be loaded, or the host cannot run machines.
    pub fn start(config: MachineConfig, vsock: Option<&Path>) -> Result<Self, CallError> {
        let vm = Self::new(config, vsock)?;
        let startup = vm.startup()?.wait(None);
        match startup.error {
            HResult::S_OK => Ok(vm),
            code => Err(CallError::new(code, startup.error_description)),
        }
    }

    /// The machine's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.config.name
    }

    /// What the machine is made of.
    #[must_use]
    pub fn config(&self) -> &MachineConfig {
        &self.inner.config
    }

    /// The machine's state.
    #[must_use]
    pub fn state(&self) -> VmState {
        self.inner.state.get()
    }

    /// The guest's operating system.
    #[must_use]
    pub fn guest_os(&self) -> GuestOs {
        self.inner.integration.guest_os()
    }

    /// What the guest has told of its boot without an agent.
    #[must_use]
    pub fn told(&self) -> Told {
        self.inner.readiness.told()
    }

    /// The machine's tasks.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// What happens to the machine.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// Turns the machine on: `IVMVirtualMachine::Startup`. The task is complete when it runs.
    ///
    /// # Errors
    /// `VM_E_VM_RUNNING` if it is not turned off;
    /// `VM_E_APP_SHUTTING_DOWN` if it has ended and its process is about to. What is wrong with host
    /// or files comes through the task.
    pub fn startup(&self) -> Result<Task, CallError> {
        let mut life = self.inner.admit(Verb::Startup)?;
        if life.once && life.end.is_some() {
            let text = "the machine's process is ending; try again";
            return Err(CallError::new(HResult::VM_E_APP_SHUTTING_DOWN, text));
        }
        // The thread takes the order when it is done with its former run, of which turning the machine
        // off was the last act.
        let order = || self.inner.clone();
        let ordered =
            life.starter.as_ref().is_some_and(|starter| starter.try_send(order()).is_ok());
        if !ordered {
            let text = "the machine's thread does not answer";
            return Err(CallError::new(HResult::DISP_E_EXCEPTION, text));
        }
        let (task, work) = self.inner.tasks.start_committed("start the machine");
        life.unwanted = false;
        life.end = None;
        life.startup = Some(work);
        self.inner.enter(VmState::TurningOn);
        Ok(task)
    }

    /// As [`startup`](Self::startup), for the only time: the machine's process ends with it, so that
    /// another start would be lost.
    ///
    /// # Errors
    /// As for [`startup`](Self::startup).
    pub(crate) fn startup_once(&self) -> Result<Task, CallError> {
        self.inner.lock().once = true;
        self.startup()
    }

    /// Turns the machine off, as if its plug was pulled: `IVMVirtualMachine::TurnOff`. The task is
    /// complete when it is off.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING` if it is off, or being turned off.
    pub fn turn_off(&self) -> Result<Task, CallError> {
        let mut life = self.inner.admit(Verb::TurnOff)?;
        let (task, work) = self.inner.tasks.start_committed("turn the machine off");
        life.turn_off = Some(work);
        life.unwanted = true;
        self.inner.events.publish(EventKind::OnRequestShutdown);
        self.inner.enter(VmState::TurningOff);
        if let Some(control) = &life.control {
            control.stop();
        }
        Ok(task)
    }

    /// Turns the machine off if it is on, and waits until it is off, whoever turned it off.
    pub(crate) fn turn_off_and_wait(&self) {
        // Refused is who comes second: off already, or being turned off.
        let _ = self.turn_off();
        let mut life = self.inner.lock();
        while self.inner.state.get() != VmState::TurnedOff {
            life = self.inner.ended.wait(life).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Boots the machine anew, whatever its guest is doing: `IVMVirtualMachine::Reset`. The task
    /// is complete when the new boot has begun. A paused machine stays paused.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`.
    pub fn reset(&self) -> Result<Task, CallError> {
        let mut life = self.inner.admit(Verb::Reset)?;
        let (task, work) = self.inner.tasks.start_committed("reset the machine");
        life.resets.push(work);
        if let Some(control) = &life.control {
            control.reset();
        }
        Ok(task)
    }

    /// Lets the processors stand still: `IVMVirtualMachine::Pause`.
    ///
    /// # Errors
    /// `E_FAIL` if they do already; `VM_E_VM_NOT_RUNNING`.
    pub fn pause(&self) -> Result<(), CallError> {
        let life = self.inner.admit(Verb::Pause)?;
        // Between two boots there is nothing to hold; the next one begins paused.
        if let Some(control) = &life.control {
            control.pause();
        }
        self.inner.enter(VmState::Paused);
        self.inner.integration.paused();
        Ok(())
    }

    /// Lets the processors go on: `IVMVirtualMachine::Resume`.
    ///
    /// # Errors
    /// `E_FAIL` if they do already; `VM_E_VM_NOT_RUNNING`.
    pub fn resume(&self) -> Result<(), CallError> {
        let life = self.inner.admit(Verb::Resume)?;
        self.inner.integration.resumed(|| self.inner.enter(VmState::Running));
        if let Some(control) = &life.control {
            control.resume();
        }
        Ok(())
    }

    /// What it has used of its host since it was made.
    #[must_use]
    pub fn used(&self) -> Used {
        self.inner.usage.used()
    }

    /// Presses the power button: a guest that heeds it shuts down.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`, also while the machine is paused.
    pub fn press_power_button(&self) -> Result<(), CallError> {
        let life = self.inner.admit(Verb::GuestWork)?;
        if let Some(control) = &life.control {
            control.press_power_button();
        }
        Ok(())
    }

    /// The balloon: what it is to take from the guest, what it has taken, and what the guest says of
    /// its memory, now if it answers within a second.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING` if the machine is off.
    pub fn balloon(&self) -> Result<BalloonInfo, CallError> {
        let balloon = self.inner.balloon()?;
        match self.state() {
            VmState::Running => Ok(balloon.fresh_info(STATS_PATIENCE)),
            // Nobody there could answer.
            _ => Ok(balloon.info()),
        }
    }

    /// Sets how many bytes the balloon is to take from the guest; its driver follows when it can. The
    /// target stays when the guest boots anew, and is 0 when the machine is turned on.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING` if the machine is off; `E_INVALIDARG` if these are no whole pages, or
    /// would leave the guest less than 16 MiB.
    pub fn set_balloon_target(&self, bytes: u64) -> Result<(), CallError> {
        self.inner.balloon()?.set_target(bytes)
    }

    /// Where people attach to the console.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`; `E_FAIL` if the console goes elsewhere.
    pub fn console(&self) -> Result<ConsoleHub, CallError> {
        let life = self.inner.lock();
        match (&life.console, self.inner.state.get()) {
            (Some(console), _) => Ok(console.clone()),
            (None, VmState::Running | VmState::Paused) => {
                let text = "the machine's console goes elsewhere: to a file, to the terminal of the \
                            process that runs it, or nowhere";
                Err(CallError::new(HResult::E_FAIL, text))
            }
            (None, state) => {
                let text = format!("the machine is {}", state.words());
                Err(CallError::new(HResult::VM_E_VM_NOT_RUNNING, text))
            }
        }
    }

    /// Waits for the end of a machine that was started, and says why it ended.
    #[must_use]
    pub fn wait(&self) -> End {
        self.end_waiter().wait()
    }

    /// What waits for the machine's end without holding the machine.
    #[must_use]
    pub fn end_waiter(&self) -> EndWaiter {
        EndWaiter { inner: self.inner.clone() }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Off already is as good.
        let _ = self.turn_off();
        let thread = {
            let mut life = self.inner.lock();
            life.starter = None;
            life.thread.take()
        };
        if let Some(thread) = thread {
            // A panic of that thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// Waits for a machine's end.
pub struct EndWaiter {
    inner: Arc<Inner>,
}

impl EndWaiter {
    /// Waits for the end of a machine that was started, and says why it ended.
    #[must_use]
    pub fn wait(&self) -> End {
        let mut life = self.inner.lock();
        loop {
            if let Some(end) = &life.end {
                return end.clone();
            }
            life = self.inner.ended.wait(life).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits `verb`, and keeps the state as it is until the guard is dropped.
    fn admit(&self, verb: Verb) -> Result<MutexGuard<'_, Life>, CallError> {
        let life = self.lock();
        admit(verb, self.state.get())?;
        Ok(life)
    }

    /// Changes the state. The caller holds the lock of `life`.
    fn enter(&self, state: VmState) {
        if self.state.get() != state {
            self.state.set(state);
            self.events.publish(EventKind::OnStateChange { state });
        }
    }

    fn new_balloon(&self) -> Result<BalloonControl, MachineError> {
        let failed = |source| MachineError::Resource { what: "the balloon", source };
        BalloonControl::new(self.config.memory).map_err(failed)
    }

    /// The balloon of a machine that is on.
    fn balloon(&self) -> Result<BalloonControl, CallError> {
        self.lock().balloon.clone().ok_or_else(|| {
            let text = format!("the machine is {}", self.state.get().words());
            CallError::new(HResult::VM_E_VM_NOT_RUNNING, text)
        })
    }

    /// What the `vm` thread does, from startup to the end.
    fn run(&self) {
        // Whoever waits is answered even if this thread panics, which is reported elsewhere, and the
        // machine can be started again.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| {
            let text = "the vm thread panicked";
            let mut ending = Ending { inner: self, end: End::Failed(text.into()) };
            ending.end = self.boots();
        }));
    }

    /// Runs one boot after the other until the machine ends for good.
    fn boots(&self) -> End {
        let started = self.connect().and_then(|connected| {
            let machine = self.machine(&connected.links)?;
            Ok((connected, machine))
        });
        let (connected, mut machine) = match started {
            Ok(started) => started,
            Err(error) => return End::NotStarted(error.into()),
        };
        self.readiness.boot_begins();
        loop {
            match self.boot(machine) {
                Outcome::Reset | Outcome::HostReset => {}
                Outcome::PowerOff => return End::PowerOff,
                Outcome::Stopped => return End::TurnedOff,
                Outcome::Panic(text) => return End::Panic(text),
                Outcome::TripleFault => return End::TripleFault,
                Outcome::InternalError(text) => return End::Failed(text),
            }
            self.readiness.boot_begins();
            self.events.publish(EventKind::OnReset);
            machine = match self.machine(&connected.links) {
                Ok(machine) => machine,
                Err(error) => return End::Failed(chain(&error)),
            };
        }
    }

    /// Puts the machine together for a boot, of which the integration channel hears meanwhile.
    fn machine(&self, links: &Links) -> Result<Machine, MachineError> {
        let heard = self.integration.boot_starts();
        let machine = Machine::new(&self.config, links)?;
        heard.wait();
        Ok(machine)
    }

    /// Runs one boot to its end.
    fn boot(&self, machine: Machine) -> Outcome {
        let boot = {
            let mut life = self.lock();
            if life.unwanted {
                return Outcome::Stopped;
            }
            let boot = machine.start(self.state.get() == VmState::Paused);
            life.control = Some(boot.control());
            if self.state.get() == VmState::TurningOn {
                self.enter(VmState::Running);
            }
            for work in life.startup.take().into_iter().chain(life.resets.drain(..)) {
                work.finish(TaskResult::Success, HResult::S_OK, "");
            }
            boot
        };
        tracing::info!(name = self.config.name, "boot begins");
        let outcome = boot.wait();
        let mut life = self.lock();
        match &outcome {
            Outcome::PowerOff => self.events.publish(EventKind::OnGuestShutdown),
            Outcome::TripleFault => self.events.publish(EventKind::OnTripleFault),
            _ => {}
        }
        // With its devices the guest's agent goes. Whoever waits for that is to find a machine that
        // ends, not one without an agent.
        if !matches!(outcome, Outcome::Reset | Outcome::HostReset) {
            self.enter(VmState::TurningOff);
        }
        // The processors are stopped by whoever lets go of them last, which is to be this thread.
        life.control = None;
        drop(life);
        outcome
    }

    /// Opens what connects the machine to the host.
    fn connect(&self) -> Result<Connected, StartError> {
        let (vsock_listener, socket) = self.vsock_socket()?;
        let mut drives = self.drives()?;
        let mut own_strings = match self.config.integration {
            Components::Off => Vec::new(),
            _ => vec![notify::driver()],
        };
        if let Some(disk) = self.kit()? {
            drives.push(Arc::new(Drive::of_file(kit::VOLUME, disk)?));
            own_strings.extend(kit::credentials());
        }
        let links = Links {
            agents: self.agents.clone(),
            vsock_listener,
            vsock_path: self.vsock.clone(),
            console: HostConsole::open(&self.config.console)?,
            drives,
            interfaces: self.interfaces()?,
            balloon: self.new_balloon()?,
            own_strings,
            usage: self.usage.clone(),
            readiness: self.readiness.clone(),
        };
        let mut life = self.lock();
        life.console = links.console.hub().cloned();
        life.balloon = Some(links.balloon.clone());
        drop(life);
        Ok(Connected { links, _socket: socket })
    }

    /// The vsock socket for this run, and its file, unless that is to stay.
    fn vsock_socket(&self) -> Result<(Option<UnixListener>, Option<SocketFile>), StartError> {
        let Some(path) = &self.vsock else { return Ok((None, None)) };
        let failed = |source| StartError::Socket { path: path.clone(), source };
        if let Some(kept) = self.kept.get() {
            return Ok((Some(kept.try_clone().map_err(failed)?), None));
        }
        if confine::is_confined() {
            let text = "a confined process can make none any more";
            return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, text)));
        }
        let bound = Bound::to(path).map_err(failed)?;
        let file = SocketFile(path.clone());
        Ok((Some(bound.listen().map_err(failed)?), Some(file)))
    }

    /// Opens the disks.
    fn drives(&self) -> Result<Vec<Arc<Drive>>, DiskError> {
        let disks = self.config.disks.iter().enumerate();
        disks.map(|(index, disk)| Drive::open(index, disk, &self.usage).map(Arc::new)).collect()
    }

    /// Takes the taps.
    fn interfaces(&self) -> Result<Vec<Interface>, TapError> {
        let nets = self.config.nets.iter().enumerate();
        let open = |(index, net): (usize, &Net)| {
            Interface::open(index, &net.tap, self.config.mac(index), &self.usage)
        };
        nets.map(open).collect()
    }

    /// The disk with what is brought along for the guest, if there is to be one.
    fn kit(&self) -> Result<Option<File>, KitError> {
        let config = &self.config;
        let room = config.devices() < DEVICES_MAX;
        let kit = Kit::pack(&config.integration, room)?;
        let state = kit.state();
        self.integration.set_kit(state.clone());
        match kit {
            Kit::Disk { file, .. } => return Ok(Some(file)),
            Kit::Off => {}
            Kit::Missing(_) | Kit::NoRoom => {
                tracing::info!(name = config.name, ?state, "no integration disk");
            }
        }
        Ok(None)
    }

    /// The machine has ended: everyone who waits is answered.
    fn finish(&self, end: End) {
        tracing::info!(name = self.config.name, ?end, "machine ended");
        {
            let _life = self.lock();
            self.enter(VmState::TurningOff);
        }
        match end {
            End::PowerOff => self.integration.powered_off(),
            _ => self.integration.machine_ended(),
        }
        self.readiness.machine_ended();
        let mut life = self.lock();
        life.control = None;
        life.console = None;
        life.balloon = None;
        let startup = life.startup.take();
        let resets = std::mem::take(&mut life.resets);
        let turn_off = life.turn_off.take();
        self.enter(VmState::TurnedOff);
        life.end = Some(end.clone());
        drop(life);
        if let Some(work) = startup {
            let (result, error, text) = match end {
                End::NotStarted(error) => (TaskResult::UnexpectedError, error.code, error.text),
                End::TurnedOff => {
                    let text = "the machine was turned off before it ran".into();
                    (TaskResult::Cancelled, HResult::ERROR_CANCELLED, text)
                }
                End::Failed(text) => (TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION, text),
                End::PowerOff | End::Panic(_) | End::TripleFault => {
                    let text = "the machine ended before it ran".into();
                    (TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION, text)
                }
            };
            work.finish(result, error, &text);
        }
        for work in resets {
            let text = "the machine was turned off before it booted anew";
            work.finish(TaskResult::UnexpectedError, HResult::VM_E_VM_NOT_RUNNING, text);
        }
        if let Some(work) = turn_off {
            work.finish(TaskResult::Success, HResult::S_OK, "");
        }
        self.ended.notify_all();
    }
}

/// The end of the `vm` thread, however it comes.
struct Ending<'a> {
    inner: &'a Inner,
    end: End,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.inner.finish(self.end.clone());
    }
}

/// What connects a machine to the host while it is on.
struct Connected {
    links: Links,
    _socket: Option<SocketFile>,
}

/// The file of the hybrid vsock protocol's socket: it outlives the guest's reboots.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
impl Vm {
    /// A machine that seems to run, but has no processors.
    pub(crate) fn hollow(config: MachineConfig) -> Self {
        let vm = Self::new(config, None).unwrap();
        vm.inner.integration.boot_starts().wait();
        vm.inner.state.set(VmState::Running);
        vm.inner.lock().balloon = vm.inner.new_balloon().ok();
        vm
    }

    /// Takes the host's ends of the agent's connections.
    pub(crate) fn agents(&self) -> &Sender<UnixStream> {
        &self.inner.agents
    }

    pub(crate) fn set_state(&self, state: VmState) {
        let _life = self.inner.lock();
        self.inner.state.set(state);
    }

    /// Ends it as if its processors had.
    pub(crate) fn end(&self) {
        self.inner.finish(End::TurnedOff);
    }
}
