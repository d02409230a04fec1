//! What an agent can do besides logging off, service by service, and the answers that are one
//! message each.

use crate::clock::{GuestClock, SystemClock, follow};
use crate::info::Info;
use crate::install::Install;
use crate::parameters::{ParameterError, Store};
use crate::power::{Power, init};
use protocol::HResult;
use protocol::frame;
use protocol::hello::{CLOCK, INFO, INSTALL, PARAMETERS, POWER};
use protocol::message::{AgentMessage, Request};
use std::fmt;

/// The services of an agent; it offers those that it has.
#[derive(Default)]
pub struct Services {
    /// Shutting down and restarting.
    pub power: Option<Power>,
    /// What the guest says of itself.
    pub info: Option<Info>,
    /// The parameters.
    pub parameters: Option<Store>,
    /// The clock.
    pub clock: Option<Box<dyn GuestClock>>,
    /// Installing what the host has brought along.
    pub install: Option<Install>,
}

impl Services {
    /// All of the guest that this program runs in.
    #[must_use]
    pub fn of_guest() -> Self {
        Self {
            power: Some(Power::new(init::of_guest(), Info::default())),
            info: Some(Info::default()),
            parameters: Some(Store::default()),
            clock: Some(Box::new(SystemClock)),
            install: Some(Install::from_disk()),
        }
    }

    /// The names of those that there are, as the hello has them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        let there = [
            (POWER, self.power.is_some()),
            (INFO, self.info.is_some()),
            (PARAMETERS, self.parameters.is_some()),
            (CLOCK, self.clock.is_some()),
            (INSTALL, self.install.is_some()),
        ];
        there.into_iter().filter_map(|(name, there)| there.then_some(name))
    }

    /// The answer to a request that one message answers, and none if this is not such a one or
    /// nobody here can answer it.
    pub(crate) fn answer(&self, id: u64, request: &Request) -> Option<AgentMessage> {
        Some(match request {
            Request::OsInfo => AgentMessage::OsInfo { id, info: self.info.as_ref()?.os_info() },
            Request::GetParameter { name } => match self.parameters.as_ref()?.get(name) {
                Ok(value) => fitting(id, AgentMessage::Parameter { id, value }),
                Err(error) => no_parameter(id, &error),
            },
            Request::SetParameter { name, value } => {
                match self.parameters.as_ref()?.set(name, value) {
                    Ok(()) => AgentMessage::ParameterSet { id },
                    Err(error) => no_parameter(id, &error),
                }
            }
            Request::SetClock(time) => match follow(&**self.clock.as_ref()?, time) {
                Ok(report) => AgentMessage::Clock { id, report },
                Err(error) => {
                    let text = format!("the guest's clock cannot be turned: {error}");
                    rejected(id, HResult::DISP_E_EXCEPTION, text)
                }
            },
            _ => return None,
        })
    }

    /// Whether a user has locked the screen; takes its time.
    pub(crate) fn screen_locked(&self, id: u64) -> AgentMessage {
        let unknown =
            |text: &str| rejected(id, HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL, text.to_owned());
        let Some(info) = &self.info else { return unknown("this agent does not know") };
        match info.screen_locked() {
            Ok(Some(locked)) => AgentMessage::ScreenLocked { id, locked },
            Ok(None) => unknown("the guest has no logind that knows"),
            Err(error) => {
                rejected(id, HResult::DISP_E_EXCEPTION, format!("logind cannot be asked: {error}"))
            }
        }
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// That the request `id` is not taken.
pub(crate) fn rejected(id: u64, error: HResult, text: String) -> AgentMessage {
    AgentMessage::Rejected { id, error, text }
}

fn no_parameter(id: u64, error: &ParameterError) -> AgentMessage {
    rejected(id, error.code(), error.to_string())
}

/// `message`, or that it does not fit a frame.
fn fitting(id: u64, message: AgentMessage) -> AgentMessage {
    if frame::encode(&message).is_ok() {
        return message;
    }
    let text = "the value does not fit a message".to_owned();
    rejected(id, HResult::DISP_E_EXCEPTION, text)
}
