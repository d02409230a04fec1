//! `vmm run` on a terminal: keys go to the guest while it runs, and the terminal is as it was after.

use crate::world::{Machine, VMM, World};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::File;
use std::io::Write;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};
use tests::micro::SPIN;

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(30);

/// A terminal: the side of the person, and that of the program.
fn terminal() -> (File, File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let program = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
    (File::from(person), File::from(program))
}

fn is_raw(terminal: &File) -> bool {
    !tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON)
}

/// A machine on `terminal`, which has been made raw.
fn start(world: &World, terminal: &File) -> Machine {
    let kernel = world.kernel(SPIN);
    let mut command = world.command(VMM);
    command.args(["run", "Web", "--memory", "32M", "--kernel", &kernel]);
    command.stdin(terminal.try_clone().unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
    let machine = Machine { child: command.spawn().unwrap() };
    let deadline = Instant::now() + LIMIT;
    while !is_raw(terminal) {
        assert!(Instant::now() < deadline, "the terminal is never raw");
        thread::sleep(Duration::from_millis(5));
    }
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
