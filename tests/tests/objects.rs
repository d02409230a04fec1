//! The object model from Rust: machines that run here, machines of other processes, and their codes.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tests::agent::{self, Manner};
use tests::micro::{POWER_OFF, SPIN, elf};
use tests::relay;
use vmm::catalog::{Catalog, Definition};
use vmm::error::CallError;
use vmm::events::{EventKind, Notice};
use vmm::runtime::Runtime;
use vmm::state::VmState;
use vmm::virtual_pc::Task;
use vmm::{HResult, LogoffOptions, TaskResult, VirtualMachine, VirtualPc};

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(30);

struct World {
    folder: tempfile::TempDir,
    pc: VirtualPc,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::at(folder.path().join("run"));
        let pc = VirtualPc::at(Catalog::at(folder.path().join("data"), runtime));
        Self { folder, pc }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn definition(&self, code: &[u8]) -> Definition {
        let kernel = self.path(&format!("kernel{}", code.len()));
        fs::write(&kernel, elf(code)).unwrap();
        Definition { memory: 32 << 20, ..Definition::new("", kernel) }
    }

    fn machine(&self, name: &str, code: &[u8]) -> VirtualMachine {
        self.pc.create_virtual_machine(name, &self.definition(code)).unwrap()
    }

    /// The machine `name` in a process of its own.
    fn process(&self, name: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
        command
            .args(["run", name, "--memory", "32M", "--console", "none", "--kernel"])
            .arg(self.definition(SPIN).kernel)
            .env("VMM_RUNTIME_DIR", self.path("run"))
            .env("VMM_DATA_DIR", self.path("data"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        Process(command.spawn().unwrap())
    }
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn succeeds(task: Result<Task, CallError>) {
    let info = task.unwrap().wait_for_completion(30_000).unwrap();
    assert_eq!(info.result, Some(TaskResult::Success), "{info:?}");
}

fn becomes(machine: &VirtualMachine, state: VmState) {
    let deadline = Instant::now() + LIMIT;
    while machine.state().ok() != Some(state) {
        assert!(Instant::now() < deadline, "{:?}, not {state:?}", machine.state());
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_machine_that_is_started_here_is_the_same_to_everyone() {
    let world = World::new();
    let machine = world.machine("Web", SPIN);
    assert_eq!(machine.state().unwrap(), VmState::TurnedOff);
    succeeds(machine.startup());
    let other = world.pc.find_virtual_machine("WEB").unwrap().unwrap();
    assert_eq!((other.name(), other.state().unwrap()), ("Web", VmState::Running));
    let mut events = other.events().unwrap();
    machine.pause().unwrap();
    assert_eq!(other.state().unwrap(), VmState::Paused);
    let notice = events.next(Some(LIMIT)).unwrap();
    let Some(Notice::Event(event)) = notice else { panic!("{notice:?}") };
    assert_eq!(event.kind, EventKind::OnStateChange { state: VmState::Paused });
    other.resume().unwrap();
    let tasks = world.pc.tasks().unwrap();
    assert_eq!(tasks.len(), 1, "its start");
    assert_eq!(world.pc.task(tasks[0].id()).unwrap().virtual_machine().name(), "Web");
    succeeds(other.reset());
    succeeds(other.turn_off());
    assert_eq!(machine.state().unwrap(), VmState::TurnedOff);
    succeeds(machine.startup());
    drop(machine);
    assert_eq!(other.state().unwrap(), VmState::TurnedOff, "nobody holds it any more");
    assert_eq!(other.startup().map(drop), Ok(()));
    succeeds(other.turn_off());
    assert!(world.pc.delete_virtual_machine(&other).unwrap());
    assert!(!world.pc.delete_virtual_machine(&other).unwrap(), "S_FALSE");
    assert!(world.pc.find_virtual_machine("web").unwrap().is_none(), "S_FALSE");
}

#[test]
fn a_machine_that_powers_itself_off_can_be_started_again_and_deleted() {
    let world = World::new();
    let machine = world.machine("brief", POWER_OFF);
    for _ in 0..3 {
        succeeds(machine.startup());
        becomes(&machine, VmState::TurnedOff);
    }
    assert!(world.pc.delete_virtual_machine(&machine).unwrap());
}

#[test]
fn each_member_answers_with_its_documented_code() {
    let world = World::new();
    let machine = world.machine("web", SPIN);
    let gone = world.machine("gone", SPIN);
    world.pc.delete_virtual_machine(&gone).unwrap();
    let code = |answer: Result<(), CallError>| answer.map_or_else(|e| e.code, |()| HResult::S_OK);
    let guest = machine.guest_os();
    let options = LogoffOptions::default;
    let create =
        |name: &str| code(world.pc.create_virtual_machine(name, &world.definition(SPIN)).map(drop));
    let missing = Definition { kernel: "/nowhere/kernel".into(), ..world.definition(SPIN) };

    for (answer, expected) in [
        (create(""), HResult::VM_E_CONFIG_NO_NAME),
        (create(&"x".repeat(81)), HResult::VM_E_CONFIG_NAME_TOO_LONG),
        (create("a/b"), HResult::VM_E_CONFIG_NAME_INVALID_CHAR),
        (create("WEB"), HResult::VM_E_CONFIG_DUPLICATE_NAME),
        (
            code(world.pc.create_virtual_machine("new", &missing).map(drop)),
            HResult::ERROR_PATH_NOT_FOUND,
        ),
        (
            code(world.pc.register_virtual_machine(None, &world.path("none.toml")).map(drop)),
            HResult::ERROR_FILE_NOT_FOUND,
        ),
        (code(world.pc.task(1).map(drop)), HResult::DISP_E_BADINDEX),
        // Off.
        (code(machine.turn_off().map(drop)), HResult::VM_E_VM_NOT_RUNNING),
        (code(machine.reset().map(drop)), HResult::VM_E_VM_NOT_RUNNING),
        (code(machine.pause()), HResult::VM_E_VM_NOT_RUNNING),
        (code(machine.resume()), HResult::VM_E_VM_NOT_RUNNING),
        (code(guest.logoff(options()).map(drop)), HResult::VM_E_VM_NOT_RUNNING),
        (code(guest.computer_name().map(drop)), HResult::VM_E_VM_NOT_RUNNING),
        // Unknown.
        (code(gone.state().map(drop)), HResult::VM_E_VM_UNKNOWN),
        (code(gone.startup().map(drop)), HResult::VM_E_VM_UNKNOWN),
        (code(gone.turn_off().map(drop)), HResult::VM_E_VM_UNKNOWN),
        (code(gone.guest_os().logoff(options()).map(drop)), HResult::VM_E_VM_UNKNOWN),
    ] {
        assert_eq!(answer, expected);
    }
    assert_eq!(guest.can_shutdown(), Ok(None), "S_FALSE");
    let startup = machine.startup().unwrap();
    startup.wait_for_completion(-1).unwrap();
    for (answer, expected) in [
        (code(machine.startup().map(drop)), HResult::VM_E_VM_RUNNING),
        (code(world.pc.delete_virtual_machine(&machine).map(drop)), HResult::VM_E_VM_RUNNING),
        (code(world.pc.unregister_virtual_machine(&machine).map(drop)), HResult::VM_E_VM_RUNNING),
        (code(machine.set_definition(&world.definition(SPIN))), HResult::VM_E_PREF_VM_ACTIVE),
        (code(machine.resume()), HResult::E_FAIL),
        (code(machine.pause()), HResult::S_OK),
        (code(machine.pause()), HResult::E_FAIL),
        (code(guest.is_user_logged_on(1).map(drop)), HResult::VM_E_VM_PAUSED),
        (code(guest.get_parameter("HostName").map(drop)), HResult::VM_E_VM_PAUSED),
        (code(guest.set_parameter("a", "b")), HResult::VM_E_VM_PAUSED),
        (code(guest.logoff(options()).map(drop)), HResult::VM_E_VM_NOT_RUNNING),
        (code(machine.resume()), HResult::S_OK),
        // There is no agent.
        (code(guest.logoff(options()).map(drop)), HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL),
        (code(guest.shutdown(true).map(drop)), HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL),
        (code(guest.restart(false).map(drop)), HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL),
        (code(guest.computer_name().map(drop)), HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL),
        (code(guest.screen_locked().map(drop)), HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL),
        (code(guest.heartbeat_percentage().map(drop)), HResult::VM_E_ADDITIONS_NOT_AVAIL),
        (code(guest.is_heartbeating().map(drop)), HResult::VM_E_ADDITIONS_NOT_AVAIL),
        (code(guest.integration_components_version().map(drop)), HResult::VM_E_ADDITIONS_NOT_AVAIL),
        (code(guest.is_user_logged_on(2).map(drop)), HResult::E_INVALIDARG),
        (code(startup.wait_for_completion(-2).map(drop)), HResult::E_INVALIDARG),
        (code(startup.wait_for_completion(4_000_001).map(drop)), HResult::E_INVALIDARG),
        (code(startup.wait_for_completion(0).map(drop)), HResult::S_OK),
        (code(startup.cancel()), HResult::E_FAIL),
    ] {
        assert_eq!(answer, expected);
    }
    assert_eq!(guest.can_shutdown(), Ok(Some(false)));
}

#[test]
fn case_51_whoever_waits_for_a_process_that_is_killed_is_answered_and_it_starts_again_at_once() {
    let world = World::new();
    let mut process = world.process("web");
    let machine = loop {
        if let Some(machine) = world.pc.find_virtual_machine("web").unwrap() {
            break machine;
        }
    };
    becomes(&machine, VmState::Running);
    let mut events = machine.events().unwrap();
    let waiter = thread::spawn(move || {
        let told = events.next(Some(LIMIT));
        (told, Instant::now())
    });
    let killed = Instant::now();
    process.0.kill().unwrap();
    assert_eq!(process.0.wait().unwrap().signal(), Some(9));
    let (told, at) = waiter.join().unwrap();
    assert_eq!(told.unwrap_err().code, HResult::VM_E_VM_NOT_RUNNING);
    assert!(at.duration_since(killed) < Duration::from_secs(1));
    assert!(world.pc.find_virtual_machine("web").unwrap().is_none(), "nothing stale is seen");
    // The same name, in a catalog now, and what the killed process left is in nobody's way.
    let machine = world.machine("web", SPIN);
    assert_eq!(machine.state().unwrap(), VmState::TurnedOff);
    succeeds(machine.startup());
}

#[test]
fn what_a_guest_answers_comes_from_the_call_or_the_task_with_its_code() {
    let world = World::new();
    let failed = |error| Manner::Ends(TaskResult::UnexpectedError, error);
    for (index, (manner, call, task)) in [
        (Manner::NOBODY, HResult::S_OK, HResult::ERROR_NO_SUCH_LOGON_SESSION),
        (Manner::Ends(TaskResult::Success, HResult::S_OK), HResult::S_OK, HResult::S_OK),
        (failed(HResult::DISP_E_EXCEPTION), HResult::S_OK, HResult::DISP_E_EXCEPTION),
        (Manner::Rejects(HResult::DISP_E_EXCEPTION), HResult::DISP_E_EXCEPTION, HResult::S_OK),
        (Manner::Silent, HResult::VM_E_TIMED_OUT, HResult::S_OK),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("web{index}");
        let machine = world.machine(&name, relay::code());
        succeeds(machine.startup());
        agent::connect(&world.path("run").join(&name).join("vsock.sock"), manner);
        let deadline = Instant::now() + LIMIT;
        while !machine.info().unwrap().agent.connected {
            assert!(Instant::now() < deadline, "the agent is not taken");
            thread::sleep(Duration::from_millis(2));
        }
        match machine.guest_os().logoff(LogoffOptions::default()) {
            Ok(logoff) => {
                assert_eq!(call, HResult::S_OK, "{manner:?}");
                assert_eq!(logoff.wait_for_completion(30_000).unwrap().error, task, "{manner:?}");
            }
            Err(error) => assert_eq!(error.code, call, "{manner:?}"),
        }
    }
}

#[test]
fn what_becomes_of_every_machine_is_told_and_of_one_that_is_killed_too() {
    let world = World::new();
    let early = world.machine("early", SPIN);
    succeeds(early.startup());
    let mut events = world.pc.events();
    // The next that concerns `name`, until its state is this.
    let mut until = |name: &str, state: VmState| {
        let deadline = Instant::now() + LIMIT;
        loop {
            assert!(Instant::now() < deadline, "{name} is never {state:?}");
            match events.next(Some(LIMIT)).unwrap() {
                Some(change) if change.machine == name && change.state == state => return,
                _ => {}
            }
        }
    };
    early.pause().unwrap();
    until("early", VmState::Paused);
    early.resume().unwrap();
    until("early", VmState::Running);
    let mut late = world.process("late");
    until("late", VmState::Running);
    late.0.kill().unwrap();
    until("late", VmState::TurnedOff);
    succeeds(early.turn_off());
    until("early", VmState::TurnedOff);
    assert_eq!(events.next(Some(Duration::from_millis(1))).unwrap(), None);
}

#[test]
fn a_task_that_ends_the_machines_process_is_heard_to_its_end() {
    let world = World::new();
    for _ in 0..10 {
        let _process = world.process("web");
        let machine = loop {
            if let Some(machine) = world.pc.find_virtual_machine("web").unwrap() {
                break machine;
            }
        };
        becomes(&machine, VmState::Running);
        let task = machine.turn_off().unwrap();
        // Whoever asks late is told the same as whoever waits.
        thread::sleep(Duration::from_millis(100));
        let waited = task.wait_for_completion(30_000).unwrap();
        assert_eq!((waited.result, waited.error), (Some(TaskResult::Success), HResult::S_OK));
        assert_eq!(task.info().unwrap(), waited);
    }
}

#[test]
fn a_machine_that_spins_uses_its_processors_and_one_that_is_off_has_no_account() {
    let world = World::new();
    let machine = world.machine("web", SPIN);
    assert_eq!(machine.accountant(), Ok(None));
    succeeds(machine.startup());
    let busy = machine.accountant().unwrap().unwrap();
    assert!(busy.cpu_utilization > 0 && !busy.up_time.is_zero(), "{busy:?}");
    let used = machine.info().unwrap().used.cpu_ms;
    assert!(used > 0);
    machine.pause().unwrap();
    let paused = machine.accountant().unwrap().unwrap();
    assert_eq!(paused.cpu_utilization, 0, "{paused:?}");
    machine.resume().unwrap();
    // The time of boots that are over counts.
    succeeds(machine.reset());
    assert!(machine.info().unwrap().used.cpu_ms >= used);
}

/// The example, built if it was not: its machine does not wait for that.
fn example() -> PathBuf {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--workspace", "--example", "logoff"]);
    assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
    // Beside the folder of this program.
    let path = std::env::current_exe().unwrap();
    path.parent().unwrap().parent().unwrap().join("examples/logoff")
}

#[test]
fn the_example_asks_the_process_that_runs_a_machine_and_tells_of_each_session() {
    let example = example();
    let world = World::new();
    let machine = world.machine("web", relay::code());
    succeeds(machine.startup());
    let success = Manner::Ends(TaskResult::Success, HResult::S_OK);
    agent::connect(&world.path("run/web/vsock.sock"), success);
    let output = Command::new(example)
        .arg("web")
        .env("VMM_RUNTIME_DIR", world.path("run"))
        .env("VMM_DATA_DIR", world.path("data"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for line in
        ["log off all users: Some(Success) 0x00000000 S_OK", "alice on tty1: Some(Terminated)"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(machine.state().unwrap(), VmState::Running);
}
