//! The objects that users and host tools hold, with a real guest behind them: the codes of a logoff
//! from every way in, many who wait for one task, and the end of a machine's process.

use protocol::HResult;
use protocol::task::{LogoffOptions, TaskInfo, TaskResult};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, Uid, getrlimit, getuid, kill_process, setrlimit,
};
use rustix::thread::set_thread_res_uid;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tests::{Flavour, Machine, vmm_bin};
use vmm::catalog::{AccessList, Catalog, Definition, Principal};
use vmm::control::client::Client;
use vmm::error::CallError;
use vmm::runtime::Runtime;
use vmm::state::VmState;
use vmm::virtual_pc::Task;
use vmm::{VirtualMachine, VirtualPc};

/// Only a bound against hanging.
const LIMIT: Duration = Duration::from_secs(180);
/// Within this whoever waits is to be told that a machine's process has gone; the emulated host of
/// the lab has one slow processor for all of them.
const SOON: Duration = Duration::from_secs(20);
/// A user whom no system has, and who may look at the machines here.
const READER: u32 = 4_000_001;
/// What the guest finds in its SMBIOS tables.
const OEM_STRING: &str = "io.systemd.credential:motd=hello";
/// Those who wait for one task, and those who are connected and do nothing.
const WAITING: usize = 100;
const IDLE: usize = 1000;

/// Machines of this test's own.
struct World {
    folder: tempfile::TempDir,
    pc: VirtualPc,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Others can pass through, and use the command.
        fs::copy(vmm_bin(), folder.path().join("vmm")).unwrap();
        for path in [folder.path(), &folder.path().join("vmm")] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        let runtime = Runtime::at(folder.path().join("run"));
        let pc = VirtualPc::at(Catalog::at(folder.path().join("data"), runtime));
        Self { folder, pc }
    }

    /// A machine of the catalog: a guest without logins, that a reader may look at.
    fn create(&self, name: &str) -> VirtualMachine {
        let flavour = Flavour::BookwormCloud;
        let definition = Definition {
            initrd: Some(flavour.initrd()),
            append: "quiet logins=none".into(),
            memory: 256 << 20,
            oem_strings: vec![OEM_STRING.into()],
            access: AccessList {
                read: vec![Principal::User(READER.to_string())],
                ..AccessList::default()
            },
            ..Definition::new("", flavour.kernel())
        };
        self.pc.create_virtual_machine(name, &definition).unwrap()
    }

    /// `vmm` with `arguments`.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder.path().join("vmm"));
        self.environment(command.args(arguments));
        command
    }

    /// Lets `command` have the machines of this test.
    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("VMM_RUNTIME_DIR", self.folder.path().join("run"))
            .env("VMM_DATA_DIR", self.folder.path().join("data"))
    }

    /// `machine` under `vmm run`, when its agent has connected.
    fn boot(&self, machine: &VirtualMachine) -> Machine {
        let name = machine.name();
        let mut running = Machine::under(name, self.command(&["run", name]), false);
        running.wait_for_shell();
        until("no agent comes", || machine.guest_os().sessions().is_ok());
        running
    }
}

/// Waits until `holds`.
fn until(otherwise: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < limit, "{otherwise}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// What a logoff came to: the code of the call, or that of its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Call(HResult),
    Task(HResult),
}

/// A way in. The numbers are those of users.
struct Way {
    name: &'static str,
    log_off: fn(&World, &str, u32) -> Came,
}

const WAYS: [Way; 3] = [
    Way { name: "Rust", log_off: from_rust },
    Way { name: "C", log_off: from_c },
    Way { name: "command", log_off: from_command },
];

fn from_rust(world: &World, name: &str, user: u32) -> Came {
    let log_off = || -> Result<TaskInfo, CallError> {
        let unknown = || CallError::new(HResult::VM_E_VM_UNKNOWN, "not found");
        let machine = world.pc.find_virtual_machine(name)?.ok_or_else(unknown)?;
        let task = machine.guest_os().logoff(LogoffOptions::default())?;
        task.wait_for_completion(-1)
    };
    let answer = thread::scope(|scope| {
        let call = scope.spawn(|| {
            // Of this thread only.
            set_thread_res_uid(Uid::from_raw(user), Uid::from_raw(user), Uid::from_raw(user))
                .unwrap();
            log_off()
        });
        call.join().unwrap()
    });
    match answer {
        Ok(task) => Came::Task(task.error),
        Err(refusal) => Came::Call(refusal.code),
    }
}

/// A program in C that `cargo xtask test` has made.
fn c_program(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} names a program; `cargo xtask test` sets it"))
        .into()
}

fn from_c(world: &World, name: &str, user: u32) -> Came {
    // Where others may use it.
    let program = world.folder.path().join("guest");
    if !program.exists() {
        fs::copy(c_program("VMM_C_GUEST"), &program).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }
    let output =
        world.environment(&mut Command::new(program)).args(["once", name]).uid(user).output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let words: Vec<&str> = said.split_whitespace().collect();
    let [came, code, symbol] = words[..] else { panic!("{said}") };
    let code: HResult = serde_json::from_value(code.into()).unwrap();
    assert_eq!(code.symbol(), Some(symbol), "{said}");
    if came == "call" { Came::Call(code) } else { Came::Task(code) }
}

fn from_command(world: &World, name: &str, user: u32) -> Came {
    let mut command = world.command(&["logoff", name, "--format", "json"]);
    let output = command.uid(user).stderr(Stdio::null()).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let task = &document["task"];
    let (code, symbol, came): (_, _, fn(HResult) -> Came) = match &document["error"] {
        Value::Null => (&task["error"], &task["error_name"], Came::Task),
        refusal => (&refusal["code"], &refusal["name"], Came::Call),
    };
    let code: HResult = serde_json::from_value(code.clone()).unwrap();
    assert_eq!(code.symbol(), symbol.as_str(), "{document}");
    let exit = match code {
        HResult::S_OK => 0,
        HResult::VM_E_VM_UNKNOWN => 3,
        HResult::VM_E_VM_NOT_RUNNING => 4,
        HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL => 5,
        HResult::VM_E_TIMED_OUT => 6,
        HResult::ERROR_NO_SUCH_LOGON_SESSION => 8,
        HResult::ERROR_ACCESS_DENIED => 9,
        _ => 1,
    };
    assert_eq!(output.status.code(), Some(exit), "{document}");
    came(code)
}

#[test]
fn each_code_of_a_logoff_is_the_same_from_every_way_in() {
    if !getuid().is_root() {
        tests::not_tested("only root can become other users");
        return;
    }
    let world = World::new();
    let machine = world.create("codes");
    let logs_off = |name: &str, user: u32, expected: Came| {
        for way in &WAYS {
            assert_eq!((way.log_off)(&world, name, user), expected, "from {}", way.name);
        }
    };
    logs_off("nobody", 0, Came::Call(HResult::VM_E_VM_UNKNOWN));
    logs_off("codes", 0, Came::Call(HResult::VM_E_VM_NOT_RUNNING));

    let mut guest = world.boot(&machine);
    logs_off("codes", READER, Came::Call(HResult::ERROR_ACCESS_DENIED));
    logs_off("codes", READER + 1, Came::Call(HResult::VM_E_VM_UNKNOWN));
    logs_off("codes", 0, Came::Task(HResult::ERROR_NO_SUCH_LOGON_SESSION));
    for way in &WAYS {
        guest.console.run("login-on tty2 alice");
        guest.wait_for_who(1);
        assert_eq!((way.log_off)(&world, "codes", 0), Came::Task(HResult::S_OK), "{}", way.name);
        assert_eq!(guest.who(), Vec::<String>::new());
    }
    guest.console.run("login-on tty2 alice");
    guest.wait_for_who(1);
    let said = example(&world, &["codes".as_ref()]);
    assert!(said.contains("100 %\n") && said.contains("result 0, error 0x00000000 S_OK"), "{said}");
    assert_eq!(guest.who(), Vec::<String>::new());
    // The guest cannot tell who is there.
    guest.console.run("umount -l /proc");
    logs_off("codes", 0, Came::Call(HResult::DISP_E_EXCEPTION));
    guest.console.run("mount -t proc proc /proc");
    machine.pause().unwrap();
    logs_off("codes", 0, Came::Call(HResult::VM_E_VM_NOT_RUNNING));
    machine.resume().unwrap();
    // The guest does not accept.
    guest.console.run("kill -STOP $(pidof vmm-agent)");
    logs_off("codes", 0, Came::Call(HResult::VM_E_TIMED_OUT));
    guest.console.run("touch /run/no-agent; kill -9 $(pidof vmm-agent)");
    until("the agent is still there", || machine.guest_os().sessions().is_err());
    logs_off("codes", 0, Came::Call(HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL));
    assert_eq!(guest.power_off().0.code(), Some(0));
    logs_off("codes", 0, Came::Call(HResult::VM_E_VM_NOT_RUNNING));
}

/// What the example in C prints, which must succeed.
fn example(world: &World, arguments: &[&OsStr]) -> String {
    let mut example = Command::new(c_program("VMM_C_LOGOFF"));
    let output = world.environment(example.args(arguments)).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{why}");
    said
}

#[test]
fn the_example_in_c_starts_a_machine_and_logs_off() {
    let world = World::new();
    let flavour = Flavour::BookwormCloud;
    let (kernel, initrd) = (flavour.kernel(), flavour.initrd());
    let words = ["example".as_ref(), kernel.as_ref(), initrd.as_ref(), "quiet".as_ref()];
    let said = example(&world, &words);
    for line in [
        "create: 0x00000000 S_OK",
        "startup, task: 0x00000000 S_OK",
        "\"OnAdditionsAvailable\"",
        "logoff: 0x00000000 S_OK",
        "error 0x80070520 ERROR_NO_SUCH_LOGON_SESSION",
    ] {
        assert!(said.contains(line), "no {line:?}: {said}");
    }
    let machine = world.pc.find_virtual_machine("example").unwrap().unwrap();
    assert_eq!(machine.state(), Ok(VmState::TurnedOff), "it ran in the example's process");
}

/// A logoff of one user who does not leave, when it has begun.
fn endless_logoff(guest: &mut Machine, machine: &VirtualMachine) -> Task {
    guest.console.run("login-on tty3 bob");
    guest.wait_for_who(1);
    let long = LIMIT.as_millis() as u64;
    let options = LogoffOptions { grace_ms: long, deadline_ms: 2 * long, ..Default::default() };
    let task = machine.guest_os().logoff(options).unwrap();
    until("it never begins", || !task.info().unwrap().is_cancelable);
    task
}

/// Waits for `task` in so many threads, each with a connection of its own.
fn wait(task: &Task, count: usize) -> Vec<JoinHandle<Result<TaskInfo, CallError>>> {
    let waiter = |_| {
        let task = task.clone();
        thread::spawn(move || task.wait_for_completion(-1))
    };
    (0..count).map(waiter).collect()
}

#[test]
fn a_guest_finds_its_uuid_and_the_hosts_words_in_its_smbios_tables() {
    let world = World::new();
    let machine = world.create("identity");
    let mut guest = world.boot(&machine);
    let id = machine.definition().unwrap().id.unwrap();
    let told = guest.console.run("cat /sys/class/dmi/id/product_uuid");
    assert_eq!(told.trim(), id.to_string());
    let told = guest.console.run("cat /sys/class/dmi/id/sys_vendor /sys/class/dmi/id/product_name");
    assert_eq!(told.lines().map(str::trim).collect::<Vec<_>>(), ["vmm", "Virtual Machine"]);
    let told = guest.console.run("tr '\\0' '\\n' < /sys/firmware/dmi/entries/11-0/raw");
    assert!(told.lines().any(|line| line.trim().ends_with(OEM_STRING)), "{told:?}");
}

#[test]
fn a_hundred_wait_for_one_task_and_are_told_at_once_when_the_machines_process_is_killed() {
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }).unwrap();
    let world = World::new();
    let machine = world.create("crowd");
    let mut guest = world.boot(&machine);
    let profile = "trap '' HUP TERM; while :; do read -r line; done";
    guest.console.run(&format!("echo \"{profile}\" > /home/bob/.profile"));

    let task = endless_logoff(&mut guest, &machine);
    let id = task.id().to_string();
    let mut leaver = world.command(&["task", "wait", "crowd", &id]);
    let mut leaver = leaver.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let waiting = wait(&task, WAITING);
    let runtime = Runtime::at(world.folder.path().join("run"));
    let idle: Vec<Client> =
        (0..IDLE).map(|_| Client::connect(&runtime, "crowd").unwrap()).collect();
    // A client that dies cancels nothing.
    leaver.kill().unwrap();
    leaver.wait().unwrap();
    assert!(!task.info().unwrap().is_complete);
    guest.console.run("kill -9 $(ps -o pid,user | awk '$2 == \"bob\" { print $1 }')");
    for waiter in waiting {
        let end = waiter.join().unwrap().unwrap();
        assert_eq!((end.id, end.result), (task.id(), Some(TaskResult::Success)), "{end:?}");
    }
    drop(idle);

    let task = endless_logoff(&mut guest, &machine);
    let waiting = wait(&task, WAITING);
    let killed = Instant::now();
    kill_process(Pid::from_raw(guest.pid() as i32).unwrap(), Signal::KILL).unwrap();
    for waiter in waiting {
        let refusal = waiter.join().unwrap().unwrap_err();
        assert_eq!(refusal.code, HResult::VM_E_VM_NOT_RUNNING, "{refusal:?}");
    }
    println!("{WAITING} were told after {:?}", killed.elapsed());
    assert!(killed.elapsed() < SOON);
    assert_eq!(machine.state().unwrap(), VmState::TurnedOff);
    drop(guest);
    world.boot(&machine);
}
