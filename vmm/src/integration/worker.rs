//! The `integration` thread: connections, calls and the operation, one event at a time.

use crate::error::CallError;
use crate::integration::Timing;
use crate::integration::channel::{Connection, Event, PROOF, Phase};
use crate::integration::guest::{Agent, SessionList, Status, StatusCell, no_agent, not_running};
use crate::integration::logoff::{Caller, Operation, Stage, refuse};
use crate::state::{StateCell, VmState};
use crate::task::Tasks;
use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use protocol::HResult;
use protocol::frame;
use protocol::hello::{Hello, LOGOFF, SESSIONS};
use protocol::message::{AgentMessage, HostMessage, Request};
use protocol::task::{LogoffOptions, TaskResult};
use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

/// Connections at once: the agent's, one that replaces it, and some that only seem to be it.
const MAX_CONNECTIONS: usize = 4;
/// Messages that reader threads may be ahead.
const BACKLOG: usize = 64;
/// Session lists that are awaited at once.
const MAX_LISTS: usize = 64;

/// What the thread can be told.
pub(crate) enum Command {
    /// A caller wants everybody logged off.
    Logoff { options: LogoffOptions, reply: Caller },
    /// A caller wants the operation cancelled.
    Cancel { reply: Sender<Result<(), CallError>> },
    /// A caller wants to know who is logged on.
    Sessions { reply: Sender<Result<SessionList, CallError>> },
    /// The guest begins to boot.
    BootStarted(Sender<()>),
    /// The machine has ended.
    MachineEnded(Sender<()>),
    /// The thread is to end.
    Stop,
}

/// A call for a session list that is awaited.
struct List {
    deadline: Instant,
    reply: Sender<Result<SessionList, CallError>>,
}

/// What lives on the thread.
pub(super) struct Worker {
    state: StateCell,
    tasks: Tasks,
    commands: Sender<Command>,
    status: Arc<StatusCell>,
    timing: Timing,
    events: (Sender<Event>, Receiver<Event>),
    connections: Vec<Connection>,
    next_connection: u64,
    operation: Option<Operation>,
    /// Operations that were given up before the guest accepted them, by connection and request.
    abandoned: Option<(u64, u64)>,
    /// Awaited lists, by connection and request.
    lists: HashMap<(u64, u64), List>,
}

impl Worker {
    pub(super) fn new(
        state: StateCell,
        tasks: Tasks,
        commands: Sender<Command>,
        status: Arc<StatusCell>,
        timing: Timing,
    ) -> Self {
        Self {
            state,
            tasks,
            commands,
            status,
            timing,
            events: bounded(BACKLOG),
            connections: Vec::new(),
            next_connection: 1,
            operation: None,
            abandoned: None,
            lists: HashMap::new(),
        }
    }

    pub(super) fn run(mut self, commands: &Receiver<Command>, incoming: &Receiver<UnixStream>) {
        let events = self.events.1.clone();
        let mut incoming = incoming.clone();
        loop {
            let timer = match self.deadline() {
                Some(deadline) => after(deadline.saturating_duration_since(Instant::now())),
                None => never(),
            };
            select! {
                recv(commands) -> command => match command {
                    Ok(Command::Stop) | Err(_) => return,
                    Ok(command) => self.obey(command),
                },
                recv(incoming) -> stream => match stream {
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

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.get()
    }

    /// When something is to be done although nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let connections = self.connections.iter().map(|c| c.heard + self.patience(c));
        let lists = self.lists.values().map(|list| list.deadline);
        let operation = self.operation.as_ref().and_then(Operation::deadline);
        connections.chain(lists).chain(operation).min()
    }

    /// How long nothing need be heard of a connection.
    fn patience(&self, connection: &Connection) -> Duration {
        match connection.phase {
            Phase::Greeting | Phase::Proving(_) => self.timing.handshake,
            Phase::Ready(_) => self.timing.silence,
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Logoff { options, reply } => self.logoff(options, reply),
            Command::Cancel { reply } => self.cancel(reply),
            Command::Sessions { reply } => self.list(reply),
            Command::BootStarted(done) => {
                let text = "the guest rebooted before the work was done";
                self.clear(TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION, text);
                self.status().booted = Some(Instant::now());
                // Whoever told it waits for this.
                let _ = done.send(());
            }
            Command::MachineEnded(done) => {
                let text = "the machine stopped before the work was done";
                self.clear(TaskResult::UnexpectedError, HResult::VM_E_VM_NOT_RUNNING, text);
                let _ = done.send(());
            }
            // Handled by the loop.
            Command::Stop => {}
        }
    }

    /// Ends everything that belongs to the guest's boot.
    fn clear(&mut self, result: TaskResult, error: HResult, text: &str) {
        self.connections.clear();
        self.abandoned = None;
        if let Some(operation) = self.operation.take() {
            operation.end(result, error, text);
        }
        for (_, list) in self.lists.drain() {
            // Whoever asked may have gone.
            let _ = list.reply.send(Err(CallError::new(error, text)));
        }
        let dropped = self.status().dropped;
        *self.status() = Status { dropped, ..Status::default() };
    }

    /// A connection that says it is the agent's.
    fn open(&mut self, stream: UnixStream) {
        if self.connections.len() >= MAX_CONNECTIONS {
            tracing::warn!("too many connections to the integration channel; one refused");
            return;
        }
        let number = self.next_connection;
        self.next_connection += 1;
        match Connection::open(number, stream, self.events.0.clone()) {
            Ok(connection) => self.connections.push(connection),
            Err(error) => tracing::warn!(%error, "connection of the agent not served"),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Closed(number) => self.close(number),
            Event::Garbage => self.status().dropped += 1,
            Event::Message(number, message) => {
                let Some(at) = self.connections.iter().position(|c| c.number == number) else {
                    // The last words of a connection that was ended here.
                    self.status().dropped += 1;
                    return;
                };
                self.connections[at].heard = Instant::now();
                match &self.connections[at].phase {
                    Phase::Ready(_) => {
                        self.status().heard = Some(Instant::now());
                        self.answer(number, *message);
                    }
                    Phase::Greeting | Phase::Proving(_) => self.shake_hands(at, *message),
                }
            }
        }
    }

    /// A message of a connection that is not ready yet.
    fn shake_hands(&mut self, at: usize, message: AgentMessage) {
        let connection = &mut self.connections[at];
        let number = connection.number;
        match (&connection.phase, message) {
            (Phase::Greeting, AgentMessage::Hello(hello)) => {
                if !connection.greet(hello) {
                    self.close(number);
                }
            }
            (Phase::Proving(hello), AgentMessage::Pong { seq: PROOF }) => {
                let hello = hello.clone();
                connection.phase = Phase::Ready(hello.clone());
                self.welcome(number, hello);
            }
            (Phase::Proving(_), AgentMessage::Heartbeat | AgentMessage::Unknown) => {}
            _ => self.close(number),
        }
    }

    /// An agent is there. It replaces the one before.
    fn welcome(&mut self, number: u64, hello: Hello) {
        tracing::info!(version = hello.agent_version, boot = hello.boot_id, "agent connected");
        let older: Vec<u64> = self
            .connections
            .iter()
            .filter(|c| c.number != number && matches!(c.phase, Phase::Ready(_)))
            .map(|c| c.number)
            .collect();
        older.into_iter().for_each(|older| self.close(older));
        let agent = Agent { version: hello.agent_version, boot_id: hello.boot_id.clone() };
        {
            let mut status = self.status();
            status.connected = Some(agent.clone());
            status.last = Some(agent);
            status.heard = Some(Instant::now());
        }
        self.status.notify();
        let Some(operation) = &self.operation else { return };
        if operation.boot_id == hello.boot_id {
            self.send_again(number);
        } else if let Some(operation) = self.operation.take() {
            let text = "the guest rebooted before the work was done";
            operation.end(TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION, text);
        }
    }

    /// Gives the operation, whose connection was lost, to the connection `number`.
    fn send_again(&mut self, number: u64) {
        let Some(connection) = self.connections.iter_mut().find(|c| c.number == number) else {
            return;
        };
        let Some(operation) = &mut self.operation else { return };
        let id = connection.request_id();
        operation.request = Some((number, id));
        let request = Request::Logoff(operation.to_request());
        let message = HostMessage::Request { id, request };
        if frame::encode(&message).is_err() {
            // What is known of several hundred sessions does not fit a message.
            if let Some(operation) = self.operation.take() {
                let text = "the agent was restarted, and there are too many sessions to tell it \
                            of; log off once more";
                operation.end(TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION, text);
            }
        } else if !connection.send(&message) {
            self.close(number);
        }
    }

    /// Ends a connection, and what cannot go on without it.
    fn close(&mut self, number: u64) {
        let Some(at) = self.connections.iter().position(|c| c.number == number) else { return };
        let connection = self.connections.swap_remove(at);
        if matches!(connection.phase, Phase::Ready(_)) {
            tracing::info!("agent gone");
            self.status().connected = None;
        }
        let awaited: Vec<(u64, u64)> =
            self.lists.keys().filter(|(on, _)| *on == number).copied().collect();
        for key in awaited {
            if let Some(list) = self.lists.remove(&key) {
                let _ = list.reply.send(Err(no_agent(&self.status())));
            }
        }
        let Some(operation) = &mut self.operation else { return };
        if operation.request.is_none_or(|(on, _)| on != number) {
            return;
        }
        operation.request = None;
        for (_, answer) in operation.cancelling.drain(..) {
            let text = "the agent's connection was lost before it answered";
            let _ = answer.send(Err(CallError::new(HResult::E_FAIL, text)));
        }
        if let Stage::Asked { callers, .. } = &mut operation.stage {
            let callers = std::mem::take(callers);
            refuse(callers, &no_agent(&self.status()));
            self.operation = None;
        }
    }

    /// The ready connection and its hello, if the agent offers `service`.
    fn agent(&mut self, service: &str) -> Result<&mut Connection, CallError> {
        if self.state.get() != VmState::Running {
            return Err(not_running());
        }
        let ready = |c: &&mut Connection| matches!(c.phase, Phase::Ready(_));
        let Some(at) = self.connections.iter_mut().position(|c| ready(&c)) else {
            return Err(no_agent(&self.status()));
        };
        let connection = &mut self.connections[at];
        let Phase::Ready(hello) = &connection.phase else { return Err(not_running()) };
        if !hello.services.contains_key(service) {
            let text = format!(
                "the agent in the guest (version {}) does not offer {service}; a newer one may",
                hello.agent_version
            );
            return Err(CallError::new(HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL, text));
        }
        Ok(connection)
    }

    fn logoff(&mut self, options: LogoffOptions, caller: Caller) {
        if let Some(operation) = &mut self.operation {
            if let Stage::Asked { callers, .. } = &mut operation.stage {
                callers.push(caller);
            } else {
                self.give_task(caller);
            }
            return;
        }
        let timing = self.timing;
        let connection = match self.agent(LOGOFF) {
            Ok(connection) => connection,
            Err(error) => return refuse(vec![caller], &error),
        };
        let number = connection.number;
        let id = connection.request_id();
        let Phase::Ready(hello) = &connection.phase else { return };
        let operation = Operation::ask(
            (number, id),
            hello.boot_id.clone(),
            options,
            caller,
            timing.answer,
            timing.margin,
        );
        let request = Request::Logoff(operation.to_request());
        let sent = connection.send(&HostMessage::Request { id, request });
        self.operation = Some(operation);
        if !sent {
            self.close(number);
        }
    }

    /// Gives `caller` a task for the operation.
    fn give_task(&mut self, caller: Caller) {
        let Some(operation) = &mut self.operation else { return };
        let commands = self.commands.clone();
        let canceller = Box::new(move || {
            let (reply, answer) = bounded(1);
            commands.send(Command::Cancel { reply }).map_err(|_| not_running())?;
            answer.recv().unwrap_or_else(|_| Err(not_running()))
        });
        let (task, work) = self.tasks.start("log off all users", canceller);
        operation.join(work);
        // A caller who has gone leaves its task to whoever asks for it.
        let _ = caller.send(Ok(task));
    }

    fn cancel(&mut self, reply: Sender<Result<(), CallError>>) {
        let refusal = |text: &str| Err(CallError::new(HResult::E_FAIL, text));
        let outcome = match &mut self.operation {
            None => refusal("the task is complete already"),
            Some(Operation { stage: Stage::Committed { .. }, .. }) => {
                refusal("the work has begun and cannot be taken back; it goes on")
            }
            Some(operation) => match operation.request {
                None => refusal("the agent's connection is lost, so nobody can be asked to stop"),
                Some((number, id)) => {
                    let until = Instant::now() + self.timing.answer;
                    operation.cancelling.push((until, reply));
                    self.send(number, &HostMessage::Cancel { id });
                    return;
                }
            },
        };
        // Whoever asked may have gone.
        let _ = reply.send(outcome);
    }

    fn list(&mut self, reply: Sender<Result<SessionList, CallError>>) {
        let deadline = Instant::now() + self.timing.answer;
        if self.lists.len() >= MAX_LISTS {
            let text = "too many callers are asking who is logged on";
            let _ = reply.send(Err(CallError::new(HResult::VM_E_OUT_OF_RESOURCE, text)));
            return;
        }
        match self.agent(SESSIONS) {
            Ok(connection) => {
                let (number, id) = (connection.number, connection.request_id());
                let sent =
                    connection.send(&HostMessage::Request { id, request: Request::Sessions });
                self.lists.insert((number, id), List { deadline, reply });
                if !sent {
                    self.close(number);
                }
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }

    fn send(&mut self, number: u64, message: &HostMessage) {
        let connection = self.connections.iter_mut().find(|c| c.number == number);
        if connection.is_some_and(|connection| !connection.send(message)) {
            self.close(number);
        }
    }

    /// A message of the agent.
    fn answer(&mut self, number: u64, message: AgentMessage) {
        let id = match &message {
            AgentMessage::Heartbeat | AgentMessage::Pong { .. } | AgentMessage::Unknown => return,
            // It has introduced itself already.
            AgentMessage::Hello(_) => return self.close(number),
            AgentMessage::Sessions { id, .. }
            | AgentMessage::Accepted { id, .. }
            | AgentMessage::Session { id, .. }
            | AgentMessage::Rejected { id, .. }
            | AgentMessage::CancelAnswer { id, .. } => *id,
            AgentMessage::Progress(progress) => progress.id,
            AgentMessage::Done(done) => done.id,
        };
        let key = (number, id);
        if let Some(list) = self.lists.remove(&key) {
            let outcome = match message {
                AgentMessage::Sessions { backend, sessions, omitted, .. } => {
                    Ok(SessionList { backend, sessions, omitted })
                }
                AgentMessage::Rejected { error, text, .. } => Err(CallError::new(error, text)),
                _ => {
                    let text = "the guest answered with something else";
                    Err(CallError::new(HResult::DISP_E_EXCEPTION, text))
                }
            };
            let _ = list.reply.send(outcome);
        } else if self.abandoned == Some(key) {
            // Nobody waits for it any more.
            if matches!(message, AgentMessage::Accepted { .. }) {
                self.send(number, &HostMessage::Cancel { id });
            }
        } else if self.operation.as_ref().is_some_and(|operation| operation.request == Some(key)) {
            self.operate(message);
        } else {
            self.status().dropped += 1;
        }
    }

    /// A message about the operation.
    fn operate(&mut self, message: AgentMessage) {
        let Some(operation) = &mut self.operation else { return };
        let asked = matches!(operation.stage, Stage::Asked { .. });
        match message {
            AgentMessage::Accepted { backend, sessions, managers, .. } => {
                match operation.accept(backend, sessions, managers) {
                    Ok(callers) => callers.into_iter().for_each(|caller| self.give_task(caller)),
                    Err(callers) => {
                        let text = format!("the guest claims to have {sessions} sessions");
                        let error = CallError::new(HResult::DISP_E_EXCEPTION, text);
                        refuse(callers, &error);
                        self.operation = None;
                    }
                }
            }
            AgentMessage::Rejected { error, text, .. } if error.is_failure() => {
                if let Some(operation) = self.operation.take() {
                    operation.end(TaskResult::UnexpectedError, error, &text);
                }
            }
            AgentMessage::Session { session, .. } if !asked => operation.session(session),
            AgentMessage::Progress(progress) if !asked => operation.progress(&progress),
            AgentMessage::CancelAnswer { cancelled, .. } if !asked => {
                if cancelled && matches!(operation.stage, Stage::Preparing) {
                    if let Some(operation) = self.operation.take() {
                        let text = "cancelled before anything was done";
                        operation.end(TaskResult::Cancelled, HResult::ERROR_CANCELLED, text);
                    }
                    return;
                }
                for (_, answer) in operation.cancelling.drain(..) {
                    let text = "the work has begun and cannot be taken back; it goes on";
                    let _ = answer.send(Err(CallError::new(HResult::E_FAIL, text)));
                }
            }
            AgentMessage::Done(done) if !asked => {
                if let Some(operation) = self.operation.take() {
                    operation.done(done);
                }
            }
            // Out of order.
            _ => self.status().dropped += 1,
        }
    }

    /// Does what is due.
    fn expire(&mut self) {
        let now = Instant::now();
        let silent: Vec<u64> = self
            .connections
            .iter()
            .filter(|c| c.heard + self.patience(c) <= now)
            .map(|c| c.number)
            .collect();
        for number in silent {
            tracing::warn!("the agent has fallen silent; its connection is ended");
            self.close(number);
        }
        let late: Vec<(u64, u64)> = self
            .lists
            .iter()
            .filter(|(_, list)| list.deadline <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            if let Some(list) = self.lists.remove(&key) {
                let text = "the guest did not answer in time";
                let _ = list.reply.send(Err(CallError::new(HResult::VM_E_TIMED_OUT, text)));
            }
        }
        self.expire_operation(now);
    }

    fn expire_operation(&mut self, now: Instant) {
        let Some(operation) = &mut self.operation else { return };
        if let Stage::Asked { deadline, callers } = &mut operation.stage {
            if *deadline <= now {
                let text = format!(
                    "the guest did not accept within {} ms; nobody was logged off",
                    self.timing.answer.as_millis()
                );
                let callers = std::mem::take(callers);
                refuse(callers, &CallError::new(HResult::VM_E_TIMED_OUT, text));
                let request = operation.request;
                self.operation = None;
                self.abandoned = request;
                if let Some((number, id)) = request {
                    self.send(number, &HostMessage::Cancel { id });
                }
            }
            return;
        }
        if operation.publish_at.is_some_and(|time| time <= now) {
            operation.publish();
        }
        let (late, in_time): (Vec<_>, Vec<_>) =
            operation.cancelling.drain(..).partition(|(until, _)| *until <= now);
        operation.cancelling = in_time;
        for (_, answer) in late {
            let text = "the guest did not answer in time; the work goes on";
            let _ = answer.send(Err(CallError::new(HResult::E_FAIL, text)));
        }
        if operation.is_overdue()
            && let Some(operation) = self.operation.take()
        {
            operation.time_out();
        }
    }
}
