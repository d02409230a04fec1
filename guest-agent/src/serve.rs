//! One connection to the host, from hello to its end.
//!
//! The thread that serves reads what the host says, sends the heartbeats, and answers what takes no
//! time. A logoff, a shutdown, an installation and a question to logind each run on a thread of their
//! own, which ends with the connection that asked for it. All write whole frames under one lock.

use crate::logoff::{self, Control, Lost};
use crate::services::{Services, rejected};
use crate::sessions::{Backend, Backends, rows};
use crate::wire::{Heard, Reader, Wire, split};
use protocol::frame::{FrameError, MAX_FRAME};
use protocol::hello::{Hello, LOGOFF, SESSIONS, Versions};
use protocol::message::{AgentMessage, HostMessage, LogoffRequest, Request};
use protocol::power::{PowerAction, PowerRequest};
use protocol::{HEARTBEAT_MS, HResult, PROTOCOL};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(HEARTBEAT_MS);
/// How long the host may take to answer the hello.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// How long an installation may be done before it is noticed.
const INSTALLED_WITHIN: Duration = Duration::from_millis(100);
/// Requests of one kind that are under way, or wait for the host's word, at once.
const MAX_REQUESTS: usize = 16;

/// Why a connection was not served to its orderly end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The stream is no socket that can be served.
    #[error("connection cannot be set up")]
    Socket(#[source] io::Error),
    /// The host will not have this agent.
    #[error("host refused the agent: {0}")]
    Refused(String),
    /// The host chose a protocol version that was not offered.
    #[error("host chose protocol version {0}, which was not offered")]
    Protocol(u32),
    /// The host asked for something before it had answered the hello.
    #[error("host did not answer the hello")]
    NoWelcome,
    /// The stream failed.
    #[error("connection failed")]
    Stream(#[from] FrameError),
    /// The host took no more bytes, or the connection ended while something was written.
    #[error("host does not listen any more")]
    Deaf,
}

/// An agent: what it knows, apart from any connection.
#[derive(Clone)]
pub struct Agent {
    backends: Arc<dyn Backends>,
    boot_id: String,
    services: Arc<Services>,
    protocols: Versions,
    log: fn(&str),
}

impl Agent {
    /// An agent for the boot with this id, which asks `backend` who is logged on. Logging off is
    /// all that it can do.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, boot_id: impl Into<String>) -> Self {
        Self::choosing(Arc::new(backend), boot_id)
    }

    /// The same, with the backend of `backends` that serves when something is asked.
    #[must_use]
    pub fn choosing(backends: Arc<dyn Backends>, boot_id: impl Into<String>) -> Self {
        let services = Arc::new(Services::default());
        Self { backends, boot_id: boot_id.into(), services, protocols: PROTOCOL, log: |_| () }
    }

    /// The same agent with these services.
    #[must_use]
    pub fn with_services(self, services: Services) -> Self {
        Self { services: Arc::new(services), ..self }
    }

    /// The same agent, speaking these versions of the protocol: as a build does that is older or newer.
    #[must_use]
    pub fn speaking(self, protocols: Versions) -> Self {
        Self { protocols, ..self }
    }

    /// The same agent, telling `log` in short lines when it is connected and what is asked of it.
    #[must_use]
    pub fn with_log(self, log: fn(&str)) -> Self {
        Self { log, ..self }
    }

    /// Serves the host at the other end of `stream`, a connected socket of any family, until it
    /// closes the connection. What it asked for and is still under way stops acting then; an agent
    /// that has been installed over it takes this one's place at the latest then.
    ///
    /// # Errors
    /// The host refused the agent or broke the protocol, or the stream failed.
    pub fn serve(&self, stream: UnixStream) -> Result<(), ServeError> {
        let (mut reader, wire) = split(stream)?;
        let mut installed = None;
        let outcome = self.greet(&mut reader, &wire).and_then(|()| {
            thread::scope(|scope| {
                let mut work = Work::default();
                let outcome = self.converse(&mut reader, &wire, scope, &mut work);
                // The scope waits for the threads, so they are told first; a write of theirs that
                // waits for the host ends with the connection.
                reader.close();
                installed = work.abandon();
                outcome
            })
        });
        reader.close();
        // Nothing is under way any more, and the host waits for the one that was installed.
        if let (Some(id), Some(install)) = (installed, &self.services.install)
            && let AgentMessage::Done(failed) = install.go_over(id)
        {
            (self.log)(&failed.text);
        }
        outcome
    }

    /// Hello and welcome.
    fn greet(&self, reader: &mut Reader, wire: &Wire) -> Result<(), ServeError> {
        let names = [LOGOFF, SESSIONS].into_iter().chain(self.services.names());
        let services: BTreeMap<String, u32> = names.map(|name| (name.to_owned(), 1)).collect();
        wire.send(&AgentMessage::Hello(Hello {
            protocols: self.protocols,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            boot_id: self.boot_id.clone(),
            services,
        }))?;
        let until = Instant::now() + WELCOME_WITHIN;
        loop {
            match reader.next(until)? {
                Heard::Message(HostMessage::Welcome(welcome)) => {
                    let chosen = welcome.protocol;
                    let offered = (self.protocols.min..=self.protocols.max).contains(&chosen);
                    if !offered {
                        return Err(ServeError::Protocol(chosen));
                    }
                    (self.log)("connected to the host");
                    return Ok(());
                }
                Heard::Message(HostMessage::Refuse(refuse)) => {
                    return Err(ServeError::Refused(crate::sessions::clean(
                        refuse.text.as_bytes(),
                    )));
                }
                Heard::Message(HostMessage::Ping { seq }) => {
                    wire.send(&AgentMessage::Pong { seq })?;
                }
                Heard::Message(HostMessage::Unknown) => {}
                Heard::Message(_) | Heard::Nothing | Heard::End => {
                    return Err(ServeError::NoWelcome);
                }
            }
        }
    }

    /// All that follows.
    fn converse<'scope, 'env>(
        &'env self,
        reader: &mut Reader,
        wire: &'env Wire,
        scope: &'scope Scope<'scope, 'env>,
        work: &mut Work<'scope>,
    ) -> Result<(), ServeError> {
        let mut heartbeat = Instant::now();
        loop {
            if heartbeat <= Instant::now() {
                wire.send(&AgentMessage::Heartbeat)?;
                heartbeat = Instant::now() + HEARTBEAT;
            }
            self.go_over(wire, work)?;
            let soon = work.installing.is_some().then(|| Instant::now() + INSTALLED_WITHIN);
            let message = match reader.next(soon.unwrap_or(heartbeat).min(heartbeat))? {
                Heard::Message(message) => message,
                Heard::Nothing => continue,
                Heard::End => return Ok(()),
            };
            match message {
                HostMessage::Ping { seq } => wire.send(&AgentMessage::Pong { seq })?,
                HostMessage::Cancel { id } => {
                    let control = work.logoff.as_ref().filter(|logoff| logoff.id == id);
                    let answer =
                        |cancelled| wire.send(&AgentMessage::CancelAnswer { id, cancelled });
                    match control {
                        Some(logoff) => logoff.control.cancel(answer)?,
                        // A shutdown that waits for the host's word never gets it.
                        None => answer(work.accepted.remove(&id).is_some())?,
                    }
                }
                HostMessage::Request { id, request } => {
                    if let Some(answer) = self.take(id, request, wire, scope, work) {
                        wire.send(&answer)?;
                    }
                }
                HostMessage::Proceed { id } => {
                    if let Some(request) = work.accepted.remove(&id)
                        && let Err(error) = self.go_down(id, request, wire, scope, work)
                    {
                        wire.send(&refused(id, format!("it cannot be begun: {error}")))?;
                    }
                }
                HostMessage::Welcome(_) | HostMessage::Refuse(_) | HostMessage::Unknown => {}
            }
        }
    }

    /// Takes a request, and gives the answer that can be given at once.
    fn take<'scope, 'env>(
        &'env self,
        id: u64,
        request: Request,
        wire: &'env Wire,
        scope: &'scope Scope<'scope, 'env>,
        work: &mut Work<'scope>,
    ) -> Option<AgentMessage> {
        match request {
            Request::Sessions => return Some(self.sessions(id)),
            Request::Logoff(request) => {
                if work.logoff.as_ref().is_some_and(|running| !running.control.is_over()) {
                    return Some(refused(id, "a logoff is under way"));
                }
                match self.begin(id, request, wire, scope) {
                    Ok(begun) => work.logoff = Some(begun),
                    Err(error) => {
                        return Some(refused(id, format!("logoff cannot be begun: {error}")));
                    }
                }
            }
            Request::Power(request) => {
                let Some(power) = &self.services.power else { return Some(unknown(id)) };
                if work.accepted.len() >= MAX_REQUESTS {
                    return Some(refused(id, "too many shutdowns wait for the host's word"));
                }
                work.accepted.insert(id, request);
                return Some(AgentMessage::PowerAccepted { id, init: power.init().into() });
            }
            Request::ScreenLocked => {
                work.questions.retain(|question| !question.is_finished());
                if work.questions.len() >= MAX_REQUESTS {
                    return Some(refused(id, "too many questions to logind are under way"));
                }
                let ask = move || {
                    // Nobody listening is as good.
                    let _ = wire.send(&self.services.screen_locked(id));
                };
                match thread::Builder::new().name("logind".into()).spawn_scoped(scope, ask) {
                    Ok(thread) => work.questions.push(thread),
                    Err(error) => {
                        return Some(refused(id, format!("logind cannot be asked: {error}")));
                    }
                }
            }
            Request::Install => {
                let Some(install) = &self.services.install else { return Some(unknown(id)) };
                if work.is_busy() || work.installing.is_some() {
                    let text = "a logoff, a shutdown or an installation is under way".to_owned();
                    return Some(rejected(id, HResult::ERROR_NOT_READY, text));
                }
                (self.log)("installation asked for");
                // Nobody listening is as good.
                let say = |message| drop(wire.send(&message));
                let begun = UnixStream::pair().and_then(|(connection, host)| {
                    let run = move || install.run(id, host.as_fd(), &say);
                    let thread = thread::Builder::new().name("install".into());
                    let thread = thread.spawn_scoped(scope, run)?;
                    Ok(Installation { id, thread, connection })
                });
                match begun {
                    Ok(begun) => work.installing = Some(begun),
                    Err(error) => return Some(refused(id, format!("it cannot be begun: {error}"))),
                }
            }
            request => return Some(self.services.answer(id, &request).unwrap_or(unknown(id))),
        }
        None
    }

    /// Lets the agent that was installed take this one's place, once nothing is under way: what the
    /// host has asked for meanwhile is not cut off.
    fn go_over(&self, wire: &Wire, work: &mut Work<'_>) -> Result<(), ServeError> {
        let done = work.installing.as_ref().is_some_and(|one| one.thread.is_finished());
        if !done || work.is_busy() || work.questions.iter().any(|one| !one.is_finished()) {
            return Ok(());
        }
        let installed = work.installing.take().and_then(Installation::end);
        if let (Some(id), Some(install)) = (installed, &self.services.install) {
            wire.send(&install.go_over(id))?;
        }
        Ok(())
    }

    /// Shuts the guest down, or restarts it, on a thread of its own.
    fn go_down<'scope, 'env>(
        &'env self,
        id: u64,
        request: PowerRequest,
        wire: &'env Wire,
        scope: &'scope Scope<'scope, 'env>,
        work: &mut Work<'scope>,
    ) -> io::Result<()> {
        let Some(power) = &self.services.power else { return Ok(()) };
        work.going_down.retain(|going| !going.over.load(Ordering::Acquire));
        // Forcing is the remedy for one that hangs, so only another forced one stands in its way.
        let going_down = if request.forced {
            work.going_down.iter().any(|going| going.forced)
        } else {
            !work.going_down.is_empty()
                || self.backends.choose().is_ok_and(|(backend, _)| backend.going_down())
        };
        let what = match request.action {
            PowerAction::Shutdown => "shutdown",
            PowerAction::Restart => "restart",
        };
        (self.log)(&format!("{what} asked for{}", if request.forced { ", forced" } else { "" }));
        let (connection, ended) = mpsc::channel();
        let over = Arc::new(AtomicBool::new(false));
        let held = Arc::clone(&over);
        let run = move || {
            if let Some(done) = power.run(id, request, going_down, &ended) {
                // First, since the host may ask again as soon as it has heard this.
                held.store(true, Ordering::Release);
                (self.log)(&format!("{what} came to nothing: {}", done.text));
                // Nobody listening is as good.
                let _ = wire.send(&AgentMessage::Done(done));
            }
        };
        thread::Builder::new().name("power".into()).spawn_scoped(scope, run)?;
        work.going_down.push(GoingDown { forced: request.forced, over, _connection: connection });
        Ok(())
    }

    fn sessions(&self, id: u64) -> AgentMessage {
        let heard = Instant::now();
        match self.backends.choose() {
            Ok((backend, listing)) => {
                let (sessions, omitted) = rows(listing.counted, MAX_FRAME / 4 * 3);
                let backend = backend.name().into();
                let worked_us = micros(heard);
                AgentMessage::Sessions { id, backend, sessions, omitted, worked_us }
            }
            Err(error) => refused(id, format!("sessions cannot be listed: {error}")),
        }
    }

    /// Starts a logoff on its own thread.
    fn begin<'scope, 'env>(
        &'env self,
        id: u64,
        request: LogoffRequest,
        wire: &'env Wire,
        scope: &'scope Scope<'scope, 'env>,
    ) -> io::Result<Operation> {
        let committed = request.resume.as_ref().is_some_and(|resume| resume.committed_ms.is_some());
        let control = Arc::new(Control::new(committed)?);
        let held = Arc::clone(&control);
        let heard = Instant::now();
        (self.log)(if request.resume.is_some() { "logoff goes on" } else { "logoff asked for" });
        thread::Builder::new().name("logoff".into()).spawn_scoped(scope, move || {
            let mut send = |mut message: AgentMessage| {
                self.tell(&message);
                if let AgentMessage::Done(done) = &mut message {
                    done.worked_us = micros(heard);
                }
                // First, since the host may ask for the next one as soon as it has heard this.
                if matches!(message, AgentMessage::Done(_) | AgentMessage::Rejected { .. }) {
                    held.finish();
                }
                wire.send(&message).map_err(|_| {
                    // Nobody would hear of the rest: end the connection, so that the host can go on
                    // over the next one.
                    wire.close();
                    Lost
                })
            };
            if logoff::run(&*self.backends, id, &request, &held, &mut send).is_err() {
                (self.log)("logoff left where it was: connection lost");
            }
        })?;
        Ok(Operation { id, control })
    }

    /// Puts the turning points of an operation into the log.
    fn tell(&self, message: &AgentMessage) {
        match message {
            AgentMessage::Accepted { sessions, .. } => {
                (self.log)(&format!("sessions to log off: {sessions}"));
            }
            AgentMessage::Done(done) if done.error == HResult::S_OK => (self.log)("logoff done"),
            AgentMessage::Done(done) => (self.log)(&format!("logoff ended: {}", done.text)),
            AgentMessage::Rejected { text, .. } => (self.log)(text),
            _ => {}
        }
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("boot_id", &self.boot_id)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}

/// What a connection has under way.
#[derive(Default)]
struct Work<'scope> {
    logoff: Option<Operation>,
    /// Shutdowns and restarts that wait for the host's word, by their ids.
    accepted: HashMap<u64, PowerRequest>,
    /// Those that have it.
    going_down: Vec<GoingDown>,
    /// Questions to logind.
    questions: Vec<ScopedJoinHandle<'scope, ()>>,
    installing: Option<Installation<'scope>>,
}

impl Work<'_> {
    /// Whether a logoff, or a shutdown, is under way.
    fn is_busy(&mut self) -> bool {
        self.going_down.retain(|going| !going.over.load(Ordering::Acquire));
        let logoff = self.logoff.as_ref().is_some_and(|work| !work.control.is_over());
        logoff || !self.accepted.is_empty() || !self.going_down.is_empty()
    }

    /// Has the threads end: the connection has. The guest goes on with what it was told; what was
    /// being installed is left, and given is the id of what has been.
    fn abandon(self) -> Option<u64> {
        if let Some(Operation { control, .. }) = self.logoff {
            control.abandon();
        }
        self.installing.and_then(Installation::end)
    }
}

/// A logoff under way.
struct Operation {
    id: u64,
    control: Arc<Control>,
}

/// An installation under way.
struct Installation<'scope> {
    id: u64,
    /// Says whether it is done.
    thread: ScopedJoinHandle<'scope, bool>,
    /// Dropped when the connection ends, which ends the installer, and with it the thread.
    connection: UnixStream,
}

impl Installation<'_> {
    /// Ends it, unless it is done; gives its id if that is so and it has succeeded.
    fn end(self) -> Option<u64> {
        drop(self.connection);
        // A thread that panicked has installed nothing that is known of.
        self.thread.join().unwrap_or(false).then_some(self.id)
    }
}

/// A shutdown or restart under way.
struct GoingDown {
    forced: bool,
    /// It came to nothing.
    over: Arc<AtomicBool>,
    /// Dropped when the connection ends, which ends the thread.
    _connection: Sender<()>,
}

/// The time since `begun`, in microseconds.
fn micros(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// That this agent cannot do what was asked.
fn unknown(id: u64) -> AgentMessage {
    refused(id, "this agent does not know the verb")
}

/// That the request `id` is not taken, for a reason that has no code of its own.
fn refused(id: u64, text: impl Into<String>) -> AgentMessage {
    rejected(id, HResult::DISP_E_EXCEPTION, text.into())
}
