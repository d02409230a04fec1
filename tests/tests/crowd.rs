//! A machine's process and a thousand clients: what they cost, and whether anybody waits for them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tests::agent::{self, Manner};
use tests::micro::elf;
use tests::puppet::Usage;
use tests::relay;
use vmm::control::client::{Client, Events};
use vmm::control::wire::Request;
use vmm::events::Notice;
use vmm::runtime::Runtime;
use vmm::state::VmState;
use vmm::{LogoffOptions, TaskResult};

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(60);
const VMM: &str = env!("CARGO_BIN_EXE_vmm");
const IDLE: usize = 1_000;
const LISTENING: usize = 100;
/// Those who wait for one task.
const WAITING: usize = 100;

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the process has of the host.
fn usage(process: &Process) -> Usage {
    Usage::of(process.0.id())
}

fn connect(runtime: &Runtime) -> Client {
    let deadline = Instant::now() + LIMIT;
    loop {
        match Client::connect(runtime, "crowded") {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Has `command` run a machine of files in `folder`, and waits until it runs.
fn start(folder: &Path, mut command: Command) -> (Process, Runtime) {
    let kernel = folder.join("kernel");
    fs::write(&kernel, elf(relay::code())).unwrap();
    let runtime = Runtime::at(folder.join("run"));
    let process = command
        .args(["run", "crowded", "--memory", "32M", "--console", "none", "--kernel"])
        .arg(&kernel)
        .env("VMM_RUNTIME_DIR", folder.join("run"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(process);
    let deadline = Instant::now() + LIMIT;
    while connect(&runtime).machine().unwrap().state != VmState::Running {
        assert!(Instant::now() < deadline, "the machine never runs");
    }
    (process, runtime)
}

#[test]
fn case_42_clients_leave_the_machine_the_descriptors_that_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -n 100 && exec \"$0\" \"$@\"", VMM]);
    let (_process, runtime) = start(folder.path(), few);
    let idle: Vec<Client> = (0..200).map(|_| connect(&runtime)).collect();
    let mut asking = connect(&runtime);
    let reset = asking.work(Request::Reset).unwrap();
    let reset = asking.wait(reset.task.id, Some(LIMIT), |_| ()).unwrap();
    assert_eq!(reset.task.result, Some(TaskResult::Success), "{reset:?}");
    assert_eq!(asking.machine().unwrap().state, VmState::Running);
    drop(idle);
}

#[test]
fn case_40_a_thousand_idle_clients_and_many_who_wait_cost_little_and_slow_down_nobody() {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = rustix::process::Rlimit { current: limits.maximum, ..limits };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let (process, runtime) = start(folder.path(), Command::new(VMM));
    let deadline = Instant::now() + LIMIT;

    agent::connect(&folder.path().join("run/crowded/vsock.sock"), Manner::Waits);
    let mut asking = connect(&runtime);
    while !asking.machine().unwrap().agent.connected {
        assert!(Instant::now() < deadline, "the agent is not taken");
        thread::sleep(Duration::from_millis(2));
    }
    let task = asking.logoff(LogoffOptions::default()).unwrap().task.id;
    let Usage { memory, threads, .. } = usage(&process);
    let idle: Vec<Client> = (0..IDLE).map(|_| connect(&runtime)).collect();
    let mut listening: Vec<Events> =
        (0..LISTENING).map(|_| connect(&runtime).events().unwrap()).collect();
    let waiting: Vec<_> = (0..WAITING)
        .map(|_| {
            let mut client = connect(&runtime);
            thread::spawn(move || client.wait(task, Some(LIMIT), |_| ()))
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..500 {
        let begun = Instant::now();
        asking.machine().unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    connect(&runtime).act(Request::Pause).unwrap();
    for events in &mut listening {
        let notice = events.next(Some(LIMIT)).unwrap();
        let Some(Notice::Event(event)) = notice else { panic!("{notice:?}") };
        assert_eq!(event.number, 1);
    }
    let more = usage(&process).memory;
    eprintln!(
        "{} clients: {memory} KiB of anonymous memory became {more} KiB, the slowest of 500 answers \
         took {slowest:?}",
        IDLE + LISTENING + WAITING
    );
    connect(&runtime).act(Request::Resume).unwrap();
    asking.cancel(task).unwrap();
    for waiter in waiting {
        let end = waiter.join().unwrap().unwrap().task;
        assert_eq!((end.id, end.result), (task, Some(TaskResult::Cancelled)));
    }
    assert!(more < 10 * 1024, "{more} KiB");
    // The thread that paused the machine may still be about to end.
    while usage(&process).threads > threads {
        assert!(Instant::now() < deadline, "clients have threads");
    }
    assert!(slowest < LIMIT);
    drop(idle);
}
