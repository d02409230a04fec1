//! `--sandbox`: what the kernel says of a machine's process, and that everything works in it.

use crate::world::{Machine, VMM, World, eventually};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tests::agent::{self, Manner};
use tests::micro::{DOTS, SPIN, elf};
use tests::relay;

/// `field` of each of the threads of the process `pid`, with the thread's name.
pub(crate) fn threads(pid: u64, field: &str) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let of = |path: &Path| {
        let status = read(path.join("status"));
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Some((read(path.join("comm")).trim().to_owned(), line?.trim().to_owned()))
    };
    tasks.filter_map(|task| of(&task.path())).collect()
}

pub(crate) fn all(pid: u64, field: &str, value: &str) {
    let threads = threads(pid, field);
    assert!(!threads.is_empty());
    for (name, found) in threads {
        assert_eq!(found, value, "{field} of {name}");
    }
}

pub(crate) fn pid(world: &World) -> u64 {
    world.listed("Web")["pid"].as_u64().unwrap()
}

/// What a machine goes through; its guest is the relay.
pub(crate) fn life(world: &World) {
    eventually("it is not listed", || world.listed("Web")["state"] == "Running");
    let vsock = world.runtime().join("web/vsock.sock");
    agent::connect(&vsock, Manner::Ends(protocol_success(), protocol::HResult::S_OK));
    eventually("no agent", || world.listed("Web")["agent"]["connected"] == true);
    let done = world.json(&["logoff", "web"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    let done = world.json(&["balloon", "web"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    for verb in ["reset", "pause", "resume", "reset"] {
        let done = world.json(&[verb, "web"]);
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    agent::connect(&vsock, Manner::Ends(protocol_success(), protocol::HResult::S_OK));
    eventually("no agent after a reset", || world.listed("Web")["agent"]["connected"] == true);
    let done = world.json(&["logoff", "web"]);
    assert_eq!(done.code, Some(0), "{done:?}");
}

fn protocol_success() -> protocol::task::TaskResult {
    protocol::task::TaskResult::Success
}

#[test]
fn what_a_confined_thread_warns_of_is_told_and_its_machine_goes_on() {
    let world = World::new();
    let said = world.file("said", b"");
    let mut command = world.command(VMM);
    command.args(["run", "Web", "--memory", "32M", "--kernel", &world.kernel(DOTS)]);
    command.stdout(Stdio::piped()).stderr(File::create(&said).unwrap());
    let mut machine = Machine { child: command.spawn().unwrap() };
    // Nobody reads the console any more.
    drop(machine.child.stdout.take());
    eventually("nothing is said of it", || {
        let said = fs::read_to_string(&said).unwrap();
        said.contains("WARN") && said.contains("nobody reads the console")
    });
    assert_eq!(world.listed("Web")["state"], "Running");
    assert_eq!(world.vmm(&["stop", "web"]).code, Some(0));
    assert_eq!(machine.status().code(), Some(0));
}

#[test]
fn every_thread_of_a_machine_is_confined_and_it_does_all_that_machines_do() {
    let world = World::new();
    let kernel = world.file("relay", &elf(relay::code()));
    let disk = world.file("disk.img", &[0; 1 << 20]);
    let created = world.vmm(&[
        "create",
        "Web",
        "--kernel",
        &kernel,
        "--memory",
        "32M",
        "--cpus",
        "2",
        "--disk",
        &format!("path={disk}"),
    ]);
    assert_eq!(created.code, Some(0), "{created:?}");
    // A second process after the first has ended.
    for _ in 0..2 {
        let started = world.vmm(&["start", "web"]);
        assert_eq!(started.code, Some(0), "{started:?}");
        life(&world);
        let process = pid(&world);
        // The whole process' filter, that of who started the thread, where that is not the first one, and
        // its own. KVM's thread has those of the processor that it came with.
        let started = ["io", "vcpu", "disk-", "agent", "call", "kvm-"];
        let has_its_filters = |(name, filters): &(String, String)| {
            let wanted = if started.iter().any(|one| name.starts_with(one)) { "3" } else { "2" };
            filters == wanted
        };
        eventually("not every thread has its filters", || {
            threads(process, "Seccomp_filters").iter().all(has_its_filters)
        });
        all(process, "Seccomp", "2");
        all(process, "NoNewPrivs", "1");
        let names: Vec<String> =
            threads(process, "Name").into_iter().map(|(name, _)| name).collect();
        for name in
            ["vmm", "signals", "integration", "agent", "control", "vm", "vcpu1", "io", "disk-0"]
        {
            assert!(names.iter().any(|one| one == name), "no {name} in {names:?}");
        }
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let limit = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(limit("Max core file size"), ["0", "0"]);
        let data = ((32 << 20) + (2_u64 << 30)).to_string();
        assert_eq!(limit("Max data size"), [data.clone(), data]);
        let stopped = world.vmm(&["stop", "web"]);
        assert_eq!(stopped.code, Some(0), "{stopped:?}");
        let log = fs::read_to_string(world.runtime().join("web/log")).unwrap_or_default();
        assert!(!log.contains("Landlock") || !vmm::confine::offer().landlock, "{log}");
        eventually("it never ends", || world.listed("Web")["state"] == "TurnedOff");
    }
    world.holds_nothing_but_logs();
}

#[test]
fn a_machine_can_be_run_without_and_what_would_kill_it_can_be_logged() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    for (sandbox, mode) in [("off", "0"), ("log", "2")] {
        let machine = world.start(&["--kernel", &kernel, "--sandbox", sandbox]);
        let process = u64::from(machine.child.id());
        all(process, "Seccomp", mode);
        all(process, "NoNewPrivs", if mode == "0" { "0" } else { "1" });
        assert_eq!(world.vmm(&["stop", "web"]).code, Some(0));
        assert!(machine.status().success());
    }
}

#[test]
fn what_this_host_has_for_it_the_doctor_tells() {
    let world = World::new();
    let offer = vmm::confine::offer();
    let told = world.json(&["doctor"]).json()["confinement"].clone();
    assert_eq!(told, serde_json::to_value(&offer).unwrap());
    let text = world.vmm(&["doctor"]).stdout;
    for word in ["seccomp: ", "landlock: ", "jail: "] {
        assert!(text.contains(word), "{text}");
    }
    assert!(!offer.landlock || text.contains("yes  landlock"), "{text}");
}
