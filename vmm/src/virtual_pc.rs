//! The object model of Virtual PC, for host tools: `IVMVirtualPC`, `IVMVirtualMachine`,
//! `IVMGuestOS` and `IVMTask` with the documented codes.
//!
//! ```text
//! VirtualPc ──► VirtualMachine ──► GuestOs
//!     └──────────────┴── Task ◄───────┘
//! ```
//!
//! The objects are names, not resources: they can be cloned, sent and kept, and say at each call what
//! is so now. Whether the machine runs in this process or in another makes no difference: calls go
//! over its control socket in any case, and its owner's grants hold. A machine that is off and is
//! [started](VirtualMachine::startup) here runs in this process, until it ends or the last object
//! for it is dropped.
//!
//! C programs have the same objects through [`ffi`](crate::ffi) and `vmm.h`.

use crate::catalog::{Catalog, CatalogError, Definition, Registered};
use crate::control::access::unknown;
use crate::control::all_events::AllEvents;
use crate::control::client::{Client, Events, Followed};
use crate::control::wire::{MachineInfo, Property, Request, TaskDocument};
use crate::error::CallError;
use crate::host::Host;
use crate::host_info::HostInfo;
use crate::integration::guest::SessionList;
use crate::integration::info::OsVersionInfo;
use crate::integration::install::IntegrationInfo;
use crate::pc_events::PcEvents;
use crate::state::{Verb, VmState, admit};
use crate::task::check_wait;
use crate::usage::Accountant;
use crate::virtio::balloon::BalloonInfo;
use protocol::HResult;
use protocol::info::OsInfo;
use protocol::task::{LogoffOptions, LogoffReport, TaskInfo};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The time over which the use of processors is measured.
const UTILIZATION: Duration = Duration::from_millis(100);

/// All machines of a user: `IVMVirtualPC`.
#[derive(Clone, Debug)]
pub struct VirtualPc {
    catalog: Catalog,
}

impl VirtualPc {
    /// This user's.
    #[must_use]
    pub fn of_user() -> Self {
        Self::at(Catalog::of_user())
    }

    /// Those of `catalog`.
    #[must_use]
    pub fn at(catalog: Catalog) -> Self {
        Self { catalog }
    }

    /// The product's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        env!("CARGO_PKG_NAME")
    }

    /// The product's version.
    #[must_use]
    pub fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    /// What the host is.
    #[must_use]
    pub fn host_info(&self) -> HostInfo {
        HostInfo::now()
    }

    /// Where definitions are kept.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The machine `name`, in whatever letters; none, which the API has as `S_FALSE`, if it is
    /// neither registered nor running, or this user may not read it.
    ///
    /// # Errors
    /// The name is not allowed, or the catalog cannot be used.
    pub fn find_virtual_machine(&self, name: &str) -> Result<Option<VirtualMachine>, CallError> {
        if let Some(machine) = self.catalog.find(name)? {
            return Ok(Some(self.machine(machine.name)));
        }
        // That somebody answers there is nothing for whoever may not read.
        let running = Client::connect(self.catalog.runtime(), name);
        let running = running.and_then(|mut client| client.machine());
        Ok(running.ok().map(|machine| self.machine(machine.name)))
    }

    /// Makes a machine of `definition` and gives it `name`.
    ///
    /// # Errors
    /// `VM_E_CONFIG_NO_NAME` and the other codes of names; `VM_E_CONFIG_DUPLICATE_NAME`; a file that
    /// the definition names is not there.
    pub fn create_virtual_machine(
        &self,
        name: &str,
        definition: &Definition,
    ) -> Result<VirtualMachine, CallError> {
        Ok(self.machine(self.catalog.create(name, definition)?.name))
    }

    /// Adds the definition at `path` to the catalog, under `name` or the name that it has.
    ///
    /// # Errors
    /// As [`create_virtual_machine`](Self::create_virtual_machine); `ERROR_FILE_NOT_FOUND`.
    pub fn register_virtual_machine(
        &self,
        name: Option<&str>,
        path: &Path,
    ) -> Result<VirtualMachine, CallError> {
        Ok(self.machine(self.catalog.register(name, path)?.name))
    }

    /// Takes `machine` out of the catalog, and says where its definition is kept.
    ///
    /// # Errors
    /// `VM_E_VM_RUNNING`; `VM_E_VM_UNKNOWN`.
    pub fn unregister_virtual_machine(
        &self,
        machine: &VirtualMachine,
    ) -> Result<PathBuf, CallError> {
        machine.let_go_if_off();
        Ok(self.catalog.unregister(&machine.name)?)
    }

    /// Deletes `machine` and its definition; false, which the API has as `S_FALSE`, if there is none.
    ///
    /// # Errors
    /// `VM_E_VM_RUNNING`.
    pub fn delete_virtual_machine(&self, machine: &VirtualMachine) -> Result<bool, CallError> {
        machine.let_go_if_off();
        match self.catalog.delete(&machine.name).map_err(CallError::from) {
            Ok(()) => Ok(true),
            Err(error) if error.code == HResult::VM_E_VM_UNKNOWN => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All machines, by name: those in the catalog, and others that run.
    ///
    /// # Errors
    /// The catalog cannot be used.
    pub fn virtual_machines(&self) -> Result<Vec<VirtualMachine>, CallError> {
        let registered = self.catalog.list()?.into_iter().map(|listed| listed.machine.name);
        let mut names: Vec<String> = registered.collect();
        for running in self.catalog.runtime().list() {
            if !names.iter().any(|name| name.to_lowercase() == running.to_lowercase()) {
                names.push(running);
            }
        }
        names.sort_by_key(|name| name.to_lowercase());
        Ok(names.into_iter().map(|name| self.machine(name)).collect())
    }

    /// The tasks of all machines that run, in the order of their ids: those of the machine that was
    /// started first, then the next one's.
    ///
    /// # Errors
    /// The catalog cannot be used.
    pub fn tasks(&self) -> Result<Vec<Task>, CallError> {
        let mut tasks = Vec::new();
        for machine in self.virtual_machines()? {
            // One that ends meanwhile has no tasks any more.
            tasks.extend(machine.tasks().unwrap_or_default());
        }
        tasks.sort_by_key(Task::id);
        Ok(tasks)
    }

    /// The task with this id.
    ///
    /// # Errors
    /// `DISP_E_BADINDEX` if there is none.
    pub fn task(&self, id: u32) -> Result<Task, CallError> {
        self.tasks()?.into_iter().find(|task| task.id == id).ok_or_else(|| {
            let text = format!("no machine has a task {id}; `vmm task ls` lists those there are");
            CallError::new(HResult::DISP_E_BADINDEX, text)
        })
    }

    /// What becomes of the machines from now on, also of those that are started later:
    /// `IVMVirtualPCEvents`.
    #[must_use]
    pub fn events(&self) -> PcEvents {
        PcEvents::of(AllEvents::of(self.catalog.runtime().clone()))
    }

    /// A connection to whichever process runs the machine `name`.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING` if no process does, or it is just starting or ending;
    /// `VM_E_VM_UNKNOWN` if there is no such machine, or it is not this user's.
    pub fn connect(&self, name: &str) -> Result<Client, CallError> {
        Client::connect(self.catalog.runtime(), name).map_err(|error| {
            if error.code != HResult::VM_E_VM_UNKNOWN {
                return error;
            }
            match (self.catalog.get(name), admit(Verb::GuestWork, VmState::TurnedOff)) {
                (Ok(machine), Err(off)) => {
                    let text = format!("{}: {}; `vmm start` turns it on", machine.name, off.text);
                    CallError::new(off.code, text)
                }
                (Err(unknown @ CatalogError::Unknown { nearest: Some(_), .. }), _) => {
                    unknown.into()
                }
                _ => unknown(name),
            }
        })
    }

    fn machine(&self, name: String) -> VirtualMachine {
        VirtualMachine { pc: self.clone(), name, hosted: Arc::default() }
    }
}

/// A machine: `IVMVirtualMachine`.
#[derive(Clone)]
pub struct VirtualMachine {
    pc: VirtualPc,
    name: String,
    /// The machine itself, if it was started here.
    hosted: Arc<Mutex<Option<Host>>>,
}

impl VirtualMachine {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is doing.
    ///
    /// # Errors
    /// `VM_E_VM_UNKNOWN` if it is neither registered nor running.
    pub fn state(&self) -> Result<VmState, CallError> {
        match self.client() {
            Ok(mut client) => match client.machine() {
                Ok(machine) => Ok(machine.state),
                Err(error) if error.code == HResult::VM_E_VM_NOT_RUNNING => Ok(VmState::TurnedOff),
                Err(error) => Err(error),
            },
            Err(error) if error.code == HResult::VM_E_VM_NOT_RUNNING => Ok(VmState::TurnedOff),
            Err(error) => Err(error),
        }
    }

    /// What its use of the host comes to: `IVMVirtualMachine::Accountant`. None, which the API has
    /// as `S_FALSE`, if it is off. It takes a tenth of a second.
    ///
    /// # Errors
    /// `VM_E_VM_UNKNOWN`.
    pub fn accountant(&self) -> Result<Option<Accountant>, CallError> {
        let look = || match self.info() {
            Err(off) if off.code == HResult::VM_E_VM_NOT_RUNNING => Ok(None),
            info => info.map(|info| Some((info, Instant::now()))),
        };
        let Some((before, begun)) = look()? else { return Ok(None) };
        thread::sleep(UTILIZATION);
        let Some((after, ended)) = look()? else { return Ok(None) };
        let ran = after.used.cpu_ms.saturating_sub(before.used.cpu_ms);
        let could = ended.duration_since(begun).as_millis().max(1) * u128::from(after.cpus.max(1));
        let percent = (u128::from(ran) * 100 / could).min(100);
        Ok(Some(Accountant {
            cpu_utilization: u8::try_from(percent).unwrap_or(100),
            disk_bytes_read: after.used.disk_bytes_read,
            disk_bytes_written: after.used.disk_bytes_written,
            network_bytes_received: after.used.network_bytes_received,
            network_bytes_sent: after.used.network_bytes_sent,
            up_time: Duration::from_millis(after.uptime_ms),
        }))
    }

    /// What it is doing, in detail.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`; `VM_E_VM_UNKNOWN`.
    pub fn info(&self) -> Result<MachineInfo, CallError> {
        self.client()?.machine()
    }

    /// What it is made of, as its definition has it.
    ///
    /// # Errors
    /// It is not in the catalog, or its definition has a fault.
    pub fn definition(&self) -> Result<Definition, CallError> {
        Ok(self.registered()?.load()?)
    }

    /// The path of its definition: `IVMVirtualMachine::File`.
    ///
    /// # Errors
    /// It is not in the catalog.
    pub fn file(&self) -> Result<PathBuf, CallError> {
        Ok(self.registered()?.path)
    }

    /// Changes what it is made of.
    ///
    /// # Errors
    /// `VM_E_PREF_VM_ACTIVE` while it is on; it is not in the catalog; a value is not allowed.
    pub fn set_definition(&self, definition: &Definition) -> Result<(), CallError> {
        let machine = self.registered()?;
        self.let_go_if_off();
        let _place = self.pc.catalog.runtime().claim(&self.name).map_err(|error| {
            let error = CallError::from(error);
            match error.code {
                HResult::VM_E_VM_RUNNING => {
                    let text = format!("{} is on; turn it off first", self.name);
                    CallError::new(HResult::VM_E_PREF_VM_ACTIVE, text)
                }
                _ => error,
            }
        })?;
        Ok(self.pc.catalog.save(&machine, definition)?)
    }

    /// Turns it on. If no process runs it, it runs in this one from now on.
    ///
    /// # Errors
    /// `VM_E_VM_RUNNING` if it is on; `ERROR_ACCESS_DENIED`; its definition has a fault. What is
    /// wrong with host or files comes through the task.
    pub fn startup(&self) -> Result<Task, CallError> {
        let mut hosted = self.hosted();
        if hosted.is_none() {
            match Client::connect(self.pc.catalog.runtime(), &self.name) {
                Ok(mut client) => return Ok(self.task(client.work(Request::Startup)?.task.id)),
                Err(error) if error.code == HResult::VM_E_VM_UNKNOWN => {
                    *hosted = Some(Host::registered(&self.pc.catalog, &self.name)?);
                }
                Err(error) => return Err(error),
            }
        }
        drop(hosted);
        self.work(Request::Startup)
    }

    /// Turns it off, as if its plug was pulled.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`; `VM_E_VM_UNKNOWN`; `ERROR_ACCESS_DENIED`.
    pub fn turn_off(&self) -> Result<Task, CallError> {
        self.last_work(Request::TurnOff)
    }

    /// Boots it anew.
    ///
    /// # Errors
    /// As [`turn_off`](Self::turn_off).
    pub fn reset(&self) -> Result<Task, CallError> {
        self.work(Request::Reset)
    }

    /// Lets its processors stand still.
    ///
    /// # Errors
    /// As [`turn_off`](Self::turn_off), and `E_FAIL` if they do already.
    pub fn pause(&self) -> Result<(), CallError> {
        self.client()?.act(Request::Pause)
    }

    /// Lets its processors go on.
    ///
    /// # Errors
    /// As [`turn_off`](Self::turn_off), and `E_FAIL` if they do already.
    pub fn resume(&self) -> Result<(), CallError> {
        self.client()?.act(Request::Resume)
    }

    /// Its balloon: what it is to take from the guest, what it has taken, and what the guest says of
    /// its memory.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`; `VM_E_VM_UNKNOWN`.
    pub fn balloon(&self) -> Result<BalloonInfo, CallError> {
        self.guest_os().value(Request::Balloon)
    }

    /// Sets how many bytes the balloon is to take from the guest. The target stays when the guest
    /// boots anew, and is 0 when the machine is turned on.
    ///
    /// # Errors
    /// As [`turn_off`](Self::turn_off), and `E_INVALIDARG` if these are no whole pages, or would leave
    /// the guest less than 16 MiB.
    pub fn set_balloon_target(&self, bytes: u64) -> Result<(), CallError> {
        self.client()?.act(Request::SetBalloon { bytes })
    }

    /// Its guest's operating system; having it says nothing about whether there is one.
    #[must_use]
    pub fn guest_os(&self) -> GuestOs {
        GuestOs { machine: self.clone() }
    }

    /// What happens to it from now on.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`; `VM_E_VM_UNKNOWN`.
    pub fn events(&self) -> Result<Events, CallError> {
        self.client()?.events()
    }

    /// Its tasks, the oldest first.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`; `VM_E_VM_UNKNOWN`.
    pub fn tasks(&self) -> Result<Vec<Task>, CallError> {
        let tasks = self.client()?.tasks()?;
        Ok(tasks.into_iter().map(|task| self.task(task.id)).collect())
    }

    fn hosted(&self) -> MutexGuard<'_, Option<Host>> {
        self.hosted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine that was started here and is off again frees its name.
    fn let_go_if_off(&self) {
        let mut hosted = self.hosted();
        if hosted.as_ref().is_some_and(|host| host.vm().state() == VmState::TurnedOff) {
            *hosted = None;
        }
    }

    fn registered(&self) -> Result<Registered, CallError> {
        Ok(self.pc.catalog.get(&self.name)?)
    }

    fn client(&self) -> Result<Client, CallError> {
        self.pc.connect(&self.name)
    }

    fn work(&self, request: Request) -> Result<Task, CallError> {
        let document = self.client()?.work(request)?;
        Ok(self.task(document.task.id))
    }

    /// As [`work`](Self::work), for what ends the machine, and with it perhaps its process.
    fn last_work(&self, request: Request) -> Result<Task, CallError> {
        let (task, followed) = self.client()?.work_followed(request)?;
        Ok(Task { followed: Some(Arc::new(Mutex::new(followed))), ..self.task(task.id) })
    }

    fn task(&self, id: u32) -> Task {
        Task { machine: self.clone(), id, followed: None }
    }
}

/// A guest's operating system: `IVMGuestOS`.
///
/// Each member answers as that of the same name of
/// [`integration::guest::GuestOs`](crate::integration::guest::GuestOs), and before that
/// `VM_E_VM_UNKNOWN`, `VM_E_VM_NOT_RUNNING`, or `ERROR_ACCESS_DENIED` where execute access is missing.
#[derive(Clone)]
pub struct GuestOs {
    machine: VirtualMachine,
}

macro_rules! properties {
    ($($(#[$doc:meta])* $member:ident: $type:ty = $property:ident;)*) => {
        impl GuestOs {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// As the member of the same name of the guest as its own process has it.
                pub fn $member(&self) -> Result<$type, CallError> {
                    self.value(Request::Property { property: Property::$property })
                }
            )*
        }
    };
}

properties! {
    /// The guest's host name.
    computer_name: String = ComputerName;
    /// The service pack: empty.
    csd_version: String = CsdVersion;
    /// Heartbeats of the last minute, in percent of those expected.
    heartbeat_percentage: u8 = HeartbeatPercentage;
    /// The agent, and what is brought along for it.
    integration_components: IntegrationInfo = IntegrationComponents;
    /// The version of the agent.
    integration_components_version: String = IntegrationComponentsVersion;
    /// Whether the guest's user space runs.
    is_heartbeating: bool = IsHeartbeating;
    /// Whether the guest's clock follows the host's.
    is_host_time_sync_enabled: bool = IsHostTimeSyncEnabled;
    /// Whether several users can be logged on at once.
    multiple_user_sessions_allowed: bool = MultipleUserSessionsAllowed;
    /// The build of the guest's system.
    os_build_number: String = OsBuildNumber;
    /// All that the guest's system says of itself.
    os_info: OsInfo = OsInfo;
    /// The first part of the system's version.
    os_major_version: String = OsMajorVersion;
    /// The second part of the system's version.
    os_minor_version: String = OsMinorVersion;
    /// The system's name.
    os_name: String = OsName;
    /// Windows' platform.
    os_platform_id: String = OsPlatformId;
    /// The system's version.
    os_version: String = OsVersion;
    /// The version as one structure.
    os_version_info: OsVersionInfo = OsVersionInfo;
    /// Workstation or server.
    product_type: String = ProductType;
    /// Whether the guest's screen is locked.
    screen_locked: bool = ScreenLocked;
    /// The service pack's version.
    service_pack_major: String = ServicePackMajor;
    /// The service pack's version.
    service_pack_minor: String = ServicePackMinor;
    /// Windows' suites.
    suite_mask: String = SuiteMask;
    /// The port of Windows' remote desktop.
    terminal_server_port: u16 = TerminalServerPort;
    /// Whether Windows' remote desktop is there.
    terminal_services_initialized: bool = TerminalServicesInitialized;
}

impl GuestOs {
    /// Logs every user off.
    ///
    /// # Errors
    /// `VM_E_TIMED_OUT` if the guest does not accept; `VM_E_ADDITIONS_FEATURE_NOT_AVAIL`;
    /// `VM_E_VM_NOT_RUNNING`; `VM_E_VM_UNKNOWN`; `ERROR_ACCESS_DENIED`; `DISP_E_EXCEPTION`.
    pub fn logoff(&self, options: LogoffOptions) -> Result<Task, CallError> {
        self.machine.work(Request::Logoff { options })
    }

    /// Shuts the guest down.
    ///
    /// # Errors
    /// As [`logoff`](Self::logoff).
    pub fn shutdown(&self, forced: bool) -> Result<Task, CallError> {
        self.machine.last_work(Request::Shutdown { forced })
    }

    /// Restarts the guest.
    ///
    /// # Errors
    /// As [`logoff`](Self::logoff).
    pub fn restart(&self, forced: bool) -> Result<Task, CallError> {
        self.machine.work(Request::Restart { forced })
    }

    /// Has the guest's agent install the one that is brought along.
    ///
    /// # Errors
    /// As the member of the same name of the guest as its own process has it.
    pub fn install_integration_components(&self) -> Result<Task, CallError> {
        self.machine.work(Request::InstallIntegrationComponents)
    }

    /// Who is logged on.
    ///
    /// # Errors
    /// As the member of the same name of the guest as its own process has it.
    pub fn sessions(&self) -> Result<SessionList, CallError> {
        self.machine.client()?.sessions()
    }

    /// Whether the guest can shut down in good order; none, which the API has as `S_FALSE`, if the
    /// machine is not on.
    ///
    /// # Errors
    /// `VM_E_VM_UNKNOWN`.
    pub fn can_shutdown(&self) -> Result<Option<bool>, CallError> {
        match self.value(Request::Property { property: Property::CanShutdown }) {
            Err(off) if off.code == HResult::VM_E_VM_NOT_RUNNING => Ok(None),
            answer => answer,
        }
    }

    /// Whether a session of this kind exists: 0 for a seamless one, 1 for a desktop.
    ///
    /// # Errors
    /// `E_INVALIDARG` for any other kind.
    pub fn is_user_logged_on(&self, kind: i32) -> Result<bool, CallError> {
        self.value(Request::IsUserLoggedOn { kind })
    }

    /// A parameter in the guest's store.
    ///
    /// # Errors
    /// `E_INVALIDARG` for a name that is not allowed or not there; `VM_E_VM_PAUSED`.
    pub fn get_parameter(&self, name: &str) -> Result<String, CallError> {
        self.value(Request::GetParameter { name: name.to_owned() })
    }

    /// Sets a parameter in the guest's store.
    ///
    /// # Errors
    /// `E_INVALIDARG` for a name or value that is not allowed; `VM_E_VM_PAUSED`.
    pub fn set_parameter(&self, name: &str, value: &str) -> Result<(), CallError> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.machine.client()?.act(Request::SetParameter { name, value })
    }

    fn value<T: DeserializeOwned>(&self, request: Request) -> Result<T, CallError> {
        let value = self.machine.client()?.value(request)?;
        serde_json::from_value(value).map_err(|error| {
            let text = format!("the machine's process gave a value of another kind: {error}");
            CallError::new(HResult::DISP_E_EXCEPTION, text)
        })
    }
}

/// Work that takes time: `IVMTask`. It is there as long as its machine's process; whoever began to
/// turn that off or shut it down is told the end nevertheless.
#[derive(Clone)]
pub struct Task {
    machine: VirtualMachine,
    id: u32,
    /// Where the end of work is told that ends the machine's process.
    followed: Option<Arc<Mutex<Followed>>>,
}

impl Task {
    /// Identifies it among the tasks of all machines.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The machine whose work it is.
    #[must_use]
    pub fn virtual_machine(&self) -> &VirtualMachine {
        &self.machine
    }

    /// The task as it is now.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING` if the machine's process has ended.
    pub fn info(&self) -> Result<TaskInfo, CallError> {
        Ok(self.document()?.task)
    }

    /// What a logoff has done so far, in detail.
    ///
    /// # Errors
    /// As [`info`](Self::info).
    pub fn report(&self) -> Result<Option<LogoffReport>, CallError> {
        Ok(self.document()?.report)
    }

    /// Waits for its end, at most so many milliseconds: 0 to 4,000,000, or -1 for ever; an elapsed
    /// wait is no error. Gives the task as it then is.
    ///
    /// # Errors
    /// `E_INVALIDARG` for any other time; `VM_E_VM_NOT_RUNNING` if the machine's process ends.
    pub fn wait_for_completion(&self, milliseconds: i32) -> Result<TaskInfo, CallError> {
        self.wait_watching(milliseconds, |_| ())
    }

    /// As [`wait_for_completion`](Self::wait_for_completion), and tells `watch` of the task at least
    /// once a second.
    ///
    /// # Errors
    /// As [`wait_for_completion`](Self::wait_for_completion).
    pub fn wait_watching(
        &self,
        milliseconds: i32,
        watch: impl FnMut(&TaskInfo),
    ) -> Result<TaskInfo, CallError> {
        let timeout = check_wait(milliseconds)?;
        let waited =
            self.machine.client().and_then(|mut client| client.wait(self.id, timeout, watch));
        Ok(self.or_its_end(waited)?.task)
    }

    /// Hears of it from now on, without waiting: for a program that polls.
    ///
    /// # Errors
    /// As [`info`](Self::info).
    pub fn follow(&self) -> Result<Followed, CallError> {
        self.machine.client()?.follow(self.id)
    }

    /// Cancels it.
    ///
    /// # Errors
    /// `E_FAIL` if it can no longer be cancelled; `ERROR_ACCESS_DENIED`.
    pub fn cancel(&self) -> Result<(), CallError> {
        self.machine.client()?.cancel(self.id).map(drop)
    }

    fn document(&self) -> Result<TaskDocument, CallError> {
        self.or_its_end(self.machine.client().and_then(|mut client| client.task(self.id)))
    }

    /// What the machine's process has answered, or told before it ended.
    fn or_its_end(
        &self,
        answer: Result<TaskDocument, CallError>,
    ) -> Result<TaskDocument, CallError> {
        answer.or_else(|error| {
            let followed = self.followed.as_ref().ok_or(error.clone())?;
            let end = followed.lock().unwrap_or_else(PoisonError::into_inner).end();
            Ok(TaskDocument { task: end.ok_or(error)?, report: None })
        })
    }
}
