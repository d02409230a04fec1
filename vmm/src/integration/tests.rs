//! The logoff and the channel beneath it, against scripted agents and the real one.

mod calls;
mod cancelling;
mod connections;
mod hostile;
mod losing;
mod outcomes;
mod real;
mod versions;

use super::test_peer::{Agent, Host, PATIENCE, SUCCESS, call, code, end, hello};
use super::worker::Command;
use super::{Integration, Timing};
use crate::error::CallError;
use crate::state::VmState;
use crate::task::Task;
use crossbeam_channel::{Receiver, bounded};
use protocol::HResult;
use protocol::hello::{LOGOFF, SESSIONS};
use protocol::message::{AgentMessage, Done, HostMessage, LogoffRequest, Progress, Request};
use protocol::task::{
    LogoffOptions, Outcome, Process, SessionReport, SessionSummary, TaskInfo, TaskResult,
};
use std::time::{Duration, Instant};

/// Everything that a logoff needs.
const ALL: &[&str] = &[LOGOFF, SESSIONS];

impl Host {
    /// An agent for what is tested here.
    fn ready_agent(&self) -> Agent {
        self.agent(ALL)
    }

    /// Asks for a logoff, and leaves the guest's answer to whoever wants it.
    fn ask(&self, options: LogoffOptions) -> Receiver<Result<Task, CallError>> {
        let (reply, answer) = bounded(1);
        self.integration.commands.send(Command::Logoff { options, reply }).unwrap();
        answer
    }

    /// Asks for a logoff of `sessions` sessions, which the guest accepts.
    fn begin(&self, agent: &mut Agent, sessions: u32) -> (u64, Task) {
        self.begin_with(agent, sessions, LogoffOptions::default())
    }

    fn begin_with(&self, agent: &mut Agent, sessions: u32, options: LogoffOptions) -> (u64, Task) {
        let asking = call(self, move |guest| guest.logoff(options));
        let (id, _) = agent.logoff();
        agent.accept(id, sessions);
        (id, asking.join().unwrap().unwrap())
    }

    /// Waits until the host has heard all that this agent has said, and done all that it was told.
    fn settle(&self, agent: &mut Agent) {
        let asking = call(self, |guest| guest.sessions());
        let (id, request) = agent.request();
        assert_eq!(request, Request::Sessions, "nothing else was asked");
        agent.say(&AgentMessage::Sessions {
            id,
            backend: String::new(),
            sessions: Vec::new(),
            omitted: 0,
            worked_us: 0,
        });
        asking.join().unwrap().unwrap();
    }

    /// The host still works for whoever connects next.
    fn serves_the_next(&self) {
        let mut agent = self.ready_agent();
        self.settle(&mut agent);
        let (id, task) = self.begin(&mut agent, 1);
        agent.commit(id, 1);
        agent.succeed(id, 1);
        assert_eq!(end(&task), SUCCESS);
    }
}

impl Agent {
    /// The logoff that is asked for next.
    fn logoff(&mut self) -> (u64, LogoffRequest) {
        match self.request() {
            (id, Request::Logoff(request)) => (id, request),
            other => panic!("{other:?}"),
        }
    }

    fn accept(&mut self, id: u64, sessions: u32) {
        self.say(&AgentMessage::Accepted { id, backend: "test".into(), sessions, managers: 0 });
    }

    fn row(&mut self, id: u64, session: SessionReport) {
        self.say(&AgentMessage::Session { id, session });
    }

    fn progress(&mut self, id: u64, committed: bool, done: u32) {
        self.say(&AgentMessage::Progress(Progress { id, committed, done }));
    }

    /// Rows for `sessions` sessions that are all there, and the commit.
    fn commit(&mut self, id: u64, sessions: u32) {
        (0..sessions).for_each(|number| self.row(id, row(number, None)));
        self.progress(id, true, 0);
    }

    fn done(&mut self, id: u64, result: TaskResult, error: HResult) {
        self.say(&AgentMessage::Done(Done::failed(id, result, error, "the guest's words")));
    }

    /// All `sessions` sessions have ended, and so has the work.
    fn succeed(&mut self, id: u64, sessions: u32) {
        for number in 0..sessions {
            self.row(id, row(number, Some(Outcome::Terminated)));
        }
        self.say(&AgentMessage::Done(Done::failed(id, TaskResult::Success, HResult::S_OK, "")));
    }

    /// The request that is to be cancelled next.
    fn cancel(&mut self) -> u64 {
        match self.hear() {
            Some(HostMessage::Cancel { id }) => id,
            other => panic!("{other:?}"),
        }
    }

    fn answer_cancel(&mut self, id: u64, cancelled: bool) {
        self.say(&AgentMessage::CancelAnswer { id, cancelled });
    }
}

/// What the guest says of its session `number`.
fn row(number: u32, outcome: Option<Outcome>) -> SessionReport {
    let session = SessionSummary {
        id: format!("s{number}"),
        user: format!("user{number}"),
        ..SessionSummary::default()
    };
    SessionReport { session, outcome, milliseconds: outcome.map(|_| 7), survivors: Vec::new() }
}

fn process(pid: u32, comm: &str) -> Process {
    Process { pid, comm: comm.into() }
}

/// Waits until the task is as wanted.
fn until(task: &Task, wanted: impl Fn(&TaskInfo) -> bool) -> TaskInfo {
    let limit = Instant::now() + PATIENCE;
    let (mut version, mut info) = task.wait_change(0, None);
    while !wanted(&info) {
        let left = limit.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{info:?}");
        (version, info) = task.wait_change(version, Some(left));
    }
    info
}

/// Waits until the host has heard of the commit.
fn committed(task: &Task) {
    until(task, |info| !info.is_cancelable && !info.is_complete);
}

fn failed(error: HResult) -> (Option<TaskResult>, HResult) {
    (Some(TaskResult::UnexpectedError), error)
}

const TIMED_OUT: (Option<TaskResult>, HResult) =
    (Some(TaskResult::TimeOutError), HResult::VM_E_TIMED_OUT);
const CANCELLED: (Option<TaskResult>, HResult) =
    (Some(TaskResult::Cancelled), HResult::ERROR_CANCELLED);
