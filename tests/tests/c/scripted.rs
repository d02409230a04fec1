//! A machine that is played: a guest with an agent, where this KVM boots no guest that has one.
//!
//! It answers as the control socket of a machine does. That a real one answers like that is what the
//! tests with stock kernels show.

use protocol::HResult;
use protocol::frame::Decoder;
use protocol::task::{LogoffReport, TaskInfo, TaskResult};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use vmm::control::wire::{self, Call, MachineInfo, Property, Request, Response, TaskDocument};
use vmm::integration::guest::AgentStatus;
use vmm::notify::Told;
use vmm::runtime::{Place, Runtime};
use vmm::state::VmState;
use vmm::usage::Used;

/// The machine `Guest`: its first logoff succeeds, to each later one nobody is logged on.
pub(crate) struct Scripted {
    _place: Place,
}

impl Scripted {
    pub(crate) fn new(runtime: &Path) -> Self {
        let place = Runtime::at(runtime).claim("Guest").unwrap();
        let listener = UnixListener::bind(place.control()).unwrap();
        let tasks = Arc::new(Mutex::new(Vec::new()));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let tasks = Arc::clone(&tasks);
                // The client may leave at any time.
                thread::spawn(move || serve(stream, &tasks));
            }
        });
        Self { _place: place }
    }
}

fn serve(mut stream: UnixStream, tasks: &Mutex<Vec<TaskInfo>>) -> Option<()> {
    let mut decoder = Decoder::default();
    while let Ok(Some(call)) = decoder.read::<Call>(&mut stream) {
        let response = match call.request {
            Request::Machine => Response::Machine(Box::new(machine())),
            Request::Property { property: Property::IntegrationComponentsVersion } => {
                Response::Value { value: "9.9".into() }
            }
            Request::Events => Response::Done,
            Request::Logoff { .. } => {
                let mut tasks = tasks.lock().unwrap();
                let task = task(u32::try_from(tasks.len()).unwrap() + 1);
                tasks.push(task.clone());
                document(task)
            }
            Request::Task { id } => document(find(tasks, id)?.clone()),
            Request::Wait { id } => {
                for percent in [0, 30, 60] {
                    let mut task = find(tasks, id)?;
                    task.percent_completed = percent;
                    task.is_cancelable = percent == 0;
                    wire::answer(&mut stream, &Response::Changed { task }).ok()?;
                    thread::sleep(Duration::from_millis(20));
                }
                let ended = ended(find(tasks, id)?);
                let place = usize::try_from(id).unwrap() - 1;
                tasks.lock().unwrap()[place] = ended.clone();
                document(ended)
            }
            other => panic!("this machine was not to be asked {other:?}"),
        };
        wire::answer(&mut stream, &response).ok()?;
    }
    None
}

fn machine() -> MachineInfo {
    MachineInfo {
        name: "Guest".into(),
        state: VmState::Running,
        pid: std::process::id(),
        uptime_ms: 1,
        cpus: 1,
        memory: 32 << 20,
        used: Used::default(),
        agent: AgentStatus {
            connected: true,
            version: Some("9.9".into()),
            boot_id: None,
            heard_ms: Some(1),
            dropped: 0,
            refused: None,
        },
        readiness: Told::default(),
    }
}

fn find(tasks: &Mutex<Vec<TaskInfo>>, id: u32) -> Option<TaskInfo> {
    tasks.lock().unwrap().iter().find(|task| task.id == id).cloned()
}

fn task(id: u32) -> TaskInfo {
    TaskInfo {
        id,
        description: "log off all users".into(),
        percent_completed: 0,
        is_complete: false,
        is_cancelable: true,
        result: None,
        error: HResult::S_OK,
        error_name: "S_OK".into(),
        error_description: String::new(),
    }
}

fn ended(task: TaskInfo) -> TaskInfo {
    let (result, error) = match task.id {
        1 => (TaskResult::Success, HResult::S_OK),
        _ => (TaskResult::UnexpectedError, HResult::ERROR_NO_SUCH_LOGON_SESSION),
    };
    TaskInfo {
        percent_completed: if error == HResult::S_OK { 100 } else { 60 },
        is_complete: true,
        is_cancelable: false,
        result: Some(result),
        error,
        error_name: error.symbol().unwrap().into(),
        error_description: if error.is_failure() { "nobody".into() } else { String::new() },
        ..task
    }
}

fn document(task: TaskInfo) -> Response {
    let report = task.is_complete.then(LogoffReport::default);
    Response::Task(Box::new(TaskDocument { task, report }))
}
