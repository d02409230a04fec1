//! The services besides logging off, against scripted agents and the real one.

mod install;
mod power;
mod questions;
mod real;
mod time;

use super::guest::GuestOs;
use super::test_peer::{Agent, Host, PATIENCE, SUCCESS, call, code, end};
use super::{Integration, Timing};
use crate::state::VmState;
use crate::task::Task;
use crossbeam_channel::{Sender, bounded};
use protocol::HResult;
use protocol::clock::HostTime;
use protocol::message::{AgentMessage, HostMessage, Request};
use protocol::power::{PowerAction, PowerRequest};
use protocol::task::TaskResult;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

impl Agent {
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
