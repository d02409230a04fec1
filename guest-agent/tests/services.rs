//! The services besides logging off, over a connection: what is offered, accepted and answered.

mod world;

use guest_agent::clock::GuestClock;
use guest_agent::info::Info;
use guest_agent::install::{Install, Kit};
use guest_agent::parameters::Store;
use guest_agent::power::{Init, Power, Stage};
use guest_agent::serve::Agent;
use guest_agent::services::Services;
use protocol::HResult;
use protocol::clock::{ClockAction, ClockReason, ClockReport, HostTime};
use protocol::message::{AgentMessage, HostMessage, Request};
use protocol::parameters::MAX_VALUE;
use protocol::power::{PowerAction, PowerRequest};
use protocol::task::TaskResult;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use world::{Host, World, lives};

/// An init that says what it was told, and does nothing.
struct Fake {
    told: Mutex<Sender<(PowerAction, bool)>>,
    fails: bool,
}

impl Fake {
    fn told(&self, action: PowerAction, forced: bool) -> io::Result<()> {
        self.told.lock().unwrap().send((action, forced)).unwrap();
        if self.fails { Err(io::Error::other("no")) } else { Ok(()) }
    }
}

impl Init for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn stage(&self) -> Stage {
        Stage::Unknown
    }

    fn ask(&self, action: PowerAction) -> io::Result<()> {
        self.told(action, false)
    }

    fn force(&self, action: PowerAction) -> io::Result<()> {
        self.told(action, true)
    }
}

/// A clock that stands.
struct Standing;

impl GuestClock for Standing {
    fn now(&self) -> i64 {
        1_000
    }

    fn is_kept(&self) -> bool {
        false
    }

    fn step(&self, _: i64) -> io::Result<()> {
        Ok(())
    }

    fn slew(&self, _: i64) -> io::Result<()> {
        Ok(())
    }
}

type Told = Receiver<(PowerAction, bool)>;

/// A host, connected to an agent with every service, none of which touches this machine.
fn host(world: &World, fails: bool) -> (Host, Told) {
    let (sender, told) = mpsc::channel();
    let init = Fake { told: Mutex::new(sender), fails };
    let info = Info::new(world.path("root"));
    let services = Services {
        power: Some(Power::new(Box::new(init), info.clone())),
        info: Some(info),
        parameters: Some(Store::new(world.path("vmm/parameters"))),
        clock: Some(Box::new(Standing)),
        install: None,
    };
    let agent = Agent::new(Arc::new(world.backend()), "boot").with_services(services);
    let mut host = world.connect_to(agent);
    let offered: Vec<String> = host.hello().services.into_keys().collect();
    assert_eq!(offered, ["clock", "info", "logoff", "parameters", "power", "sessions"]);
    host.welcome();
    (host, told)
}

fn power(action: PowerAction, forced: bool) -> Request {
    Request::Power(PowerRequest { action, forced })
}

/// Asks for it, and has it accepted.
fn accepted(host: &mut Host, id: u64, action: PowerAction, forced: bool) {
    host.request(id, power(action, forced));
    assert_eq!(host.next(), AgentMessage::PowerAccepted { id, init: "fake".into() });
}

fn failed(host: &mut Host, id: u64) -> (TaskResult, HResult) {
    let AgentMessage::Done(done) = host.next() else { panic!("not done") };
    assert_eq!(done.id, id);
    (done.result, done.error)
}

const SOON: Duration = Duration::from_secs(30);

#[test]
fn nothing_is_done_before_the_host_says_that_it_still_wants_it() {
    let world = World::new();
    let (mut host, told) = host(&world, false);
    accepted(&mut host, 1, PowerAction::Shutdown, false);
    accepted(&mut host, 2, PowerAction::Restart, true);
    host.say(&HostMessage::Proceed { id: 3 });
    host.say(&HostMessage::Cancel { id: 1 });
    assert_eq!(host.next(), AgentMessage::CancelAnswer { id: 1, cancelled: true });
    host.say(&HostMessage::Proceed { id: 1 });
    host.say(&HostMessage::Ping { seq: 5 });
    assert_eq!(host.next(), AgentMessage::Pong { seq: 5 });
    assert!(told.try_recv().is_err());
    host.say(&HostMessage::Proceed { id: 2 });
    assert_eq!(told.recv_timeout(SOON).unwrap(), (PowerAction::Restart, true));
    host.say(&HostMessage::Proceed { id: 2 });
    host.hang_up().unwrap();
    assert!(told.try_recv().is_err(), "only once");
}

#[test]
fn a_second_shutdown_is_in_progress_and_a_forced_one_hastens_it() {
    let world = World::new();
    let (mut host, told) = host(&world, false);
    let going = (TaskResult::UnexpectedError, HResult::ERROR_SHUTDOWN_IN_PROGRESS);
    accepted(&mut host, 1, PowerAction::Shutdown, false);
    host.say(&HostMessage::Proceed { id: 1 });
    assert_eq!(told.recv_timeout(SOON).unwrap(), (PowerAction::Shutdown, false));
    accepted(&mut host, 2, PowerAction::Restart, false);
    host.say(&HostMessage::Proceed { id: 2 });
    assert_eq!(failed(&mut host, 2), going);
    accepted(&mut host, 3, PowerAction::Shutdown, true);
    host.say(&HostMessage::Proceed { id: 3 });
    assert_eq!(told.recv_timeout(SOON).unwrap(), (PowerAction::Shutdown, true));
    accepted(&mut host, 4, PowerAction::Shutdown, true);
    host.say(&HostMessage::Proceed { id: 4 });
    assert_eq!(failed(&mut host, 4), going);
    host.hang_up().unwrap();
}

#[test]
fn an_init_that_refuses_ends_the_task_and_the_next_may_try_again() {
    let world = World::new();
    let (mut host, told) = host(&world, true);
    for id in [1, 2] {
        accepted(&mut host, id, PowerAction::Shutdown, false);
        host.say(&HostMessage::Proceed { id });
        let aborted = (TaskResult::ShutdownAbort, HResult::DISP_E_EXCEPTION);
        assert_eq!(failed(&mut host, id), aborted);
        told.recv_timeout(SOON).unwrap();
    }
}

#[test]
fn acceptances_that_nobody_proceeds_with_are_bounded() {
    let world = World::new();
    let (mut host, _told) = host(&world, false);
    for id in 1..=16 {
        accepted(&mut host, id, PowerAction::Shutdown, false);
    }
    host.request(17, power(PowerAction::Shutdown, false));
    assert!(matches!(host.next(), AgentMessage::Rejected { id: 17, .. }));
}

#[test]
fn the_guest_says_what_it_is_and_what_it_does_not_know() {
    let world = World::new();
    let etc = world.path("root/etc");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("os-release"), "PRETTY_NAME='A System 3'\nVERSION_ID=3\n").unwrap();
    let (mut host, _told) = host(&world, false);
    host.request(1, Request::OsInfo);
    let AgentMessage::OsInfo { id: 1, info } = host.next() else { panic!("no answer") };
    assert_eq!((&*info.name, &*info.version), ("A System 3", "3"));
    host.request(2, Request::ScreenLocked);
    let AgentMessage::Rejected { id: 2, error, .. } = host.next() else { panic!("no answer") };
    assert_eq!(error, HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
}

#[test]
fn parameters_are_kept_and_refused_with_their_codes() {
    let world = World::new();
    let (mut host, _told) = host(&world, false);
    let set =
        |name: &str, value: &str| Request::SetParameter { name: name.into(), value: value.into() };
    let get = |name: &str| Request::GetParameter { name: name.into() };
    host.request(1, set("HostName", "host"));
    assert_eq!(host.next(), AgentMessage::ParameterSet { id: 1 });
    host.request(2, get("HostName"));
    assert_eq!(host.next(), AgentMessage::Parameter { id: 2, value: "host".into() });
    for (id, request) in [(3, get("Nobody")), (4, get("../x")), (5, set("a\\b", ""))] {
        host.request(id, request);
        let AgentMessage::Rejected { id: answered, error, .. } = host.next() else {
            panic!("not rejected")
        };
        assert_eq!((answered, error), (id, HResult::E_INVALIDARG));
    }
    // As long as a value may be, but twice that in a message.
    std::fs::write(world.path("vmm/parameters/quotes"), "\"".repeat(MAX_VALUE)).unwrap();
    host.request(6, get("quotes"));
    assert!(matches!(host.next(), AgentMessage::Rejected { id: 6, .. }));
    host.request(7, get("HostName"));
    assert!(matches!(host.next(), AgentMessage::Parameter { id: 7, .. }), "the connection lives");
}

#[test]
fn the_clock_follows_and_says_so() {
    let world = World::new();
    let (mut host, _told) = host(&world, false);
    let reason = ClockReason::Boot;
    let time = HostTime { host_ns: 3_000_000_000, round_trip_ns: 2_000, reason };
    host.request(1, Request::SetClock(time));
    let report = ClockReport { offset_ns: 3_000_000_000, action: ClockAction::Stepped };
    assert_eq!(host.next(), AgentMessage::Clock { id: 1, report });
}

/// Makes a folder with an agent 1.2.3 to install, and with this script to do it.
fn write_kit(folder: &Path, script: &str) {
    std::fs::create_dir(folder).unwrap();
    for (name, text) in [("vmm-agent", "echo vmm-agent 1.2.3"), ("install", script)] {
        std::fs::write(folder.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.join(name), mode).unwrap();
    }
}

/// A host whose agent has installed another one, and has accepted the shutdown 2 meanwhile; hears
/// when the agent makes way.
fn installed_but_busy(world: &World) -> (Host, Receiver<()>) {
    let (kit, may_end) = (world.path("kit"), world.path("may-end"));
    write_kit(&kit, &format!("while [ ! -e {} ]; do sleep 0.01; done", may_end.display()));
    let (sender, gone_over) = mpsc::channel();
    let sender = Mutex::new(sender);
    let install = Install::new(
        move || Ok(Kit::at(&kit)),
        move || {
            sender.lock().unwrap().send(()).unwrap();
            io::Error::other("not here")
        },
    );
    let init = Fake { told: Mutex::new(mpsc::channel().0), fails: false };
    let services = Services {
        power: Some(Power::new(Box::new(init), Info::new(world.path("root")))),
        install: Some(install),
        ..Services::default()
    };
    let mut host =
        world.connect_to(Agent::new(Arc::new(world.backend()), "boot").with_services(services));
    host.hello();
    host.welcome();
    host.request(1, Request::Install);
    assert_eq!(host.next(), AgentMessage::Installing { id: 1, version: "1.2.3".into() });
    accepted(&mut host, 2, PowerAction::Shutdown, false);
    std::fs::write(&may_end, "").unwrap();
    assert_eq!(host.next(), AgentMessage::Installed { id: 1 });
    (host, gone_over)
}

#[test]
fn an_agent_makes_way_for_the_installed_one_when_nothing_else_is_under_way() {
    let world = World::new();
    let (mut host, gone_over) = installed_but_busy(&world);
    assert!(gone_over.recv_timeout(Duration::from_millis(300)).is_err(), "cut off");
    host.request(3, Request::Install);
    let AgentMessage::Rejected { id: 3, error, .. } = host.next() else { panic!("taken") };
    assert_eq!(error, HResult::ERROR_NOT_READY);
    host.say(&HostMessage::Cancel { id: 2 });
    assert_eq!(host.next(), AgentMessage::CancelAnswer { id: 2, cancelled: true });
    gone_over.recv_timeout(SOON).unwrap();
    let AgentMessage::Done(done) = host.next() else { panic!("not done") };
    assert_eq!((done.id, done.error), (1, HResult::DISP_E_EXCEPTION));
}

#[test]
fn an_agent_makes_way_for_the_installed_one_when_the_connection_ends() {
    let world = World::new();
    let (host, gone_over) = installed_but_busy(&world);
    host.hang_up().unwrap();
    gone_over.try_recv().expect("it has stayed");
}

#[test]
fn an_installer_ends_with_the_connection_and_the_next_one_can_install() {
    let world = World::new();
    let kit = world.path("kit");
    let (begun, again) = (world.path("begun"), world.path("again"));
    // The first time the installer hangs, in a program of its own.
    let script = format!(
        "[ -e {again} ] && exit 0; touch {again}; sleep 1000 & echo $$ $! > {begun}.draft; \
         mv {begun}.draft {begun}; wait",
        again = again.display(),
        begun = begun.display()
    );
    write_kit(&kit, &script);
    let install = Install::new(move || Ok(Kit::at(&kit)), || io::Error::other("not here"));
    let services = Services { install: Some(install), ..Services::default() };
    let agent = Agent::new(Arc::new(world.backend()), "boot").with_services(services);
    let ask = |id| {
        let mut host = world.connect_to(agent.clone());
        host.hello();
        host.welcome();
        host.request(id, Request::Install);
        assert_eq!(host.next(), AgentMessage::Installing { id, version: "1.2.3".into() });
        host
    };
    let host = ask(1);
    let since = Instant::now();
    while !begun.is_file() {
        assert!(since.elapsed() < SOON, "it never began");
        thread::sleep(Duration::from_millis(5));
    }
    let left = Instant::now();
    host.hang_up().unwrap();
    assert!(left.elapsed() < SOON, "the connection is not done with before the installer is");
    for pid in std::fs::read_to_string(&begun).unwrap().split_whitespace() {
        let pid = pid.parse().unwrap();
        while lives(pid) {
            assert!(left.elapsed() < SOON, "{pid} goes on");
            thread::sleep(Duration::from_millis(5));
        }
    }
    let mut host = ask(2);
    assert_eq!(host.next(), AgentMessage::Installed { id: 2 });
    let text = "it is installed, but does not run: not here".to_owned();
    let AgentMessage::Done(done) = host.next() else { panic!("not done") };
    assert_eq!((done.id, done.text), (2, text));
}

#[test]
fn an_agent_without_services_knows_none_of_their_verbs() {
    let world = World::new();
    let mut host = world.host();
    for (id, request) in
        [(1, power(PowerAction::Shutdown, true)), (2, Request::OsInfo), (3, Request::ScreenLocked)]
    {
        host.request(id, request);
        assert!(matches!(host.next(), AgentMessage::Rejected { .. }), "{id}");
    }
    host.say(&HostMessage::Proceed { id: 1 });
    host.say(&HostMessage::Ping { seq: 9 });
    assert_eq!(host.next(), AgentMessage::Pong { seq: 9 });
}
