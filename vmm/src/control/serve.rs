//! What a machine answers to each request.

use crate::confine::jail;
use crate::control::wire::{MachineInfo, Property, Request, Response, TaskDocument};
use crate::error::CallError;
use crate::integration::guest::milliseconds;
use crate::task::Task;
use crate::vm::Vm;
use protocol::HResult;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a cancelled task may take to be seen complete.
const CANCELLED: Duration = Duration::from_secs(1);

/// A machine that is served.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) vm: Arc<Vm>,
    pub(super) since: Instant,
}

impl Served {
    /// Answers what can be answered at once; none for a request that has to [wait](Self::work).
    pub(super) fn at_once(&self, request: &Request) -> Option<Result<Response, CallError>> {
        Some(match request {
            Request::Machine => Ok(Response::Machine(Box::new(self.machine()))),
            Request::Tasks => {
                let tasks = self.vm.tasks().list().iter().map(Task::info).collect();
                Ok(Response::Tasks { tasks })
            }
            Request::Task { id } => self.task(*id).map(|task| document(&task)),
            _ => return None,
        })
    }

    /// Answers what may have to wait, for the guest say.
    pub(super) fn work(&self, request: Request) -> Result<Response, CallError> {
        let guest = self.vm.guest_os();
        match request {
            Request::Sessions => guest.sessions().map(Response::Sessions),
            Request::Property { property } => self.property(property),
            Request::IsUserLoggedOn { kind } => value(guest.is_user_logged_on(kind)),
            Request::GetParameter { name } => value(guest.get_parameter(&name)),
            Request::SetParameter { name, value } => done(guest.set_parameter(&name, &value)),
            Request::Startup => task(self.vm.startup()),
            Request::TurnOff => task(self.vm.turn_off()),
            Request::Reset => task(self.vm.reset()),
            Request::Pause => done(self.vm.pause()),
            Request::Resume => done(self.vm.resume()),
            Request::PressPowerButton => done(self.vm.press_power_button()),
            Request::Balloon => value(self.vm.balloon()),
            Request::SetBalloon { bytes } => done(self.vm.set_balloon_target(bytes)),
            Request::Logoff { options } => task(guest.logoff(options)),
            Request::Shutdown { forced } => task(guest.shutdown(forced)),
            Request::Restart { forced } => task(guest.restart(forced)),
            Request::InstallIntegrationComponents => task(guest.install_integration_components()),
            Request::Cancel { id } => {
                let task = self.task(id)?;
                task.cancel()?;
                // The caller is to see it complete, whichever of the two it hears of first.
                task.wait(Some(CANCELLED));
                Ok(document(&task))
            }
            // Answered at once, or followed by the server.
            Request::Machine
            | Request::Tasks
            | Request::Task { .. }
            | Request::Wait { .. }
            | Request::Console
            | Request::Events => Err(CallError::new(HResult::DISP_E_EXCEPTION, "this is no work")),
        }
    }

    fn machine(&self) -> MachineInfo {
        MachineInfo {
            name: self.vm.name().to_owned(),
            state: self.vm.state(),
            pid: jail::pid(),
            uptime_ms: milliseconds(self.since.elapsed()),
            cpus: self.vm.config().cpus,
            memory: self.vm.config().memory,
            used: self.vm.used(),
            agent: self.vm.guest_os().agent(),
            readiness: self.vm.told(),
        }
    }

    pub(super) fn task(&self, id: u32) -> Result<Task, CallError> {
        self.vm.tasks().get(id).ok_or_else(|| {
            let text = format!("the machine has no task {id}; `vmm task ls` lists those it has");
            CallError::new(HResult::DISP_E_BADINDEX, text)
        })
    }

    fn property(&self, property: Property) -> Result<Response, CallError> {
        use Property as P;
        let guest = self.vm.guest_os();
        match property {
            P::CanShutdown => value(Ok(guest.can_shutdown())),
            P::ComputerName => value(guest.computer_name()),
            P::CsdVersion => value(guest.csd_version()),
            P::HeartbeatPercentage => value(guest.heartbeat_percentage()),
            P::IntegrationComponents => value(Ok(guest.integration_components())),
            P::IntegrationComponentsVersion => value(guest.integration_components_version()),
            P::IsHeartbeating => value(guest.is_heartbeating()),
            P::IsHostTimeSyncEnabled => value(Ok(guest.is_host_time_sync_enabled())),
            P::MultipleUserSessionsAllowed => value(guest.multiple_user_sessions_allowed()),
            P::OsBuildNumber => value(guest.os_build_number()),
            P::OsInfo => value(guest.os_info()),
            P::OsMajorVersion => value(guest.os_major_version()),
            P::OsMinorVersion => value(guest.os_minor_version()),
            P::OsName => value(guest.os_name()),
            P::OsPlatformId => value(guest.os_platform_id()),
            P::OsVersion => value(guest.os_version()),
            P::OsVersionInfo => value(guest.os_version_info()),
            P::ProductType => value(guest.product_type()),
            P::ScreenLocked => value(guest.screen_locked()),
            P::ServicePackMajor => value(guest.service_pack_major()),
            P::ServicePackMinor => value(guest.service_pack_minor()),
            P::SuiteMask => value(guest.suite_mask()),
            P::TerminalServerPort => value(guest.terminal_server_port()),
            P::TerminalServicesInitialized => value(guest.terminal_services_initialized()),
        }
    }
}

/// A task as it is now, with what it has done.
pub(super) fn document(task: &Task) -> Response {
    Response::Task(Box::new(TaskDocument { task: task.info(), report: task.report() }))
}

fn task(answer: Result<Task, CallError>) -> Result<Response, CallError> {
    answer.map(|task| document(&task))
}

fn done(answer: Result<(), CallError>) -> Result<Response, CallError> {
    answer.map(|()| Response::Done)
}

fn value<T: Serialize>(answer: Result<T, CallError>) -> Result<Response, CallError> {
    let value = serde_json::to_value(answer?);
    let value = value.map_err(|e| CallError::new(HResult::DISP_E_EXCEPTION, e.to_string()))?;
    Ok(Response::Value { value })
}
