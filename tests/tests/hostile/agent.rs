//! Cases 44 to 51: an agent that says what it likes, over the ring, the device and the multiplexer of
//! a machine whose guest [relays](tests::relay) it.

use crate::VMM;
use crate::world::{Machine, World, answer, eventually};
use protocol::HResult;
use protocol::frame::{self, Decoder, FrameError, MAX_FRAME, encode};
use protocol::hello::{Hello, INFO, LOGOFF, PARAMETERS, POWER, SESSIONS, Versions};
use protocol::info::OsInfo;
use protocol::message::{AgentMessage, Done, HostMessage, Progress, Request};
use protocol::task::{
    LogoffOptions, Outcome, Process, SecondLook, SessionReport, SessionSummary, TaskResult,
};
use rustix::process::Signal;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};
use tests::micro::elf;
use tests::puppet::Usage;
use tests::relay::{self, Order};
use vmm::control::client::Client;
use vmm::control::wire::{self, MachineInfo, Property, TaskDocument};
use vmm::error::CallError;
use vmm::runtime::Runtime;

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(30);
/// In which every pending call ends with its machine.
const SOON: Duration = Duration::from_secs(1);

/// A machine whose agent is the test.
struct Scene {
    world: World,
    machine: Machine,
}

impl Scene {
    fn new() -> Self {
        Self::relayed_by(relay::code())
    }

    fn relayed_by(code: &[u8]) -> Self {
        let world = World::new();
        let kernel = world.file("relay", &elf(code));
        let machine = world.start(&["--kernel", &kernel]);
        Self { world, machine }
    }

    /// One to whose console others can attach.
    fn with_console() -> Self {
        let world = World::new();
        let kernel = world.file("relay", &elf(relay::code()));
        let mut command = world.command(VMM);
        command.args(["run", "Web", "--memory", "32M", "--console", "attach"]);
        let machine = world.runs(command.args(["--kernel", &kernel]));
        Self { world, machine }
    }

    fn vsock(&self) -> PathBuf {
        self.world.runtime().join("web/vsock.sock")
    }

    /// Somebody in the guest has connected, and has not said anything yet.
    fn connect(&self) -> Agent {
        let stream = relay::dial(&self.vsock(), protocol::AGENT_PORT);
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Agent { stream, decoder: Decoder::default() }
    }

    /// An agent that has shaken hands.
    fn agent(&self) -> Agent {
        self.agent_of("boot")
    }

    fn agent_of(&self, boot_id: &str) -> Agent {
        let hello = encode(&AgentMessage::Hello(hello(boot_id))).unwrap();
        self.agent_saying(|agent| agent.say_bytes(&hello))
    }

    /// An agent that says its hello in this way. The relay dials from one port only: as long as the
    /// connection before has not ended, the next is reset.
    fn agent_saying(&self, say: impl Fn(&mut Agent)) -> Agent {
        let deadline = Instant::now() + LIMIT;
        loop {
            assert!(Instant::now() < deadline, "no agent is let in");
            let mut agent = self.connect();
            say(&mut agent);
            if agent.is_welcome() {
                self.wait_for("an agent", |machine| machine.agent.connected);
                return agent;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn client(&self) -> Client {
        Client::connect(&Runtime::at(self.world.runtime()), "web").unwrap()
    }

    fn info(&self) -> MachineInfo {
        self.client().machine().unwrap()
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&MachineInfo) -> bool) {
        eventually(&format!("never {what}"), || is_so(&self.info()));
    }

    /// Asks for a logoff, which the agent accepts: its request there, and the task.
    fn begin(&self, agent: &mut Agent, sessions: u32, options: LogoffOptions) -> (u64, u32) {
        let mut client = self.client();
        let asking = thread::spawn(move || client.logoff(options));
        let (id, request) = agent.request();
        assert!(matches!(request, Request::Logoff(_)), "{request:?}");
        let backend = "test".into();
        agent.say(&AgentMessage::Accepted { id, backend, sessions, managers: 0 });
        (id, asking.join().unwrap().unwrap().task.id)
    }

    fn end(&self, task: u32) -> TaskDocument {
        let document = self.client().wait(task, Some(LIMIT), |_| ()).unwrap();
        assert!(document.task.is_complete, "{document:?}");
        document
    }

    /// An honest agent that connects now logs a user off.
    fn serves(&self) {
        let mut agent = self.agent();
        let (id, task) = self.begin(&mut agent, 1, LogoffOptions::default());
        agent.log_off(id, 1);
        agent.answer_second_look(Vec::new());
        assert_eq!(self.end(task).task.result, Some(TaskResult::Success));
    }

    /// The monitor has not panicked, and ends in order.
    fn ends_well(self) {
        self.machine.signal(Signal::TERM);
        let (status, _, stderr) = self.machine.end();
        assert_eq!(status.code(), Some(0), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        is_clean(&stderr);
        self.world.holds_nothing();
    }
}

fn hello(boot_id: &str) -> Hello {
    let services = [LOGOFF, SESSIONS, POWER, INFO, PARAMETERS];
    Hello {
        protocols: protocol::PROTOCOL,
        agent_version: "9.9".into(),
        boot_id: boot_id.into(),
        services: services.map(|service| (service.to_owned(), 1)).into(),
    }
}

fn session(number: u32, outcome: Option<Outcome>) -> SessionReport {
    let session = SessionSummary {
        id: format!("s{number}"),
        user: format!("user{number}"),
        leader: 100 + number,
        leader_start: 1,
        ..SessionSummary::default()
    };
    SessionReport { session, outcome, milliseconds: outcome.map(|_| 1), survivors: Vec::new() }
}

/// The guest's end of a connection.
struct Agent {
    stream: UnixStream,
    decoder: Decoder,
}

impl Agent {
    fn say(&mut self, message: &AgentMessage) {
        frame::write(&mut self.stream, message).unwrap();
    }

    /// Says it as far as the host listens.
    fn say_bytes(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes) {
            Err(error)
                if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) =>
            {
                panic!("{error}")
            }
            _ => {}
        }
    }

    /// Says a frame that need be no message.
    fn say_frame(&mut self, document: &[u8]) {
        self.say_bytes(&[&(document.len() as u32).to_le_bytes(), document].concat());
    }

    fn hear(&mut self) -> Option<HostMessage> {
        self.decoder.read(&mut self.stream).unwrap()
    }

    /// Whether the host welcomes it, and hears that it is there.
    fn is_welcome(&mut self) -> bool {
        let Ok(Some(HostMessage::Welcome(_))) = self.decoder.read(&mut self.stream) else {
            return false;
        };
        let Some(HostMessage::Ping { seq }) = self.hear() else { panic!("no ping") };
        self.say(&AgentMessage::Pong { seq });
        true
    }

    /// The request that comes next; not those by which the host tells of itself.
    fn request(&mut self) -> (u64, Request) {
        loop {
            match self.hear() {
                Some(HostMessage::Request { id, request: Request::SetParameter { .. } }) => {
                    self.say(&AgentMessage::ParameterSet { id });
                }
                Some(HostMessage::Request { id, request }) => return (id, request),
                Some(HostMessage::Ping { seq }) => self.say(&AgentMessage::Pong { seq }),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next request, whatever it is, if one comes in a moment.
    fn request_meanwhile(&mut self) -> Option<(u64, Request)> {
        self.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let heard = self.decoder.read(&mut self.stream);
        self.stream.set_read_timeout(Some(LIMIT)).unwrap();
        match heard {
            Ok(Some(HostMessage::Request { id, request })) => return Some((id, request)),
            Ok(Some(HostMessage::Ping { seq })) => self.say(&AgentMessage::Pong { seq }),
            Ok(Some(HostMessage::Cancel { .. } | HostMessage::Proceed { .. })) => {}
            Err(FrameError::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
            other => panic!("{other:?}"),
        }
        None
    }

    /// The host hangs up, whatever it says before.
    fn is_hung_up_on(&mut self) {
        loop {
            match self.stream.read(&mut [0; 4096]) {
                Ok(1..) => {}
                Ok(0) => return,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the host did not hang up: {error}"),
            }
        }
    }

    fn row(&mut self, id: u64, session: SessionReport) {
        self.say(&AgentMessage::Session { id, session });
    }

    fn progress(&mut self, id: u64, done: u32) {
        self.say(&AgentMessage::Progress(Progress { id, committed: true, done }));
    }

    fn done(&mut self, id: u64, result: TaskResult, error: HResult) {
        self.say(&AgentMessage::Done(Done::failed(id, result, error, "")));
    }

    /// Says that so many sessions have ended, and that this is all.
    fn log_off(&mut self, id: u64, sessions: u32) {
        self.progress(id, 0);
        (0..sessions).for_each(|number| self.row(id, session(number, Some(Outcome::Terminated))));
        self.done(id, TaskResult::Success, HResult::S_OK);
    }

    fn answer_second_look(&mut self, sessions: Vec<SessionSummary>) {
        let (id, request) = self.request();
        assert_eq!(request, Request::Sessions);
        self.say(&AgentMessage::Sessions {
            id,
            backend: "test".into(),
            sessions,
            omitted: 0,
            worked_us: 0,
        });
    }
}

#[test]
fn case_44_lengths_that_no_frame_has_end_the_connection_at_once() {
    let scene = Scene::new();
    let before = Usage::of(scene.machine.child.id());
    for length in [0, MAX_FRAME as u32 + 1, 1 << 31, u32::MAX] {
        let mut stranger = scene.connect();
        stranger.say_bytes(&length.to_le_bytes());
        stranger.is_hung_up_on();
        let mut agent = scene.agent();
        agent.say_bytes(&length.to_le_bytes());
        agent.is_hung_up_on();
        scene.wait_for("without an agent", |machine| !machine.agent.connected);
    }
    let after = Usage::of(scene.machine.child.id());
    assert!(after.memory < before.memory + 2048, "{before:?} {after:?}");
    scene.serves();
    scene.ends_well();
}

#[test]
fn case_44_a_frame_may_come_byte_by_byte_but_a_handshake_not_without_end() {
    let scene = Scene::new();
    // Somebody who never says the whole of it.
    let mut stalled = scene.connect();
    stalled.say_bytes(&MAX_FRAME.to_le_bytes()[..4]);
    let begun = Instant::now();
    let trickling = thread::spawn(move || {
        while stalled.stream.write_all(b" ").is_ok() {
            assert!(begun.elapsed() < LIMIT, "a handshake lasts for ever");
            thread::sleep(Duration::from_millis(50));
        }
    });
    assert!(!scene.info().agent.connected);
    trickling.join().unwrap();
    let hello = encode(&AgentMessage::Hello(hello("boot"))).unwrap();
    let mut agent = scene.agent_saying(|agent| {
        for byte in &hello {
            agent.say_bytes(&[*byte]);
        }
    });
    // Half of a message is none: who waits for it waits for nobody else.
    agent.say_bytes(&[9, 0, 0, 0, b'{']);
    let asked = scene.client().property(Property::ComputerName).unwrap_err();
    assert_eq!(asked.code, HResult::VM_E_TIMED_OUT, "{asked}");
    drop(agent);
    scene.serves();
    scene.ends_well();
}

#[test]
fn case_45_another_version_is_refused_and_an_unknown_type_or_field_passed_over() {
    let scene = Scene::new();
    for (min, max) in [(0, 0), (100, 200), (u32::MAX, u32::MAX), (2, 1)] {
        let mut stranger = scene.connect();
        let protocols = Versions { min, max };
        stranger.say(&AgentMessage::Hello(Hello { protocols, ..hello("boot") }));
        stranger.is_hung_up_on();
        assert!(!scene.info().agent.connected, "{min} to {max}");
    }
    let mut agent = scene.agent();
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let garbage: Vec<Vec<u8>> = vec![
        br#"{"type":"levitate","height":3}"#.to_vec(),
        br#"{"type":7}"#.to_vec(),
        br#"{"type":"progress"}"#.to_vec(),
        br#"{"type":"progress","id":-1,"committed":true,"done":1}"#.to_vec(),
        br#"{"type":"heartbeat"}{"type":"heartbeat"}"#.to_vec(),
        format!(r#"{{"type":"done","text":{deep}}}"#).into(),
        deep.into(),
        b"\xff\xfe".to_vec(),
        b"NaN".to_vec(),
        vec![b' '; MAX_FRAME],
    ];
    for document in &garbage {
        agent.say_frame(document);
    }
    agent.say_frame(br#"{"type":"heartbeat","colour":"red"}"#);
    let count = garbage.len() as u64;
    scene.wait_for("all of them counted", |machine| machine.agent.dropped >= count);
    assert_eq!(scene.info().agent.dropped, count);
    let (id, task) = scene.begin(&mut agent, 1, LogoffOptions::default());
    agent.log_off(id, 1);
    agent.answer_second_look(Vec::new());
    assert_eq!(scene.end(task).task.error, HResult::S_OK);
    drop(agent);
    scene.ends_well();
}

#[test]
fn case_46_replies_to_nothing_of_this_connection_are_dropped_and_counted() {
    let scene = Scene::new();
    let mut agent = scene.agent();
    let (old, task) = scene.begin(&mut agent, 2, LogoffOptions::default());
    let strangers = [0, old + 1, old + 100, u64::MAX];
    for id in strangers {
        agent.say(&AgentMessage::Accepted { id, backend: String::new(), sessions: 3, managers: 0 });
        agent.row(id, session(0, Some(Outcome::Killed)));
        agent.progress(id, 1);
        agent.done(id, TaskResult::Success, HResult::S_OK);
        agent.say(&AgentMessage::CancelAnswer { id, cancelled: true });
    }
    scene.wait_for("all of them counted", |machine| machine.agent.dropped >= 20);
    let info = scene.client().task(task).unwrap().task;
    assert!(!info.is_complete && info.percent_completed == 0, "{info:?}");

    // The next connection of the same boot gets the work, under a number of its own.
    agent.progress(old, 1);
    drop(agent);
    scene.wait_for("without an agent", |machine| !machine.agent.connected);
    let mut agent = scene.agent();
    let (id, request) = agent.request();
    assert!(matches!(request, Request::Logoff(_)), "{request:?}");
    let dropped = scene.info().agent.dropped;
    let stale = if id == old { old + 7 } else { old };
    agent.done(stale, TaskResult::Success, HResult::S_OK);
    scene.wait_for("it counted", |machine| machine.agent.dropped > dropped);
    assert!(!scene.client().task(task).unwrap().task.is_complete);
    // Made twice: what is over is over.
    agent.log_off(id, 2);
    agent.answer_second_look(Vec::new());
    assert_eq!(scene.end(task).task.result, Some(TaskResult::Success));
    agent.done(id, TaskResult::UnexpectedError, HResult::ERROR_ACCESS_DENIED);
    scene.wait_for("it counted, too", |machine| machine.agent.dropped > dropped + 1);
    assert_eq!(scene.end(task).task.result, Some(TaskResult::Success));

    // A reboot ends the work; an answer that comes after it is of no boot.
    let (id, task) = scene.begin(&mut agent, 1, LogoffOptions::default());
    drop(agent);
    let mut agent = scene.agent_of("another boot");
    assert_eq!(scene.end(task).task.error, HResult::DISP_E_EXCEPTION);
    agent.log_off(id, 1);
    agent.say(&AgentMessage::Heartbeat);
    assert_eq!(scene.end(task).task.error, HResult::DISP_E_EXCEPTION);
    drop(agent);
    scene.ends_well();
}

#[test]
fn case_47_events_without_number_cost_no_memory_and_nobody_waits_for_their_end() {
    let all = std::env::var_os("VMM_FAULTS").is_some_and(|value| value == "all");
    let events = if all { 1_000_000 } else { 100_000 };
    let scene = Scene::new();
    let mut agent = scene.agent();
    let (id, task) = scene.begin(&mut agent, 3, LogoffOptions::default());
    agent.progress(id, 0);
    let mut flood = encode(&AgentMessage::Heartbeat).unwrap().repeat(490);
    for number in 0..3 {
        let progress = Progress { id, committed: true, done: number };
        flood.extend(encode(&AgentMessage::Progress(progress)).unwrap());
        flood
            .extend(encode(&AgentMessage::Session { id, session: session(number, None) }).unwrap());
        flood.extend(encode(&AgentMessage::Pong { seq: u64::MAX }).unwrap());
    }
    flood.extend(encode(&AgentMessage::Unknown).unwrap());
    let (mut looking, mut slowest) = (scene.client(), Duration::ZERO);
    let mut before = None;
    for round in 1..=events / 500 {
        agent.say_bytes(&flood);
        // The relay knows no credit, and must not say more than there is room for: one of each round
        // is counted when the host has come to it.
        loop {
            let begun = Instant::now();
            let dropped = looking.machine().unwrap().agent.dropped;
            slowest = slowest.max(begun.elapsed());
            if dropped >= round {
                assert_eq!(dropped, round);
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        before.get_or_insert_with(|| Usage::of(scene.machine.child.id()));
    }
    let (before, after) = (before.unwrap(), Usage::of(scene.machine.child.id()));
    eprintln!("the slowest answer during {events} events took {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(after.memory < before.memory + 4096, "{before:?} {after:?}");
    let info = scene.client().task(task).unwrap().task;
    assert_eq!((info.percent_completed, info.is_complete), (66, false));
    agent.log_off(id, 3);
    agent.answer_second_look(Vec::new());
    assert_eq!(scene.end(task).report.unwrap().sessions.len(), 3);
    drop(agent);
    scene.ends_well();
}

#[test]
fn case_47_progress_never_goes_back_and_a_task_without_end_is_ended_by_the_host() {
    let scene = Scene::new();
    let mut agent = scene.agent();
    let options = LogoffOptions { grace_ms: 0, notice_ms: 0, deadline_ms: 300 };
    let (id, task) = scene.begin(&mut agent, 4, options);
    let mut watching = scene.client();
    let watcher = thread::spawn(move || {
        let mut seen = Vec::new();
        let end = watching.wait(task, Some(LIMIT), |task| seen.push(task.percent_completed));
        (seen, end.unwrap())
    });
    for done in [1, 3, 2, 0, u32::MAX, 1, 0] {
        agent.progress(id, done);
        thread::sleep(Duration::from_millis(10));
    }
    let (seen, end) = watcher.join().unwrap();
    assert!(seen.is_sorted() && seen.iter().all(|percent| *percent < 100), "{seen:?}");
    assert_eq!(end.task.result, Some(TaskResult::TimeOutError));
    assert_eq!(end.task.error, HResult::VM_E_TIMED_OUT);
    drop(agent);
    scene.serves();
    scene.ends_well();
}

#[test]
fn case_48_a_guest_that_says_done_while_sessions_remain_has_not_succeeded() {
    let scene = Scene::new();
    let mut agent = scene.agent();
    // By its own rows they remain; it gives fewer rows than it has counted; it has counted nobody.
    for (announced, rows) in [(2, vec![0]), (2, vec![]), (1, vec![9]), (0, vec![])] {
        let (id, task) = scene.begin(&mut agent, announced, LogoffOptions::default());
        agent.progress(id, announced);
        for number in rows {
            let outcome = if number == 9 { Outcome::Remaining } else { Outcome::Killed };
            agent.row(id, session(number, Some(outcome)));
        }
        agent.done(id, TaskResult::Success, HResult::S_OK);
        let end = scene.end(task);
        assert_eq!(end.task.result, Some(TaskResult::UnexpectedError), "{end:?}");
        assert_eq!(end.task.error, HResult::DISP_E_EXCEPTION);
        assert_eq!(end.report.unwrap().second_look, SecondLook::NotTaken);
    }
    // By its rows they have ended; asked once more, it lists one of them.
    let (id, task) = scene.begin(&mut agent, 2, LogoffOptions::default());
    agent.log_off(id, 2);
    agent.answer_second_look(vec![session(1, None).session]);
    let end = scene.end(task);
    assert_eq!(end.task.error, HResult::DISP_E_EXCEPTION, "{end:?}");
    assert!(end.task.percent_completed < 100);
    let report = end.report.unwrap();
    assert_eq!(report.second_look, SecondLook::Contradicts);
    assert_eq!(report.sessions[1].outcome, Some(Outcome::Remaining));
    let shown = scene.world.vmm(&["task", "show", "web", &task.to_string()]);
    assert!(shown.stdout.contains("the guest's claim; asked once more, it contradicts itself"));
    drop(agent);
    scene.ends_well();
}

#[test]
fn case_48_what_the_guest_says_twice_is_shown_as_its_claim() {
    let scene = Scene::new();
    let mut agent = scene.agent();
    for answers in [true, false] {
        let (id, task) = scene.begin(&mut agent, 1, LogoffOptions::default());
        agent.log_off(id, 1);
        if answers {
            agent.answer_second_look(Vec::new());
        }
        let end = scene.end(task);
        assert_eq!(end.task.result, Some(TaskResult::Success), "{end:?}");
        let said = if answers { SecondLook::Agrees } else { SecondLook::NotTaken };
        assert_eq!(end.report.unwrap().second_look, said);
        if !answers {
            let (_, request) = agent.request();
            assert_eq!(request, Request::Sessions);
        }
        let shown = scene.world.vmm(&["task", "show", "web", &task.to_string()]);
        assert!(shown.stdout.contains("this is the guest's claim"), "{shown:?}");
        assert_eq!(shown.stdout.contains("lists none of these sessions"), answers, "{shown:?}");
        let shown = scene.world.json(&["task", "show", "web", &task.to_string()]).json();
        let word = if answers { "agrees" } else { "not_taken" };
        assert_eq!(shown["report"]["second_look"], word, "{shown}");
    }
    drop(agent);
    scene.ends_well();
}

/// The words of an agent that would like to steer terminals, and to fill them.
fn evil() -> String {
    format!("../../etc/passwd\x1b[2J\x1b]0;x\x07\u{202e}\r\n\t\u{9b}2J{}", "ä".repeat(300))
}

fn evil_session() -> SessionSummary {
    SessionSummary {
        id: evil(),
        user: evil(),
        class: evil(),
        kind: evil(),
        tty: evil(),
        remote_host: evil(),
        state: evil(),
        ..SessionSummary::default()
    }
}

/// What such an agent answers to anything.
fn evil_answers(id: u64, request: &Request) -> Vec<AgentMessage> {
    let failed = || Done::failed(id, TaskResult::TimeOutError, HResult::VM_E_TIMED_OUT, evil());
    match request {
        Request::Sessions => {
            let sessions = vec![evil_session(), evil_session()];
            vec![AgentMessage::Sessions { id, backend: evil(), sessions, omitted: 0, worked_us: 0 }]
        }
        Request::Logoff(_) => {
            let survivors = vec![Process { pid: 1, comm: evil() }; 40];
            let report = SessionReport { session: evil_session(), survivors, ..session(0, None) };
            let (relogins, ignored) = (vec![evil_session()], vec![evil_session()]);
            vec![
                AgentMessage::Accepted { id, backend: evil(), sessions: 1, managers: 0 },
                AgentMessage::Progress(Progress { id, committed: true, done: 0 }),
                AgentMessage::Session { id, session: report },
                AgentMessage::Done(Done { relogins, ignored, ..failed() }),
            ]
        }
        Request::Power(_) => {
            vec![AgentMessage::PowerAccepted { id, init: evil() }, AgentMessage::Done(failed())]
        }
        Request::OsInfo => {
            let info = OsInfo {
                computer_name: evil(),
                name: evil(),
                id: evil(),
                version: evil(),
                build: evil(),
                variant: evil(),
                kernel_release: evil(),
                kernel_version: evil(),
                architecture: evil(),
            };
            vec![AgentMessage::OsInfo { id, info }]
        }
        Request::ScreenLocked => vec![AgentMessage::ScreenLocked { id, locked: true }],
        Request::GetParameter { .. } => vec![AgentMessage::Parameter { id, value: evil() }],
        Request::SetParameter { .. } => vec![AgentMessage::ParameterSet { id }],
        Request::Install => {
            vec![AgentMessage::Installing { id, version: evil() }, AgentMessage::Done(failed())]
        }
        Request::SetClock(_) | Request::Unknown => evil_refusal(id),
    }
}

fn evil_refusal(id: u64) -> Vec<AgentMessage> {
    vec![AgentMessage::Rejected { id, error: HResult::ERROR_ACCESS_DENIED, text: evil() }]
}

#[test]
fn case_49_no_word_of_the_guest_steers_a_terminal_or_is_longer_than_is_allowed() {
    let scene = Scene::new();
    let hello = Hello { agent_version: evil(), boot_id: evil(), ..hello("") };
    let hello = encode(&AgentMessage::Hello(hello)).unwrap();
    let mut agent = scene.agent_saying(|agent| agent.say_bytes(&hello));
    // What is no UTF-8 is no message.
    agent.say_frame(b"{\"type\":\"hello\",\"boot_id\":\"\xff\xc0\xaf\"}");
    scene.wait_for("it counted", |machine| machine.agent.dropped == 1);
    let mut clean =
        |words: &[&str], exit: i32, answers: &dyn Fn(u64, &Request) -> Vec<AgentMessage>| {
            let mut command = scene.world.command(VMM);
            command.args(words);
            let asked = thread::spawn(move || answer(&mut command));
            while !asked.is_finished() {
                if let Some((id, request)) = agent.request_meanwhile() {
                    answers(id, &request).iter().for_each(|answer| agent.say(answer));
                }
            }
            let said = asked.join().unwrap();
            assert_eq!(said.code, Some(exit), "{words:?}: {said:?}");
            is_clean(&said.stdout);
            is_clean(&said.stderr);
            said.stdout
        };
    for format in ["human", "json"] {
        let mut play = |words: &[&str], exit| {
            clean(&[words, &["--format", format]].concat(), exit, &evil_answers)
        };
        play(&["users", "web"], 0);
        play(&["logoff", "web"], 6);
        play(&["shutdown", "web"], 6);
        play(&["restart", "web"], 6);
        let info = play(&["info", "web"], 0);
        assert!(info.contains("etc/passwd"), "the agent is not asked: {info}");
        play(&["param", "get", "web", "HostName"], 0);
        play(&["ls"], 0);
        play(&["show", "web"], 0);
        play(&["task", "ls", "web"], 0);
        for task in scene.client().tasks().unwrap() {
            play(&["task", "show", "web", &task.id.to_string()], 0);
        }
        let refusal = |id, _: &Request| evil_refusal(id);
        clean(&["logoff", "web", "--format", format], 9, &refusal);
        clean(&["param", "get", "web", "HostName", "--format", format], 9, &refusal);
    }
    drop(agent);
    scene.ends_well();
}

/// Nothing in `text` steers a terminal, and it is of a bearable length. A parameter keeps its lines and
/// tabulators.
fn is_clean(text: &str) {
    let bad = |c: char| !matches!(c, '\n' | '\t') && (c.is_control() || c == '\u{202e}');
    assert!(!text.contains(bad), "{text:?}");
    assert!(text.len() < 16_000, "{} bytes: {text}", text.len());
}

#[test]
fn case_50_an_agent_that_restarts_in_the_middle_of_a_call_goes_on_with_it() {
    let scene = Scene::new();
    let mut agent = scene.agent();
    // Before it has accepted there is nothing to go on with.
    let mut client = scene.client();
    let asking = thread::spawn(move || client.logoff(LogoffOptions::default()));
    agent.request();
    drop(agent);
    let refused = asking.join().unwrap().unwrap_err();
    assert_eq!(refused.code, HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL, "{refused}");

    let mut agent = scene.agent();
    let (id, task) = scene.begin(&mut agent, 2, LogoffOptions::default());
    (0..2).for_each(|number| agent.row(id, session(number, None)));
    agent.progress(id, 1);
    eventually("it is never committed", || !scene.client().task(task).unwrap().task.is_cancelable);
    for _ in 0..3 {
        drop(agent);
        scene.wait_for("without an agent", |machine| !machine.agent.connected);
        agent = scene.agent();
        let (_, request) = agent.request();
        let Request::Logoff(request) = request else { panic!("{request:?}") };
        let known = request.resume.unwrap();
        assert!(known.committed_ms.is_some() && known.sessions.len() == 2, "{known:?}");
    }
    drop(agent);
    let mut agent = scene.agent();
    let (id, _) = agent.request();
    agent.log_off(id, 2);
    // Gone before it answers the second look: what it has claimed stands as a claim.
    agent.request();
    drop(agent);
    let end = scene.end(task);
    assert_eq!(end.task.result, Some(TaskResult::Success), "{end:?}");
    assert_eq!(end.report.unwrap().second_look, SecondLook::NotTaken);
    scene.ends_well();
}

#[test]
fn case_50_a_guest_process_without_privilege_cannot_pose_as_the_agent() {
    for port in [1024, 1025, 40_000, u32::MAX] {
        let scene = Scene::relayed_by(&relay::code_dialling_from(port));
        let mut poser = scene.connect();
        // It may have been reset already.
        let _ = frame::write(&mut poser.stream, &AgentMessage::Hello(hello("boot")));
        assert!(!poser.is_welcome(), "port {port} is heard");
        poser.is_hung_up_on();
        let agent = scene.info().agent;
        assert!(!agent.connected && agent.version.is_none(), "port {port}: {agent:?}");
        let refused = scene.client().logoff(LogoffOptions::default()).unwrap_err();
        assert_eq!(refused.code, HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
        scene.ends_well();
    }
    let scene = Scene::relayed_by(&relay::code_dialling_from(1023));
    scene.serves();
    scene.ends_well();
}

/// A call that waits; the number is that of a task.
struct Waiting {
    call: fn(&mut Client, u32) -> Result<(), CallError>,
    /// With what else it may end than with the code of its machine's end.
    own: Option<HResult>,
}

/// What can be waited for.
fn calls() -> Vec<Waiting> {
    let waiting = |call| Waiting { call, own: None };
    vec![
        waiting(|client, _| client.sessions().map(drop)),
        waiting(|client, _| client.property(Property::ComputerName).map(drop)),
        waiting(|client, _| client.value(wire::Request::IsUserLoggedOn { kind: 1 }).map(drop)),
        waiting(|client, _| {
            client.value(wire::Request::GetParameter { name: "HostName".into() }).map(drop)
        }),
        waiting(|client, _| {
            let (name, value) = ("HostName".into(), "x".into());
            client.act(wire::Request::SetParameter { name, value })
        }),
        waiting(|client, _| client.work(wire::Request::Shutdown { forced: true }).map(drop)),
        waiting(|client, _| client.work(wire::Request::Restart { forced: false }).map(drop)),
        waiting(|client, task| is_over(client.wait(task, None, |_| ())?)),
        waiting(|client, task| is_over(client.wait(task, Some(LIMIT), |_| ())?)),
        // Who cancels a task that ends otherwise is told that this has failed.
        Waiting { call: |client, task| client.cancel(task).map(drop), own: Some(HResult::E_FAIL) },
    ]
}

/// A task that was waited for has ended, and how.
fn is_over(document: TaskDocument) -> Result<(), CallError> {
    let end = document.task;
    assert!(end.is_complete, "{end:?}");
    Err(CallError::new(end.error, end.error_description))
}

/// Ends a machine, or its boot.
type Kill = fn(&Scene);

/// In which ways a machine ends, and what it is then.
fn ways() -> [(&'static str, Kill, HResult); 8] {
    let not_running = HResult::VM_E_VM_NOT_RUNNING;
    [
        ("killed", |scene| scene.machine.signal(Signal::KILL), not_running),
        ("ended", |scene| scene.machine.signal(Signal::TERM), not_running),
        ("turned off", |scene| drop(scene.client().work(wire::Request::TurnOff)), not_running),
        ("powered off", |scene| relay::order(&scene.vsock(), Order::PowerOff), not_running),
        ("triple fault", |scene| relay::order(&scene.vsock(), Order::TripleFault), not_running),
        ("panic", |scene| relay::order(&scene.vsock(), Order::Panic), not_running),
        ("KVM's error", |scene| relay::order(&scene.vsock(), Order::Unknown), not_running),
        (
            "reset",
            |scene| drop(scene.client().work(wire::Request::Reset)),
            HResult::DISP_E_EXCEPTION,
        ),
    ]
}

/// Ends the scene's machine, and looks that what waits, which gives the moment of its end, ends soon.
fn ends_soon<T>(
    what: &str,
    scene: &Scene,
    kill: Kill,
    waiting: Vec<thread::ScopedJoinHandle<'_, (Instant, T)>>,
) -> Vec<T> {
    // Until the guest has been asked all that it will ever be.
    thread::sleep(Duration::from_millis(300));
    assert!(waiting.iter().all(|call| !call.is_finished()), "{what}: nothing waits");
    let killed = Instant::now();
    kill(scene);
    let ended = |call: thread::ScopedJoinHandle<'_, (Instant, T)>| {
        let (ended, end) = call.join().unwrap();
        let after = ended.saturating_duration_since(killed);
        assert!(after < SOON, "{what}: {after:?}");
        end
    };
    waiting.into_iter().map(ended).collect()
}

#[test]
fn case_51_every_pending_call_ends_within_a_second_of_its_machine() {
    for (what, kill, code) in ways() {
        let scene = Scene::new();
        let mut agent = scene.agent();
        let (_, task) = scene.begin(&mut agent, 1, LogoffOptions::default());
        let calls = calls();
        let asked = Barrier::new(2 * calls.len() + 1);
        thread::scope(|scope| {
            let mut waiting = Vec::new();
            for call in calls.iter().chain(&calls) {
                let (mut client, asked) = (scene.client(), &asked);
                waiting.push(scope.spawn(move || {
                    asked.wait();
                    let error = (call.call)(&mut client, task).unwrap_err();
                    (Instant::now(), error)
                }));
            }
            asked.wait();
            let ends = ends_soon(what, &scene, kill, waiting);
            for (call, error) in calls.iter().chain(&calls).zip(ends) {
                let mut allowed = vec![code];
                allowed.extend(call.own);
                if code == HResult::DISP_E_EXCEPTION {
                    // A guest that boots anew is one without an agent.
                    allowed.push(HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
                }
                assert!(allowed.contains(&error.code), "{what}: {error:?}");
            }
        });
    }
}

/// Before the guest has taken it a logoff is no task yet; and events and consoles are no calls.
#[test]
fn case_51_what_is_asked_and_not_accepted_and_what_goes_on_without_end_ends_with_the_machine() {
    for (what, kill, code) in ways() {
        let scene = Scene::with_console();
        let mut agent = scene.agent();
        let ends = code == HResult::VM_E_VM_NOT_RUNNING;
        thread::scope(|scope| {
            let mut client = scene.client();
            let mut waiting = vec![scope.spawn(move || {
                let error = client.logoff(LogoffOptions::default()).unwrap_err();
                (Instant::now(), error.code)
            })];
            agent.request();
            // Who follows the machine follows it through a reset, too.
            if ends {
                let mut events = scene.client().events().unwrap();
                waiting.push(scope.spawn(move || {
                    let error = loop {
                        match events.next(Some(LIMIT)) {
                            Ok(notice) => assert!(notice.is_some(), "it never ends"),
                            Err(error) => break error,
                        }
                    };
                    (Instant::now(), error.code)
                }));
                let (mut console, _) = scene.client().console().unwrap();
                waiting.push(scope.spawn(move || {
                    // An end is one, whichever way it comes.
                    let _ = console.read_to_end(&mut Vec::new());
                    (Instant::now(), HResult::VM_E_VM_NOT_RUNNING)
                }));
            }
            for error in ends_soon(what, &scene, kill, waiting) {
                let anew = !ends && error == HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL;
                assert!(error == code || anew, "{what}: {error}");
            }
        });
    }
}
