//! The host's half with no machine behind it, and a guest's half that says what a test has it say.

use super::guest::GuestOs;
use super::{Integration, Timing};
use crate::error::CallError;
use crate::state::{StateCell, VmState};
use crate::task::{Task, Tasks};
use crossbeam_channel::{Sender, bounded};
use protocol::frame::{self, Decoder};
use protocol::hello::{Hello, Versions};
use protocol::message::{AgentMessage, HostMessage, Request};
use protocol::task::TaskResult;
use protocol::{HResult, PROTOCOL};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longer than anything here takes; only bounds a test that hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A machine without anything but its integration channel.
pub(super) struct Host {
    pub(super) integration: Integration,
    pub(super) state: StateCell,
    pub(super) tasks: Tasks,
    pub(super) agents: Sender<UnixStream>,
}

impl Host {
    pub(super) fn new() -> Self {
        Self::with(Timing::default())
    }

    pub(super) fn with(timing: Timing) -> Self {
        Self::speaking(PROTOCOL, timing)
    }

    /// One of another version, say. It takes no second look, which few tests are about.
    pub(super) fn speaking(protocols: Versions, timing: Timing) -> Self {
        Self::looking(protocols, Timing { second_look: Duration::ZERO, ..timing })
    }

    /// One that waits so long for the answer to its second look.
    pub(super) fn looking_twice(second_look: Duration) -> Self {
        Self::looking(PROTOCOL, Timing { second_look, ..Timing::default() })
    }

    fn looking(protocols: Versions, timing: Timing) -> Self {
        let state = StateCell::new(VmState::Running);
        let tasks = Tasks::default();
        let (agents, incoming) = bounded(4);
        let parts = (state.clone(), tasks.clone());
        let integration =
            Integration::spawn_with(parts.0, parts.1, incoming, timing, protocols).unwrap();
        integration.set_machine_name("web");
        integration.boot_starts().wait();
        Self { integration, state, tasks, agents }
    }

    pub(super) fn guest(&self) -> GuestOs {
        self.integration.guest_os()
    }

    /// Somebody in the guest has connected, and has not said anything yet.
    pub(super) fn connect(&self) -> Agent {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.agents.send(theirs).unwrap();
        Agent::new(ours)
    }

    /// An agent with these services has connected and shaken hands.
    pub(super) fn agent(&self, services: &[&str]) -> Agent {
        self.agent_of("boot", services)
    }

    /// The same, of the guest's boot `boot_id`.
    pub(super) fn agent_of(&self, boot_id: &str, services: &[&str]) -> Agent {
        self.agent_saying(&hello(boot_id, services))
    }

    /// An agent that says this hello has connected and shaken hands.
    pub(super) fn agent_saying(&self, hello: &AgentMessage) -> Agent {
        let mut agent = self.connect();
        agent.say(hello);
        assert!(matches!(agent.hear(), Some(HostMessage::Welcome(_))));
        agent.pong();
        assert!(self.guest().wait_for_agent(PATIENCE));
        agent
    }

    /// Waits until so many messages have been dropped that nobody had asked for.
    pub(super) fn wait_for_dropped(&self, count: u64) {
        self.wait_for(&format!("{count} dropped"), |guest| guest.agent().dropped >= count);
        assert_eq!(self.guest().agent().dropped, count);
    }

    /// Waits until the host knows that no agent is there.
    pub(super) fn wait_for_no_agent(&self) {
        self.wait_for("no agent", |guest| !guest.agent().connected);
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&GuestOs) -> bool) {
        let guest = self.guest();
        let until = Instant::now() + PATIENCE;
        while !is_so(&guest) {
            assert!(Instant::now() < until, "never {what}: {:?}", guest.agent());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// What an agent of this boot says first.
pub(super) fn hello(boot_id: &str, services: &[&str]) -> AgentMessage {
    AgentMessage::Hello(Hello {
        protocols: PROTOCOL,
        agent_version: "1".into(),
        boot_id: boot_id.into(),
        services: services.iter().map(|name| ((*name).to_owned(), 1)).collect(),
    })
}

/// The guest's end of a connection, which says what a test has it say.
pub(super) struct Agent {
    pub(super) stream: UnixStream,
    decoder: Decoder,
}

impl Agent {
    pub(super) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, decoder: Decoder::default() }
    }

    pub(super) fn say(&mut self, message: &AgentMessage) {
        frame::write(&mut self.stream, message).unwrap();
    }

    /// Says bytes that need be no message.
    pub(super) fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Says a frame that need be no message.
    pub(super) fn say_frame(&mut self, document: impl AsRef<[u8]>) {
        let document = document.as_ref();
        let mut frame = u32::try_from(document.len()).unwrap().to_le_bytes().to_vec();
        frame.extend(document);
        self.say_bytes(&frame);
    }

    pub(super) fn hear(&mut self) -> Option<HostMessage> {
        self.decoder.read(&mut self.stream).unwrap()
    }

    /// Answers the ping that comes next.
    pub(super) fn pong(&mut self) {
        let Some(HostMessage::Ping { seq }) = self.hear() else { panic!("no ping") };
        self.say(&AgentMessage::Pong { seq });
    }

    /// The request that comes next.
    pub(super) fn request(&mut self) -> (u64, Request) {
        match self.hear() {
            Some(HostMessage::Request { id, request }) => (id, request),
            other => panic!("{other:?}"),
        }
    }

    /// Nothing comes for a moment.
    pub(super) fn hears_nothing(&mut self) {
        self.stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let heard = self.decoder.read::<HostMessage>(&mut self.stream);
        assert!(heard.is_err(), "{heard:?}");
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// The host hangs up, whatever it says before.
    pub(super) fn is_hung_up_on(&mut self) {
        loop {
            match self.stream.read(&mut [0; 4096]) {
                Ok(1..) => {}
                Ok(0) => return,
                // There was something from here that the host has not read.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the host did not hang up: {error}"),
            }
        }
    }
}

/// A call of its own, for the guest to answer meanwhile.
pub(super) fn call<T: Send + 'static>(
    host: &Host,
    call: impl FnOnce(GuestOs) -> T + Send + 'static,
) -> JoinHandle<T> {
    let guest = host.guest();
    thread::spawn(move || call(guest))
}

/// How a task ended.
pub(super) fn end(task: &Task) -> (Option<TaskResult>, HResult) {
    let info = task.wait(Some(PATIENCE));
    assert_eq!(info.percent_completed == 100, info.result == Some(TaskResult::Success));
    (info.result, info.error)
}

pub(super) fn code<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> HResult {
    outcome.unwrap_err().code
}

pub(super) const SUCCESS: (Option<TaskResult>, HResult) =
    (Some(TaskResult::Success), HResult::S_OK);
