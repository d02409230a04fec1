//! One connection of an agent: hello, proof of life, and then its messages.
//!
//! A reader thread cuts the stream into messages and hands them to the `integration` thread, one
//! at a time: an agent that talks faster than it is listened to is slowed down by its own socket.
//! Everything that the guest wrote is bounded and freed from control characters here, so nothing
//! behind this file has to think of that.

use crate::confine::{self, Role};
use crossbeam_channel::Sender;
use protocol::frame::{self, Decoder, FrameError};
use protocol::hello::{Hello, Welcome};
use protocol::info::OsInfo;
use protocol::message::{AgentMessage, HostMessage, MAX_ROWS, MAX_TEXT};
use protocol::parameters::{MAX_VALUE, is_barred};
use protocol::task::{MAX_SURVIVORS, SessionReport, SessionSummary};
use protocol::text::steers;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a message may wait for a guest that does not read.
const WRITE_LIMIT: Duration = Duration::from_millis(500);

/// What a reader thread reports; the number is its connection's.
pub(super) enum Event {
    /// A message.
    Message(u64, Box<AgentMessage>),
    /// Something that is no message.
    Garbage,
    /// The connection has ended.
    Closed(u64),
}

/// How far a connection is.
#[derive(Debug)]
pub(super) enum Phase {
    /// The hello is awaited.
    Greeting,
    /// The answer to the first ping is awaited.
    Proving(Hello),
    /// The agent is there.
    Ready(Hello),
}

/// A connection.
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) phase: Phase,
    /// When the agent was heard last; before it is ready, when the connection was made.
    pub(super) heard: Instant,
    stream: UnixStream,
    /// Tells the reader thread that nobody listens any more.
    ended: Arc<AtomicBool>,
    next_request: u64,
    next_ping: u64,
}

impl Connection {
    /// Begins to read from `stream`; the reader thread holds `held` until it ends.
    pub(super) fn open(
        number: u64,
        stream: UnixStream,
        events: Sender<Event>,
        held: impl Send + 'static,
    ) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_LIMIT))?;
        let reader = stream.try_clone()?;
        let ended = Arc::new(AtomicBool::new(false));
        let listens = {
            let ended = ended.clone();
            move || !ended.load(Ordering::Acquire)
        };
        thread::Builder::new().name("agent".into()).spawn(move || {
            confine::narrow(Role::Agent);
            let _held = held;
            read(number, reader, &events, listens);
        })?;
        let heard = Instant::now();
        Ok(Self {
            number,
            phase: Phase::Greeting,
            heard,
            stream,
            ended,
            next_request: 1,
            next_ping: PROOF + 1,
        })
    }

    /// The number of the next request: they rise.
    pub(super) fn request_id(&mut self) -> u64 {
        let id = self.next_request;
        self.next_request += 1;
        id
    }

    /// The number of the next ping: they rise.
    pub(super) fn ping_seq(&mut self) -> u64 {
        let seq = self.next_ping;
        self.next_ping += 1;
        seq
    }

    /// Sends `message`; false if the guest does not take it, which ends the connection.
    #[must_use]
    pub(super) fn send(&mut self, message: &HostMessage) -> bool {
        let frame = match frame::encode(message) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(%error, "message not sent");
                return false;
            }
        };
        self.stream.write_all(&frame).is_ok()
    }

    /// Accepts the hello, and asks for a proof of life; false if nobody listens to that.
    #[must_use]
    pub(super) fn greet(&mut self, protocol: u32, hello: Hello) -> bool {
        let host_version = env!("CARGO_PKG_VERSION").to_owned();
        self.phase = Phase::Proving(hello);
        self.send(&HostMessage::Welcome(Welcome { protocol, host_version }))
            && self.send(&HostMessage::Ping { seq: PROOF })
    }
}

/// The number of the ping that proves that somebody is there.
pub(super) const PROOF: u64 = 1;

impl Drop for Connection {
    fn drop(&mut self) {
        // What the guest has sent meanwhile is not read any more.
        self.ended.store(true, Ordering::Release);
        // The reader thread sees the end. Closed already is as good.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Reads until the stream ends or nobody `listens`.
fn read(number: u64, mut stream: UnixStream, events: &Sender<Event>, listens: impl Fn() -> bool) {
    let mut decoder = Decoder::default();
    while listens() {
        let event = match decoder.read::<AgentMessage>(&mut stream) {
            Ok(Some(message)) => Event::Message(number, Box::new(clean(message))),
            Err(FrameError::Json(_)) => Event::Garbage,
            Ok(None) | Err(_) if listens() => {
                // Nobody listening any more is as good.
                let _ = events.send(Event::Closed(number));
                return;
            }
            Ok(None) | Err(_) => return,
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// Bounds and cleans everything that the guest wrote.
pub(crate) fn clean(mut message: AgentMessage) -> AgentMessage {
    match &mut message {
        AgentMessage::Hello(hello) => {
            clean_text(&mut hello.agent_version);
            clean_text(&mut hello.boot_id);
            while hello.services.len() > MAX_ROWS {
                hello.services.pop_last();
            }
        }
        AgentMessage::Accepted { backend, .. } => clean_text(backend),
        AgentMessage::Session { session, .. } => clean_report(session),
        AgentMessage::Sessions { backend, sessions, .. } => {
            clean_text(backend);
            clean_summaries(sessions);
        }
        AgentMessage::Rejected { text, .. } => clean_text(text),
        AgentMessage::Done(done) => {
            clean_text(&mut done.text);
            done.managers.truncate(MAX_ROWS);
            for manager in &mut done.managers {
                clean_text(&mut manager.user);
                clean_text(&mut manager.reason);
            }
            clean_summaries(&mut done.relogins);
            clean_summaries(&mut done.ignored);
            clean_summaries(&mut done.stale);
        }
        AgentMessage::PowerAccepted { init, .. } => clean_text(init),
        AgentMessage::Installing { version, .. } => clean_text(version),
        AgentMessage::OsInfo { info, .. } => clean_info(info),
        AgentMessage::Parameter { value, .. } => clean_value(value),
        AgentMessage::Pong { .. }
        | AgentMessage::Heartbeat
        | AgentMessage::ScreenLocked { .. }
        | AgentMessage::ParameterSet { .. }
        | AgentMessage::Clock { .. }
        | AgentMessage::Installed { .. }
        | AgentMessage::Progress(_)
        | AgentMessage::CancelAnswer { .. }
        | AgentMessage::Unknown => {}
    }
    message
}

fn clean_summaries(sessions: &mut Vec<SessionSummary>) {
    sessions.truncate(MAX_ROWS);
    sessions.iter_mut().for_each(clean_summary);
}

fn clean_report(report: &mut SessionReport) {
    clean_summary(&mut report.session);
    report.survivors.truncate(MAX_SURVIVORS);
    for survivor in &mut report.survivors {
        clean_text(&mut survivor.comm);
    }
}

fn clean_summary(session: &mut SessionSummary) {
    for text in [
        &mut session.id,
        &mut session.user,
        &mut session.class,
        &mut session.kind,
        &mut session.tty,
        &mut session.remote_host,
        &mut session.state,
    ] {
        clean_text(text);
    }
}

fn clean_info(info: &mut OsInfo) {
    for text in [
        &mut info.computer_name,
        &mut info.name,
        &mut info.id,
        &mut info.version,
        &mut info.build,
        &mut info.variant,
        &mut info.kernel_release,
        &mut info.kernel_version,
        &mut info.architecture,
    ] {
        clean_text(text);
    }
}

/// Cuts `text` to [`MAX_TEXT`] bytes and replaces what a terminal would obey.
fn clean_text(text: &mut String) {
    bound(text, MAX_TEXT, steers);
}

/// A parameter's value is longer, and has lines.
fn clean_value(value: &mut String) {
    bound(value, MAX_VALUE, is_barred);
}

/// Cuts `text` to `length` bytes and replaces its bad characters.
fn bound(text: &mut String, length: usize, bad: fn(char) -> bool) {
    let mut end = text.len().min(length);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    if text.contains(bad) {
        *text = text.chars().map(|c| if bad(c) { '?' } else { c }).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::HResult;
    use protocol::message::Done;
    use protocol::task::{ManagerReport, Process, TaskResult};
    use std::collections::BTreeMap;

    #[test]
    fn case_49_texts_are_cut_at_a_character_and_cannot_steer_a_terminal() {
        let mut text = format!("{}é", "x".repeat(MAX_TEXT - 1));
        clean_text(&mut text);
        assert_eq!(text, "x".repeat(MAX_TEXT - 1));
        let mut text = "a\x1b[2Jb\n\u{9b}c\u{202e}".to_owned();
        clean_text(&mut text);
        assert_eq!(text, "a?[2Jb??c?");
        let mut value = format!("two\nlines\x1b{}", "x".repeat(MAX_VALUE));
        clean_value(&mut value);
        assert!(value.starts_with("two\nlines?x"));
        assert_eq!(value.len(), MAX_VALUE);
    }

    /// Steers a terminal, and goes on for too long.
    fn evil() -> String {
        format!("evil\x1b[2J\u{202e}\u{9b}\n{}", "ä".repeat(MAX_VALUE))
    }

    fn evil_session() -> SessionSummary {
        SessionSummary {
            id: evil(),
            uid: 1,
            user: evil(),
            class: evil(),
            kind: evil(),
            tty: evil(),
            remote_host: evil(),
            state: evil(),
            leader: 1,
            leader_start: 1,
        }
    }

    fn evil_row() -> SessionReport {
        let survivors = vec![Process { pid: 1, comm: evil() }; 2];
        SessionReport { session: evil_session(), outcome: None, milliseconds: None, survivors }
    }

    /// One message of each kind that has texts, all of which are evil. No field is left to a default,
    /// and no kind to the others: whoever adds one of either has to come by here.
    fn evil_messages() -> Vec<AgentMessage> {
        let id = 1;
        let sessions = || vec![evil_session(); 2];
        let info = OsInfo {
            computer_name: evil(),
            name: evil(),
            id: evil(),
            version: evil(),
            build: evil(),
            variant: evil(),
            kernel_release: evil(),
            kernel_version: evil(),
            architecture: evil(),
        };
        let hello = Hello {
            protocols: protocol::PROTOCOL,
            agent_version: evil(),
            boot_id: evil(),
            services: BTreeMap::new(),
        };
        let managers = vec![
            ManagerReport { uid: 1, user: evil(), stopped: false, reason: evil() },
            ManagerReport { uid: 2, user: evil(), stopped: true, reason: evil() },
        ];
        let done = Done {
            id,
            result: TaskResult::UnexpectedError,
            error: HResult::E_FAIL,
            text: evil(),
            worked_us: u64::MAX,
            managers,
            relogins: sessions(),
            ignored: sessions(),
            stale: sessions(),
        };
        let messages = vec![
            AgentMessage::Hello(hello),
            AgentMessage::Accepted { id, backend: evil(), sessions: 1, managers: 1 },
            AgentMessage::Session { id, session: evil_row() },
            AgentMessage::Done(done),
            AgentMessage::Sessions {
                id,
                backend: evil(),
                sessions: sessions(),
                omitted: 0,
                worked_us: 0,
            },
            AgentMessage::PowerAccepted { id, init: evil() },
            AgentMessage::OsInfo { id, info },
            AgentMessage::Parameter { id, value: evil() },
            AgentMessage::Installing { id, version: evil() },
            AgentMessage::Rejected { id, error: HResult::E_FAIL, text: evil() },
        ];
        let place = |message: &AgentMessage| match message {
            AgentMessage::Hello(_) => Some(0),
            AgentMessage::Accepted { .. } => Some(1),
            AgentMessage::Session { .. } => Some(2),
            AgentMessage::Done(_) => Some(3),
            AgentMessage::Sessions { .. } => Some(4),
            AgentMessage::PowerAccepted { .. } => Some(5),
            AgentMessage::OsInfo { .. } => Some(6),
            AgentMessage::Parameter { .. } => Some(7),
            AgentMessage::Installing { .. } => Some(8),
            AgentMessage::Rejected { .. } => Some(9),
            // Without a text.
            AgentMessage::Pong { .. }
            | AgentMessage::Heartbeat
            | AgentMessage::Progress(_)
            | AgentMessage::ScreenLocked { .. }
            | AgentMessage::ParameterSet { .. }
            | AgentMessage::Clock { .. }
            | AgentMessage::Installed { .. }
            | AgentMessage::CancelAnswer { .. }
            | AgentMessage::Unknown => None,
        };
        assert!(messages.iter().map(place).eq((0..messages.len()).map(Some)));
        messages
    }

    fn texts(value: &serde_json::Value) -> Vec<String> {
        match value {
            serde_json::Value::String(text) => vec![text.clone()],
            serde_json::Value::Array(values) => values.iter().flat_map(texts).collect(),
            serde_json::Value::Object(values) => values.values().flat_map(texts).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn case_49_no_text_of_any_message_steers_a_terminal_or_is_longer_than_is_allowed() {
        for message in evil_messages() {
            let is_value = matches!(message, AgentMessage::Parameter { .. });
            let (most, bad): (usize, fn(char) -> bool) =
                if is_value { (MAX_VALUE, is_barred) } else { (MAX_TEXT, steers) };
            let before = texts(&serde_json::to_value(&message).unwrap());
            let after = texts(&serde_json::to_value(clean(message)).unwrap());
            let evil = before.iter().filter(|text| text.starts_with("evil")).count();
            let cleaned = after.iter().filter(|text| text.starts_with("evil?[2J??")).count();
            assert!(evil > 0 && cleaned == evil, "{cleaned} of {evil}: {after:.40?}");
            for text in after {
                assert!(text.len() <= most && !text.contains(bad), "{text:.80?}");
            }
        }
    }
}
