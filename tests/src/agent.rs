//! An agent that does what a test wants, in a machine whose guest is the [relay].

use crate::relay;
use protocol::HResult;
use protocol::frame::{self, Decoder};
use protocol::hello::{Hello, INFO, LOGOFF, PARAMETERS, POWER, SESSIONS};
use protocol::message::{AgentMessage, Done, HostMessage, Progress, Request};
use protocol::task::{Outcome, SessionReport, SessionSummary, TaskResult};
use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

/// What an agent answers when it is asked for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Nothing at all.
    Silent,
    /// It takes the work, which ends like this.
    Ends(TaskResult, HResult),
    /// It does not take the work.
    Rejects(HResult),
    /// It takes the work and does not begin, but lets it be cancelled.
    Waits,
}

impl Manner {
    /// It has nobody to log off.
    pub const NOBODY: Self =
        Self::Ends(TaskResult::UnexpectedError, HResult::ERROR_NO_SUCH_LOGON_SESSION);
}

/// Connects an agent of this manner to the machine whose vsock socket is at `vsock`. It ends with the
/// machine.
///
/// # Panics
/// The machine does not let it connect.
pub fn connect(vsock: &Path, manner: Manner) {
    let mut stream = relay::dial(vsock, protocol::AGENT_PORT);
    let services = [LOGOFF, SESSIONS, POWER, INFO, PARAMETERS];
    let hello = Hello {
        protocols: protocol::PROTOCOL,
        agent_version: "9.9".into(),
        boot_id: "boot".into(),
        services: BTreeMap::from(services.map(|service| (service.to_owned(), 1))),
    };
    frame::write(&mut stream, &AgentMessage::Hello(hello)).expect("the host takes a hello");
    thread::spawn(move || {
        let mut decoder = Decoder::default();
        while let Ok(Some(message)) = decoder.read::<HostMessage>(&mut stream) {
            for answer in answers(message, manner) {
                if frame::write(&mut stream, &answer).is_err() {
                    return;
                }
            }
        }
    });
}

fn answers(message: HostMessage, manner: Manner) -> Vec<AgentMessage> {
    let (id, request) = match message {
        HostMessage::Ping { seq } => return vec![AgentMessage::Pong { seq }],
        HostMessage::Request { id, request } => (id, request),
        HostMessage::Cancel { id } => {
            let (result, error) = (TaskResult::Cancelled, HResult::ERROR_CANCELLED);
            return vec![
                AgentMessage::CancelAnswer { id, cancelled: true },
                AgentMessage::Done(Done::failed(id, result, error, "")),
            ];
        }
        _ => return Vec::new(),
    };
    let words = "the guest's words";
    let accepted = match (&request, manner) {
        (Request::Logoff(_) | Request::Power(_), Manner::Silent) => return Vec::new(),
        (Request::Logoff(_) | Request::Power(_), Manner::Rejects(error)) => {
            return vec![AgentMessage::Rejected { id, error, text: words.into() }];
        }
        (Request::Logoff(_), _) => {
            let sessions = u32::from(manner != Manner::NOBODY);
            AgentMessage::Accepted { id, backend: "test".into(), sessions, managers: 0 }
        }
        (Request::Power(_), _) => AgentMessage::PowerAccepted { id, init: "test".into() },
        (Request::Sessions, Manner::Ends(..)) => {
            let (backend, sessions, omitted) = ("test".into(), Vec::new(), 0);
            return vec![AgentMessage::Sessions { id, backend, sessions, omitted, worked_us: 0 }];
        }
        _ => return Vec::new(),
    };
    let Manner::Ends(result, error) = manner else { return vec![accepted] };
    let mut answers = vec![accepted];
    if matches!(request, Request::Logoff(_)) && manner != Manner::NOBODY {
        let outcome = (error == HResult::S_OK).then_some(Outcome::Terminated);
        answers.push(AgentMessage::Progress(Progress { id, committed: true, done: 0 }));
        answers.push(AgentMessage::Session { id, session: alice(outcome) });
    }
    let words = if error == HResult::S_OK { "" } else { words };
    answers.push(AgentMessage::Done(Done::failed(id, result, error, words)));
    answers
}

/// The only session, and what has become of it.
fn alice(outcome: Option<Outcome>) -> SessionReport {
    let session = SessionSummary {
        id: "1".into(),
        uid: 1000,
        user: "alice".into(),
        class: "user".into(),
        kind: "tty".into(),
        tty: "tty1".into(),
        remote_host: String::new(),
        state: "active".into(),
        leader: 100,
        leader_start: 1,
    };
    let milliseconds = outcome.map(|_| 1);
    SessionReport { session, outcome, milliseconds, survivors: Vec::new() }
}
