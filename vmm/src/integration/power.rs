//! Shutting the guest down and restarting it: the host's half of the power service.
//!
//! ```text
//!        accepted, and told to proceed       the machine powers off or boots anew: Success
//! Asked -------------------------------> Going ------------------------------------------> over
//!   |  5 s                                 |  the guest says why not, or has had its time
//!   +-> VM_E_TIMED_OUT, and Cancel         +-> the task's error
//! ```
//!
//! Success is what the machine does, not what the guest says. Its agent is ended with everything
//! else in the guest, so a lost connection means nothing here.

use crate::error::CallError;
use crate::integration::guest::GuestOs;
use crate::integration::logoff::{Caller, refuse};
use crate::integration::worker::{Command, Key, Worker};
use crate::state::VmState;
use crate::task::{Task, Work};
use protocol::HResult;
use protocol::hello::POWER;
use protocol::message::{AgentMessage, Done, HostMessage, Request};
use protocol::power::{PowerAction, PowerRequest};
use protocol::task::TaskResult;
use std::time::Instant;

/// Operations at once: the guest takes one and refuses the others, but in its own time.
const MAX_OPERATIONS: usize = 16;

/// How a boot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BootEnd {
    /// The next one begins.
    Again,
    /// The guest has powered the machine off.
    PowerOff,
    /// The machine has stopped for any other reason.
    Off,
}

/// One shutdown or restart.
pub(super) struct PowerOperation {
    action: PowerAction,
    /// The request, while its connection is there.
    request: Option<Key>,
    /// When it has lasted too long.
    deadline: Instant,
    stage: Stage,
}

enum Stage {
    /// The guest has been asked.
    Asked(Caller),
    /// The guest has been told to proceed.
    Going(Work),
}

impl PowerOperation {
    /// Ends it as it is.
    fn end(self, result: TaskResult, error: HResult, text: &str) {
        match self.stage {
            Stage::Asked(caller) => refuse(vec![caller], &CallError::new(error, text)),
            Stage::Going(work) => work.finish(result, error, text),
        }
    }

    /// The boot that this was asked of is over.
    pub(super) fn boot_ended(self, how: BootEnd) {
        let going = matches!(self.stage, Stage::Going(_));
        let (error, text) = match (self.action, how) {
            (PowerAction::Shutdown, BootEnd::PowerOff) | (PowerAction::Restart, BootEnd::Again)
                if going =>
            {
                return self.end(TaskResult::Success, HResult::S_OK, "");
            }
            (PowerAction::Shutdown, BootEnd::Again) => {
                (HResult::DISP_E_EXCEPTION, "the guest booted again instead of powering off")
            }
            (PowerAction::Restart, BootEnd::Again) => {
                (HResult::DISP_E_EXCEPTION, "the guest rebooted before it was told to")
            }
            (PowerAction::Restart, BootEnd::PowerOff) => {
                (HResult::VM_E_VM_NOT_RUNNING, "the guest powered off instead of booting again")
            }
            (PowerAction::Shutdown, BootEnd::PowerOff) => {
                (HResult::VM_E_VM_NOT_RUNNING, "the guest powered off before it was told to")
            }
            (_, BootEnd::Off) => {
                (HResult::VM_E_VM_NOT_RUNNING, "the machine stopped before the guest was done")
            }
        };
        self.end(TaskResult::UnexpectedError, error, text);
    }
}

impl Worker {
    /// Asks the guest.
    pub(super) fn power(&mut self, request: PowerRequest, caller: Caller) {
        if self.powers.len() >= MAX_OPERATIONS {
            let text = "too many shutdowns and restarts are under way";
            let error = CallError::new(HResult::VM_E_OUT_OF_RESOURCE, text);
            return refuse(vec![caller], &error);
        }
        let deadline = Instant::now() + self.timing.answer;
        let connection = match self.agent(POWER) {
            Ok(connection) => connection,
            Err(error) => return refuse(vec![caller], &error),
        };
        let (number, id) = (connection.number, connection.request_id());
        let sent = connection.send(&HostMessage::Request { id, request: Request::Power(request) });
        self.powers.push(PowerOperation {
            action: request.action,
            request: Some((number, id)),
            deadline,
            stage: Stage::Asked(caller),
        });
        if !sent {
            self.close(number);
        }
    }

    /// Where the operation of this request is, if it is one.
    pub(super) fn power_of(&self, key: Key) -> Option<usize> {
        self.powers.iter().position(|operation| operation.request == Some(key))
    }

    /// A message about the operation at `at`.
    pub(super) fn power_message(&mut self, at: usize, message: AgentMessage) {
        let asked = matches!(self.powers[at].stage, Stage::Asked(_));
        match message {
            AgentMessage::PowerAccepted { init, .. } if asked => self.proceed(at, &init),
            AgentMessage::Rejected { error, text, .. } => self.refused(at, error, &text),
            AgentMessage::Done(Done { result, error, text, .. }) if !asked => {
                if result == TaskResult::Success || !error.is_failure() {
                    // It would not be there to say so.
                    self.status().dropped += 1;
                } else {
                    self.powers.swap_remove(at).end(result, error, &text);
                }
            }
            // Out of order.
            _ => self.status().dropped += 1,
        }
    }

    fn refused(&mut self, at: usize, error: HResult, text: &str) {
        let error = if error.is_failure() { error } else { HResult::DISP_E_EXCEPTION };
        self.powers.swap_remove(at).end(TaskResult::UnexpectedError, error, text);
    }

    /// The guest can do it, and is told to.
    fn proceed(&mut self, at: usize, init: &str) {
        let Some((number, id)) = self.powers[at].request else { return };
        let connections = &mut self.connections;
        let connection = connections.iter_mut().find(|c| c.number == number);
        if !connection.is_some_and(|c| c.send(&HostMessage::Proceed { id })) {
            // That refuses whoever asked.
            return self.close(number);
        }
        let operation = &mut self.powers[at];
        let description = match operation.action {
            PowerAction::Shutdown => "shut the guest down",
            PowerAction::Restart => "restart the guest",
        };
        tracing::info!(init, "{description}");
        // Nobody can be asked to stop: the work is committed before anyone holds the task.
        let too_late = || Err(CallError::new(HResult::E_FAIL, "the guest has been told already"));
        let (task, work) = self.tasks.start(description, Box::new(too_late));
        work.commit();
        operation.deadline = Instant::now() + self.timing.power;
        if let Stage::Asked(caller) = std::mem::replace(&mut operation.stage, Stage::Going(work)) {
            // A caller who has gone leaves its task to whoever asks for it.
            let _ = caller.send(Ok(task));
        }
    }

    /// A connection has been lost: whoever has not been told to proceed never will be.
    pub(super) fn power_lost(&mut self, number: u64) {
        let on = |operation: &PowerOperation| operation.request.is_some_and(|(on, _)| on == number);
        let asked = |operation: &mut PowerOperation| {
            on(operation) && matches!(operation.stage, Stage::Asked(_))
        };
        let refused: Vec<_> = self.powers.extract_if(.., asked).collect();
        for operation in refused {
            let error = self.gone();
            operation.end(TaskResult::UnexpectedError, error.code, &error.text);
        }
        for operation in self.powers.iter_mut().filter(|operation| on(operation)) {
            operation.request = None;
        }
    }

    /// The machine stood still: the guest gets its time anew.
    pub(super) fn power_resumed(&mut self) {
        for operation in &mut self.powers {
            if matches!(operation.stage, Stage::Going(_)) {
                operation.deadline = Instant::now() + self.timing.power;
            }
        }
    }

    /// When an operation has lasted too long. The guest's own time stands still in a pause.
    pub(super) fn power_deadline(&self) -> Option<Instant> {
        let paused = self.state.get() == VmState::Paused;
        let counts =
            |operation: &&PowerOperation| !paused || matches!(operation.stage, Stage::Asked(_));
        self.powers.iter().filter(counts).map(|operation| operation.deadline).min()
    }

    pub(super) fn expire_power(&mut self, now: Instant) {
        let paused = self.state.get() == VmState::Paused;
        let late = |operation: &mut PowerOperation| {
            operation.deadline <= now && !(paused && matches!(operation.stage, Stage::Going(_)))
        };
        let late: Vec<_> = self.powers.extract_if(.., late).collect();
        for operation in late {
            let text = match operation.stage {
                Stage::Asked(_) => format!(
                    "the guest did not accept within {} ms; nothing was done",
                    self.timing.answer.as_millis()
                ),
                Stage::Going(_) => format!(
                    "the guest was told {} s ago and is still there; turning the machine off, or \
                     doing this forced, does not ask its services",
                    self.timing.power.as_secs()
                ),
            };
            // Whoever accepts it now would wait for the word to proceed for ever.
            let forgotten = matches!(operation.stage, Stage::Asked(_)).then_some(operation.request);
            operation.end(TaskResult::TimeOutError, HResult::VM_E_TIMED_OUT, &text);
            if let Some((number, id)) = forgotten.flatten() {
                self.send(number, &HostMessage::Cancel { id });
            }
        }
    }
}

impl GuestOs {
    /// Shuts the guest down: `IVMGuestOS::Shutdown`. Waits for the guest's acceptance, at most 5 s.
    /// The task succeeds when the machine has powered off. Unless `forced`, the guest's services
    /// are stopped in order, and a locked screen keeps it from happening.
    ///
    /// In the task: `ERROR_MACHINE_LOCKED`; `ERROR_NOT_READY` while the guest boots;
    /// `ERROR_SHUTDOWN_IN_PROGRESS`; `VM_E_TIMED_OUT` if it has not happened after five minutes.
    /// [`TaskResult::ShutdownAbort`] says that the guest began and gave up.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`; `VM_E_ADDITIONS_FEATURE_NOT_AVAIL` without an agent that can do it;
    /// `VM_E_TIMED_OUT` if the guest does not accept: then nothing happens, and there is no task.
    pub fn shutdown(&self, forced: bool) -> Result<Task, CallError> {
        self.power(PowerAction::Shutdown, forced)
    }

    /// Restarts the guest: `IVMGuestOS::Restart`. As [`shutdown`](Self::shutdown), but the task
    /// succeeds when the next boot has begun.
    ///
    /// # Errors
    /// As for [`shutdown`](Self::shutdown).
    pub fn restart(&self, forced: bool) -> Result<Task, CallError> {
        self.power(PowerAction::Restart, forced)
    }

    fn power(&self, action: PowerAction, forced: bool) -> Result<Task, CallError> {
        let request = PowerRequest { action, forced };
        self.call(|reply| Command::Power { request, reply })
    }

    /// Whether the guest can be shut down cleanly, that is, whether its agent can do it:
    /// `IVMGuestOS::CanShutdown`. None, `S_FALSE` there, if the machine is not on.
    #[must_use]
    pub fn can_shutdown(&self) -> Option<bool> {
        match self.state() {
            VmState::Running | VmState::Paused => Some(self.offers(POWER)),
            _ => None,
        }
    }
}
