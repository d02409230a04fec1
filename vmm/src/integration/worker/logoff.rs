//! The thread's part in a logoff: who may begin one, who is told what, and when it is given up.

use super::{Command, Key, Reply, Worker};
use crate::error::CallError;
use crate::events::{EventKind, LogoffType};
use crate::integration::channel::Phase;
use crate::integration::guest::not_running;
use crate::integration::logoff::{Caller, Operation, Stage, refuse};
use crate::state::VmState;
use crossbeam_channel::{Sender, bounded};
use protocol::HResult;
use protocol::frame;
use protocol::hello::{LOGOFF, SESSIONS};
use protocol::message::{AgentMessage, HostMessage, Request};
use protocol::task::{LogoffOptions, SecondLook, TaskResult};
use std::time::Instant;

/// Tasks that one logoff may have: more callers than that do not want to know how it ends.
const MAX_FOLLOWERS: usize = 64;

impl Worker {
    pub(super) fn logoff(&mut self, options: LogoffOptions, caller: Caller) {
        if let Some(operation) = &mut self.operation {
            if let Stage::Asked { callers, .. } = &mut operation.stage {
                callers.push(caller);
            } else {
                self.give_task(caller);
            }
            return;
        }
        let timing = self.timing;
        let connection = match self.agent(LOGOFF) {
            Ok(connection) => connection,
            Err(error) => return refuse(vec![caller], &error),
        };
        let number = connection.number;
        let id = connection.request_id();
        let Phase::Ready(hello) = &connection.phase else { return };
        let operation = Operation::ask(
            (number, id),
            hello.boot_id.clone(),
            options,
            caller,
            timing.answer,
            timing.margin,
        );
        let request = Request::Logoff(operation.to_request());
        let sent = connection.send(&HostMessage::Request { id, request });
        self.operation = Some(operation);
        self.followers = 0;
        if !sent {
            self.close(number);
        }
    }

    /// Gives `caller` a task for the operation.
    fn give_task(&mut self, caller: Caller) {
        let Some(operation) = &mut self.operation else { return };
        if self.followers >= MAX_FOLLOWERS {
            let text = format!(
                "the logoff under way has {MAX_FOLLOWERS} tasks already; `vmm task ls` lists them"
            );
            let error = CallError::new(HResult::VM_E_OUT_OF_RESOURCE, text);
            return refuse(vec![caller], &error);
        }
        self.followers += 1;
        let commands = self.commands.clone();
        let key = operation.key;
        let canceller = Box::new(move || {
            let (reply, answer) = bounded(1);
            let command = Command::Cancel { operation: key, reply };
            commands.send(command).map_err(|_| not_running())?;
            answer.recv().unwrap_or_else(|_| Err(not_running()))
        });
        let (task, work) = self.tasks.start("log off all users", canceller);
        operation.join(work);
        // A caller who has gone leaves its task to whoever asks for it.
        let _ = caller.send(Ok(task));
    }

    /// Cancels the operation of this name, if it is still there.
    pub(super) fn cancel(&mut self, key: Key, reply: Sender<Result<(), CallError>>) {
        let refusal = |text: &str| Err(CallError::new(HResult::E_FAIL, text));
        let outcome = match self.operation.as_mut().filter(|operation| operation.key == key) {
            None => refusal("the task is complete already"),
            Some(Operation { stage: Stage::Committed { .. }, .. }) => {
                refusal("the work has begun and cannot be taken back; it goes on")
            }
            Some(operation) => match operation.request {
                None => refusal("the agent's connection is lost, so nobody can be asked to stop"),
                Some((number, id)) => {
                    let until = Instant::now() + self.timing.answer;
                    operation.cancel(until, reply);
                    self.send(number, &HostMessage::Cancel { id });
                    return;
                }
            },
        };
        // Whoever asked may have gone.
        let _ = reply.send(outcome);
    }

    /// An agent has connected, and may go on with what another connection began.
    pub(super) fn logoff_connected(&mut self, number: u64, boot_id: &str) {
        let Some(operation) = &self.operation else { return };
        if operation.boot_id == boot_id && operation.looking.is_none() {
            self.send_again(number);
        } else if let Some(operation) = self.operation.take() {
            let text = "the guest rebooted before the work was done";
            operation.end_early(HResult::DISP_E_EXCEPTION, text);
        }
    }

    /// Gives the operation, whose connection was lost, to the connection `number`.
    fn send_again(&mut self, number: u64) {
        let Some(connection) = self.connections.iter_mut().find(|c| c.number == number) else {
            return;
        };
        let Some(operation) = &mut self.operation else { return };
        let id = connection.request_id();
        operation.ask_again((number, id));
        let request = Request::Logoff(operation.to_request());
        let message = HostMessage::Request { id, request };
        if frame::encode(&message).is_err() {
            // What is known of several hundred sessions does not fit a message.
            if let Some(operation) = self.operation.take() {
                let text = "the agent was restarted, and there are too many sessions to tell it \
                            of; log off once more";
                operation.end(TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION, text);
            }
        } else if !connection.send(&message) {
            self.close(number);
        }
    }

    /// The connection `number` has been lost.
    pub(super) fn logoff_lost(&mut self, number: u64) {
        if let Some(operation) = self
            .operation
            .take_if(|operation| operation.looking.is_some_and(|(on, _)| on == number))
        {
            return operation.succeed(SecondLook::NotTaken);
        }
        let Some(operation) = &mut self.operation else { return };
        if operation.request.is_none_or(|(on, _)| on != number) {
            return;
        }
        for answer in operation.lost() {
            let text = "the agent's connection was lost before it answered";
            let _ = answer.send(Err(CallError::new(HResult::E_FAIL, text)));
        }
        if let Stage::Asked { callers, .. } = &mut operation.stage {
            let callers = std::mem::take(callers);
            refuse(callers, &self.gone());
            self.operation = None;
        }
    }

    /// A message about a logoff; false if it is not about one.
    pub(super) fn logoff_message(&mut self, key: Key, message: AgentMessage) -> bool {
        let (number, id) = key;
        if self.abandoned == Some(key) {
            // Nobody waits for it any more.
            match message {
                AgentMessage::Accepted { .. } => self.send(number, &HostMessage::Cancel { id }),
                AgentMessage::Done(_) | AgentMessage::Rejected { .. } => self.abandoned = None,
                _ => {}
            }
        } else if self.operation.as_ref().is_some_and(|operation| operation.request == Some(key)) {
            self.operate(key, message);
        } else {
            return false;
        }
        true
    }

    /// Tells the guest to leave the request alone, if it has not committed it.
    fn abandon(&mut self, (number, id): Key) {
        self.abandoned = Some((number, id));
        self.send(number, &HostMessage::Cancel { id });
    }

    /// A message about the operation.
    fn operate(&mut self, key: Key, message: AgentMessage) {
        let Some(operation) = &mut self.operation else { return };
        let asked = matches!(operation.stage, Stage::Asked { .. });
        match message {
            AgentMessage::Accepted { backend, sessions, managers, .. } => {
                match operation.accept(backend, sessions, managers) {
                    Some(callers) => callers.into_iter().for_each(|caller| self.give_task(caller)),
                    None => {
                        let text = format!(
                            "the guest claims to have {sessions} sessions and {managers} user \
                             managers"
                        );
                        if let Some(operation) = self.operation.take() {
                            let error = HResult::DISP_E_EXCEPTION;
                            operation.end(TaskResult::UnexpectedError, error, &text);
                        }
                        self.abandon(key);
                    }
                }
            }
            AgentMessage::Rejected { error, text, .. } => {
                // What is no failure cannot be why.
                let error = if error.is_failure() { error } else { HResult::DISP_E_EXCEPTION };
                if let Some(operation) = self.operation.take() {
                    operation.end(TaskResult::UnexpectedError, error, &text);
                }
            }
            AgentMessage::Session { session, .. } if !asked => {
                if let Some(ended) = operation.session(session) {
                    self.publish(EventKind::OnGuestLogoff {
                        logoff_type: LogoffType::External,
                        user: ended.user,
                        session: ended.id,
                    });
                }
            }
            AgentMessage::Progress(progress) if !asked => operation.progress(&progress),
            AgentMessage::CancelAnswer { cancelled: true, .. } if operation.can_be_cancelled() => {
                if let Some(operation) = self.operation.take() {
                    operation.cancelled();
                }
                // The guest has yet to say that it is done.
                self.abandoned = Some(key);
            }
            AgentMessage::CancelAnswer { .. } if operation.cancel_asked => {
                for (_, answer) in operation.cancelling.drain(..) {
                    let text = "the work has begun and cannot be taken back; it goes on";
                    let _ = answer.send(Err(CallError::new(HResult::E_FAIL, text)));
                }
            }
            AgentMessage::Done(done) if !asked => {
                let claimed = self.operation.take().and_then(|operation| operation.done(done));
                if let Some(operation) = claimed {
                    self.look_again(operation);
                }
            }
            // Out of order.
            _ => self.status().dropped += 1,
        }
    }

    /// The guest claims that everybody of `operation` is logged off: asks it who is there.
    fn look_again(&mut self, mut operation: Operation) {
        let patience = self.timing.second_look;
        let number = self.agent(SESSIONS).map(|connection| connection.number);
        match number {
            Ok(number) if !patience.is_zero() => {
                operation.look_again(number);
                self.operation = Some(operation);
                self.ask_for_second_look();
            }
            _ => operation.succeed(SecondLook::NotTaken),
        }
    }

    /// Asks the guest, if a logoff waits for that; and once more, when it was paused meanwhile, and
    /// has all of its time.
    pub(super) fn ask_for_second_look(&mut self) {
        let Some(operation) = &mut self.operation else { return };
        let Some((number, until)) = &mut operation.looking else { return };
        *until = Instant::now() + self.timing.second_look;
        let (number, reply) = (*number, Reply::SecondLook { operation: operation.key });
        self.ask_at(number, Request::Sessions, reply);
    }

    /// What the guest says to the second look of the logoff of this name, if that waits for it.
    pub(super) fn second_look(&mut self, key: Key, message: AgentMessage) {
        let waits = |operation: &mut Operation| operation.key == key && operation.looking.is_some();
        let Some(operation) = self.operation.take_if(waits) else { return };
        match message {
            AgentMessage::Sessions { sessions, worked_us, .. } => {
                operation.compare(&sessions, worked_us);
            }
            _ => operation.succeed(SecondLook::NotTaken),
        }
    }

    pub(super) fn expire_logoff(&mut self, now: Instant) {
        let paused = self.state.get() == VmState::Paused;
        let Some(operation) = &mut self.operation else { return };
        if let Stage::Asked { deadline, callers } = &mut operation.stage {
            if *deadline <= now {
                let text = format!(
                    "the guest did not accept within {} ms; nobody was logged off",
                    self.timing.answer.as_millis()
                );
                let callers = std::mem::take(callers);
                refuse(callers, &CallError::new(HResult::VM_E_TIMED_OUT, text));
                let request = operation.request;
                self.operation = None;
                if let Some(key) = request {
                    self.abandon(key);
                }
            }
            return;
        }
        if !paused && operation.looking.is_some_and(|(_, until)| until <= now) {
            if let Some(operation) = self.operation.take() {
                operation.succeed(SecondLook::NotTaken);
            }
            return;
        }
        if operation.publish_at.is_some_and(|time| time <= now) {
            operation.publish();
        }
        let (late, in_time): (Vec<_>, Vec<_>) =
            operation.cancelling.drain(..).partition(|(until, _)| *until <= now);
        operation.cancelling = in_time;
        for (_, answer) in late {
            let text = "the guest did not answer in time; the work goes on";
            let _ = answer.send(Err(CallError::new(HResult::E_FAIL, text)));
        }
        if operation.is_overdue(paused)
            && let Some(operation) = self.operation.take()
        {
            let preparing = matches!(operation.stage, Stage::Preparing);
            let request = operation.request.filter(|_| preparing);
            operation.time_out();
            if let Some(key) = request {
                self.abandon(key);
            }
        }
    }
}
