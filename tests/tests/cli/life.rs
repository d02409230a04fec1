//! What a machine does while it runs, seen to have happened while every thread of it is confined: in
//! the sandbox that each has, and in a jail.

use crate::world::{Machine, World, eventually};
use protocol::HResult;
use protocol::task::TaskResult;
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Duration;
use tests::agent::{self, Manner};
use tests::disk_writer::{DISK_SIZE, disk_writer, overwritten_by, place_of};
use tests::micro::{SPIN, elf};
use tests::relay;
use vmm::control::client::Client;
use vmm::events::{Event, EventKind, Notice};
use vmm::runtime::Runtime;

/// A user that no other program here is.
const NOBODY: u32 = 61_235;
/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(30);

/// again: mov dx, 0x3fd; in al, dx; test al, 1; jz to the in; mov dx, 0x3f8; in al, dx; out dx, al;
/// cmp al, 'r'; jne again; mov al, 0xfe; out 0x64, al; jmp to itself: prints on the serial console
/// what is typed there, and after an r reboots
const REBOOT: &[u8] = &[
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0x3c,
    b'r', 0x75, 0xed, 0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe,
];

/// How a machine is confined, as `vmm start` is told; none if that cannot be here.
fn jail() -> Option<[String; 2]> {
    if rustix::process::geteuid().is_root() {
        return Some(["--jail".into(), NOBODY.to_string()]);
    }
    eprintln!("NOT TESTED: only root can make a jail");
    None
}

/// Sees that each thread of the machine Web is confined.
fn is_confined(world: &World) {
    let pid = &world.listed("Web")["pid"];
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        // One that has just ended is none.
        let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else { continue };
        assert!(status.contains("\nSeccomp:\t2\n"), "{status}");
        threads += 1;
    }
    assert!(threads > 5, "{threads} threads");
}

/// Starts the machine Web with this kernel.
fn start(world: &World, kernel: &[u8], more: &[&str], confined: &[String]) {
    let kernel = world.file("kernel", kernel);
    let created = ["create", "Web", "--kernel", &kernel, "--memory", "32M"];
    let created = world.vmm(&[&created, more].concat());
    assert_eq!(created.code, Some(0), "{created:?}");
    let confined: Vec<&str> = confined.iter().map(String::as_str).collect();
    let started = world.vmm(&[&["start", "web"], &confined[..]].concat());
    assert_eq!(started.code, Some(0), "{started:?}");
    is_confined(world);
}

fn stop(world: &World) {
    is_confined(world);
    let stopped = world.vmm(&["stop", "web"]);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    eventually("it never ends", || world.listed("Web")["state"] == "TurnedOff");
    world.holds_nothing_but_logs();
}

/// The console, attached to.
fn attach(world: &World) -> Machine {
    world.background(&["console", "web"])
}

/// Types `key` until it comes back: what is typed while nobody is attached or during a boot is lost.
fn echoes(console: &mut Machine, key: u8) {
    let screen = console.child.stdout.take().unwrap();
    let (mut reader, keys) = (screen, console.child.stdin.as_mut().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut byte = [0];
        while byte != [key] {
            reader.read_exact(&mut byte).unwrap();
        }
        // Whoever waited may have given up.
        let _ = tell.send(());
        reader
    });
    eventually("no key comes back", || {
        keys.write_all(&[key]).unwrap();
        told.recv_timeout(Duration::from_millis(100)).is_ok()
    });
    console.child.stdout = Some(reading.join().unwrap());
}

/// Somebody attaches to the console, types, and has the guest reboot, twice.
fn console_and_reboot(confined: &[String]) {
    let world = World::new();
    start(&world, &elf(REBOOT), &[], confined);
    let client = Client::connect(&Runtime::at(world.runtime()), "web").unwrap();
    let mut events = client.events().unwrap();
    for key in [b'a', b'b'] {
        let mut console = attach(&world);
        echoes(&mut console, key);
        console.child.stdin.as_mut().unwrap().write_all(b"r").unwrap();
        loop {
            let event = events.next(Some(LIMIT)).unwrap().expect("it never reboots");
            if let Notice::Event(Event { kind: EventKind::OnReset, .. }) = event {
                break;
            }
        }
        is_confined(&world);
        echoes(&mut console, key);
    }
    stop(&world);
}

/// The guest writes its disk, and says what it was told is safe; that is in the image.
fn flush(confined: &[String]) {
    let world = World::new();
    let disk = world.file("disk.img", b"");
    File::options().write(true).open(&disk).unwrap().set_len(DISK_SIZE).unwrap();
    if !confined.is_empty() {
        std::os::unix::fs::chown(&disk, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    start(&world, &disk_writer(1), &["--disk", &format!("path={disk}")], confined);
    let mut console = attach(&world);
    let mut said = vec![0; 17 * 200];
    console.child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    let said = String::from_utf8(said).unwrap();
    let image = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&disk).unwrap();
    // The first line may have begun before anybody was attached, and the last one is not whole.
    let lines: Vec<&str> = said.split('\n').collect();
    let whole = &lines[1..lines.len() - 1];
    assert!(whole.len() > 100, "{said}");
    for line in whole {
        let number = u64::from_str_radix(line, 16).unwrap_or_else(|_| panic!("{line:?} in {said}"));
        let mut found = [0; 8];
        image.read_exact_at(&mut found, place_of(number)).unwrap();
        let mut possible = number;
        // It may have gone on meanwhile.
        while possible < u64::from_le_bytes(found) {
            possible = overwritten_by(possible);
        }
        assert_eq!(u64::from_le_bytes(found), possible, "{number} was said to be safe");
    }
    stop(&world);
}

/// An agent connects and logs everybody off, before and after a reset.
fn logoff(confined: &[String]) {
    let world = World::new();
    start(&world, &elf(relay::code()), &[], confined);
    let vsock = world.runtime().join("web/vsock.sock");
    for _ in 0..2 {
        agent::connect(&vsock, Manner::Ends(TaskResult::Success, HResult::S_OK));
        eventually("no agent", || world.listed("Web")["agent"]["connected"] == true);
        let done = world.json(&["logoff", "web"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        assert_eq!(done.json()["task"]["result"], "Success");
        assert_eq!(done.json()["report"]["sessions"].as_array().unwrap().len(), 1, "{done:?}");
        is_confined(&world);
        assert_eq!(world.vmm(&["reset", "web"]).code, Some(0));
        eventually("it stays", || world.listed("Web")["agent"]["connected"] == false);
    }
    stop(&world);
}

#[test]
fn in_the_sandbox_a_console_is_attached_to_and_the_guest_reboots_itself() {
    console_and_reboot(&[]);
}

#[test]
fn in_the_sandbox_what_the_guest_flushed_is_in_its_image() {
    flush(&[]);
}

#[test]
fn in_the_sandbox_everybody_is_logged_off() {
    logoff(&[]);
}

#[test]
fn in_a_jail_a_console_is_attached_to_and_the_guest_reboots_itself() {
    if let Some(jail) = jail() {
        console_and_reboot(&jail);
    }
}

#[test]
fn in_a_jail_what_the_guest_flushed_is_in_its_image() {
    if let Some(jail) = jail() {
        flush(&jail);
    }
}

#[test]
fn in_a_jail_everybody_is_logged_off() {
    if let Some(jail) = jail() {
        logoff(&jail);
    }
}

/// Holds the lock on the file with the ids of tasks.
fn keep_ids(world: &World) -> File {
    let path = world.runtime().join(":last-task");
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: the descriptor is open, and the lock is only read.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw mut lock) }, 0);
    file
}

#[test]
fn who_locks_the_ids_of_tasks_stops_no_machine_that_runs_and_a_start_is_refused_soon() {
    let world = World::new();
    let relay = world.file("relay", &elf(relay::code()));
    let machine = world.start(&["--kernel", &relay]);
    // It has let go of the file, so that nobody in there could lock it.
    match fs::read_dir(format!("/proc/{}/fd", machine.child.id())) {
        Err(_) => eprintln!("NOT TESTED: only root sees what files a confined process has open"),
        Ok(descriptors) => {
            for descriptor in descriptors.flatten() {
                let file = fs::read_link(descriptor.path()).unwrap_or_default();
                assert!(!file.ends_with(":last-task"), "{file:?}");
            }
        }
    }
    let keeper = keep_ids(&world);
    let vsock = world.runtime().join("web/vsock.sock");
    agent::connect(&vsock, Manner::Ends(TaskResult::Success, HResult::S_OK));
    eventually("no agent", || world.listed("Web")["agent"]["connected"] == true);
    assert_eq!(world.json(&["logoff", "web"]).code, Some(0));
    let tasks = world.json(&["task", "ls", "web"]).json()["tasks"].clone();
    assert_eq!(tasks.as_array().unwrap().len(), 2, "{tasks}");
    let spin = world.kernel(SPIN);
    let refused = ["run", "other", "--kernel", &spin, "--memory", "32M", "--console", "none"];
    let (exit, code, text) = world.json(&refused).refusal();
    assert_eq!((exit, code.as_str()), (Some(1), "0x80070020"), "{text}");
    assert!(text.contains(":last-task"), "{text}");
    machine.signal(Signal::TERM);
    assert_eq!(machine.status().code(), Some(0));
    drop(keeper);
    let other = world.background(&refused);
    eventually("it never runs", || world.listed("other")["state"] == "Running");
    other.signal(Signal::TERM);
    assert_eq!(other.status().code(), Some(0));
    world.holds_nothing();
}

#[test]
fn root_keeps_no_capability_but_those_for_files_that_are_not_its_own() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT TESTED: only root has capabilities to give up");
        return;
    }
    let world = World::new();
    let machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    let process = machine.child.id();
    for task in fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let set = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        // CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, or fewer.
        for name in ["CapPrm:", "CapEff:"] {
            assert_eq!(set(name) & !0b110, 0, "{status}");
        }
        assert_eq!(set("CapInh:"), 0, "{status}");
    }
    machine.signal(Signal::TERM);
    assert_eq!(machine.status().code(), Some(0));
}
