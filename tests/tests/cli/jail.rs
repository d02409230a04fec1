//! `--jail`: a machine's process as another user, with nothing of the host but what the machine is made
//! of.

use crate::sandbox::{all, life, pid, threads};
use crate::world::{Machine, VMM, World, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::micro::{ECHO, POWER_OFF, SPIN, elf};
use tests::relay;

/// A user that no other program here is.
const NOBODY: u32 = 61_234;
/// And one whose processes are all of one test.
const STOPPED: u32 = 61_235;

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("NOT TESTED: only root can make a jail");
    }
    is_root
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
    if !is_root() {
        let (exit, code, text) = world.refused(&["--kernel", &kernel, "--jail", "7"]);
        assert_eq!((exit, code.as_str()), (Some(9), "0x80070005"), "{text}");
        return;
    }
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o600)).unwrap();
    let (_, code, text) = world.refused(&["--kernel", &kernel, "--jail", "7"]);
    assert_eq!(code, "0x80070005", "{text}");
    assert!(text.contains(&kernel) && text.contains("user 7 cannot read"), "{text}");
}

#[test]
fn a_jailed_machine_is_another_users_has_nothing_of_the_host_and_does_all_that_machines_do() {
    if !is_root() {
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
        assert!(inside.iter().any(|(_, pids)| pids.split('\t').nth(1) == Some("2")), "{inside:?}");
        for space in ["ns/mnt", "ns/pid", "ns/ipc", "ns/uts", "ns/net"] {
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
    if !is_root() {
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

/// A shell that does `before`, and then runs a machine in a jail, with `kernel`.
fn through_shell(world: &World, before: &str, kernel: &str) -> Command {
    let mut command = world.command("sh");
    let script = format!(
        "{before} exec {VMM} run Web --memory 32M --console none --kernel {kernel} --jail {NOBODY}"
    );
    command.args(["-c", &script]);
    command
}

/// Runs it until the machine runs.
fn jailed(world: &World, mut command: Command) -> Machine {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let machine = Machine { child: command.spawn().unwrap() };
    eventually("it never runs", || world.listed("Web")["state"] == "Running");
    machine
}

fn send(pid: u64, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn a_jail_can_be_made_whatever_is_kept_from_others() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let machine = jailed(&world, through_shell(&world, "umask 077;", &kernel));
    machine.signal(Signal::TERM);
    assert_eq!(machine.status().code(), Some(0));
    world.holds_nothing();
}

#[test]
fn a_jailed_machine_without_a_sandbox_can_gain_no_rights_either() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let jail = NOBODY.to_string();
    let mut command = world.command(VMM);
    command.args(["run", "Web", "--memory", "32M", "--console", "none", "--sandbox", "off"]);
    command.args(["--kernel", &kernel, "--jail", &jail]);
    let _machine = jailed(&world, command);
    all(pid(&world), "NoNewPrivs", "1");
    all(pid(&world), "Seccomp", "0");
}

#[test]
fn a_machine_has_nothing_open_of_who_started_it_and_a_jailed_one_nothing_of_its_environment() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let open = |process: u64| -> Vec<PathBuf> {
        let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
    };
    let mut unjailed = world.command("sh");
    let run = format!("exec {VMM} run Web --memory 32M --console none --kernel {kernel} 9</etc");
    let machine = world.runs(unjailed.args(["-c", &run]));
    let found = open(machine.child.id().into());
    assert!(!found.iter().any(|path| path == Path::new("/etc")), "{found:?}");
    machine.signal(Signal::TERM);
    assert_eq!(machine.status().code(), Some(0));
    if !is_root() {
        return;
    }
    let mut command = through_shell(&world, "exec 9</etc;", &kernel);
    command.env("TOKEN", "a secret of the service").env("VMM_AGENT", "/nowhere/agent");
    let machine = jailed(&world, command);
    let process = pid(&world);
    assert_ne!(process, u64::from(machine.child.id()));
    let found = open(process);
    assert!(!found.is_empty());
    assert!(!found.iter().any(|path| path == Path::new("/etc")), "{found:?}");
    assert!(!found.iter().any(|path| path.ends_with("web/lock")), "{found:?}");
    let environment = fs::read(format!("/proc/{process}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("TOKEN="), "that is where it was: {environment}");
    assert!(!environment.contains("secret"), "{environment}");
}

#[test]
fn nobody_leads_root_to_files_that_only_their_directories_protect() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let at = |name: &str| world.folder.path().join(name);
    let jail = NOBODY.to_string();
    let kernel = world.kernel(SPIN);
    fs::create_dir(at("closed")).unwrap();
    fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(at("closed/file"), "precious").unwrap();
    fs::create_dir(at("theirs")).unwrap();
    symlink(at("closed/file"), at("theirs/link")).unwrap();
    symlink(at("closed/new"), at("theirs/nowhere")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("theirs/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
        0,
    )
    .unwrap();
    chown(at("theirs"), Some(NOBODY), Some(NOBODY)).unwrap();
    let refused = |option: &str, value: String, why: &str| {
        let arguments = ["run", "web", "--kernel", &kernel, "--jail", &jail, option, &value];
        let (_, code, text) = world.json(&arguments).refusal();
        world.holds_nothing();
        assert_eq!(code, "0x80070005", "{text}");
        assert!(text.contains(why), "{text}");
    };
    let path = |name: &str| at(name).to_str().unwrap().to_owned();
    refused("--initrd", path("theirs/link"), "a link that others than root can set");
    refused("--disk", format!("path={},readonly", path("theirs/link")), "a link that others");
    refused("--console", format!("file={}", path("theirs/nowhere")), "a link that others");
    assert!(!at("closed/new").exists());
    refused("--initrd", path("theirs/pipe"), "neither a regular file nor");
    let hidden = world.runtime().join("web/console");
    refused("--console", format!("file={}", hidden.display()), "a directory that is brought in");
    // What root has linked is as good as a name.
    symlink(&kernel, at("link")).unwrap();
    let machine = jailed(&world, through_shell(&world, "", &path("link")));
    machine.signal(Signal::TERM);
    assert_eq!(machine.status().code(), Some(0));
}

#[test]
fn a_path_never_leads_out_of_a_jail_and_back_into_the_host() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let folder = world.folder.path();
    fs::create_dir(folder.join("below")).unwrap();
    let name = Path::new(&kernel).file_name().unwrap().to_str().unwrap();
    let here = format!("cd {}/below;", folder.display());
    for (before, path) in [
        ("", format!("/..{kernel}")),
        ("", format!("/../../../../../..{kernel}")),
        (here.as_str(), format!("../{name}")),
        (here.as_str(), format!("../below/.././{name}")),
    ] {
        let machine = jailed(&world, through_shell(&world, before, &path));
        let places: Vec<_> = fs::read_dir(world.runtime()).unwrap().flatten().collect();
        assert_eq!(places.len(), 2, "{places:?}");
        machine.signal(Signal::TERM);
        assert_eq!(machine.status().code(), Some(0), "{path}");
        world.holds_nothing();
    }
}

#[test]
fn a_signal_to_all_processes_of_a_machine_is_one_request() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let kernel = world.kernel(SPIN);
    for _ in 0..4 {
        let machine = jailed(&world, through_shell(&world, "", &kernel));
        send(pid(&world), Signal::TERM);
        machine.signal(Signal::TERM);
        let (status, _, said) = machine.end();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(said.contains("turned off"), "{said}");
        world.holds_nothing();
    }
}

#[test]
fn the_end_of_a_jailed_machine_is_heard_of_whatever_is_ignored_and_an_abort_is_one() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let kernel = world.kernel(SPIN);
    for (signal, number) in [(Signal::KILL, 9), (Signal::ABORT, 6)] {
        let machine = jailed(&world, through_shell(&world, "trap '' CHLD;", &kernel));
        send(pid(&world), signal);
        let (status, _, said) = machine.end();
        assert_eq!(status.code(), Some(128 + number), "{said}");
        assert!(said.contains("was killed"), "{said}");
        world.holds_nothing();
    }
}

#[test]
fn a_jailed_machine_in_the_background_of_a_terminal_is_stopped_as_any_program() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let (_person, terminal) = crate::terminal::terminal();
    let script = format!(
        "set -m; {VMM} run Web --memory 32M --kernel {kernel} --jail {STOPPED} & read line"
    );
    let mut command = world.command("setsid");
    command.args(["-c", "sh", "-c", &script]).stdin(terminal.try_clone().unwrap());
    command.stdout(terminal.try_clone().unwrap()).stderr(terminal.try_clone().unwrap());
    let _shell = Machine { child: command.spawn().unwrap() };
    let mut state = None;
    eventually("it is not stopped", || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let statuses = processes.map(|process| process.path().join("status"));
        let mut statuses = statuses.filter_map(|status| fs::read_to_string(status).ok());
        let theirs = statuses.find(|status| status.contains(&format!("Uid:\t{STOPPED}\t")));
        state = theirs.and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("State:\t"));
            line.map(str::to_owned)
        });
        state.as_ref().is_some_and(|state| state.starts_with('T'))
    });
    assert!(!crate::terminal::is_raw(&terminal));
}

#[test]
fn the_file_of_a_jailed_console_is_made_for_the_jails_user() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let console = world.folder.path().join("console");
    let kernel = world.kernel(POWER_OFF);
    let answer = world.vmm(&[
        "run",
        "Web",
        "--memory",
        "32M",
        "--kernel",
        &kernel,
        "--jail",
        &NOBODY.to_string(),
        "--console",
        &format!("file={}", console.display()),
    ]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let made = fs::metadata(&console).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (NOBODY, NOBODY, 0o600));
    world.holds_nothing();
}

/// A bzImage whose payload is `kernel`, packed with LZ4 as one run of literals.
fn bzimage(kernel: &[u8]) -> Vec<u8> {
    let mut block = vec![0xf0];
    let mut more = kernel.len() - 15;
    while more >= 255 {
        block.push(255);
        more -= 255;
    }
    block.push(u8::try_from(more).unwrap());
    block.extend(kernel);
    let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
    payload.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
    payload.extend(block);
    payload.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
    let mut image = vec![0; 1024];
    let mut set = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x1f1, &[1]);
    set(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    set(0x202, b"HdrS\x0f\x02");
    set(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    set(0x238, &2047_u32.to_le_bytes());
    set(0x248, &16_u32.to_le_bytes());
    set(0x24c, &u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.resize(1024 + 16, 0);
    image.extend(payload);
    image
}

#[test]
fn root_unpacks_no_kernel_for_a_jail() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let kernel = world.file("bzimage", &bzimage(&elf(SPIN)));
    let kept = || {
        fs::read_dir(world.folder.path().join("cache/vmm")).into_iter().flatten().flatten().count()
    };
    let machine = jailed(&world, through_shell(&world, "", &kernel));
    machine.signal(Signal::TERM);
    assert_eq!(machine.status().code(), Some(0));
    assert_eq!(kept(), 0);
    let machine = world.start(&["--kernel", &kernel]);
    machine.signal(Signal::TERM);
    assert_eq!(machine.status().code(), Some(0));
    assert_eq!(kept(), 1, "without a jail it is kept");
}

#[test]
fn a_confined_machine_whose_kernel_file_has_been_touched_boots_anew() {
    let world = World::new();
    let kernel = world.file("bzimage", &bzimage(&elf(SPIN)));
    let machine = world.start(&["--kernel", &kernel]);
    // What was kept has another name now, and a confined process can keep nothing.
    fs::File::open(&kernel).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(world.vmm(&["reset", "Web"]).code, Some(0));
    assert_eq!(world.listed("Web")["state"], "Running");
    machine.signal(Signal::TERM);
    assert_eq!(machine.status().code(), Some(0));
}
