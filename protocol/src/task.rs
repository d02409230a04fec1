//! What a task says of itself, and the report of a logoff.
//!
//! A task is the object through which a caller follows work: Virtual PC's `IVMTask`. [`TaskInfo`]
//! is its document on the control socket and in JSON output.

use crate::HResult;
use serde::{Deserialize, Serialize};

/// How a task ended: `VMTaskResult` of the Virtual PC API, whose numbers these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum TaskResult {
    /// The work is done.
    Success = 0,
    /// It was cancelled, and nothing was changed.
    Cancelled = 1,
    /// It failed; the task's error says why.
    UnexpectedError = 2,
    /// Memory ran out.
    OutOfMemoryError = 3,
    /// A disk could not be written.
    DiskRelatedError = 4,
    /// A saved state does not fit this machine.
    IncompatibleSavedStateError = 5,
    /// It was not done in time.
    TimeOutError = 6,
    /// A preference has a value that is not allowed.
    IllegalValueError = 7,
    /// A thread of the task crashed.
    ThreadCrashError = 8,
    /// The shutdown that was asked for was aborted.
    ShutdownAbort = 9,
}

/// A task at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// Identifies the task among those of its machine.
    pub id: u32,
    /// What the task does, for people.
    pub description: String,
    /// 0 to 100; never falls; 100 only with success.
    pub percent_completed: u8,
    /// Whether the work has ended, one way or another.
    pub is_complete: bool,
    /// Whether [cancelling](TaskResult::Cancelled) is still possible.
    pub is_cancelable: bool,
    /// How it ended; none while it runs.
    pub result: Option<TaskResult>,
    /// Why it failed; `S_OK` while it runs and with success.
    pub error: HResult,
    /// The symbol of `error`.
    pub error_name: String,
    /// The error in words; empty while it runs and with success.
    pub error_description: String,
}

/// A process of the guest, as the guest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the guest.
    pub pid: u32,
    /// The command's name, as in `/proc/PID/comm`.
    pub comm: String,
}

/// What identifies a session, and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSummary {
    /// The backend's name for the session; unique in one boot.
    pub id: String,
    /// The user's number.
    pub uid: u32,
    /// The user's name.
    pub user: String,
    /// `user`, `greeter`, `manager`, ...: logind's classes; without logind always `user`.
    pub class: String,
    /// `tty`, `x11`, `wayland`, `unspecified`, ...: logind's types.
    #[serde(rename = "type")]
    pub kind: String,
    /// The terminal without `/dev/`; empty if it has none.
    pub tty: String,
    /// Where the user came from; empty if from the machine itself.
    pub remote_host: String,
    /// `online`, `active`, `closing`, ...: logind's states; without logind `active`.
    pub state: String,
    /// Process id of the session's leader; 0 if it is gone.
    pub leader: u32,
    /// When the leader started, in clock ticks since boot: with the pid it names one process.
    pub leader_start: u64,
}

/// How a session of a logoff ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It left when asked.
    Terminated,
    /// It did not, and was killed after the grace.
    Killed,
    /// It left by itself before it was asked.
    Vanished,
    /// It is still there.
    Remaining,
    /// The guest would not let the agent end it.
    Denied,
}

/// A session of a logoff.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// The session as it was when the logoff began.
    #[serde(flatten)]
    pub session: SessionSummary,
    /// How it ended; none while the work goes on.
    pub outcome: Option<Outcome>,
    /// Milliseconds from the commit to its end; none while it is there.
    pub milliseconds: Option<u64>,
    /// Its processes that are still there; at most [`MAX_SURVIVORS`].
    #[serde(default)]
    pub survivors: Vec<Process>,
}

/// Survivors named in one [`SessionReport`]; there may be more.
pub const MAX_SURVIVORS: usize = 16;

/// What became of a user's service manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerReport {
    /// The user's number.
    pub uid: u32,
    /// The user's name.
    pub user: String,
    /// Whether it was stopped.
    pub stopped: bool,
    /// Why it was kept; empty if it was stopped.
    pub reason: String,
}

/// The options that a logoff ran with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogoffOptions {
    /// Milliseconds between the polite signals and SIGKILL.
    pub grace_ms: u64,
    /// Milliseconds between the notice on the terminals and the commit; 0: no notice.
    pub notice_ms: u64,
    /// Milliseconds after the commit at which the task fails with a time-out.
    pub deadline_ms: u64,
}

impl SessionSummary {
    /// Whether this is `other`, as it was or as it has become.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        (&self.id, self.uid, self.leader, self.leader_start)
            == (&other.id, other.uid, other.leader, other.leader_start)
    }
}

impl Default for LogoffOptions {
    /// Ten seconds of grace, no notice, a minute in all.
    fn default() -> Self {
        Self { grace_ms: 10_000, notice_ms: 0, deadline_ms: 60_000 }
    }
}

/// What the guest says when the host asks it once more, after it has said that everybody is logged off.
///
/// Either word is the guest's claim: one that lies twice in the same way is not found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecondLook {
    /// It was not asked, or did not answer: the work did not succeed, or the agent has gone.
    #[default]
    NotTaken,
    /// It lists none of the sessions of the snapshot.
    Agrees,
    /// It lists sessions which it has said to have ended.
    Contradicts,
}

/// What a logoff did, in detail. All of it is the guest's claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogoffReport {
    /// Where the sessions were counted: `logind`, `utmp+proc`, ...
    pub backend: String,
    /// The guest's boot that this belongs to.
    pub boot_id: String,
    /// The options in force.
    pub options: LogoffOptions,
    /// The sessions of the snapshot.
    pub sessions: Vec<SessionReport>,
    /// What became of the users' managers.
    pub managers: Vec<ManagerReport>,
    /// Sessions that appeared after the snapshot and were left alone.
    pub relogins: Vec<SessionSummary>,
    /// Sessions that do not count.
    pub ignored: Vec<SessionSummary>,
    /// Sessions that are closing with nothing left in them.
    pub stale: Vec<SessionSummary>,
    /// What the guest said when it was asked once more.
    #[serde(default)]
    pub second_look: SecondLook,
    /// Microseconds that the guest has worked on it, the second look included: what the call took beyond
    /// that, the host and the channel took.
    #[serde(default)]
    pub guest_us: u64,
}
