//! The events of all machines of a user: of those that run, and of those that are started later.

use super::client::{Client, Events};
use crate::error::CallError;
use crate::events::Notice;
use crate::runtime::Runtime;
use crate::state::VmState;
use protocol::HResult;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often new machines are looked for.
const LOOK: Duration = Duration::from_millis(250);

/// What there is to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A machine was started since this began; what it is doing, if it still does anything.
    Appeared(Option<VmState>),
    /// A machine tells something.
    Notice(Notice),
    /// A machine's process has ended.
    Ended,
}

/// All machines' events.
pub struct AllEvents {
    runtime: Runtime,
    /// Whoever was heard goes to the end, so that nobody is drowned out.
    machines: VecDeque<Followed>,
    /// When new machines are looked for again; none until that was done once.
    look: Option<Instant>,
}

struct Followed {
    name: String,
    events: Events,
    is_new: bool,
}

impl AllEvents {
    /// Listens to the machines of `runtime`.
    #[must_use]
    pub fn of(runtime: Runtime) -> Self {
        let mut all = Self { runtime, machines: VecDeque::new(), look: None };
        all.look_for_machines();
        all
    }

    /// Waits for what is heard next, and says of which machine; none if nothing is within `timeout`.
    ///
    /// # Errors
    /// A machine's process answers nonsense; it is not listened to any more.
    pub fn next(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<Option<(String, Heard)>, CallError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let now = Instant::now();
            let look = self.look.unwrap_or(now);
            if look <= now {
                self.look_for_machines();
                continue;
            }
            if let Some(heard) = self.take()? {
                return Ok(Some(heard));
            }
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(None);
            }
            self.sleep(deadline.map_or(look, |deadline| deadline.min(look)) - now)?;
        }
    }

    fn look_for_machines(&mut self) {
        let is_new = self.look.is_some();
        self.look = Some(Instant::now() + LOOK);
        for name in self.runtime.list() {
            if self.machines.iter().any(|machine| machine.name == name) {
                continue;
            }
            // One that is just starting is found again.
            let events = Client::connect(&self.runtime, &name).and_then(Client::events);
            if let Ok(events) = events {
                self.machines.push_back(Followed { name, events, is_new });
            }
        }
    }

    /// What has been heard already.
    fn take(&mut self) -> Result<Option<(String, Heard)>, CallError> {
        for _ in 0..self.machines.len() {
            let Some(mut machine) = self.machines.pop_front() else { break };
            let name = machine.name.clone();
            if std::mem::take(&mut machine.is_new) {
                let info = Client::connect(&self.runtime, &name).and_then(|mut c| c.machine());
                self.machines.push_back(machine);
                return Ok(Some((name, Heard::Appeared(info.ok().map(|info| info.state)))));
            }
            match machine.events.take() {
                Ok(notice) => {
                    self.machines.push_back(machine);
                    if let Some(notice) = notice {
                        return Ok(Some((name, Heard::Notice(notice))));
                    }
                }
                Err(error) if error.code == HResult::VM_E_VM_NOT_RUNNING => {
                    return Ok(Some((name, Heard::Ended)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Waits until there may be something to hear, or `time` is over.
    fn sleep(&self, time: Duration) -> Result<(), CallError> {
        let fd = |machine| PollFd::new(machine, PollFlags::IN);
        let mut fds: Vec<_> = self.machines.iter().map(|machine| fd(&machine.events)).collect();
        let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
        match poll(&mut fds, Some(&time)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(CallError::new(HResult::DISP_E_EXCEPTION, error.to_string())),
        }
    }
}
