//! What is said over a control socket: requests and answers, as JSON in frames.
//!
//! A report may be longer than a frame, so an answer goes as the pieces of its JSON text, a frame
//! each; the last one says so.

use crate::control::access::Right;
use crate::error::CallError;
use crate::events::Event;
use crate::integration::guest::{AgentStatus, SessionList};
use crate::notify::Told;
use crate::state::VmState;
use crate::usage::Used;
use protocol::HResult;
use protocol::frame::{self, Decoder, FrameError};
use protocol::task::{LogoffOptions, LogoffReport, TaskInfo};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// The version of what is said here.
pub const VERSION: u32 = 1;
/// Bytes of JSON text in a piece: as a string in a frame it may double.
const PIECE: usize = 24 * 1024;
/// The longest answer, in bytes: the report of as many sessions, with as many survivors and as long
/// names as a hostile guest can make the host keep, is half of it.
const ANSWER_MAX: usize = 32 << 20;

/// A request and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// [`VERSION`] of the caller.
    pub version: u32,
    /// What is wanted.
    pub request: Request,
    /// If it is answered by a task that is not complete: follow that, as [`Request::Wait`] does,
    /// after the answer. Whoever asked for the task on its own could come too late, for a task that
    /// turns the machine off is gone with it.
    #[serde(default)]
    pub follow: bool,
}

/// What can be asked of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// What the machine is doing. Answered by [`Response::Machine`].
    Machine,
    /// Who is logged on. Answered by [`Response::Sessions`].
    Sessions,
    /// A property of the guest's system. Answered by [`Response::Value`].
    Property {
        /// Which.
        property: Property,
    },
    /// Whether a session of this kind exists. Answered by [`Response::Value`].
    IsUserLoggedOn {
        /// 0 for a seamless session, 1 for a desktop session.
        kind: i32,
    },
    /// A parameter of the guest. Answered by [`Response::Value`].
    GetParameter {
        /// Its name.
        name: String,
    },
    /// Set a parameter of the guest. Answered by [`Response::Done`].
    SetParameter {
        /// Its name.
        name: String,
        /// What it is to be.
        value: String,
    },
    /// Turn the machine on. Answered by [`Response::Task`], as are all verbs that are work.
    Startup,
    /// Turn the machine off, as if its plug was pulled.
    TurnOff,
    /// Boot the machine anew.
    Reset,
    /// Let the processors stand still. Answered by [`Response::Done`].
    Pause,
    /// Let the processors go on. Answered by [`Response::Done`].
    Resume,
    /// Press the power button. Answered by [`Response::Done`].
    PressPowerButton,
    /// The balloon, a [`BalloonInfo`](crate::virtio::balloon::BalloonInfo). Answered by
    /// [`Response::Value`].
    Balloon,
    /// Set what the balloon is to take from the guest. Answered by [`Response::Done`].
    SetBalloon {
        /// How many bytes.
        bytes: u64,
    },
    /// Log everyone off. Answered by [`Response::Task`] when the guest has accepted.
    Logoff {
        /// How.
        options: LogoffOptions,
    },
    /// Shut the guest down. Answered by [`Response::Task`] when the guest has accepted.
    Shutdown {
        /// Whether locked screens and the like are no reason not to.
        forced: bool,
    },
    /// Restart the guest. Answered by [`Response::Task`] when the guest has accepted.
    Restart {
        /// Whether locked screens and the like are no reason not to.
        forced: bool,
    },
    /// Have the guest install what is brought along. Answered by [`Response::Task`] when the guest
    /// has accepted.
    InstallIntegrationComponents,
    /// All tasks. Answered by [`Response::Tasks`].
    Tasks,
    /// One task. Answered by [`Response::Task`].
    Task {
        /// Which.
        id: u32,
    },
    /// Follow a task: [`Response::Changed`] at least once a second until it is complete, and then
    /// [`Response::Task`].
    Wait {
        /// Which.
        id: u32,
    },
    /// Cancel a task. Answered by [`Response::Task`].
    Cancel {
        /// Which.
        id: u32,
    },
    /// Attach to the console: [`Response::Done`], and from then on the connection carries what the
    /// guest prints and what is typed to it, as it is.
    Console,
    /// Hear of events: [`Response::Done`] when the subscription has begun, then [`Response::Event`]
    /// and [`Response::Lost`] until the connection ends. Nothing else can be asked on it.
    Events,
}

impl Request {
    /// What right it needs: to execute whatever changes the machine or its guest, else to read.
    #[must_use]
    pub fn needs(&self) -> Right {
        match self {
            Self::Machine
            | Self::Sessions
            | Self::Property { .. }
            | Self::IsUserLoggedOn { .. }
            | Self::GetParameter { .. }
            | Self::Balloon
            | Self::Tasks
            | Self::Task { .. }
            | Self::Wait { .. }
            | Self::Events => Right::Read,
            Self::SetParameter { .. }
            | Self::Console
            | Self::Startup
            | Self::TurnOff
            | Self::Reset
            | Self::Pause
            | Self::Resume
            | Self::PressPowerButton
            | Self::SetBalloon { .. }
            | Self::Logoff { .. }
            | Self::Shutdown { .. }
            | Self::Restart { .. }
            | Self::InstallIntegrationComponents
            | Self::Cancel { .. } => Right::Execute,
        }
    }
}

/// A read-only property of `IVMGuestOS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is the member of GuestOs with its name")]
pub enum Property {
    CanShutdown,
    ComputerName,
    CsdVersion,
    HeartbeatPercentage,
    IntegrationComponents,
    IntegrationComponentsVersion,
    IsHeartbeating,
    IsHostTimeSyncEnabled,
    MultipleUserSessionsAllowed,
    OsBuildNumber,
    OsInfo,
    OsMajorVersion,
    OsMinorVersion,
    OsName,
    OsPlatformId,
    OsVersion,
    OsVersionInfo,
    ProductType,
    ScreenLocked,
    ServicePackMajor,
    ServicePackMinor,
    SuiteMask,
    TerminalServerPort,
    TerminalServicesInitialized,
}

/// What a machine answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    /// What the machine is doing.
    Machine(Box<MachineInfo>),
    /// Who is logged on.
    Sessions(SessionList),
    /// A value; null where the API has `S_FALSE`.
    Value {
        /// A text, a number, a truth or a structure, as the property has it.
        value: serde_json::Value,
    },
    /// It is done.
    Done,
    /// All tasks.
    Tasks {
        /// The oldest first.
        tasks: Vec<TaskInfo>,
    },
    /// A task.
    Task(Box<TaskDocument>),
    /// A task that is followed, as it is now.
    Changed {
        /// The task.
        task: TaskInfo,
    },
    /// Something happened.
    Event {
        /// What.
        event: Event,
    },
    /// The client was too slow for so many events.
    Lost {
        /// How many.
        count: u64,
    },
    /// The call is refused.
    Refused {
        /// The documented code.
        code: HResult,
        /// What was tried, what was found, and what to do next.
        text: String,
    },
}

/// A task and what it has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDocument {
    /// The task.
    pub task: TaskInfo,
    /// What it has done, in detail.
    pub report: Option<LogoffReport>,
}

/// What a machine is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: VmState,
    /// The process that runs it.
    pub pid: u32,
    /// Milliseconds since it was started.
    pub uptime_ms: u64,
    /// Virtual processors.
    pub cpus: u8,
    /// RAM in bytes.
    pub memory: u64,
    /// What it has used since it was started.
    #[serde(default)]
    pub used: Used,
    /// The agent in its guest.
    pub agent: AgentStatus,
    /// What its guest has told of its boot without an agent.
    #[serde(default)]
    pub readiness: Told,
}

/// The answer to a call that is refused.
#[must_use]
pub fn refusal(error: &CallError) -> Response {
    Response::Refused { code: error.code, text: error.text.clone() }
}

#[derive(Serialize, Deserialize)]
struct Piece {
    text: String,
    more: bool,
}

/// Writes an answer.
///
/// # Errors
/// The stream fails.
pub fn answer(stream: &mut impl Write, response: &Response) -> Result<(), FrameError> {
    let text = serde_json::to_string(response)?;
    let mut rest = text.as_str();
    loop {
        let mut end = rest.len().min(PIECE);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (now, later) = rest.split_at(end);
        frame::write(stream, &Piece { text: now.to_owned(), more: !later.is_empty() })?;
        if later.is_empty() {
            return Ok(());
        }
        rest = later;
    }
}

/// Reads answers from a stream.
///
/// A read that is interrupted, by a time-out say, loses nothing: the next call goes on.
#[derive(Debug, Default)]
pub struct Answers {
    decoder: Decoder,
    /// The answer that is on its way, as far as it has come.
    text: String,
}

impl Answers {
    /// The next answer; none if the stream ends before it.
    ///
    /// # Errors
    /// The stream fails, or what comes is no answer.
    pub fn read(&mut self, stream: &mut impl Read) -> Result<Option<Response>, FrameError> {
        while let Some(piece) = self.decoder.read::<Piece>(stream)? {
            self.text.push_str(&piece.text);
            if self.text.len() > ANSWER_MAX {
                return Err(FrameError::TooLong(self.text.len()));
            }
            if !piece.more {
                return Ok(Some(serde_json::from_str(&std::mem::take(&mut self.text))?));
            }
        }
        if self.text.is_empty() { Ok(None) } else { Err(FrameError::Truncated) }
    }

    /// What was read after the last answer: for a stream that goes on as something else.
    #[must_use]
    pub fn into_rest(self) -> Vec<u8> {
        self.decoder.into_rest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::message::MAX_TEXT;
    use protocol::task::{MAX_SURVIVORS, Process, SessionReport, SessionSummary};

    /// Gives its bytes, and then nothing for now.
    struct Interrupted<'a>(&'a [u8]);

    impl Read for Interrupted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::ErrorKind::WouldBlock.into()),
                count => Ok(count),
            }
        }
    }

    #[test]
    fn the_longest_report_that_a_guest_can_cause_arrives_whole() {
        let text = || "\"é\\".repeat(MAX_TEXT / 4);
        let session = SessionReport {
            session: SessionSummary {
                id: text(),
                uid: u32::MAX,
                user: text(),
                class: text(),
                kind: text(),
                tty: text(),
                remote_host: text(),
                state: text(),
                leader: u32::MAX,
                leader_start: u64::MAX,
            },
            outcome: None,
            milliseconds: Some(u64::MAX),
            survivors: vec![Process { pid: u32::MAX, comm: text() }; MAX_SURVIVORS],
        };
        let report = LogoffReport { sessions: vec![session; 1024], ..LogoffReport::default() };
        let (task, work) =
            crate::task::Tasks::default().start("log off all users", Box::new(|| Ok(())));
        let document = TaskDocument { task: task.info(), report: Some(report) };
        let response = Response::Task(Box::new(document));
        let mut bytes = Vec::new();
        answer(&mut bytes, &response).unwrap();
        assert!((4 * frame::MAX_FRAME..ANSWER_MAX).contains(&bytes.len()), "{}", bytes.len());
        let mut answers = Answers::default();
        // It comes in two parts, and nothing in between.
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let error = answers.read(&mut Interrupted(first)).unwrap_err();
        assert!(matches!(error, FrameError::Io(_)), "{error}");
        let mut stream = second;
        assert_eq!(answers.read(&mut stream).unwrap(), Some(response));
        assert_eq!(answers.read(&mut stream).unwrap(), None);
        drop(work);
    }

    #[test]
    fn a_request_of_another_shape_is_not_understood() {
        for text in [
            r#"{"version":1,"request":{"verb":"explode"}}"#,
            r#"{"version":-1,"request":{"verb":"tasks"}}"#,
            r#"{"version":1,"request":{"verb":"task","id":4294967296}}"#,
            r#"{"version":1,"request":{"verb":"task","id":NaN}}"#,
            r#"[[[[[[[[[[[[[[[["#,
        ] {
            assert!(serde_json::from_str::<Call>(text).is_err(), "{text}");
        }
    }
}
