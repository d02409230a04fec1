//! The thread's part in connections: who may open one, who is the agent, and who has gone.

use super::Worker;
use crate::error::CallError;
use crate::events::EventKind;
use crate::integration::channel::{Connection, Event, PROOF, Phase};
use crate::integration::guest::{Agent, no_agent, not_running};
use crate::integration::heartbeat::Heartbeats;
use crate::state::VmState;
use protocol::hello::{Hello, Refuse};
use protocol::message::{AgentMessage, HostMessage};
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Connections at once: the agent's, one that replaces it, and some that only seem to be it.
const MAX_CONNECTIONS: usize = 4;
/// How long nothing more is logged of what the guest could do over and over.
const QUIET: Duration = Duration::from_secs(60);

impl Worker {
    /// When a connection of which nothing is heard until then counts as dead. A guest that stands
    /// still has no reason to talk.
    pub(super) fn silent_at(&self, connection: &Connection) -> Option<Instant> {
        let patience: Duration = match connection.phase {
            Phase::Greeting | Phase::Proving(_) => self.timing.handshake,
            Phase::Ready(_) => self.timing.silence,
        };
        (self.state.get() != VmState::Paused).then(|| connection.heard + patience)
    }

    /// Logs what the guest has done wrong, unless it has just been said of something else.
    pub(super) fn complain(&mut self, text: &str) {
        if self.complained.is_none_or(|last| last.elapsed() >= QUIET) {
            self.complained = Some(Instant::now());
            tracing::warn!("{text}; no more such messages for {} s", QUIET.as_secs());
        }
    }

    /// A connection that says it is the agent's. Where there are too many, the oldest that has not
    /// shaken hands makes room: an agent does so at once, and there is only one that has.
    pub(super) fn open(&mut self, stream: UnixStream) {
        if self.connections.len() >= MAX_CONNECTIONS {
            let strangers = self.connections.iter().filter(|c| !matches!(c.phase, Phase::Ready(_)));
            if let Some(oldest) = strangers.map(|c| c.number).min() {
                tracing::debug!("too many connections to the integration channel; one ended");
                self.close(oldest);
            }
        }
        let number = self.next_connection;
        self.next_connection += 1;
        let (events, reader) = (self.events.0.clone(), self.readers.clone());
        match Connection::open(number, stream, events, reader) {
            Ok(connection) => self.connections.push(connection),
            Err(error) => self.complain(&format!("connection of the agent not served: {error}")),
        }
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Closed(number) => self.close(number),
            Event::Garbage => self.status().dropped += 1,
            Event::Message(number, message) => {
                let Some(at) = self.connections.iter().position(|c| c.number == number) else {
                    // The last words of a connection that was ended here.
                    self.status().dropped += 1;
                    return;
                };
                match &self.connections[at].phase {
                    Phase::Ready(_) => {
                        let now = Instant::now();
                        self.connections[at].heard = now;
                        self.status().heard = Some(now);
                        self.answer(number, *message);
                    }
                    // Whatever it says, its time does not begin anew.
                    Phase::Greeting | Phase::Proving(_) => self.shake_hands(at, *message),
                }
            }
        }
    }

    /// A message of a connection that is not ready yet.
    fn shake_hands(&mut self, at: usize, message: AgentMessage) {
        let connection = &mut self.connections[at];
        let number = connection.number;
        match (&connection.phase, message) {
            (Phase::Greeting, AgentMessage::Hello(hello)) => {
                let Some(protocol) = self.protocols.common(hello.protocols) else {
                    return self.refuse(number, hello);
                };
                if !connection.greet(protocol, hello) {
                    self.complain("an agent said hello and listens to no answer");
                    self.close(number);
                }
            }
            (Phase::Proving(hello), AgentMessage::Pong { seq: PROOF }) => {
                let hello = hello.clone();
                connection.phase = Phase::Ready(hello.clone());
                connection.heard = Instant::now();
                self.welcome(number, hello);
            }
            (Phase::Proving(_), AgentMessage::Heartbeat) => {}
            (Phase::Proving(_), AgentMessage::Unknown) => self.status().dropped += 1,
            _ => self.close(number),
        }
    }

    /// An agent is there that speaks no version of the protocol that is spoken here.
    fn refuse(&mut self, number: u64, hello: Hello) {
        let (ours, theirs) = (self.protocols, hello.protocols);
        let older = if theirs.max < ours.min { "agent" } else { "monitor" };
        let text = format!(
            "the agent in the guest (version {}) speaks {theirs} of the channel's protocol, this \
             monitor (version {}) {ours}; the {older} needs an update",
            hello.agent_version,
            env!("CARGO_PKG_VERSION")
        );
        self.complain(&text);
        {
            let mut status = self.status();
            status.refused = Some(text.clone());
            if status.connected.is_none() {
                let (version, boot_id) = (hello.agent_version, hello.boot_id);
                status.last = Some(Agent { version, boot_id, services: BTreeSet::new() });
            }
        }
        self.send(number, &HostMessage::Refuse(Refuse { text }));
        self.close(number);
    }

    /// An agent is there. It replaces the one before.
    fn welcome(&mut self, number: u64, hello: Hello) {
        tracing::info!(version = hello.agent_version, boot = hello.boot_id, "agent connected");
        let older: Vec<u64> = self
            .connections
            .iter()
            .filter(|c| c.number != number && matches!(c.phase, Phase::Ready(_)))
            .map(|c| c.number)
            .collect();
        older.into_iter().for_each(|older| self.close(older));
        let agent = Agent {
            version: hello.agent_version.clone(),
            boot_id: hello.boot_id.clone(),
            services: hello.services.into_keys().collect(),
        };
        {
            let now = Instant::now();
            let mut status = self.status();
            status.connected = Some(agent.clone());
            status.last = Some(agent);
            status.refused = None;
            status.heard = Some(now);
            status.heartbeats.get_or_insert_with(|| Heartbeats::new(now));
        }
        self.status.notify();
        // Whoever waits for that finds the agent that it is about.
        self.install_connected(&hello.agent_version);
        self.publish(EventKind::OnAdditionsAvailable);
        self.clock_connected();
        self.set_start_up_values(number);
        self.logoff_connected(number, &hello.boot_id);
    }

    /// Ends a connection, and what cannot go on without it.
    pub(in crate::integration) fn close(&mut self, number: u64) {
        let Some(at) = self.connections.iter().position(|c| c.number == number) else { return };
        let connection = self.connections.swap_remove(at);
        if matches!(connection.phase, Phase::Ready(_)) {
            tracing::info!("agent gone");
            self.status().connected = None;
            self.clock_lost();
        }
        let error = self.gone();
        self.calls.lost(number, &error);
        self.power_lost(number);
        self.install_lost(number);
        self.logoff_lost(number);
    }

    /// Why there is no agent: a machine that is about to end has lost it by that.
    pub(in crate::integration) fn gone(&self) -> CallError {
        match self.state.get() {
            VmState::TurningOff | VmState::TurnedOff => not_running(),
            _ => no_agent(&self.status()),
        }
    }

    /// The connection of the agent.
    pub(in crate::integration) fn ready(&mut self) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|c| matches!(c.phase, Phase::Ready(_)))
    }

    /// The same, if the agent offers `service`.
    pub(in crate::integration) fn agent(
        &mut self,
        service: &str,
    ) -> Result<&mut Connection, CallError> {
        if self.state.get() != VmState::Running {
            return Err(not_running());
        }
        self.status().offered(service)?;
        // What is offered is so by an agent that is connected.
        self.ready().ok_or_else(not_running)
    }

    pub(in crate::integration) fn send(&mut self, number: u64, message: &HostMessage) {
        let connection = self.connections.iter_mut().find(|c| c.number == number);
        if connection.is_some_and(|connection| !connection.send(message)) {
            self.close(number);
        }
    }
}
