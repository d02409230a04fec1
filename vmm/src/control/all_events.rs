//! The events of all machines of a user: of those that run, and of those that are started later.

use super::client::{Client, Events};
use crate::error::CallError;
use crate::events::Notice;
use crate::runtime::Runtime;
use crate::state::VmState;
use protocol::HResult;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How often new machines are looked for.
const LOOK: Duration = Duration::from_millis(250);
/// How long is waited at first for all machines to begin to tell; one that hangs is heard later.
const BEGINNING: Duration = Duration::from_secs(1);
/// The shortest time of a timer.
const TICK: Duration = Duration::from_nanos(1);

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
    /// For programs that poll, once one has asked.
    descriptor: Option<Descriptor>,
}

/// Readable when there may be something to hear.
struct Descriptor {
    /// Waits for the timer and all machines.
    all: OwnedFd,
    /// When new machines are to be looked for.
    timer: OwnedFd,
}

impl Descriptor {
    fn new() -> Result<Self, Errno> {
        let all = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let descriptor = Self { all, timer };
        descriptor.add(&descriptor.timer)?;
        Ok(descriptor)
    }

    /// What is closed is forgotten by itself.
    fn add(&self, fd: impl AsFd) -> Result<(), Errno> {
        epoll::add(&self.all, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
    }

    /// New machines are looked for in `time`.
    fn wake_in(&self, time: Duration) -> Result<(), Errno> {
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        // No time at all would be never.
        let once = Itimerspec { it_interval: never, it_value: timespec(time.max(TICK)) };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).map(drop)
    }
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
        let mut all = Self { runtime, machines: VecDeque::new(), look: None, descriptor: None };
        all.look_for_machines();
        let deadline = Instant::now() + BEGINNING;
        while !all.have_begun() && Instant::now() < deadline {
            // What cannot be waited for now is found out when there is somebody to tell.
            if all.sleep(deadline.saturating_duration_since(Instant::now())).is_err() {
                break;
            }
        }
        all
    }

    fn have_begun(&mut self) -> bool {
        let mut begun = self.machines.iter_mut().map(|machine| machine.events.has_begun());
        // Who cannot be heard at all is not waited for.
        begun.all(|begun| begun.unwrap_or(true))
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

    /// A descriptor that is readable when there may be something to hear; it stays ours.
    ///
    /// # Errors
    /// The host is short of descriptors.
    pub fn descriptor(&mut self) -> Result<BorrowedFd<'_>, CallError> {
        let descriptor = match self.descriptor.take() {
            Some(descriptor) => descriptor,
            None => self.make_descriptor().map_err(|error| {
                let text = format!("cannot make a descriptor for the events: {error}");
                CallError::new(HResult::VM_E_OUT_OF_RESOURCE, text)
            })?,
        };
        Ok(self.descriptor.insert(descriptor).all.as_fd())
    }

    fn make_descriptor(&self) -> Result<Descriptor, Errno> {
        let descriptor = Descriptor::new()?;
        for machine in &self.machines {
            descriptor.add(&machine.events)?;
        }
        let now = Instant::now();
        descriptor.wake_in(self.look.unwrap_or(now).saturating_duration_since(now))?;
        Ok(descriptor)
    }

    fn look_for_machines(&mut self) {
        let is_new = self.look.is_some();
        self.look = Some(Instant::now() + LOOK);
        if let Some(descriptor) = &self.descriptor {
            // It is a timer, and the time is one.
            let _ = descriptor.wake_in(LOOK);
        }
        for name in self.runtime.list() {
            if self.machines.iter().any(|machine| machine.name == name) {
                continue;
            }
            // One that is just starting is found again.
            let events = Client::connect(&self.runtime, &name).and_then(Client::ask_for_events);
            if let Ok(events) = events {
                if let Some(descriptor) = &self.descriptor {
                    // If it cannot be waited for, it is heard when machines are looked for again.
                    let _ = descriptor.add(&events);
                }
                self.machines.push_back(Followed { name, events, is_new });
            }
        }
    }

    /// What has been heard already.
    fn take(&mut self) -> Result<Option<(String, Heard)>, CallError> {
        for _ in 0..self.machines.len() {
            let Some(mut machine) = self.machines.pop_front() else { break };
            let name = machine.name.clone();
            let heard = match machine.events.has_begun() {
                Ok(true) if std::mem::take(&mut machine.is_new) => {
                    let asked = Client::connect(&self.runtime, &name).and_then(|mut c| c.machine());
                    Some(Heard::Appeared(asked.ok().map(|info| info.state)))
                }
                Ok(true) => match machine.events.take() {
                    Ok(notice) => notice.map(Heard::Notice),
                    Err(error) if error.code == HResult::VM_E_VM_NOT_RUNNING => {
                        return Ok(Some((name, Heard::Ended)));
                    }
                    Err(error) => return Err(error),
                },
                Ok(false) => None,
                // It was just starting or ending, or is crowded: it is found again.
                Err(_) => continue,
            };
            self.machines.push_back(machine);
            if let Some(heard) = heard {
                return Ok(Some((name, heard)));
            }
        }
        Ok(None)
    }

    /// Waits until there may be something to hear, or `time` is over.
    fn sleep(&self, time: Duration) -> Result<(), CallError> {
        let fd = |machine| PollFd::new(machine, PollFlags::IN);
        let mut fds: Vec<_> = self.machines.iter().map(|machine| fd(&machine.events)).collect();
        match poll(&mut fds, Some(&timespec(time))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(CallError::new(HResult::DISP_E_EXCEPTION, error.to_string())),
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}
