//! `vmm events`: what machines do is told, line by line, to whoever reads.

use crate::world::{Machine, World, eventually, wait};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::ChildStdout;
use tests::micro::SPIN;
use vmm::control::client::Client;
use vmm::control::wire::Request;
use vmm::runtime::Runtime;

/// `vmm events`, and what it prints.
struct Listener {
    process: Machine,
    lines: BufReader<ChildStdout>,
}

impl Listener {
    fn of(world: &World, arguments: &[&str]) -> Self {
        let all = [&["events"], arguments, &["--format", "json"]].concat();
        let mut process = world.background(&all);
        let lines = BufReader::new(process.child.stdout.take().unwrap());
        Self { process, lines }
    }

    /// What comes next; none at the end.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    /// Events until one of this name has come.
    fn until(&mut self, name: &str) -> Value {
        loop {
            let event = self.next().expect("events end before it has come");
            if event["name"] == name {
                return event;
            }
        }
    }

    /// Waits until the subscription has begun, by pausing and resuming the machine until it is told.
    fn begin(&mut self, world: &World) {
        let (mut poke, runtime) = (None, Runtime::at(world.runtime()));
        let stdout = std::os::fd::AsFd::as_fd(self.lines.get_ref()).try_clone_to_owned().unwrap();
        eventually("nothing is told", || {
            let client = poke.get_or_insert_with(|| Client::connect(&runtime, "web").unwrap());
            client.act(Request::Pause).unwrap();
            client.act(Request::Resume).unwrap();
            let mut fds = [rustix::event::PollFd::new(&stdout, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() > 0
        });
    }
}

#[test]
fn each_event_is_a_line_with_its_documented_number_and_the_stream_ends_with_the_machine() {
    let world = World::new();
    let machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    let mut listener = Listener::of(&world, &["web"]);
    listener.begin(&world);
    assert_eq!(world.vmm(&["reset", "web"]).code, Some(0));
    let reset = listener.until("OnReset");
    assert_eq!((&reset["machine"], &reset["number"]), (&"Web".into(), &3.into()));
    let mut last = reset["sequence"].as_u64().unwrap();
    assert_eq!(world.vmm(&["stop", "web"]).code, Some(0));
    machine.end();
    let mut states = Vec::new();
    while let Some(event) = listener.next() {
        let sequence = event["sequence"].as_u64().unwrap();
        assert_eq!(sequence, last + 1, "{event}");
        last = sequence;
        if event["name"] == "OnStateChange" {
            assert_eq!(event["number"], 1);
            states.push(event["state"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(states, ["TurningOff", "TurnedOff"]);
    assert_eq!(wait(&mut listener.process.child).code(), Some(0));
}

#[test]
fn machines_that_are_started_later_are_heard_of_too() {
    let world = World::new();
    let mut listener = Listener::of(&world, &[]);
    for _ in 0..2 {
        let machine = world.start(&["--kernel", &world.kernel(SPIN)]);
        listener.begin(&world);
        assert_eq!(world.vmm(&["stop", "web"]).code, Some(0));
        assert_eq!(listener.until("OnRequestShutdown")["machine"], "Web");
        machine.end();
        // Its last event, so that the next is of the next machine.
        while listener.until("OnStateChange")["state"] != "TurnedOff" {}
    }
}

#[test]
fn a_slow_reader_is_told_how_many_events_it_has_lost() {
    let world = World::new();
    let _machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    let mut listener = Listener::of(&world, &["web"]);
    listener.begin(&world);
    listener.process.signal(Signal::STOP);
    let mut client = Client::connect(&Runtime::at(world.runtime()), "web").unwrap();
    for _ in 0..3000 {
        client.act(Request::Pause).unwrap();
        client.act(Request::Resume).unwrap();
    }
    listener.process.signal(Signal::CONT);
    let mut last = 0;
    let lost = loop {
        let line = listener.next().unwrap();
        match line["lost"].as_u64() {
            Some(lost) => break lost,
            None => last = line["sequence"].as_u64().unwrap(),
        }
    };
    let next = listener.next().unwrap()["sequence"].as_u64().unwrap();
    assert_eq!(next, last + lost + 1, "as many as are missing");
}

#[test]
fn it_ends_when_nobody_reads_it_any_more() {
    let world = World::new();
    let _machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    for arguments in [&["events"][..], &["events", "web"]] {
        let mut listener = world.background(arguments);
        drop(listener.child.stdout.take());
        assert_eq!(wait(&mut listener.child).code(), Some(0));
    }
}
