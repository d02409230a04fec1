//! Case 42: a host that has no room, no descriptors, no memory at every step, and signals without end.
//!
//! The machines are in no sandbox: a call that is made to fail has the number -1, which no filter lets
//! through. The faults are made by `strace`, which lets the N-th call of a kind fail that a thread makes; the
//! calls of each path are counted first. Whatever fails, the outcome is a documented one, and what is
//! on the disk is whole. With `VMM_FAULTS=all` each call fails in every way that it has.

use crate::VMM;
use crate::world::{Machine, World, eventually};
use protocol::HResult;
use protocol::task::{LogoffOptions, TaskResult};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tests::agent::{self, Manner};
use tests::micro::{POWER_OFF, SPIN, elf};
use tests::relay;
use vmm::catalog::Catalog;
use vmm::control::client::Client;
use vmm::runtime::Runtime;

/// Calls, and in which ways they can fail; the first is that of every run.
const FAULTS: &[(&str, &[&str])] = &[
    ("openat", &["EMFILE", "ENOSPC", "EINTR", "ENOMEM", "EIO"]),
    ("mkdir", &["ENOSPC", "EIO"]),
    ("mkdirat", &["ENOSPC", "EIO"]),
    ("write", &["ENOSPC", "EIO", "EINTR"]),
    ("pwrite64", &["ENOSPC", "EIO", "EINTR"]),
    ("read", &["EIO", "EINTR"]),
    ("pread64", &["EIO", "EINTR"]),
    ("lseek", &["EIO"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("ftruncate", &["EIO", "ENOSPC", "EINTR"]),
    ("fchmod", &["EIO"]),
    ("renameat", &["ENOSPC", "EIO"]),
    ("symlinkat", &["ENOSPC", "EIO"]),
    ("unlinkat", &["EIO"]),
    ("unlink", &["EIO"]),
    ("rmdir", &["EIO"]),
    ("statx", &["ENOMEM", "EIO"]),
    ("newfstatat", &["ENOMEM", "EIO"]),
    ("fstat", &["EIO"]),
    ("readlinkat", &["ENOMEM", "EIO"]),
    ("fcntl", &["EINTR", "ENOLCK"]),
    ("getcwd", &["ENOMEM"]),
    ("getrandom", &["EINTR"]),
    ("mmap", &["ENOMEM"]),
    ("mprotect", &["ENOMEM"]),
    ("clone3", &["ENOMEM"]),
    ("ioctl", &["ENOMEM", "EINTR"]),
    ("eventfd2", &["EMFILE", "ENOMEM"]),
    ("epoll_create1", &["EMFILE", "ENOMEM"]),
    ("epoll_ctl", &["ENOSPC", "ENOMEM"]),
    ("epoll_wait", &["EINTR"]),
    ("socket", &["EMFILE", "ENOMEM"]),
    ("bind", &["ENOSPC", "ENOMEM"]),
    ("listen", &["ENOMEM"]),
    ("accept4", &["EMFILE", "ENOMEM", "EINTR"]),
    ("connect", &["EINTR", "ENOMEM"]),
    ("sendto", &["ENOMEM", "EINTR"]),
    ("recvfrom", &["ENOMEM", "EINTR"]),
    ("sendmsg", &["ENOMEM", "EINTR"]),
    ("recvmsg", &["ENOMEM", "EINTR"]),
    ("readv", &["EIO", "EINTR"]),
    ("writev", &["EIO", "EINTR"]),
];
/// Calls by which a machine's process gives up what it could do, and in which way they can fail.
const CONFINEMENT: &[(&str, &[&str])] = &[
    ("capset", &["EPERM"]),
    ("landlock_add_rule", &["ENOMEM"]),
    ("landlock_create_ruleset", &["ENOMEM"]),
    ("landlock_restrict_self", &["EPERM"]),
    ("mount", &["EPERM"]),
    ("pivot_root", &["EINVAL"]),
    ("prctl", &["EPERM"]),
    ("prlimit64", &["EPERM"]),
    ("seccomp", &["ENOMEM"]),
    ("setgroups", &["EPERM"]),
    ("setresgid", &["EPERM"]),
    ("setresuid", &["EAGAIN"]),
    ("umount2", &["EINVAL"]),
    ("unshare", &["EPERM"]),
];
/// What of these calls gives nothing up: names of threads, a capability that the kernel does not have
/// either, the version of Landlock, limits that are read or raised.
const OTHERWISE: [&str; 5] =
    ["PR_SET_NAME", "CAP_???", "CREATE_RULESET_VERSION", "RLIMIT_STACK", "RLIMIT_NOFILE"];
/// Where it is not allocated for itself, memory that runs out ends a Rust program.
const MAPPINGS: [&str; 2] = ["mmap", "mprotect"];
/// How `strace` marks the calls that it has made fail.
const INJECTED: &str = "(INJECTED)";
/// Of many calls of a kind on long paths, so many fail in every run.
const FEW: usize = 2;

/// One fault.
#[derive(Clone, Debug)]
struct Fault {
    call: String,
    error: &'static str,
    number: usize,
}

impl Fault {
    fn words(&self) -> String {
        format!("inject={}:error={}:when={}", self.call, self.error, self.number)
    }
}

fn all() -> bool {
    std::env::var_os("VMM_FAULTS").is_some_and(|value| value == "all")
}

/// Whether faults can be made here.
fn can_trace() -> bool {
    let there = Command::new("strace").arg("-V").output().is_ok();
    if !there {
        tests::not_tested("faults, because strace is not installed");
    }
    there
}

/// `strace`, which writes what it sees to `trace`.
fn strace(world: &World, trace: &str, fault: Option<&Fault>) -> Command {
    let mut command = world.command("strace");
    command.args(["-f", "-y", "-o"]).arg(world.folder.path().join(trace));
    if let Some(fault) = fault {
        command.args(["-e", &fault.words()]);
    }
    // It and what it runs can be ended together.
    command.process_group(0);
    command
}

/// How a traced command ended.
#[derive(Debug)]
struct Ran {
    status: ExitStatus,
    stdout: String,
    stderr: String,
    trace: String,
}

fn run(world: &World, arguments: &[&str], fault: Option<&Fault>) -> Ran {
    let mut command = strace(world, "trace", fault);
    command.arg(VMM).args(arguments).args(["--format", "json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut traced = Traced(Machine { child });
    let status = traced.wait(&format!("{arguments:?} with {fault:?}"));
    let text = |from: &mut dyn std::io::Read| {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    };
    let child = &mut traced.0.child;
    Ran {
        status,
        stdout: text(child.stdout.as_mut().unwrap()),
        stderr: text(child.stderr.as_mut().unwrap()),
        trace: fs::read_to_string(world.folder.path().join("trace")).unwrap(),
    }
}

/// A tracer and what it traces, which end with the test.
struct Traced(Machine);

impl Traced {
    fn wait(&mut self, what: &str) -> ExitStatus {
        eventually(what, || self.0.child.try_wait().unwrap().is_some());
        self.0.child.wait().unwrap()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = kill_process_group(Pid::from_child(&self.0.child), Signal::KILL);
    }
}

/// All the faults that there can be in what `trace` has seen.
fn faults_of(trace: &str, from_start: bool) -> Vec<Fault> {
    faults_among(FAULTS, trace, from_start)
}

/// Those of `calls`.
fn faults_among(calls: &[(&str, &[&'static str])], trace: &str, from_start: bool) -> Vec<Fault> {
    // How often each thread has made each call; and those whose failing is impossible.
    let mut made: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut before: BTreeMap<&str, usize> = BTreeMap::new();
    let mut most: BTreeMap<&str, usize> = BTreeMap::new();
    let mut events: BTreeSet<(&str, usize)> = BTreeSet::new();
    let mut main = None;
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, words)) = rest.trim_start().split_once('(') else { continue };
        if !call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        let main = *main.get_or_insert(thread);
        let count = made.entry((thread, call)).or_default();
        *count += 1;
        let number = *count;
        let highest = most.entry(call).or_default();
        *highest = number.max(*highest);
        if words.contains("[eventfd]>") || words.contains("<pipe:") {
            events.insert((call, number));
        }
        // With this the program itself begins, behind its loader.
        if from_start && call == "poll" && thread == main && before.is_empty() {
            let of_main = made.iter().filter(|((thread, _), _)| *thread == main);
            before.extend(of_main.map(|((_, call), count)| (*call, *count)));
        }
    }
    assert!(!from_start || !before.is_empty(), "where does the program begin? {trace}");
    let mut faults = Vec::new();
    for (call, errors) in calls {
        let first = before.get(call).copied().unwrap_or(0) + 1;
        let ways = if all() { errors.len() } else { 1 };
        for error in &errors[..ways] {
            let last = most.get(call).copied().unwrap_or(0);
            // What holds a number has room for it.
            let possible = |number: &usize| *error == "EINTR" || !events.contains(&(call, *number));
            let fault = |number| Fault { call: (*call).into(), error, number };
            faults.extend((first..=last).filter(possible).map(fault));
        }
    }
    assert!(faults.len() > 10, "{} faults in {trace}", faults.len());
    faults
}

/// Plays each of `faults`, two at a time; what `play` gives is the trace of it. Which thread makes which
/// call is not the same in every run, so one or the other of them may not come about.
fn each(faults: &[Fault], play: impl Fn(&Fault) -> String + Sync) {
    let queue = Mutex::new(faults.iter());
    let made = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some(fault) = next else { return };
                    let trace = play(fault);
                    made.fetch_add(usize::from(trace.contains(INJECTED)), Ordering::Relaxed);
                }
            });
        }
    });
    let made = made.into_inner();
    assert!(made * 10 >= faults.len() * 9, "only {made} of {} faults were made", faults.len());
}

/// That something which is to last was written to the catalog is no success if the call failed that
/// should have done it.
fn is_no_lie(ran: &Ran, fault: &Fault, world: &World) {
    let lasting = ["write", "pwrite64", "fsync", "ftruncate", "fchmod", "renameat", "symlinkat"];
    let data = world.data();
    let data = data.to_str().unwrap();
    let failed = ran.trace.lines().any(|line| line.contains(INJECTED) && line.contains(data));
    if failed && lasting.contains(&fault.call.as_str()) && fault.error != "EINTR" {
        assert!(!ran.status.success(), "{fault:?}: {} {}", ran.stdout, ran.stderr);
    }
}

/// The command ended as it is documented to: `exits` are its codes besides those of an error.
fn is_documented(ran: &Ran, fault: &Fault, exits: &[i32]) {
    let said = format!("{fault:?}: {} {} {}", ran.status, ran.stdout, ran.stderr);
    if let Some(signal) = ran.status.signal() {
        assert!(
            MAPPINGS.contains(&fault.call.as_str()) && signal == Signal::ABORT.as_raw(),
            "{said}"
        );
        return;
    }
    assert!(!ran.stderr.contains("panicked"), "{said}");
    let code = ran.status.code().unwrap();
    if exits.contains(&code) {
        return;
    }
    let injected = ran.trace.lines().find(|line| line.contains(INJECTED)).unwrap_or("");
    if injected.contains(" write(1<") {
        // Its result is what could not be written.
        assert_eq!(code, 1, "{said}");
        return;
    }
    let document: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{said}"));
    // The command's own, or that of the task that it has followed.
    let (error, task) = (&document["error"], &document["task"]);
    let [found, name, description] = if task.is_null() {
        [&error["code"], &error["name"], &error["description"]]
    } else {
        [&task["error"], &task["error_name"], &task["error_description"]]
    };
    let found: HResult = serde_json::from_value(found.clone()).expect(&said);
    assert!(found.is_failure() && found.symbol().is_some(), "{said}");
    assert_eq!(name.as_str(), found.symbol(), "{said}");
    assert!(description.as_str().is_some_and(|text| text.contains(' ')), "{said}");
}

fn catalog(world: &World) -> Catalog {
    Catalog::at(world.data(), Runtime::at(world.runtime()))
}

/// What cannot be removed, looked at, or locked for it stays, as does what a process leaves that was
/// killed for want of memory.
const STAYS: [&str; 7] = ["fcntl", "unlink", "unlinkat", "rmdir", "statx", "mmap", "mprotect"];

/// Nobody runs the machine `web`, it can be run, and then nothing is left but the counter of tasks.
fn can_be_claimed(world: &World, fault: &Fault) {
    let runtime = Runtime::at(world.runtime());
    assert!(runtime.list().is_empty(), "{fault:?}");
    if !STAYS.contains(&fault.call.as_str()) {
        assert!(!world.runtime().join("web").exists(), "{fault:?}: its directory is still there");
    }
    drop(runtime.claim("web").unwrap_or_else(|error| panic!("{fault:?}: {error}")));
    world.holds_nothing();
}

#[test]
fn case_42_a_definition_is_written_whole_or_not_at_all_whatever_call_fails() {
    if !can_trace() {
        return;
    }
    let create = |world: &World, fault: Option<&Fault>| {
        let kernel = world.kernel(SPIN);
        run(world, &["create", "web", "--kernel", &kernel, "--memory", "32M"], fault)
    };
    let world = World::new();
    let faults = faults_of(&create(&world, None).trace, true);
    each(&faults, |fault| {
        let world = World::new();
        let ran = create(&world, Some(fault));
        is_documented(&ran, fault, &[0]);
        is_no_lie(&ran, fault, &world);
        let catalog = catalog(&world);
        let listed = catalog.list().unwrap();
        assert!(listed.iter().all(|machine| machine.definition.is_ok()), "{fault:?}: {listed:?}");
        if ran.status.success() {
            assert_eq!(listed.len(), 1, "{fault:?}");
        }
        let again = world.vmm(&["create", "web", "--kernel", &world.kernel(SPIN)]);
        assert_eq!(again.code == Some(0), listed.is_empty(), "{fault:?}: {again:?}");
        catalog.delete("web").unwrap();
        assert!(catalog.list().unwrap().is_empty(), "{fault:?}");
        ran.trace
    });
}

#[test]
fn case_42_a_machine_is_deleted_or_as_it_was_whatever_call_fails() {
    if !can_trace() {
        return;
    }
    let delete = |world: &World, fault: Option<&Fault>| {
        world.create("web", SPIN);
        run(world, &["rm", "web"], fault)
    };
    let world = World::new();
    let faults = faults_of(&delete(&world, None).trace, true);
    each(&faults, |fault| {
        let world = World::new();
        let ran = delete(&world, Some(fault));
        is_documented(&ran, fault, &[0]);
        is_no_lie(&ran, fault, &world);
        let catalog = catalog(&world);
        let listed = catalog.list().unwrap();
        assert!(listed.iter().all(|machine| machine.definition.is_ok()), "{fault:?}: {listed:?}");
        if ran.status.success() {
            assert!(listed.is_empty(), "{fault:?}");
        } else if !listed.is_empty() {
            catalog.delete("web").unwrap();
        }
        world.create("web", SPIN);
        can_be_claimed(&world, fault);
        ran.trace
    });
}

#[test]
fn case_42_a_start_that_cannot_be_made_is_explained_and_leaves_nothing_whatever_call_fails() {
    if !can_trace() {
        return;
    }
    let start = |world: &World, fault: Option<&Fault>| {
        let kernel = world.kernel(POWER_OFF);
        let run = [
            "run",
            "web",
            "--memory",
            "32M",
            "--sandbox",
            "off",
            "--console",
            "none",
            "--kernel",
            &kernel,
        ];
        self::run(world, &run, fault)
    };
    let world = World::new();
    let faults = faults_of(&start(&world, None).trace, true);
    each(&faults, |fault| {
        let world = World::new();
        let ran = start(&world, Some(fault));
        // It ran, or it ran and could not go on.
        is_documented(&ran, fault, &[0, crate::FAILED]);
        can_be_claimed(&world, fault);
        ran.trace
    });
}

#[test]
fn case_42_a_machine_is_confined_or_does_not_run_whatever_call_of_its_confinement_fails() {
    if !can_trace() {
        return;
    }
    let mut ways: Vec<&[&str]> = vec![&["--sandbox", "on"]];
    if rustix::process::geteuid().is_root() {
        ways.push(&["--jail", "65534:65534"]);
    } else {
        tests::not_tested("only root can make a jail");
    }
    for way in ways {
        let start = |world: &World, fault: Option<&Fault>| {
            let kernel = world.kernel(POWER_OFF);
            let run = ["run", "web", "--memory", "32M", "--console", "none", "--kernel", &kernel];
            self::run(world, &[&run, way].concat(), fault)
        };
        let world = World::new();
        let sound = start(&world, None);
        assert!(sound.status.success(), "{sound:?}");
        each(&faults_among(CONFINEMENT, &sound.trace, true), |fault| {
            let world = World::new();
            let ran = start(&world, Some(fault));
            let made: Vec<&str> =
                ran.trace.lines().filter(|line| line.contains(INJECTED)).collect();
            let otherwise = |line: &&str| OTHERWISE.iter().any(|word| line.contains(word));
            if ran.status.success() {
                assert!(made.iter().all(otherwise), "{way:?}, {fault:?}: it ran all the same");
            }
            if ran.status.code() == Some(1) {
                is_documented(&ran, fault, &[]);
            }
            let runtime = Runtime::at(world.runtime());
            assert!(runtime.list().is_empty(), "{way:?}, {fault:?}");
            drop(runtime.claim("web").unwrap_or_else(|error| panic!("{fault:?}: {error}")));
            ran.trace
        });
    }
}

/// The machine is a process that the command starts and hears of through a pipe: whichever of the two
/// it hits, the command tells how that went, and nobody is left behind.
#[test]
fn case_42_a_start_in_the_background_is_explained_and_leaves_nothing_whatever_call_fails() {
    if !can_trace() {
        return;
    }
    let start = |world: &World, fault: Option<&Fault>| {
        world.create("web", POWER_OFF);
        run(world, &["start", "web", "--sandbox", "off"], fault)
    };
    let world = World::new();
    let mut faults = faults_of(&start(&world, None).trace, true);
    // Over a socket of its own Rust's library hears whether the process has come to be; it cannot fail.
    faults.retain(|fault| fault.call != "recvfrom" && (all() || fault.number <= FEW));
    faults.extend(faults_in_starting_a_process());
    each(&faults, |fault| {
        let world = World::new();
        let ran = start(&world, Some(fault));
        is_documented(&ran, fault, &[0]);
        let runtime = Runtime::at(world.runtime());
        assert!(runtime.list().is_empty(), "{fault:?}");
        let listed = catalog(&world).list().unwrap();
        assert!(matches!(&listed[..], [web] if web.definition.is_ok()), "{fault:?}: {listed:?}");
        let again = world.vmm(&["start", "web", "--sandbox", "off"]);
        assert_eq!(again.code, Some(0), "{fault:?}: {again:?}");
        eventually("it does not end", || world.listed("web")["state"] == "TurnedOff");
        ran.trace
    });
}

/// Only a command that starts another process makes these calls, each of them once.
fn faults_in_starting_a_process() -> Vec<Fault> {
    let calls = [
        ("pipe2", "EMFILE"),
        ("clone", "EAGAIN"),
        ("setsid", "EPERM"),
        ("dup2", "EMFILE"),
        ("chdir", "EIO"),
        ("close_range", "ENOMEM"),
    ];
    calls.map(|(call, error)| Fault { call: call.into(), error, number: 1 }).into()
}

/// A machine with an agent and a client who asks for a logoff, and a tracer that has just come.
fn log_off(fault: Option<&Fault>) -> String {
    let world = World::new();
    let kernel = world.file("relay", &elf(relay::code()));
    let machine = world.start(&["--sandbox", "off", "--kernel", &kernel]);
    let everybody = Manner::Ends(TaskResult::Success, HResult::S_OK);
    agent::connect(&world.runtime().join("web/vsock.sock"), everybody);
    eventually("there is no agent", || world.listed("Web")["agent"]["connected"] == true);
    let mut tracer = strace(&world, "trace", fault);
    tracer.args(["-p", &machine.child.id().to_string()]).stderr(Stdio::piped());
    let mut tracer = Traced(Machine { child: tracer.spawn().unwrap() });
    await_tracer(&mut tracer.0.child);

    let options = LogoffOptions { grace_ms: 0, notice_ms: 0, deadline_ms: 200 };
    let runtime = Runtime::at(world.runtime());
    let outcome = Client::connect(&runtime, "web").and_then(|mut client| {
        let task = client.logoff(options)?.task;
        client.wait(task.id, Some(Duration::from_secs(20)), |_| ())
    });
    match outcome {
        Ok(document) => {
            let task = document.task;
            assert!(task.is_complete, "{fault:?}: {task:?}");
            assert!(task.error.symbol().is_some(), "{fault:?}: {task:?}");
            let success = task.result == Some(TaskResult::Success);
            assert!(success || task.error.is_failure(), "{fault:?}: {task:?}");
            assert!(success || fault.is_some(), "{task:?}");
        }
        Err(error) => {
            assert!(fault.is_some() && error.code.is_failure(), "{fault:?}: {error}");
            assert!(error.code.symbol().is_some(), "{fault:?}: {error}");
        }
    }
    machine.signal(Signal::TERM);
    let (status, _, stderr) = machine.end();
    let of_memory = fault.is_some_and(|fault| MAPPINGS.contains(&fault.call.as_str()));
    if of_memory && status.signal() == Some(Signal::ABORT.as_raw()) {
        // A thread got no stack for its signals.
    } else {
        assert!(matches!(status.code(), Some(0 | crate::FAILED)), "{fault:?}: {status} {stderr}");
        assert!(!stderr.contains("panicked"), "{fault:?}: {stderr}");
    }
    tracer.wait("the tracer");
    drop(runtime.claim("web").unwrap_or_else(|error| panic!("{fault:?}: {error}")));
    // Data that it shows is no text where it is cut off.
    String::from_utf8_lossy(&fs::read(world.folder.path().join("trace")).unwrap()).into_owned()
}

/// Waits until the tracer has all threads.
fn await_tracer(tracer: &mut Child) {
    let mut lines = BufReader::new(tracer.stderr.take().unwrap()).lines();
    let attached = lines.by_ref().map_while(Result::ok).any(|line| line.contains("attached"));
    assert!(attached, "the tracer is not let in");
    // What it says later has room in nobody's pipe.
    thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
}

#[test]
fn case_42_a_logoff_and_a_stop_end_with_a_code_whatever_call_of_the_monitor_fails() {
    if !can_trace() {
        return;
    }
    let mut faults = faults_of(&log_off(None), false);
    if !all() {
        faults.retain(|fault| fault.number <= FEW);
    }
    each(&faults, |fault| log_off(Some(fault)));
}

#[test]
fn case_42_signals_without_end_end_a_machine_that_starts_or_runs_and_the_next_one_runs() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    for wait in [0, 1, 2, 5, 10, 20, 40, 80, 150] {
        let mut command = world.command(VMM);
        command.args([
            "run",
            "web",
            "--memory",
            "32M",
            "--sandbox",
            "off",
            "--console",
            "none",
            "--kernel",
            &kernel,
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut machine = Machine { child: command.spawn().unwrap() };
        thread::sleep(Duration::from_millis(wait));
        eventually("it outlives a storm of signals", || {
            for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
                if machine.child.try_wait().unwrap().is_none() {
                    machine.signal(signal);
                }
            }
            machine.child.try_wait().unwrap().is_some()
        });
        let (status, _, stderr) = machine.end();
        // Turned off; ended at once by the second signal; ended by the first, before it is heeded.
        let ended =
            status.code().map_or(status.signal().is_some(), |code| [0, 1, 130].contains(&code));
        assert!(ended, "{wait} ms: {status} {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(Runtime::at(world.runtime()).list().is_empty(), "{wait} ms");
    }
    let machine = world.start(&["--kernel", &kernel]);
    machine.signal(Signal::TERM);
    assert_eq!(machine.end().0.code(), Some(0));
    world.holds_nothing();
}

#[test]
fn case_42_a_machine_that_is_refused_memory_or_descriptors_says_so() {
    let world = World::new();
    let kernel = world.kernel(POWER_OFF);
    // Descriptors; address space, in KiB.
    for limit in ["-n 8", "-n 12", "-n 16", "-n 20", "-v 60000", "-v 100000", "-v 200000"] {
        let mut command = world.command("sh");
        let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
        command.args([
            "-c",
            &script,
            VMM,
            "run",
            "web",
            "--sandbox",
            "off",
            "--console",
            "none",
            "--memory",
            "1G",
        ]);
        let answer = crate::world::answer(command.args(["--format", "json", "--kernel", &kernel]));
        let (exit, code, said) = answer.refusal();
        assert_eq!(exit, Some(1), "{limit}: {code} {said}");
        let codes = ["0xA0040203", "0x8007000E"];
        let of_memory = limit.starts_with("-v") && code == codes[1];
        assert!(code == codes[0] || of_memory, "{limit}: {code} {said}");
        can_be_claimed(&world, &Fault { call: limit.into(), error: "", number: 0 });
    }
}
