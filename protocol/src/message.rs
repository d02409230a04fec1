//! The messages of the integration channel, both ways.
//!
//! A work request goes through three stages. *Accepted*: the guest has taken it and counted what
//! there is to do. *Committed*: it has begun to act, and there is no way back. *Done*. In between
//! come a [`SessionReport`] whenever one changes, and a progress message at least once a second.

use crate::HResult;
use crate::clock::{ClockReport, HostTime};
use crate::hello::{Hello, Refuse, Welcome};
use crate::info::OsInfo;
use crate::power::PowerRequest;
use crate::task::{ManagerReport, SessionReport, SessionSummary, TaskResult};
use serde::{Deserialize, Serialize};

/// Rows that one message may carry in a list; the rest is counted as omitted.
pub const MAX_ROWS: usize = 64;
/// Bytes of a string that the guest wrote; longer ones are cut.
pub const MAX_TEXT: usize = 256;

/// From the host to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HostMessage {
    /// The hello is accepted.
    Welcome(Welcome),
    /// The hello is refused; the connection ends.
    Refuse(Refuse),
    /// Are you there? Answered by [`AgentMessage::Pong`] with the same number.
    Ping {
        /// Rises with every ping of the connection.
        seq: u64,
    },
    /// Do this.
    Request {
        /// Rises with every request of the connection; replies carry it.
        id: u64,
        /// What to do.
        request: Request,
    },
    /// Stop this request if it has not been committed yet. Answered by
    /// [`AgentMessage::CancelAnswer`], and by `Done` where it was stopped.
    Cancel {
        /// The request's id.
        id: u64,
    },
    /// Do now what [`AgentMessage::PowerAccepted`] has accepted.
    Proceed {
        /// The request's id.
        id: u64,
    },
    /// A type that this build does not know.
    #[serde(other)]
    Unknown,
}

/// What the host can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Who is logged on? Answered by [`AgentMessage::Sessions`], or [`AgentMessage::Rejected`].
    Sessions,
    /// Log everyone off. Answered by [`AgentMessage::Accepted`] and, in the end,
    /// [`AgentMessage::Done`]; or by [`AgentMessage::Rejected`].
    Logoff(LogoffRequest),
    /// Shut down or restart. Answered by [`AgentMessage::PowerAccepted`], and by
    /// [`AgentMessage::Done`] where it came to nothing; or by [`AgentMessage::Rejected`].
    Power(PowerRequest),
    /// What system are you? Answered by [`AgentMessage::OsInfo`].
    OsInfo,
    /// Has a user locked the screen? Answered by [`AgentMessage::ScreenLocked`], or
    /// [`AgentMessage::Rejected`].
    ScreenLocked,
    /// What is the value of this parameter? Answered by [`AgentMessage::Parameter`], or
    /// [`AgentMessage::Rejected`].
    GetParameter {
        /// The parameter.
        name: String,
    },
    /// Give a parameter a value. Answered by [`AgentMessage::ParameterSet`], or
    /// [`AgentMessage::Rejected`].
    SetParameter {
        /// The parameter.
        name: String,
        /// Its value.
        value: String,
    },
    /// This is the time. Answered by [`AgentMessage::Clock`], or [`AgentMessage::Rejected`].
    SetClock(HostTime),
    /// Install what the host has brought along. Answered by [`AgentMessage::Installing`] and then
    /// [`AgentMessage::Installed`] or, where it came to nothing, [`AgentMessage::Done`]; or by
    /// [`AgentMessage::Rejected`].
    Install,
    /// A verb that this build does not know; it is rejected.
    #[serde(other)]
    Unknown,
}

/// How to log everyone off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogoffRequest {
    /// Milliseconds between the polite signals and SIGKILL.
    pub grace_ms: u64,
    /// Milliseconds between the notice on the terminals and the commit; 0: no notice.
    pub notice_ms: u64,
    /// Milliseconds after the commit at which the guest gives up.
    pub deadline_ms: u64,
    /// Set where this goes on with an operation whose connection was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
}

/// What the host knows of an operation that an earlier connection of the same boot began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Milliseconds since the commit; none if it was not committed.
    pub committed_ms: Option<u64>,
    /// The snapshot, with the outcomes known so far.
    pub sessions: Vec<SessionReport>,
}

/// From the agent to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentMessage {
    /// The first message of a connection, and only that.
    Hello(Hello),
    /// The answer to a ping.
    Pong {
        /// The ping's number.
        seq: u64,
    },
    /// The guest's user space still runs.
    Heartbeat,
    /// The work is taken.
    Accepted {
        /// The request's id.
        id: u64,
        /// Where the sessions were counted: `logind`, `utmp+proc`, ...
        backend: String,
        /// Sessions to end; a [`AgentMessage::Session`] follows for each.
        sessions: u32,
        /// User managers to stop.
        managers: u32,
    },
    /// The state of one session of the snapshot; a later one with the same id replaces it.
    Session {
        /// The request's id.
        id: u64,
        /// The session.
        session: SessionReport,
    },
    /// How far the work is.
    Progress(Progress),
    /// The work is over. Nothing follows for this id.
    Done(Done),
    /// The answer to [`Request::Sessions`].
    Sessions {
        /// The request's id.
        id: u64,
        /// Where the sessions were counted.
        backend: String,
        /// At most [`MAX_ROWS`] of them.
        sessions: Vec<SessionSummary>,
        /// How many more there are.
        omitted: u32,
        /// Microseconds from hearing the request to this answer.
        #[serde(default)]
        worked_us: u64,
    },
    /// The guest can shut down or restart, and waits for [`HostMessage::Proceed`].
    PowerAccepted {
        /// The request's id.
        id: u64,
        /// What brings the guest up and down: `systemd`, `busybox`, ...
        init: String,
    },
    /// The answer to [`Request::OsInfo`].
    OsInfo {
        /// The request's id.
        id: u64,
        /// The system.
        info: OsInfo,
    },
    /// The answer to [`Request::ScreenLocked`].
    ScreenLocked {
        /// The request's id.
        id: u64,
        /// Whether one is locked.
        locked: bool,
    },
    /// The answer to [`Request::GetParameter`].
    Parameter {
        /// The request's id.
        id: u64,
        /// The parameter's value.
        value: String,
    },
    /// The answer to [`Request::SetParameter`].
    ParameterSet {
        /// The request's id.
        id: u64,
    },
    /// The answer to [`Request::SetClock`].
    Clock {
        /// The request's id.
        id: u64,
        /// What was done.
        report: ClockReport,
    },
    /// What [`Request::Install`] asked for is there, and is being installed.
    Installing {
        /// The request's id.
        id: u64,
        /// The version of the agent that is.
        version: String,
    },
    /// It is installed, and this agent makes way for it when nothing else is under way: the
    /// connection ends. If it does not run, [`AgentMessage::Done`] says so.
    Installed {
        /// The request's id.
        id: u64,
    },
    /// The request is not taken. Nothing follows for this id.
    Rejected {
        /// The request's id.
        id: u64,
        /// Why, as a code.
        error: HResult,
        /// Why, in words.
        text: String,
    },
    /// The answer to [`HostMessage::Cancel`].
    CancelAnswer {
        /// The request's id.
        id: u64,
        /// Whether the request was stopped before its commit.
        cancelled: bool,
    },
    /// A type that this build does not know.
    #[serde(other)]
    Unknown,
}

impl AgentMessage {
    /// The id of the request that this is about.
    #[must_use]
    pub fn request_id(&self) -> Option<u64> {
        match self {
            Self::Hello(_) | Self::Pong { .. } | Self::Heartbeat | Self::Unknown => None,
            Self::Accepted { id, .. }
            | Self::Session { id, .. }
            | Self::Sessions { id, .. }
            | Self::PowerAccepted { id, .. }
            | Self::OsInfo { id, .. }
            | Self::ScreenLocked { id, .. }
            | Self::Parameter { id, .. }
            | Self::ParameterSet { id }
            | Self::Clock { id, .. }
            | Self::Installing { id, .. }
            | Self::Installed { id }
            | Self::Rejected { id, .. }
            | Self::CancelAnswer { id, .. } => Some(*id),
            Self::Progress(progress) => Some(progress.id),
            Self::Done(done) => Some(done.id),
        }
    }
}

/// How far a request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The request's id.
    pub id: u64,
    /// Whether the guest has begun to act.
    pub committed: bool,
    /// Sessions ended and managers stopped so far.
    pub done: u32,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The request's id.
    pub id: u64,
    /// The task's outcome.
    pub result: TaskResult,
    /// The task's code; `S_OK` with [`TaskResult::Success`].
    pub error: HResult,
    /// The outcome in words; empty with success.
    pub text: String,
    /// Microseconds from hearing the request to this; 0 where that was not taken.
    #[serde(default)]
    pub worked_us: u64,
    /// What became of each user's manager; at most [`MAX_ROWS`], as the lists below.
    #[serde(default)]
    pub managers: Vec<ManagerReport>,
    /// Sessions that appeared after the snapshot.
    #[serde(default)]
    pub relogins: Vec<SessionSummary>,
    /// Sessions that do not count: greeters, managers, background work.
    #[serde(default)]
    pub ignored: Vec<SessionSummary>,
    /// Sessions that are closing with nothing left in them.
    #[serde(default)]
    pub stale: Vec<SessionSummary>,
}

impl Done {
    /// The end of a request that failed, without lists.
    #[must_use]
    pub fn failed(id: u64, result: TaskResult, error: HResult, text: impl Into<String>) -> Self {
        let (managers, relogins, ignored, stale) = Default::default();
        let text = text.into();
        Self { id, result, error, text, worked_us: 0, managers, relogins, ignored, stale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ClockAction;

    #[test]
    fn case_45_unknown_types_verbs_and_fields_are_passed_over() {
        let message: AgentMessage =
            serde_json::from_str(r#"{"type":"levitate","height":3}"#).unwrap();
        assert_eq!(message, AgentMessage::Unknown);
        let message: HostMessage =
            serde_json::from_str(r#"{"type":"request","id":4,"request":{"verb":"fly","to":"x"}}"#)
                .unwrap();
        assert_eq!(message, HostMessage::Request { id: 4, request: Request::Unknown });
        let message: HostMessage =
            serde_json::from_str(r#"{"type":"ping","seq":9,"colour":"red"}"#).unwrap();
        assert_eq!(message, HostMessage::Ping { seq: 9 });
        let message: AgentMessage = serde_json::from_str(
            r#"{"type":"clock","id":1,"report":{"offset_ns":-5,"action":"meditated"}}"#,
        )
        .unwrap();
        let report = ClockReport { offset_ns: -5, action: ClockAction::Unknown };
        assert_eq!(message, AgentMessage::Clock { id: 1, report });
    }
}
