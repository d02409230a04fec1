//! The services besides logging off, against scripted agents and the real one.

mod power;
mod questions;
mod real;
mod time;

use super::guest::GuestOs;
use super::{Integration, Timing};
use crate::error::CallError;
use crate::state::{StateCell, VmState};
use crate::task::{Task, Tasks};
use crossbeam_channel::{Sender, bounded};
use protocol::clock::HostTime;
use protocol::frame::{self, Decoder};
use protocol::hello::Hello;
use protocol::message::{AgentMessage, HostMessage, Request};
use protocol::power::{PowerAction, PowerRequest};
use protocol::task::TaskResult;
use protocol::{HResult, PROTOCOL};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Longer than anything here takes; only bounds a test that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine without anything but its integration channel.
struct Host {
    integration: Integration,
    state: StateCell,
    tasks: Tasks,
    agents: Sender<UnixStream>,
}

impl Host {
    fn new() -> Self {
        Self::with(Timing::default())
    }

    fn with(timing: Timing) -> Self {
        let state = StateCell::new(VmState::Running);
        let tasks = Tasks::default();
        let (agents, incoming) = bounded(4);
        let integration =
            Integration::spawn_with(state.clone(), tasks.clone(), incoming, timing).unwrap();
        integration.set_machine_name("web");
        integration.boot_started();
        Self { integration, state, tasks, agents }
    }

    fn guest(&self) -> GuestOs {
        self.integration.guest_os()
    }

    /// An agent with these services has connected and shaken hands.
    fn agent(&self, services: &[&str]) -> Agent {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.agents.send(theirs).unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut agent = Agent { stream: ours, decoder: Decoder::default() };
        agent.say(&AgentMessage::Hello(Hello {
            protocols: PROTOCOL,
            agent_version: "1".into(),
            boot_id: "boot".into(),
            services: services.iter().map(|name| ((*name).to_owned(), 1)).collect(),
        }));
        assert!(matches!(agent.hear(), Some(HostMessage::Welcome(_))));
        agent.pong();
        assert!(self.guest().wait_for_agent(PATIENCE));
        agent
    }
}

/// The guest's end of a connection, which says what a test has it say.
struct Agent {
    stream: UnixStream,
    decoder: Decoder,
}

impl Agent {
    fn say(&mut self, message: &AgentMessage) {
        frame::write(&mut self.stream, message).unwrap();
    }

    fn hear(&mut self) -> Option<HostMessage> {
        self.decoder.read(&mut self.stream).unwrap()
    }

    /// Answers the ping that comes next.
    fn pong(&mut self) {
        let Some(HostMessage::Ping { seq }) = self.hear() else { panic!("no ping") };
        self.say(&AgentMessage::Pong { seq });
    }

    /// The request that comes next.
    fn request(&mut self) -> (u64, Request) {
        match self.hear() {
            Some(HostMessage::Request { id, request }) => (id, request),
            other => panic!("{other:?}"),
        }
    }

    /// Nothing comes for a moment.
    fn hears_nothing(&mut self) {
        self.stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let heard = self.decoder.read::<HostMessage>(&mut self.stream);
        assert!(heard.is_err(), "{heard:?}");
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// The time that it is told next, after the pings.
    fn time(&mut self) -> (u64, HostTime) {
        loop {
            match self.hear() {
                Some(HostMessage::Ping { seq }) => self.say(&AgentMessage::Pong { seq }),
                Some(HostMessage::Request { id, request: Request::SetClock(time) }) => {
                    return (id, time);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A call of its own, for the guest to answer meanwhile.
fn call<T: Send + 'static>(
    host: &Host,
    call: impl FnOnce(GuestOs) -> T + Send + 'static,
) -> JoinHandle<T> {
    let guest = host.guest();
    thread::spawn(move || call(guest))
}

/// The agent accepts a shutdown or restart, and the task is there.
fn begin(host: &Host, agent: &mut Agent, action: PowerAction) -> (u64, Task) {
    let asking = call(host, move |guest| match action {
        PowerAction::Shutdown => guest.shutdown(true),
        PowerAction::Restart => guest.restart(true),
    });
    let (id, request) = agent.request();
    assert_eq!(request, Request::Power(PowerRequest { action, forced: true }));
    agent.say(&AgentMessage::PowerAccepted { id, init: "init".into() });
    assert_eq!(agent.hear(), Some(HostMessage::Proceed { id }));
    (id, asking.join().unwrap().unwrap())
}

/// How a task ended.
fn end(task: &Task) -> (Option<TaskResult>, HResult) {
    let info = task.wait(Some(PATIENCE));
    assert_eq!(info.percent_completed == 100, info.result == Some(TaskResult::Success));
    (info.result, info.error)
}

fn code<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> HResult {
    outcome.unwrap_err().code
}

const SUCCESS: (Option<TaskResult>, HResult) = (Some(TaskResult::Success), HResult::S_OK);
