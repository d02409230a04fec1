//! `vmm console`: attached to a machine that prints what is typed.

use crate::terminal::{is_raw, terminal};
use crate::world::{Machine, VMM, World, eventually, wait};
use rustix::process::Signal;
use std::fs::File;
use std::io::{Read, Write};
use tests::micro::{DOTS, ECHO, SPIN};

/// A machine to whose console people can attach.
fn start(world: &World, code: &[u8]) -> Machine {
    let mut command = world.command(VMM);
    command.args(["run", "Web", "--memory", "32M", "--console", "attach"]);
    world.runs(command.args(["--kernel", &world.kernel(code)]))
}

/// Reads until `text` has come.
fn expect(reader: &mut impl Read, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {seen:?}"));
        seen.push(byte[0].into());
    }
    seen
}

#[test]
fn what_is_piped_in_is_typed_as_it_is_and_what_is_printed_comes_out() {
    let world = World::new();
    let machine = start(&world, ECHO);
    let mut console = world.background(&["console", "web"]);
    // No terminal, so no key means anything.
    let text = "hello\x01d\x01\x01 and more than the port's FIFO takes at once ".repeat(20) + "end";
    console.child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert_eq!(expect(console.child.stdout.as_mut().unwrap(), "end"), text);
    assert_eq!(world.vmm(&["stop", "web"]).code, Some(0));
    machine.end();
    let (status, rest, _) = console.end();
    assert_eq!((status.code(), rest.as_str()), (Some(0), ""), "it ends with the machine");
}

/// The console on a terminal of its own, which has been made raw.
fn attach(world: &World, program: &File) -> Machine {
    let mut command = world.command(VMM);
    let same = || program.try_clone().unwrap();
    command.args(["console", "web"]).stdin(same()).stdout(same()).stderr(same());
    let console = Machine { child: command.spawn().unwrap() };
    eventually("the terminal is never raw", || is_raw(program));
    console
}

#[test]
fn on_a_terminal_the_keys_type_detach_and_leave_everything_as_it_was() {
    let world = World::new();
    let _machine = start(&world, ECHO);
    for round in ["first", "second"] {
        let (mut person, program) = terminal();
        let mut console = attach(&world, &program);
        expect(&mut person, "Ctrl-A d detaches");
        // Ctrl-C is the guest's, and so is the second Ctrl-A of two.
        person.write_all(format!("{round}\x03\x01\x01").as_bytes()).unwrap();
        expect(&mut person, &format!("{round}\x03\x01"));
        person.write_all(b"\x01d").unwrap();
        assert_eq!(wait(&mut console.child).code(), Some(0));
        expect(&mut person, "detached from Web");
        assert!(!is_raw(&program));
    }
    assert_eq!(world.json(&["ls"]).json()["machines"][0]["state"], "Running");
}

#[test]
fn the_terminal_is_as_it_was_when_the_machine_ends_or_a_signal_comes() {
    let world = World::new();
    let machine = start(&world, ECHO);
    let (_person, program) = terminal();
    let mut console = attach(&world, &program);
    console.signal(Signal::TERM);
    assert_eq!(wait(&mut console.child).code(), Some(128 + 15));
    assert!(!is_raw(&program));
    let mut console = attach(&world, &program);
    machine.signal(Signal::KILL);
    assert_eq!(wait(&mut console.child).code(), Some(0));
    assert!(!is_raw(&program));
}

#[test]
fn it_ends_when_nobody_reads_it_and_the_guest_prints() {
    let world = World::new();
    let _machine = start(&world, DOTS);
    let mut console = world.background(&["console", "web"]);
    drop(console.child.stdout.take());
    assert_eq!(wait(&mut console.child).code(), Some(0));
}

#[test]
fn a_console_that_goes_elsewhere_is_explained() {
    let world = World::new();
    let _machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    let (exit, code, text) = world.json(&["console", "web"]).refusal();
    assert_eq!((exit, code.as_str()), (Some(1), "0x80004005"));
    assert!(text.contains("elsewhere"), "{text}");
}
