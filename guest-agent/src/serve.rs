//! One connection to the host, from hello to its end.
//!
//! The thread that serves reads what the host says and sends the heartbeats; a logoff runs on a
//! thread of its own, which ends with the connection that asked for it. Both write whole frames
//! under one lock.

use crate::logoff::{self, Control, Lost};
use crate::sessions::{Backend, rows};
use protocol::frame::{self, Decoder, FrameError, MAX_FRAME};
use protocol::hello::{Hello, LOGOFF, SESSIONS};
use protocol::message::{AgentMessage, HostMessage, LogoffRequest, Request};
use protocol::{HEARTBEAT_MS, HResult, PROTOCOL};
use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(HEARTBEAT_MS);
/// How long the host may take to answer the hello.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// How long the host may take no bytes before the connection counts as dead.
const STALLED_AFTER: Duration = Duration::from_secs(10);

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
    backend: Arc<dyn Backend>,
    boot_id: String,
    log: fn(&str),
}

impl Agent {
    /// An agent for the boot with this id, which asks `backend` who is logged on.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, boot_id: impl Into<String>) -> Self {
        Self { backend, boot_id: boot_id.into(), log: |_| () }
    }

    /// The same agent, telling `log` in short lines when it is connected and what is asked of it.
    #[must_use]
    pub fn with_log(self, log: fn(&str)) -> Self {
        Self { log, ..self }
    }

    /// Serves the host at the other end of `stream`, a connected socket of any family, until it
    /// closes the connection. What it asked for and is still under way stops acting then.
    ///
    /// # Errors
    /// The host refused the agent or broke the protocol, or the stream failed.
    pub fn serve(&self, stream: UnixStream) -> Result<(), ServeError> {
        let writer = stream.try_clone().map_err(ServeError::Socket)?;
        writer.set_write_timeout(Some(STALLED_AFTER)).map_err(ServeError::Socket)?;
        let wire = Wire(Mutex::new(writer));
        let mut reader = Reader { stream, decoder: Decoder::default() };
        let outcome = self.greet(&mut reader, &wire).and_then(|()| {
            thread::scope(|scope| {
                let mut operation = None;
                let outcome = self.converse(&mut reader, &wire, scope, &mut operation);
                // The scope waits for the operation's thread, so it is told first; a write of its
                // that waits for the host ends with the connection.
                let _ = reader.stream.shutdown(Shutdown::Both);
                if let Some(Operation { control, .. }) = operation {
                    control.abandon();
                }
                outcome
            })
        });
        // Fails where the host has closed it already.
        let _ = reader.stream.shutdown(Shutdown::Both);
        outcome
    }

    /// Hello and welcome.
    fn greet(&self, reader: &mut Reader, wire: &Wire) -> Result<(), ServeError> {
        let services = [LOGOFF, SESSIONS].map(|service| (service.to_owned(), 1));
        wire.send(&AgentMessage::Hello(Hello {
            protocols: PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            boot_id: self.boot_id.clone(),
            services: BTreeMap::from(services),
        }))?;
        let until = Instant::now() + WELCOME_WITHIN;
        loop {
            match reader.next(until)? {
                Heard::Message(HostMessage::Welcome(welcome)) => {
                    let chosen = welcome.protocol;
                    let offered = (PROTOCOL.min..=PROTOCOL.max).contains(&chosen);
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
        operation: &mut Option<Operation>,
    ) -> Result<(), ServeError> {
        let mut heartbeat = Instant::now();
        loop {
            if heartbeat <= Instant::now() {
                wire.send(&AgentMessage::Heartbeat)?;
                heartbeat = Instant::now() + HEARTBEAT;
            }
            let message = match reader.next(heartbeat)? {
                Heard::Message(message) => message,
                Heard::Nothing => continue,
                Heard::End => return Ok(()),
            };
            match message {
                HostMessage::Ping { seq } => wire.send(&AgentMessage::Pong { seq })?,
                HostMessage::Cancel { id } => {
                    let control = operation.as_ref().filter(|operation| operation.id == id);
                    let answer =
                        |cancelled| wire.send(&AgentMessage::CancelAnswer { id, cancelled });
                    match control {
                        Some(operation) => operation.control.cancel(answer)?,
                        None => answer(false)?,
                    }
                }
                HostMessage::Request { id, request: Request::Sessions } => {
                    wire.send(&self.sessions(id))?;
                }
                HostMessage::Request { id, request: Request::Logoff(request) } => {
                    if operation.as_ref().is_some_and(|running| !running.control.is_over()) {
                        wire.send(&rejected(id, "a logoff is under way".into()))?;
                        continue;
                    }
                    match self.begin(id, request, wire, scope) {
                        Ok(begun) => *operation = Some(begun),
                        Err(error) => {
                            wire.send(&rejected(id, format!("logoff cannot be begun: {error}")))?;
                        }
                    }
                }
                HostMessage::Request { id, .. } => {
                    wire.send(&rejected(id, "this agent does not know the verb".into()))?;
                }
                HostMessage::Welcome(_)
                | HostMessage::Refuse(_)
                | HostMessage::Proceed { .. }
                | HostMessage::Unknown => {}
            }
        }
    }

    fn sessions(&self, id: u64) -> AgentMessage {
        match self.backend.list() {
            Ok(listing) => {
                let (sessions, omitted) = rows(listing.counted, MAX_FRAME / 4 * 3);
                let backend = self.backend.name().into();
                AgentMessage::Sessions { id, backend, sessions, omitted }
            }
            Err(error) => rejected(id, format!("sessions cannot be listed: {error}")),
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
        (self.log)(if request.resume.is_some() { "logoff goes on" } else { "logoff asked for" });
        thread::Builder::new().name("logoff".into()).spawn_scoped(scope, move || {
            let mut send = |message: AgentMessage| {
                self.tell(&message);
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
            if logoff::run(&*self.backend, id, &request, &held, &mut send).is_err() {
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
        let backend = self.backend.name();
        f.debug_struct("Agent").field("backend", &backend).field("boot_id", &self.boot_id).finish()
    }
}

/// A logoff under way.
struct Operation {
    id: u64,
    control: Arc<Control>,
}

fn rejected(id: u64, text: String) -> AgentMessage {
    AgentMessage::Rejected { id, error: HResult::DISP_E_EXCEPTION, text }
}

/// The writing half, shared by the threads of a connection.
struct Wire(Mutex<UnixStream>);

impl Wire {
    fn send(&self, message: &AgentMessage) -> Result<(), ServeError> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        frame::write(&mut *stream, message).map_err(|error| match error {
            FrameError::Io(_) => ServeError::Deaf,
            error => error.into(),
        })
    }

    /// Ends the connection in both directions, so that the reader notices.
    fn close(&self) {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails where the peer has closed it already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// The reading half.
struct Reader {
    stream: UnixStream,
    decoder: Decoder,
}

/// What came of listening.
enum Heard {
    Message(HostMessage),
    /// Not in time.
    Nothing,
    /// The host has closed the connection.
    End,
}

impl Reader {
    /// The host's next message, if it comes before `until`.
    fn next(&mut self, until: Instant) -> Result<Heard, ServeError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Heard::Nothing);
            }
            // A time-out of 0 would mean none.
            let left = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).map_err(ServeError::Socket)?;
            match self.decoder.read(&mut self.stream) {
                Ok(Some(message)) => return Ok(Heard::Message(message)),
                Ok(None) => return Ok(Heard::End),
                // Not a message of this protocol; the frames after it may be.
                Err(FrameError::Json(_)) => {}
                Err(FrameError::Io(error)) if is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
