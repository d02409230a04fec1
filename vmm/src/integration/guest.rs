//! The guest's operating system as callers hold it: Virtual PC's `IVMGuestOS`.

use crate::error::CallError;
use crate::integration::heartbeat::Heartbeats;
use crate::integration::worker::Command;
use crate::kit::KitState;
use crate::state::{StateCell, Verb, VmState, admit};
use crate::task::Task;
use crossbeam_channel::{Sender, bounded};
use protocol::HResult;
use protocol::clock::ClockReport;
use protocol::hello::SESSIONS;
use protocol::message::{AgentMessage, Request};
use protocol::task::{LogoffOptions, SessionSummary};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is known of the agent, shared between the thread and callers.
#[derive(Debug, Default)]
pub(crate) struct Status {
    /// The agent that is connected.
    pub(crate) connected: Option<Agent>,
    /// The last one of this boot.
    pub(crate) last: Option<Agent>,
    /// Why the one that came last could not be taken, if it could not.
    pub(crate) refused: Option<String>,
    /// When an agent of this boot was heard last.
    pub(crate) heard: Option<Instant>,
    /// When this boot began.
    pub(crate) booted: Option<Instant>,
    /// Those of this boot, since an agent has connected.
    pub(crate) heartbeats: Option<Heartbeats>,
    /// What the guest did with its clock last.
    pub(crate) clock: Option<ClockReport>,
    /// Messages that nobody had asked for.
    pub(crate) dropped: u64,
    /// How often the machine has ended.
    pub(crate) ends: u64,
}

impl Status {
    /// Whether an agent is connected that offers `service`.
    ///
    /// # Errors
    /// `VM_E_ADDITIONS_FEATURE_NOT_AVAIL`, with the reason.
    pub(crate) fn offered(&self, service: &str) -> Result<(), CallError> {
        let agent = self.connected.as_ref().ok_or_else(|| no_agent(self))?;
        if agent.services.contains(service) {
            return Ok(());
        }
        let text = format!(
            "the agent in the guest (version {}) does not offer {service}; a newer one may",
            agent.version
        );
        Err(CallError::new(HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL, text))
    }
}

/// The status, and how to wait for its changes; and what outlasts a boot.
#[derive(Debug, Default)]
pub(crate) struct StatusCell {
    status: Mutex<Status>,
    changed: Condvar,
    time_sync_off: AtomicBool,
    kit: Mutex<KitState>,
}

impl StatusCell {
    pub(crate) fn get(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the guest is told the host's time.
    pub(crate) fn time_sync(&self) -> bool {
        !self.time_sync_off.load(Ordering::Relaxed)
    }

    pub(crate) fn set_time_sync(&self, enabled: bool) {
        self.time_sync_off.store(!enabled, Ordering::Relaxed);
    }

    pub(super) fn set_kit(&self, kit: KitState) {
        *self.kit.lock().unwrap_or_else(PoisonError::into_inner) = kit;
    }

    /// Wakes whoever waits for an agent.
    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until an agent is connected, the machine has ended or the time is over, and says
    /// whether one is.
    fn wait_for_agent(&self, timeout: Duration) -> bool {
        let status = self.get();
        let ends = status.ends;
        let waits = |status: &mut Status| status.connected.is_none() && status.ends == ends;
        let waited = self.changed.wait_timeout_while(status, timeout, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.connected.is_some()
    }
}

/// Who an agent is.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) version: String,
    pub(crate) boot_id: String,
    pub(crate) services: BTreeSet<String>,
}

/// The agent, as far as the host knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Whether one is connected and has answered.
    pub connected: bool,
    /// Its version, or that of the last one of this boot.
    pub version: Option<String>,
    /// The guest's boot that it told.
    pub boot_id: Option<String>,
    /// Milliseconds since one was heard last in this boot.
    pub heard_ms: Option<u64>,
    /// Messages of agents that nobody had asked for, or that were not understood.
    pub dropped: u64,
    /// Why the agent that is there is not taken, if it is not.
    #[serde(default)]
    pub refused: Option<String>,
}

/// Who is logged on. All of it is the guest's claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionList {
    /// Where the guest counted: `logind`, `utmp+proc`, ...
    pub backend: String,
    /// The sessions.
    pub sessions: Vec<SessionSummary>,
    /// How many more there are.
    pub omitted: u32,
}

/// The operating system in a machine.
#[derive(Clone)]
pub struct GuestOs {
    state: StateCell,
    commands: Sender<Command>,
    status: Arc<StatusCell>,
}

impl GuestOs {
    pub(crate) fn new(
        state: StateCell,
        commands: Sender<Command>,
        status: Arc<StatusCell>,
    ) -> Self {
        Self { state, commands, status }
    }

    /// Logs every user off: `IVMGuestOS::Logoff`. Waits for the guest's acceptance, at most 5 s.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`; `VM_E_ADDITIONS_FEATURE_NOT_AVAIL` without an agent that can do it;
    /// `VM_E_TIMED_OUT` if the guest does not accept; `DISP_E_EXCEPTION` for all else. Then there
    /// is no task.
    pub fn logoff(&self, options: LogoffOptions) -> Result<Task, CallError> {
        self.call(|reply| Command::Logoff { options, reply })
    }

    /// Who is logged on.
    ///
    /// # Errors
    /// As for [`logoff`](Self::logoff), and `VM_E_VM_PAUSED`.
    pub fn sessions(&self) -> Result<SessionList, CallError> {
        self.unpaused()?;
        self.ask(SESSIONS, Request::Sessions, |answer| match answer {
            AgentMessage::Sessions { backend, sessions, omitted, .. } => {
                Some(SessionList { backend, sessions, omitted })
            }
            _ => None,
        })
    }

    /// What is known of the agent.
    #[must_use]
    pub fn agent(&self) -> AgentStatus {
        let status = self.status.get();
        let agent = status.connected.as_ref().or(status.last.as_ref());
        AgentStatus {
            connected: status.connected.is_some(),
            version: agent.map(|agent| agent.version.clone()),
            boot_id: agent.map(|agent| agent.boot_id.clone()),
            heard_ms: status.heard.map(|heard| milliseconds(heard.elapsed())),
            dropped: status.dropped,
            refused: status.refused.clone(),
        }
    }

    /// Waits until an agent is connected, the machine has ended or the time is over, and says
    /// whether one is.
    #[must_use = "without an agent nothing can be asked of the guest"]
    pub fn wait_for_agent(&self, timeout: Duration) -> bool {
        self.status.wait_for_agent(timeout)
    }

    pub(super) fn state(&self) -> VmState {
        self.state.get()
    }

    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.get()
    }

    pub(super) fn cell(&self) -> &StatusCell {
        &self.status
    }

    /// What is brought along for the guest.
    pub(super) fn kit(&self) -> KitState {
        self.status.kit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the agent that is connected offers `service`.
    pub(super) fn offers(&self, service: &str) -> bool {
        self.status().offered(service).is_ok()
    }

    /// That the machine runs, and its agent offers `service`.
    pub(super) fn offered(&self, service: &str) -> Result<(), CallError> {
        admit(Verb::GuestWork, self.state())?;
        self.status().offered(service)
    }

    /// That the machine is not paused, for calls whose documentation has a code for that.
    pub(super) fn unpaused(&self) -> Result<(), CallError> {
        match self.state() {
            VmState::Paused => admit(Verb::GuestCall, VmState::Paused),
            _ => Ok(()),
        }
    }

    /// Asks `service` for something that one message answers, which `read` understands.
    pub(super) fn ask<T>(
        &self,
        service: &'static str,
        request: Request,
        read: impl FnOnce(AgentMessage) -> Option<T>,
    ) -> Result<T, CallError> {
        let answer = self.call(|reply| Command::Ask { service, request, reply })?;
        read(answer).ok_or_else(|| {
            let text = "the guest answered with something else";
            CallError::new(HResult::DISP_E_EXCEPTION, text)
        })
    }

    /// Has the thread do something.
    pub(super) fn call<T>(
        &self,
        command: impl FnOnce(Sender<Result<T, CallError>>) -> Command,
    ) -> Result<T, CallError> {
        admit(Verb::GuestWork, self.state())?;
        let (reply, answer) = bounded(1);
        self.commands.send(command(reply)).map_err(|_| not_running())?;
        // The thread answers within its own time-outs, or has ended.
        answer.recv().unwrap_or_else(|_| Err(not_running()))
    }
}

/// Why nothing can be asked of a machine that does not run.
pub(crate) fn not_running() -> CallError {
    CallError::new(HResult::VM_E_VM_NOT_RUNNING, "the machine is not running")
}

/// Why nothing can be asked of a guest without an agent.
pub(crate) fn no_agent(status: &Status) -> CallError {
    let code = HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL;
    if let Some(refused) = &status.refused {
        return CallError::new(code, refused);
    }
    let ago = |time: Instant| time.elapsed().as_secs();
    let text = match (status.heard, status.booted) {
        (Some(heard), _) => format!(
            "no agent: it was last heard {} s ago and is not connected now; is vmm-agent still \
             running in the guest?",
            ago(heard)
        ),
        (None, Some(booted)) => format!(
            "no agent: the guest began to boot {} s ago, and none has connected; is vmm-agent \
             installed and running in it?",
            ago(booted)
        ),
        (None, None) => "no agent: the guest has not begun to boot".into(),
    };
    CallError::new(code, text)
}

/// A duration in whole milliseconds.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
