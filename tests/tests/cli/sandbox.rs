//! `--sandbox` and `--jail`: what the kernel says of a machine's process, and that everything works in
//! it.

use crate::world::{VMM, World, eventually};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tests::agent::{self, Manner};
use tests::micro::{ECHO, SPIN, elf};
use tests::relay;

/// A user that no other program here is.
const NOBODY: u32 = 61_234;

/// `field` of each of the threads of the process `pid`, with the thread's name.
fn threads(pid: u64, field: &str) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let of = |path: &Path| {
        let status = read(path.join("status"));
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Some((read(path.join("comm")).trim().to_owned(), line?.trim().to_owned()))
    };
    tasks.filter_map(|task| of(&task.path())).collect()
}

fn all(pid: u64, field: &str, value: &str) {
    let threads = threads(pid, field);
    assert!(!threads.is_empty());
    for (name, found) in threads {
        assert_eq!(found, value, "{field} of {name}");
    }
}

fn pid(world: &World) -> u64 {
    world.listed("Web")["pid"].as_u64().unwrap()
}

/// What a machine goes through; its guest is the relay.
fn life(world: &World) {
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
        eventually("not every thread is confined", || {
            threads(process, "Seccomp").iter().all(|(_, mode)| mode == "2")
        });
        all(process, "NoNewPrivs", "1");
        // One filter of the whole process and what is refused, and at least one of its own.
        for (name, filters) in threads(process, "Seccomp_filters") {
            assert!(filters.parse::<u32>().unwrap() >= 3, "{name} has {filters}");
        }
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

#[test]
fn a_jail_is_for_a_user_and_made_by_root_alone() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    for user in ["0", "0:7", "7:0"] {
        let (exit, code, text) = world.refused(&["--kernel", &kernel, "--jail", user]);
        assert_eq!((exit, code.as_str()), (Some(2), "0x80070057"), "{text}");
    }
    let bad = world.vmm(&["run", "--kernel", &kernel, "--jail", "nobody"]);
    assert!(bad.code == Some(2) && bad.stderr.contains("nobody"), "{bad:?}");
    if !rustix::process::geteuid().is_root() {
        let (exit, code, text) = world.refused(&["--kernel", &kernel, "--jail", "7"]);
        assert_eq!((exit, code.as_str()), (Some(9), "0x80070005"), "{text}");
        eprintln!("NOT TESTED: only root can make a jail");
        return;
    }
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o600)).unwrap();
    let (_, code, text) = world.refused(&["--kernel", &kernel, "--jail", "7"]);
    assert_eq!(code, "0x80070005", "{text}");
    assert!(text.contains(&kernel) && text.contains("user 7 cannot read"), "{text}");
}

#[test]
fn a_jailed_machine_is_another_users_has_nothing_of_the_host_and_does_all_that_machines_do() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can make a jail");
        return;
    }
    let world = World::new();
    let kernel = world.file("relay", &elf(relay::code()));
    let disk = world.file("disk.img", &[0; 1 << 20]);
    std::os::unix::fs::chown(&disk, Some(NOBODY), Some(NOBODY)).unwrap();
    let disk = format!("path={disk}");
    let created = ["create", "Web", "--kernel", &kernel, "--memory", "32M", "--disk", &disk];
    assert_eq!(world.vmm(&created).code, Some(0));
    for _ in 0..2 {
        let started = world.vmm(&["start", "web", "--jail", &NOBODY.to_string()]);
        assert_eq!(started.code, Some(0), "{started:?}");
        life(&world);
        let process = pid(&world);
        let of = |name: &str| PathBuf::from(format!("/proc/{process}/{name}"));
        let four = [NOBODY.to_string().as_str(); 4].join("\t");
        all(process, "Uid", &four);
        all(process, "Gid", &four);
        all(process, "Groups", "");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            all(process, set, "0000000000000000");
        }
        all(process, "Seccomp", "2");
        let inside = threads(process, "NSpid");
        assert!(inside.iter().any(|(_, pids)| pids.split('\t').nth(1) == Some("1")), "{inside:?}");
        for space in ["ns/mnt", "ns/pid"] {
            let own = fs::read_link(format!("/proc/self/{space}")).unwrap();
            assert_ne!(fs::read_link(of(space)).unwrap(), own);
        }
        // Of the whole tree only what was brought in.
        let mounts = fs::read_to_string(of("mounts")).unwrap();
        for line in mounts.lines() {
            let place = line.split(' ').nth(1).unwrap();
            let named = [world.folder.path().to_str().unwrap(), env!("CARGO_BIN_EXE_vmm")];
            let agent = place.ends_with("/vmm-agent");
            assert!(
                place == "/" || agent || named.iter().any(|one| place.starts_with(one)),
                "{line}"
            );
        }
        let names = |folder: PathBuf| {
            let mut names: Vec<String> = fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let root = names(of("root"));
        assert!(
            !root.iter().any(|name| ["etc", "bin", "proc", "sys", "home"].contains(&&**name)),
            "{root:?}"
        );
        assert_eq!(names(of("root/dev")), ["kvm", "null"]);
        assert!(fs::write(of("root/written"), "").is_err(), "the root can be written");
        // Others still cannot replace the sockets.
        let folder = fs::metadata(world.runtime().join("web")).unwrap();
        assert_eq!((folder.uid(), folder.gid(), folder.mode() & 0o777), (0, NOBODY, 0o710));
        let stopped = world.vmm(&["stop", "web"]);
        assert_eq!(stopped.code, Some(0), "{stopped:?}");
        eventually("it never ends", || world.listed("Web")["state"] == "TurnedOff");
    }
    world.holds_nothing_but_logs();
}

#[test]
fn a_jailed_machine_in_the_foreground_has_its_console_and_ends_as_it_is_told() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can make a jail");
        return;
    }
    use std::io::{Read, Write};
    let world = World::new();
    let kernel = world.kernel(ECHO);
    let jail = NOBODY.to_string();
    let arguments = ["run", "Web", "--memory", "32M", "--kernel", &kernel, "--jail", &jail];
    let mut command = world.command(VMM);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    keys.write_all(b"typed").unwrap();
    let mut shown = [0; 5];
    screen.read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"typed");
    let outside = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(outside, rustix::process::Signal::TERM).unwrap();
    let status = crate::world::wait(&mut child);
    assert_eq!(status.code(), Some(0), "{status:?}");
    world.holds_nothing();
    // If it is killed, the machine is not left alone.
    let machine = world.background(&arguments);
    eventually("it never runs", || world.listed("Web")["state"] == "Running");
    let process = pid(&world);
    assert_ne!(process, u64::from(machine.child.id()));
    drop(machine);
    eventually("the machine goes on", || !Path::new(&format!("/proc/{process}/cwd")).exists());
    assert_eq!(world.listed("Web"), json!(null));
}
