//! `vmm logoff` against a machine whose task goes as the test wants: progress, ends, Ctrl-C.

use crate::world::{Machine, VMM, World};
use protocol::HResult;
use protocol::frame::Decoder;
use protocol::task::{TaskInfo, TaskResult};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use vmm::control::wire::{self, Call, Request, Response, TaskDocument};
use vmm::runtime::{Place, Runtime};

/// A place, and somebody in it who answers as a machine with one task does.
struct Scripted {
    task: Arc<Mutex<TaskInfo>>,
    _place: Place,
}

impl Scripted {
    fn new(world: &World) -> Self {
        let place = Runtime::at(world.runtime()).claim("Web").unwrap();
        let listener = UnixListener::bind(place.control()).unwrap();
        let task = Arc::new(Mutex::new(TaskInfo {
            id: 7,
            description: "log off all users".into(),
            percent_completed: 0,
            is_complete: false,
            is_cancelable: true,
            result: None,
            error: HResult::S_OK,
            error_name: "S_OK".into(),
            error_description: String::new(),
        }));
        let shared = Arc::clone(&task);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let task = Arc::clone(&shared);
                thread::spawn(move || answer(stream, &task));
            }
        });
        Self { task, _place: place }
    }

    fn change(&self, change: impl FnOnce(&mut TaskInfo)) {
        change(&mut self.task.lock().unwrap());
    }

    fn end(&self, result: TaskResult, error: HResult) {
        self.change(|task| end(task, result, error));
    }
}

fn end(task: &mut TaskInfo, result: TaskResult, error: HResult) {
    task.is_complete = true;
    task.is_cancelable = false;
    task.result = Some(result);
    task.error = error;
    task.error_name = error.symbol().unwrap().into();
    if result == TaskResult::Success {
        task.percent_completed = 100;
    }
}

fn answer(mut stream: UnixStream, task: &Mutex<TaskInfo>) {
    let mut decoder = Decoder::default();
    while let Ok(Some(call)) = decoder.read::<Call>(&mut stream) {
        let now = || task.lock().unwrap().clone();
        let document = || Response::Task(Box::new(TaskDocument { task: now(), report: None }));
        let follow = call.follow && !now().is_complete;
        if follow && wire::answer(&mut stream, &document()).is_err() {
            return;
        }
        if follow || matches!(call.request, Request::Wait { .. }) {
            while !now().is_complete {
                if wire::answer(&mut stream, &Response::Changed { task: now() }).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        let mut response = document();
        if let Request::Cancel { .. } = call.request {
            let mut task = task.lock().unwrap();
            if task.is_cancelable {
                end(&mut task, TaskResult::Cancelled, HResult::ERROR_CANCELLED);
            } else {
                let text = "it has begun".into();
                response = Response::Refused { code: HResult::E_FAIL, text };
            }
        }
        if wire::answer(&mut stream, &response).is_err() {
            return;
        }
    }
}

/// `vmm logoff` that waits, and has printed its first line of progress.
fn begin(world: &World) -> (Machine, BufReader<std::process::ChildStderr>) {
    let mut command = world.command(VMM);
    command.args(["logoff", "web", "--progress", "plain", "--format", "json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    assert_eq!(line(&mut stderr), "Web: 0% log off all users\n");
    (Machine { child }, stderr)
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

fn document(stdout: &str) -> Value {
    serde_json::from_str(stdout).unwrap()
}

#[test]
fn progress_rises_on_standard_error_and_the_document_comes_at_the_end() {
    let world = World::new();
    let machine = Scripted::new(&world);
    let (logoff, mut stderr) = begin(&world);
    machine.change(|task| task.percent_completed = 50);
    assert_eq!(line(&mut stderr), "Web: 50% log off all users\n");
    machine.end(TaskResult::Success, HResult::S_OK);
    let (status, stdout) = logoff.end_quietly();
    assert_eq!(status.code(), Some(0));
    assert_eq!(document(&stdout)["task"]["result"], "Success");
    assert_eq!(line(&mut stderr), "Web: 100% log off all users\n");
}

#[test]
fn nobody_logged_on_is_a_failure_unless_that_is_fine() {
    let world = World::new();
    let machine = Scripted::new(&world);
    machine.end(TaskResult::UnexpectedError, HResult::ERROR_NO_SUCH_LOGON_SESSION);
    let answer = world.json(&["logoff", "web"]);
    assert_eq!(answer.code, Some(8));
    assert_eq!(answer.json()["task"]["error"], "0x80070520");
    assert_eq!(world.vmm(&["logoff", "web", "--ok-if-none"]).code, Some(0));
    assert_eq!(world.vmm(&["task", "wait", "web", "7"]).code, Some(8));
    assert_eq!(world.vmm(&["task", "show", "web", "7"]).code, Some(0));
}

#[test]
fn a_wait_that_is_over_exits_with_6_and_none_prints_the_id() {
    let world = World::new();
    let machine = Scripted::new(&world);
    let answer = world.json(&["logoff", "web", "--timeout", "50ms"]);
    assert_eq!(answer.code, Some(6));
    assert_eq!(answer.json()["task"]["is_complete"], false);
    let answer = world.vmm(&["logoff", "web", "--no-wait"]);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(0), "7\n"));
    machine.end(TaskResult::TimeOutError, HResult::VM_E_TIMED_OUT);
    assert_eq!(world.vmm(&["task", "wait", "web", "7"]).code, Some(6));
}

#[test]
fn an_interrupt_cancels_what_has_not_begun() {
    let world = World::new();
    let _machine = Scripted::new(&world);
    let (logoff, _stderr) = begin(&world);
    logoff.signal(rustix::process::Signal::INT);
    let (status, stdout) = logoff.end_quietly();
    assert_eq!(status.code(), Some(7));
    assert_eq!(document(&stdout)["task"]["result"], "Cancelled");
}

#[test]
fn an_interrupt_leaves_what_has_begun_and_says_how_to_follow_it() {
    let world = World::new();
    let machine = Scripted::new(&world);
    let (logoff, mut stderr) = begin(&world);
    machine.change(|task| task.is_cancelable = false);
    logoff.signal(rustix::process::Signal::INT);
    let (status, _) = logoff.end_quietly();
    assert_eq!(status.code(), Some(1));
    assert_eq!(line(&mut stderr), "\n");
    let said = line(&mut stderr);
    assert!(said.contains("it has begun") && said.contains("vmm task wait web 7"), "{said}");
    assert!(!machine.task.lock().unwrap().is_complete);
}
