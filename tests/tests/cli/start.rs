//! `vmm start`: machines in the background, and what becomes of them without whoever started them.

use crate::world::{VMM, World, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::thread;
use tests::agent::{self, Manner};
use tests::micro::{ECHO, FAULT, POWER_OFF, SPIN};
use tests::relay;
use vmm::runtime::Runtime;

/// The process of the machine `name`.
fn pid(world: &World, name: &str) -> i32 {
    world.listed(name)["pid"].as_i64().unwrap().try_into().unwrap()
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn proc(pid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

#[test]
fn a_started_machine_runs_when_the_command_returns_and_needs_nobody() {
    let world = World::new();
    world.create("Web", ECHO);
    // Whoever starts it has a descriptor open that is none of the machine's business.
    let mut command = world.command("sh");
    command.args(["-c", "exec 9</dev/zero; exec \"$0\" start web --format json", VMM]);
    let started = crate::world::answer(&mut command);
    assert_eq!(started.code, Some(0), "{started:?}");
    let task = &started.json()["task"];
    assert_eq!((&task["result"], &task["error"]), (&json!("Success"), &json!("0x00000000")));
    assert_eq!(world.listed("Web")["state"], "Running");
    let pid = pid(&world, "Web");
    let stat = fs::read_to_string(proc(pid, "stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!((fields[3], fields[4]), (&*pid.to_string(), "0"), "a session, and no terminal");
    if rustix::process::geteuid().is_root() {
        let open = |fd: u32| fs::read_link(proc(pid, &format!("fd/{fd}"))).unwrap();
        assert_eq!(open(0).to_str(), Some("/dev/null"));
        assert_eq!(open(1).to_str(), Some("/dev/null"));
        assert_eq!(open(2), world.runtime().join("web/log"));
        let inherited = fs::read_dir(proc(pid, "fd")).unwrap().flatten();
        let links = inherited.filter_map(|entry| fs::read_link(entry.path()).ok());
        assert!(!links.into_iter().any(|link| link.to_str() == Some("/dev/zero")));
        assert_eq!(fs::read_link(proc(pid, "cwd")).unwrap().to_str(), Some("/"));
    } else {
        eprintln!("NOT TESTED: only root sees what a confined process has open");
    }
    let limits = fs::read_to_string(proc(pid, "limits")).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut files = files.split_whitespace().skip(3);
    assert_eq!(files.next(), files.next(), "soft and hard limit");
    let (exit, code, _) = world.json(&["start", "WEB"]).refusal();
    assert_eq!((exit, code.as_str()), (Some(1), "0xA0040500"));
    let stopped = world.vmm(&["stop", "web"]);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    eventually("it never ends", || !proc(pid, "cwd").exists());
    let shown = world.json(&["show", "web"]).json();
    assert_eq!(shown["last_words"], json!(["Web: turned off"]), "{shown}");
}

#[test]
fn the_console_of_a_started_machine_can_be_attached() {
    let world = World::new();
    world.create("web", ECHO);
    let started = world.vmm(&["start", "web"]);
    assert_eq!((started.code, started.stdout.as_str()), (Some(0), "web is running\n"));
    let mut console = world.background(&["console", "web"]);
    console.child.stdin.as_mut().unwrap().write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    console.child.stdout.as_mut().unwrap().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

#[test]
fn a_machine_is_stopped_started_and_deleted_without_a_pause_between() {
    let world = World::new();
    for _ in 0..10 {
        world.create("web", SPIN);
        for verb in ["start", "stop", "start", "stop", "rm"] {
            let answer = world.vmm(&[verb, "web"]);
            assert_eq!(answer.code, Some(0), "{verb}: {answer:?}");
        }
        world.holds_nothing();
    }
}

#[test]
fn of_two_who_start_a_machine_one_does_and_the_other_is_told_that_it_runs() {
    let world = World::new();
    world.create("web", SPIN);
    for _ in 0..5 {
        let mut codes = thread::scope(|scope| {
            let start = || world.vmm(&["start", "web"]);
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().code).collect::<Vec<_>>()
        });
        codes.sort_unstable();
        assert_eq!(codes, [Some(0), Some(1)]);
        assert_eq!(world.vmm(&["stop", "web"]).code, Some(0));
    }
}

#[test]
fn who_comes_too_late_to_start_a_machine_leaves_its_log_alone() {
    let world = World::new();
    world.create("web", SPIN);
    assert_eq!(world.vmm(&["start", "web"]).code, Some(0));
    let path = world.runtime().join("web/log");
    fs::write(&path, "the first one's words\n").unwrap();
    // What `vmm start` does when it has seen that nobody runs the machine.
    let log = Runtime::at(world.runtime()).open_log("web").unwrap();
    let mut late = world.command(VMM);
    late.args(["run", "--detached", "--console", "attach", "--", "web"]);
    let late = late.stderr(log).output().unwrap();
    assert_eq!(late.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&late.stdout).unwrap();
    assert_eq!(told["error"]["name"], "VM_E_VM_RUNNING");
    assert_eq!(fs::read_to_string(&path).unwrap(), "the first one's words\n");
    // The next one begins it anew.
    assert_eq!(world.vmm(&["stop", "web"]).code, Some(0));
    assert_eq!(world.vmm(&["start", "web"]).code, Some(0));
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
}

#[test]
fn a_killed_machine_is_off_and_starts_again_at_once() {
    let world = World::new();
    world.create("web", SPIN);
    for _ in 0..3 {
        assert_eq!(world.vmm(&["start", "web"]).code, Some(0));
        let pid = pid(&world, "web");
        assert!(world.runtime().join("web/control.sock").exists());
        kill(pid, Signal::KILL);
        eventually("it is never off", || world.listed("web")["state"] == "TurnedOff");
        let (exit, code, _) = world.json(&["users", "web"]).refusal();
        assert_eq!((exit, code.as_str()), (Some(4), "0xA0040206"));
    }
    assert_eq!(world.vmm(&["start", "web"]).code, Some(0));
    assert_eq!(world.vmm(&["stop", "web"]).code, Some(0));
    assert_eq!(world.vmm(&["rm", "web"]).code, Some(0));
    world.holds_nothing();
}

#[test]
fn whoever_waits_for_a_task_of_a_killed_machine_is_told_that_it_does_not_run() {
    let world = World::new();
    world.create("web", relay::code());
    assert_eq!(world.vmm(&["start", "web"]).code, Some(0));
    agent::connect(&world.runtime().join("web/vsock.sock"), Manner::Waits);
    eventually("no agent", || world.listed("web")["agent"]["connected"] == true);
    let id = world.vmm(&["logoff", "web", "--no-wait"]).stdout;
    let wait = ["task", "wait", "web", id.trim(), "--progress", "plain"];
    let waiters: Vec<_> = (0..3).map(|_| world.background(&wait)).collect();
    let logoff = world.json(&["task", "show", "web", id.trim()]).json();
    assert_eq!(logoff["task"]["is_complete"], false);
    // Each has asked when it has shown how far the task is.
    let mut waiting = Vec::new();
    for mut waiter in waiters {
        let mut said = BufReader::new(waiter.child.stderr.take().unwrap());
        let mut shown = String::new();
        said.read_line(&mut shown).unwrap();
        assert_eq!(shown, "web: 0% log off all users\n");
        waiting.push((waiter, said));
    }
    kill(pid(&world, "web"), Signal::KILL);
    for (waiter, mut said) in waiting {
        assert_eq!(waiter.end_quietly().0.code(), Some(4));
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("the process of web ended"), "{rest}");
    }
    assert_eq!(world.listed("web")["state"], "TurnedOff");
    assert_eq!(world.vmm(&["start", "web"]).code, Some(0));
}

#[test]
fn a_start_that_fails_says_why_in_the_words_of_the_machines_process() {
    let world = World::new();
    world.create("web", SPIN);
    let kernel = world.kernel(SPIN);
    fs::write(&kernel, "I am no kernel\n").unwrap();
    let foreground = world.json(&["run", "web"]).refusal();
    let failed = world.json(&["start", "web"]);
    let task = &failed.json()["task"];
    assert_eq!((failed.code, &task["error"]), (Some(1), &json!(foreground.1)));
    assert_eq!(task["error_description"], foreground.2);
    let human = world.vmm(&["start", "web"]);
    assert_eq!((human.code, human.stderr), (Some(1), format!("error: {}\n", foreground.2)));
    let log = world.runtime().join("web/log");
    eventually("the log does not say why", || {
        fs::read_to_string(&log).unwrap().contains(&foreground.2)
    });
    fs::remove_file(&kernel).unwrap();
    let (exit, code, text) = world.json(&["start", "web"]).refusal();
    assert_eq!((exit, code.as_str()), (Some(1), "0x80070002"));
    assert!(text.contains(&kernel) && text.contains("machine.toml:"), "{text}");
    assert_eq!(world.vmm(&["rm", "web"]).code, Some(0));
    world.holds_nothing();
}

#[test]
fn a_process_that_ends_without_a_word_is_reported_with_its_end() {
    let world = World::new();
    world.create("web", SPIN);
    // The first thing that the machine's process writes to a file kills it.
    let mut command = world.command("sh");
    command.args(["-c", "ulimit -c 0; ulimit -f 0; exec \"$0\" start web --format json", VMM]);
    let (exit, code, text) = crate::world::answer(&mut command).refusal();
    assert_eq!((exit, code.as_str()), (Some(1), "0x80020009"));
    assert!(text.contains("signal: 25"), "{text}");
    assert_eq!(world.listed("web")["state"], "TurnedOff");
    assert_eq!(world.vmm(&["start", "web"]).code, Some(0), "nothing is in the way");
}

#[test]
fn a_start_that_takes_too_long_for_the_caller_goes_on() {
    let world = World::new();
    world.create("web", SPIN);
    let (exit, code, _) = world.json(&["start", "web", "--timeout", "0s"]).refusal();
    assert_eq!((exit, code.as_str()), (Some(6), "0xA0040202"));
    eventually("it never runs", || world.listed("web")["state"] == "Running");
}

#[test]
fn an_agent_that_never_comes_is_waited_for_as_long_as_is_wanted() {
    let world = World::new();
    world.create("web", SPIN);
    let wait = ["start", "web", "--wait", "agent", "--timeout", "300ms"];
    let (exit, code, text) = world.json(&wait).refusal();
    assert_eq!((exit, code.as_str()), (Some(6), "0xA0040202"), "{text}");
    assert!(text.contains("vmm-agent"), "{text}");
    assert_eq!(world.listed("web")["state"], "Running", "it goes on");
    for (name, code, words) in [("off", POWER_OFF, "powered off"), ("bad", FAULT, "triple fault")] {
        world.create(name, code);
        let (exit, code, text) = world.json(&["start", name, "--wait", "agent"]).refusal();
        assert_eq!((exit, code.as_str()), (Some(4), "0xA0040206"));
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn an_agent_that_comes_ends_the_wait_for_it() {
    let world = World::new();
    world.create("web", relay::code());
    let start = world.background(&["start", "web", "--wait", "agent"]);
    eventually("it never runs", || world.listed("web")["state"] == "Running");
    agent::connect(&world.runtime().join("web/vsock.sock"), Manner::NOBODY);
    let (status, stdout, stderr) = start.end();
    assert_eq!((status.code(), stdout.as_str()), (Some(0), "web is running\n"));
    assert_eq!(stderr, "web is running; waiting for its agent\n");
    assert_eq!(world.listed("web")["agent"]["version"], "9.9");
}

#[test]
fn an_interrupt_leaves_the_machine_and_says_so() {
    let world = World::new();
    world.create("web", SPIN);
    let start = world.background(&["start", "web", "--wait", "agent"]);
    eventually("it never runs", || world.listed("web")["state"] == "Running");
    start.signal(Signal::INT);
    let (status, _, stderr) = start.end();
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("goes on") && stderr.contains("vmm stop web"), "{stderr}");
    assert_eq!(world.listed("web")["state"], "Running");
}

#[test]
fn who_does_not_wait_gets_the_id_of_the_task() {
    let world = World::new();
    world.create("web", SPIN);
    let id = world.vmm(&["start", "web", "--no-wait"]);
    assert_eq!(id.code, Some(0), "{id:?}");
    assert_eq!(world.vmm(&["task", "wait", "web", id.stdout.trim()]).code, Some(0));
    assert_eq!(world.listed("web")["state"], "Running");
}
