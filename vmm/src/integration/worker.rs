//! The `integration` thread: connections, calls and operations, one event at a time.

mod calls;
mod connections;
mod logoff;

use crate::error::CallError;
use crate::events::{EventKind, Events};
use crate::integration::Timing;
use crate::integration::channel::{Connection, Event, Phase};
use crate::integration::clock::Clock;
use crate::integration::guest::{Status, StatusCell, no_agent};
use crate::integration::heartbeat::Heartbeats;
use crate::integration::install::Installation;
use crate::integration::logoff::{Caller, Operation};
use crate::integration::power::{BootEnd, PowerOperation};
use crate::state::{StateCell, VmState};
use crate::task::Tasks;
use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use protocol::HResult;
use protocol::hello::Versions;
use protocol::message::{AgentMessage, HostMessage, Request};
use protocol::power::PowerRequest;
use protocol::task::LogoffOptions;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

pub(super) use calls::{Calls, Key, Reply};

/// Threads at once that read from connections: those of connections that have ended here live until
/// they have delivered the message that they hold. When there are so many, nobody is let in.
const MAX_READERS: usize = 32;
/// How long nobody is let in before it is looked whether there is room again.
const PAUSE: Duration = Duration::from_millis(10);
/// Messages that reader threads may be ahead.
const BACKLOG: usize = 64;

/// What the thread can be told.
pub(crate) enum Command {
    /// A caller wants everybody logged off.
    Logoff { options: LogoffOptions, reply: Caller },
    /// A caller wants the logoff of this name cancelled.
    Cancel { operation: Key, reply: Sender<Result<(), CallError>> },
    /// A caller wants the guest to shut down or restart.
    Power { request: PowerRequest, reply: Caller },
    /// A caller wants what is brought along installed.
    Install { reply: Caller },
    /// A caller wants something of a service that one message answers.
    Ask { service: &'static str, request: Request, reply: Sender<Result<AgentMessage, CallError>> },
    /// What the machine is called.
    Name(String),
    /// What happens is to be told there.
    Tell(Events),
    /// The guest begins to boot.
    BootStarted(Sender<()>),
    /// The machine is paused, since this moment.
    Paused(Instant),
    /// The machine stood still and is about to go on.
    Resumed(Sender<()>),
    /// It goes on.
    Running,
    /// The machine has ended; whether the guest has powered it off.
    MachineEnded { powered_off: bool, done: Sender<()> },
    /// The thread is to end.
    Stop,
}

impl Command {
    /// Whether nothing of an earlier boot is to be left after this.
    fn ends_boot(&self) -> bool {
        matches!(self, Self::BootStarted(_) | Self::MachineEnded { .. })
    }
}

/// What lives on the thread.
pub(super) struct Worker {
    pub(super) state: StateCell,
    pub(super) tasks: Tasks,
    pub(super) timing: Timing,
    /// Versions of the protocol that are spoken here.
    pub(super) protocols: Versions,
    pub(super) status: Arc<StatusCell>,
    pub(super) connections: Vec<Connection>,
    /// The machine's name, once it is known.
    pub(super) name: String,
    /// Where what happens is told.
    told: Option<Events>,
    /// Shutdowns and restarts under way.
    pub(super) powers: Vec<PowerOperation>,
    /// The installation that is under way.
    pub(super) installation: Option<Installation>,
    pub(super) clock: Clock,
    commands: Sender<Command>,
    events: (Sender<Event>, Receiver<Event>),
    next_connection: u64,
    /// A clone is held by every thread that reads from a connection.
    readers: Arc<()>,
    /// Since when the machine stands still, if it does.
    paused: Option<Instant>,
    /// When the guest's misbehaviour was logged last.
    complained: Option<Instant>,
    calls: Calls,
    /// The logoff that is under way.
    pub(super) operation: Option<Operation>,
    /// Tasks that have been given for it.
    followers: usize,
    /// A logoff that was given up before the guest accepted it.
    abandoned: Option<Key>,
}

impl Worker {
    pub(super) fn new(
        state: StateCell,
        tasks: Tasks,
        commands: Sender<Command>,
        status: Arc<StatusCell>,
        timing: Timing,
        protocols: Versions,
    ) -> Self {
        Self {
            state,
            tasks,
            commands,
            status,
            timing,
            protocols,
            events: bounded(BACKLOG),
            connections: Vec::new(),
            next_connection: 1,
            readers: Arc::default(),
            paused: None,
            complained: None,
            name: String::new(),
            told: None,
            powers: Vec::new(),
            installation: None,
            clock: Clock::default(),
            calls: Calls::default(),
            operation: None,
            followers: 0,
            abandoned: None,
        }
    }

    pub(super) fn run(mut self, commands: &Receiver<Command>, incoming: &Receiver<UnixStream>) {
        let events = self.events.1.clone();
        let mut incoming = incoming.clone();
        loop {
            // One reference is the thread's own.
            let crowded = Arc::strong_count(&self.readers) > MAX_READERS;
            let look_again = crowded.then(|| Instant::now() + PAUSE);
            let timer = match self.deadline().into_iter().chain(look_again).min() {
                Some(deadline) => after(deadline.saturating_duration_since(Instant::now())),
                None => never(),
            };
            let arriving = if crowded { never() } else { incoming.clone() };
            select! {
                recv(commands) -> command => match command {
                    Ok(Command::Stop) | Err(_) => return,
                    Ok(command) => {
                        if command.ends_boot() {
                            // Made by the former boot, and not taken before it ended.
                            while incoming.try_recv().is_ok() {}
                        }
                        self.obey(command);
                    }
                },
                recv(arriving) -> stream => match stream {
                    Ok(stream) => self.open(stream),
                    // The machine will bring no more.
                    Err(_) => incoming = never(),
                },
                recv(events) -> event => match event {
                    Ok(event) => self.handle(event),
                    Err(_) => return,
                },
                recv(timer) -> _ => {}
            }
            self.expire();
        }
    }

    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.get()
    }

    pub(super) fn publish(&self, kind: EventKind) {
        if let Some(told) = &self.told {
            told.publish(kind);
        }
    }

    /// When something is to be done although nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let connections = self.connections.iter().filter_map(|c| self.silent_at(c));
        let paused = self.state.get() == VmState::Paused;
        let operation = self.operation.as_ref().and_then(|operation| operation.deadline(paused));
        let services = [
            self.calls.deadline(),
            self.power_deadline(),
            self.install_deadline(),
            self.clock_deadline(),
        ];
        connections.chain(operation).chain(services.into_iter().flatten()).min()
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Logoff { options, reply } => self.logoff(options, reply),
            Command::Cancel { operation, reply } => self.cancel(operation, reply),
            Command::Power { request, reply } => self.power(request, reply),
            Command::Install { reply } => self.install(reply),
            Command::Ask { service, request, reply } => self.ask(service, request, reply),
            Command::Name(name) => self.name = name,
            Command::Tell(told) => self.told = Some(told),
            Command::BootStarted(done) => {
                self.clear(BootEnd::Again);
                self.status().booted = Some(Instant::now());
                // Whoever told it waits for this.
                let _ = done.send(());
            }
            Command::Paused(since) => self.paused = Some(since),
            Command::Resumed(done) => {
                self.resume();
                let _ = done.send(());
            }
            Command::MachineEnded { powered_off, done } => {
                self.clear(if powered_off { BootEnd::PowerOff } else { BootEnd::Off });
                self.status().ends += 1;
                self.status.notify();
                let _ = done.send(());
            }
            // The loop does the rest.
            Command::Running | Command::Stop => {}
        }
    }

    /// Ends everything that belongs to the guest's boot.
    fn clear(&mut self, how: BootEnd) {
        let (error, text) = match how {
            BootEnd::Again => {
                (HResult::DISP_E_EXCEPTION, "the guest rebooted before the work was done")
            }
            BootEnd::PowerOff | BootEnd::Off => {
                (HResult::VM_E_VM_NOT_RUNNING, "the machine stopped before the work was done")
            }
        };
        self.connections.clear();
        self.abandoned = None;
        self.clock = Clock::default();
        if let Some(operation) = self.operation.take() {
            operation.end_early(error, text);
        }
        self.powers.drain(..).for_each(|operation| operation.boot_ended(how));
        if let Some(installation) = self.installation.take() {
            installation.boot_ended(how);
        }
        self.calls.clear(&CallError::new(error, text));
        let mut status = self.status();
        *status = Status { dropped: status.dropped, ends: status.ends, ..Status::default() };
    }

    /// Counts all time that belongs to the guest from now on.
    fn resume(&mut self) {
        let now = Instant::now();
        let paused = self.paused.take();
        for connection in &mut self.connections {
            connection.heard = now;
        }
        if let Some(heartbeats) = &mut self.status().heartbeats {
            *heartbeats = Heartbeats::new(now);
        }
        if let Some(operation) = &mut self.operation {
            operation.resumed(paused.map_or(Duration::ZERO, |since| now - since));
        }
        self.ask_for_second_look();
        self.power_resumed();
        self.install_resumed();
        self.clock_resumed();
    }

    /// Asks something of a service for somebody outside.
    fn ask(
        &mut self,
        service: &str,
        request: Request,
        reply: Sender<Result<AgentMessage, CallError>>,
    ) {
        let reply = Reply::Caller(reply);
        if self.calls.is_full() {
            let text = "too many callers are waiting for the guest's answers";
            return reply.refuse(CallError::new(HResult::VM_E_OUT_OF_RESOURCE, text));
        }
        match self.agent(service).map(|connection| connection.number) {
            Ok(number) => self.ask_at(number, request, reply),
            Err(error) => reply.refuse(error),
        }
    }

    /// Asks something over the connection `number`.
    pub(super) fn ask_at(&mut self, number: u64, request: Request, reply: Reply) {
        let deadline = Instant::now() + self.timing.answer;
        let connection = self.connections.iter_mut().find(|c| c.number == number);
        let Some(connection) = connection else {
            return reply.refuse(no_agent(&self.status()));
        };
        let id = connection.request_id();
        self.calls.add((number, id), deadline, reply);
        if !connection.send(&HostMessage::Request { id, request }) {
            self.close(number);
        }
    }

    /// A message of the agent.
    fn answer(&mut self, number: u64, message: AgentMessage) {
        let Some(id) = message.request_id() else {
            match message {
                // It has introduced itself already.
                AgentMessage::Hello(_) => self.close(number),
                AgentMessage::Pong { seq } => self.pong(number, seq),
                AgentMessage::Heartbeat => {
                    if let Some(heartbeats) = &mut self.status().heartbeats {
                        heartbeats.beat(Instant::now());
                    }
                }
                // Of a newer one.
                _ => self.status().dropped += 1,
            }
            return;
        };
        let key = (number, id);
        if let Some(reply) = self.calls.take(key) {
            match (reply, message) {
                (Reply::Caller(caller), message) => {
                    let outcome = match message {
                        AgentMessage::Rejected { error, text, .. } if error.is_failure() => {
                            Err(CallError::new(error, text))
                        }
                        message => Ok(message),
                    };
                    // Whoever asked may have gone.
                    let _ = caller.send(outcome);
                }
                (Reply::Clock { turn }, AgentMessage::Clock { report, .. }) => {
                    self.clock_report(turn, report);
                }
                (Reply::SecondLook { operation }, message) => self.second_look(operation, message),
                (Reply::Clock { .. } | Reply::Nobody, AgentMessage::Rejected { text, .. }) => {
                    tracing::debug!(text, "the guest refused");
                }
                (Reply::Clock { .. } | Reply::Nobody, _) => {}
            }
        } else if let Some(at) = self.power_of(key) {
            self.power_message(at, message);
        } else if self.is_install(key) {
            self.install_message(message);
        } else if !self.logoff_message(key, message) {
            self.status().dropped += 1;
        }
    }

    /// Does what is due.
    fn expire(&mut self) {
        let now = Instant::now();
        let silent: Vec<u64> = self
            .connections
            .iter()
            .filter(|c| self.silent_at(c).is_some_and(|time| time <= now))
            .map(|c| c.number)
            .collect();
        for number in silent {
            self.complain("the agent has fallen silent; its connection is ended");
            let ready = |c: &Connection| c.number == number && matches!(c.phase, Phase::Ready(_));
            if self.connections.iter().any(ready) {
                self.publish(EventKind::OnHeartbeatStopped);
            }
            self.close(number);
        }
        self.calls.expire(now);
        // Before what it waits for is given up.
        self.expire_install(now);
        self.expire_power(now);
        self.expire_clock(now);
        self.expire_logoff(now);
    }
}
