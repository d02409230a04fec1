//! Installing what the host brings along: the host's half of the install service.
//!
//! ```text
//!        the guest has the disk         it is installed        an agent of that version
//! Asked ------------------------> Going ---------------> Back ---------------------------> Success
//!   |  5 s                          |  the guest's reason  |  another version
//!   +-> VM_E_TIMED_OUT              +----------------------+-> the task's error
//! ```
//!
//! Success is the agent that comes back, not what the former one says: that ends itself for it, when
//! nothing else that it was asked for is under way. The guest has two minutes for all of this, but
//! for the time that a logoff or a shutdown takes meanwhile.

use crate::error::CallError;
use crate::integration::guest::{AgentStatus, GuestOs};
use crate::integration::logoff::{Caller, refuse};
use crate::integration::power::BootEnd;
use crate::integration::worker::{Command, Key, Worker};
use crate::kit::KitState;
use crate::state::{Verb, VmState, admit};
use crate::task::{Task, Work};
use protocol::HResult;
use protocol::hello::INSTALL;
use protocol::message::{AgentMessage, HostMessage, Request};
use protocol::task::TaskResult;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What to do where the agent cannot do it.
const BY_HAND: &str = "run `mount -r LABEL=VMM-IC /mnt && /mnt/install` in the guest as root";

/// What a machine knows of its guest's integration components.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationInfo {
    /// The agent.
    pub agent: AgentStatus,
    /// The disk that is brought along.
    pub disk: KitState,
    /// Whether the disk has a newer agent than the guest.
    pub newer: bool,
}

/// An installation under way.
pub(super) struct Installation {
    request: Key,
    /// When it has lasted too long.
    deadline: Instant,
    stage: Stage,
}

enum Stage {
    /// The guest has been asked.
    Asked(Caller),
    /// An agent of this version is being installed.
    Going(Work, String),
    /// It has been, and is to connect. The one that installed it says only that it does not run.
    Back(Work, String),
}

impl Installation {
    /// Whether the guest has not answered yet.
    fn is_asked(&self) -> bool {
        matches!(self.stage, Stage::Asked(_))
    }

    fn end(self, result: TaskResult, error: HResult, text: &str) {
        match self.stage {
            Stage::Asked(caller) => refuse(vec![caller], &CallError::new(error, text)),
            Stage::Going(work, _) | Stage::Back(work, _) => work.finish(result, error, text),
        }
    }

    fn fail(self, error: HResult, text: &str) {
        self.end(TaskResult::UnexpectedError, error, text);
    }

    /// The boot that this was asked of is over.
    pub(super) fn boot_ended(self, how: BootEnd) {
        match how {
            BootEnd::Again => {
                self.fail(HResult::DISP_E_EXCEPTION, "the guest rebooted while it installed");
            }
            BootEnd::PowerOff | BootEnd::Off => self.fail(
                HResult::VM_E_VM_NOT_RUNNING,
                "the machine stopped before the guest had installed it",
            ),
        }
    }
}

impl Worker {
    /// Asks the guest.
    pub(super) fn install(&mut self, caller: Caller) {
        if self.installation.is_some() {
            let error = CallError::new(HResult::ERROR_NOT_READY, "an installation is under way");
            return refuse(vec![caller], &error);
        }
        let deadline = Instant::now() + self.timing.answer;
        let connection = match self.agent(INSTALL) {
            Ok(connection) => connection,
            Err(error) => return refuse(vec![caller], &error),
        };
        let (number, id) = (connection.number, connection.request_id());
        let sent = connection.send(&HostMessage::Request { id, request: Request::Install });
        let (request, stage) = ((number, id), Stage::Asked(caller));
        self.installation = Some(Installation { request, deadline, stage });
        if !sent {
            self.close(number);
        }
    }

    /// Whether the request is the installation's.
    pub(super) fn is_install(&self, key: Key) -> bool {
        self.installation.as_ref().is_some_and(|one| one.request == key)
    }

    /// A message about the installation.
    pub(super) fn install_message(&mut self, message: AgentMessage) {
        let Some(mut operation) = self.installation.take() else { return };
        match (operation.stage, message) {
            (Stage::Asked(caller), AgentMessage::Installing { version, .. }) => {
                tracing::info!(version, "the guest installs the agent");
                // Nobody can be asked to stop: the work is committed before anyone holds the task.
                let description = format!("install the agent {version}");
                let (task, work) = self.tasks.start_committed(&description);
                work.advance(1, 3);
                operation.deadline = Instant::now() + self.timing.install;
                operation.stage = Stage::Going(work, version);
                self.installation = Some(operation);
                // A caller who has gone leaves its task to whoever asks for it.
                let _ = caller.send(Ok(task));
            }
            (Stage::Going(work, version), AgentMessage::Installed { .. }) => {
                work.advance(2, 3);
                operation.stage = Stage::Back(work, version);
                self.installation = Some(operation);
            }
            (stage @ Stage::Asked(_), AgentMessage::Rejected { error, text, .. }) => {
                Installation { stage, ..operation }.fail(failure(error), &text);
            }
            (stage @ (Stage::Going(..) | Stage::Back(..)), AgentMessage::Done(done)) => {
                Installation { stage, ..operation }.fail(failure(done.error), &done.text);
            }
            (stage, _) => {
                // Out of order.
                self.installation = Some(Installation { stage, ..operation });
                self.status().dropped += 1;
            }
        }
    }

    /// An agent of this version has connected.
    pub(super) fn install_connected(&mut self, version: &str) {
        let is_back = |one: &mut Installation| matches!(one.stage, Stage::Back(..));
        let Some(operation) = self.installation.take_if(is_back) else { return };
        match &operation.stage {
            Stage::Back(_, installed) if installed != version => {
                let text = format!(
                    "the agent {installed} was installed, but {version} has come back; what \
                     starts it in the guest?"
                );
                operation.fail(HResult::DISP_E_EXCEPTION, &text);
            }
            _ => operation.end(TaskResult::Success, HResult::S_OK, ""),
        }
    }

    /// A connection has been lost.
    pub(super) fn install_lost(&mut self, number: u64) {
        // Who has installed another one goes when that comes.
        let on = |one: &mut Installation| {
            one.request.0 == number && !matches!(one.stage, Stage::Back(..))
        };
        if let Some(operation) = self.installation.take_if(on) {
            match operation.stage {
                Stage::Asked(_) => {
                    let error = self.gone();
                    operation.fail(error.code, &error.text);
                }
                Stage::Going(..) | Stage::Back(..) => operation.fail(
                    HResult::DISP_E_EXCEPTION,
                    "the agent was lost while it installed; what is in the guest now may be either",
                ),
            }
        }
    }

    /// The machine stood still: the guest gets its time anew.
    pub(super) fn install_resumed(&mut self) {
        let going = self.installation.as_mut().filter(|one| !one.is_asked());
        if let Some(operation) = going {
            operation.deadline = Instant::now() + self.timing.install;
        }
    }

    /// When it has lasted too long. The guest's own time stands still in a pause.
    pub(super) fn install_deadline(&self) -> Option<Instant> {
        let operation = self.installation.as_ref()?;
        let runs = operation.is_asked() || self.state.get() != VmState::Paused;
        runs.then_some(operation.deadline)
    }

    pub(super) fn expire_install(&mut self, now: Instant) {
        // The agent makes way only when that is over, and has its time from then on.
        let busy = self.operation.is_some() || !self.powers.is_empty();
        let waits = |one: &&mut Installation| busy && matches!(one.stage, Stage::Back(..));
        if let Some(operation) = self.installation.as_mut().filter(waits) {
            operation.deadline = now + self.timing.install;
            return;
        }
        if self.install_deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        let Some(operation) = self.installation.take() else { return };
        let text = match &operation.stage {
            Stage::Asked(_) => "the guest did not accept in time",
            Stage::Going(..) => "the guest has not installed it in time",
            Stage::Back(..) => "it was installed, but no agent has come back",
        };
        operation.end(TaskResult::TimeOutError, HResult::VM_E_TIMED_OUT, text);
    }
}

fn failure(error: HResult) -> HResult {
    if error.is_failure() { error } else { HResult::DISP_E_EXCEPTION }
}

impl GuestOs {
    /// Has the guest's agent install the one that is brought along:
    /// `IVMGuestOS::InstallIntegrationComponents`. Waits for the guest's acceptance, at most 5 s.
    /// The task succeeds when the agent that was installed has connected.
    ///
    /// In the task: `DISP_E_EXCEPTION` with the guest's reason; `VM_E_TIMED_OUT`.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`; `VM_E_DRIVE_INVALID` if the machine has no
    /// integration disk, `ERROR_FILE_NOT_FOUND` if it has none because there is no agent on the
    /// host, or if the guest does not see it; `VM_E_ADDITIONS_FEATURE_NOT_AVAIL` without an agent
    /// that can do it, with what can be done by hand; `ERROR_NOT_READY` while a logoff or another
    /// installation is under way; `VM_E_TIMED_OUT` if the guest does not accept.
    pub fn install_integration_components(&self) -> Result<Task, CallError> {
        admit(Verb::GuestWork, self.state())?;
        self.kit().attached()?;
        self.call(|reply| Command::Install { reply }).map_err(|error| match error.code {
            HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL => {
                CallError::new(error.code, format!("{}; {BY_HAND}", error.text))
            }
            _ => error,
        })
    }

    /// The agent, and what is brought along for it.
    #[must_use]
    pub fn integration_components(&self) -> IntegrationInfo {
        let (agent, disk) = (self.agent(), self.kit());
        let brought = match &disk {
            KitState::Attached { version } => version.as_deref(),
            _ => None,
        };
        let newer = brought
            .zip(agent.version.as_deref())
            .is_some_and(|(brought, there)| numbers(brought) > numbers(there));
        IntegrationInfo { agent, disk, newer }
    }
}

/// The numbers of a version, as they are compared.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("0.10.0") > numbers("0.9.9") && numbers("1.0.0") > numbers("0.99.99"));
        assert!(numbers("1.2.3") == numbers("1.2.3") && numbers("x") < numbers("0.0.1"));
    }
}
