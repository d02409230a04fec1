//! `vmm run` with its console on standard output: a terminal, whose keys go to the guest while it
//! runs and which is as it was after; a file; a socket.

use crate::world::{Machine, VMM, World, eventually};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use tests::micro::{DOTS, POWER_OFF, SPIN};

/// A terminal: the side of the person, and that of the program.
pub(crate) fn terminal() -> (File, File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let program = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
    (File::from(person), File::from(program))
}

pub(crate) fn is_raw(terminal: &File) -> bool {
    !tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON)
}

/// A machine on `terminal`, which has been made raw.
fn start(world: &World, terminal: &File) -> Machine {
    let kernel = world.kernel(SPIN);
    let mut command = world.command(VMM);
    command.args(["run", "Web", "--memory", "32M", "--kernel", &kernel]);
    command.stdin(terminal.try_clone().unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
    let machine = Machine { child: command.spawn().unwrap() };
    eventually("the terminal is never raw", || is_raw(terminal));
    machine
}

#[test]
fn the_escape_keys_turn_the_machine_off_and_the_terminal_is_as_it_was() {
    let world = World::new();
    let (mut person, terminal) = terminal();
    let machine = start(&world, &terminal);
    person.write_all(b"\x03\x01x").unwrap();
    assert_eq!(machine.status().code(), Some(0));
    assert!(!is_raw(&terminal));
    world.holds_nothing();
}

#[test]
fn the_terminal_is_as_it_was_after_signals() {
    let world = World::new();
    let (_person, terminal) = terminal();
    let machine = start(&world, &terminal);
    machine.signal(Signal::HUP);
    assert_eq!(machine.status().code(), Some(0));
    assert!(!is_raw(&terminal));
}

#[test]
fn output_goes_behind_what_a_file_holds_already() {
    let world = World::new();
    // mov dx, 0x3f8; mov al, '.'; out dx, al
    let dot = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xee];
    let kernel = world.kernel(&[&dot, POWER_OFF].concat());
    let path = world.folder.path().join("output");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"before ").unwrap();
    let mut command = world.command(VMM);
    command.args(["run", "Web", "--memory", "32M", "--format", "json", "--kernel", &kernel]);
    let status = command.stdout(file).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let written = fs::read_to_string(&path).unwrap();
    let document = written.strip_prefix("before .").unwrap_or_else(|| panic!("{written}"));
    let document: serde_json::Value = serde_json::from_str(document).unwrap();
    assert_eq!(document["end"], "power_off");
}

#[test]
fn a_socket_that_nobody_reads_holds_up_neither_the_guest_nor_its_end() {
    let world = World::new();
    let kernel = world.kernel(DOTS);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = world.command(VMM);
    command.args(["run", "Web", "--memory", "32M", "--kernel", &kernel]);
    command.stdout(OwnedFd::from(theirs)).stderr(Stdio::null());
    let machine = Machine { child: command.spawn().unwrap() };
    let mut before = 0;
    eventually("it is never full", || {
        thread::sleep(Duration::from_millis(300));
        let now = rustix::io::ioctl_fionread(&ours).unwrap();
        std::mem::replace(&mut before, now) == now && now > 0
    });
    machine.signal(Signal::TERM);
    assert_eq!(machine.status().code(), Some(0));
}

#[test]
fn progress_is_a_bar_on_a_terminal_that_can_show_one_and_lines_on_another() {
    let world = World::new();
    let (_person, console) = terminal();
    let _machine = start(&world, &console);
    let shown = |kind: &str| {
        let (mut person, terminal) = terminal();
        let mut command = world.command(VMM);
        command.args(["reset", "Web"]).env("TERM", kind).stdout(Stdio::null()).stderr(terminal);
        assert!(command.status().unwrap().success());
        // It closes our side of the terminal, too.
        drop(command);
        let mut text = Vec::new();
        // A terminal that nobody has open any more ends with an error.
        let _ = person.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    };
    let bar = shown("xterm");
    assert!(bar.contains("[==") && bar.contains("100%"), "{bar:?}");
    let lines = shown("dumb");
    assert!(lines.ends_with(": 100% reset the machine\r\n"), "{lines:?}");
    assert!(!lines.contains('\x1b'), "{lines:?}");
}
