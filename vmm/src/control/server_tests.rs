//! A real server, its clients over a real socket, and a scripted agent behind both.

use super::*;
use crate::MachineConfig;
use crate::control::all_events::{AllEvents, Heard};
use crate::control::client::Client;
use crate::control::every_verb::every_verb;
use crate::control::wire::{Call, VERSION};
use crate::events::{EventKind, LogoffType, Notice};
use crate::runtime::{Place, Runtime};
use crate::state::VmState;
use crossbeam_channel::bounded;
use protocol::frame::{self, Decoder};
use protocol::hello::{Hello, LOGOFF, SESSIONS, Versions};
use protocol::message::{self, AgentMessage, Done, HostMessage, Progress};
use protocol::task::{LogoffOptions, Outcome, SessionReport, SessionSummary, TaskResult};
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

#[path = "unread_tests.rs"]
mod unread;

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(20);

/// The guest's half: answers by itself what needs no decision, and does the rest when told to.
#[derive(Clone)]
struct Agent {
    stream: Arc<Mutex<UnixStream>>,
    /// The logoff that was asked for, and whether it has been committed.
    logoff: Arc<Mutex<Option<(u64, bool)>>>,
    /// How many of the two sessions have ended.
    ended: Arc<AtomicU32>,
}

impl Agent {
    fn connect(agents: &Sender<UnixStream>) -> Self {
        let (theirs, ours) = UnixStream::pair().unwrap();
        agents.send(theirs).unwrap();
        let mut reader = ours.try_clone().unwrap();
        let agent = Self {
            stream: Arc::new(Mutex::new(ours)),
            logoff: Arc::default(),
            ended: Arc::default(),
        };
        agent.say(&AgentMessage::Hello(Hello {
            protocols: Versions { min: 1, max: protocol::PROTOCOL.max },
            agent_version: "9.9".into(),
            boot_id: "boot".into(),
            services: BTreeMap::from([(LOGOFF.into(), 1), (SESSIONS.into(), 1)]),
        }));
        let listening = agent.clone();
        thread::spawn(move || {
            let mut decoder = Decoder::default();
            while let Ok(Some(message)) = decoder.read::<HostMessage>(&mut reader) {
                listening.hear(message);
            }
        });
        agent
    }

    fn say(&self, message: &AgentMessage) {
        // The host may have gone.
        let _ = frame::write(&mut *self.stream.lock().unwrap(), message);
    }

    fn hear(&self, message: HostMessage) {
        match message {
            HostMessage::Ping { seq } => self.say(&AgentMessage::Pong { seq }),
            HostMessage::Request { id, request: message::Request::Sessions } => {
                let remaining = self.ended.load(Ordering::Relaxed)..2;
                let sessions = remaining.map(|number| row(number, None).session).collect();
                let backend = "test".into();
                self.say(&AgentMessage::Sessions {
                    id,
                    backend,
                    sessions,
                    omitted: 0,
                    worked_us: 0,
                });
            }
            HostMessage::Request { id, request: message::Request::Logoff(_) } => {
                let (backend, sessions, managers) = ("test".into(), 2, 0);
                self.say(&AgentMessage::Accepted { id, backend, sessions, managers });
                self.say(&AgentMessage::Session { id, session: row(0, None) });
                self.say(&AgentMessage::Session { id, session: row(1, None) });
                *self.logoff.lock().unwrap() = Some((id, false));
            }
            HostMessage::Cancel { id } => {
                let cancelled = *self.logoff.lock().unwrap() == Some((id, false));
                self.say(&AgentMessage::CancelAnswer { id, cancelled });
                if cancelled {
                    self.done(TaskResult::Cancelled, HResult::ERROR_CANCELLED);
                }
            }
            _ => {}
        }
    }

    /// The logoff that was asked for; waits for it.
    fn logoff(&self) -> u64 {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some((id, _)) = *self.logoff.lock().unwrap() {
                return id;
            }
            assert!(Instant::now() < deadline, "nobody asked for a logoff");
            thread::yield_now();
        }
    }

    /// Commits, and has ended the first `done` of the two sessions.
    fn progress(&self, done: u32) {
        let id = self.logoff();
        *self.logoff.lock().unwrap() = Some((id, true));
        self.ended.store(done, Ordering::Relaxed);
        for number in 0..done {
            let session = row(number, Some(Outcome::Terminated));
            self.say(&AgentMessage::Session { id, session });
        }
        self.say(&AgentMessage::Progress(Progress { id, committed: true, done }));
    }

    fn done(&self, result: TaskResult, error: HResult) {
        let id = self.logoff();
        self.say(&AgentMessage::Done(Done {
            id,
            result,
            error,
            text: String::new(),
            worked_us: 0,
            managers: Vec::new(),
            relogins: Vec::new(),
            ignored: Vec::new(),
            stale: Vec::new(),
        }));
    }
}

fn row(number: u32, outcome: Option<Outcome>) -> SessionReport {
    let session = SessionSummary {
        id: format!("s{number}"),
        user: format!("user{number}"),
        ..SessionSummary::default()
    };
    SessionReport { session, outcome, milliseconds: outcome.map(|_| 7), survivors: Vec::new() }
}

/// A machine without processors: all that the control socket reaches is real.
struct World {
    server: Option<Server>,
    vm: Arc<Vm>,
    runtime: Runtime,
    place: Place,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::admitting(Access::of_process())
    }

    fn admitting(access: Access) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::at(folder.path());
        let place = runtime.claim("Web").unwrap();
        let kernel = folder.path().join("missing");
        let config = MachineConfig { cpus: 2, ..MachineConfig::new("Web", kernel) };
        let vm = Arc::new(Vm::hollow(config));
        let listener = UnixListener::bind(place.control()).unwrap();
        let server = Server::start(listener, vm.clone(), access).unwrap();
        Self { server: Some(server), vm, runtime, place, _folder: folder }
    }

    fn agent(&self) -> Agent {
        let agent = Agent::connect(self.vm.agents());
        assert!(self.vm.guest_os().wait_for_agent(LIMIT));
        agent
    }

    fn client(&self) -> Client {
        Client::connect(&self.runtime, "web").unwrap()
    }

    /// A connection that does as it likes.
    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.place.control()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Lets every user connect.
    fn open(&self) {
        let folder = self.place.control().parent().unwrap().to_owned();
        std::fs::set_permissions(folder.parent().unwrap(), Permissions::from_mode(0o711)).unwrap();
        self.place.open_to_others().unwrap();
    }

    fn seats(&self) -> usize {
        self.server.as_ref().unwrap().crowd.lock().clients
    }

    /// Waits until `count` seats are taken.
    fn wait_for_seats(&self, count: usize) {
        let deadline = Instant::now() + LIMIT;
        while self.seats() != count {
            assert!(Instant::now() < deadline, "{} seats, not {count}", self.seats());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Makes this thread another user's.
fn become_user(number: u32) {
    let user = rustix::process::Uid::from_raw(number);
    rustix::thread::set_thread_res_uid(user, user, user).unwrap();
}

fn ask(stream: &mut UnixStream, request: Request) {
    frame::write(stream, &Call { version: VERSION, request, follow: false }).unwrap();
}

fn answer_to(stream: &mut UnixStream) -> Option<Response> {
    wire::Answers::default().read(stream).unwrap()
}

fn refusal(stream: &mut UnixStream) -> HResult {
    match answer_to(stream) {
        Some(Response::Refused { code, .. }) => code,
        other => panic!("no refusal: {other:?}"),
    }
}

/// A frame around `text`, whatever it is.
fn framed(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [&length.to_le_bytes(), text.as_bytes()].concat()
}

#[test]
fn a_client_learns_of_the_machine_and_its_users() {
    let world = World::new();
    let _agent = world.agent();
    let mut client = world.client();
    assert_eq!(client.name(), "Web", "as it was written, not as it was asked for");
    let machine = client.machine().unwrap();
    assert_eq!((machine.name.as_str(), machine.cpus), ("Web", 2));
    assert_eq!(machine.pid, std::process::id());
    assert_eq!(machine.agent.version.as_deref(), Some("9.9"));
    let sessions = client.sessions().unwrap();
    assert_eq!(sessions.sessions.len(), 2);
    assert_eq!(client.tasks().unwrap(), []);
    assert_eq!(client.task(1).unwrap_err().code, HResult::DISP_E_BADINDEX);
    assert_eq!(client.cancel(1).unwrap_err().code, HResult::DISP_E_BADINDEX);
    let waited = client.wait(1, None, |_| ()).unwrap_err();
    assert_eq!(waited.code, HResult::DISP_E_BADINDEX);
}

#[test]
fn all_who_wait_for_a_logoff_see_it_rise_and_the_same_end() {
    let world = World::new();
    let agent = world.agent();
    let id = world.client().logoff(LogoffOptions::default()).unwrap().task.id;
    let (half, halfway) = bounded(4);
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let (mut client, half) = (world.client(), half.clone());
            thread::spawn(move || {
                let mut seen = Vec::new();
                let document = client.wait(id, Some(LIMIT), |task| {
                    if task.percent_completed == 50 && !seen.contains(&50) {
                        half.send(()).unwrap();
                    }
                    seen.push(task.percent_completed);
                });
                client.tasks().expect("the connection can be used again");
                (seen, document.unwrap())
            })
        })
        .collect();
    agent.progress(1);
    for _ in 0..4 {
        halfway.recv_timeout(LIMIT).unwrap();
    }
    agent.progress(2);
    agent.done(TaskResult::Success, HResult::S_OK);
    for waiter in waiters {
        let (seen, document) = waiter.join().unwrap();
        assert!(seen.is_sorted(), "{seen:?}");
        assert_eq!(document.task.result, Some(TaskResult::Success));
        assert_eq!(document.task.percent_completed, 100);
        let sessions = document.report.unwrap().sessions;
        assert!(sessions.iter().all(|row| row.outcome == Some(Outcome::Terminated)));
    }
}

#[test]
fn who_listens_hears_of_the_agent_and_of_each_session_that_a_logoff_ends() {
    let world = World::new();
    let mut events = world.client().events().unwrap();
    let agent = world.agent();
    world.client().logoff(LogoffOptions::default()).unwrap();
    agent.progress(1);
    agent.progress(2);
    agent.done(TaskResult::Success, HResult::S_OK);
    let mut heard = Vec::new();
    while heard.len() < 3 {
        let notice = events.next(Some(LIMIT)).unwrap();
        let Some(Notice::Event(event)) = notice else { panic!("{notice:?}") };
        heard.push((event.number, event.kind));
    }
    let logoff = |user: &str, session: &str| EventKind::OnGuestLogoff {
        logoff_type: LogoffType::External,
        user: user.into(),
        session: session.into(),
    };
    assert_eq!(
        heard,
        [
            (9, EventKind::OnAdditionsAvailable),
            (11, logoff("user0", "s0")),
            (11, logoff("user1", "s1")),
        ]
    );
    world.vm.set_state(VmState::Running);
    assert!(events.next(Some(Duration::from_millis(20))).unwrap().is_none(), "each once");
}

#[test]
fn work_that_is_followed_from_the_start_has_its_end_seen_though_the_server_ends_at_once() {
    for _ in 0..50 {
        let mut world = World::new();
        let agent = world.agent();
        let mut client = world.client();
        let request = Request::Logoff { options: LogoffOptions::default() };
        let waiter = thread::spawn(move || {
            let mut accepted = None;
            let document =
                client.work_watching(request, Some(LIMIT), |task| accepted = Some(task.id), |_| ());
            (accepted, document.unwrap())
        });
        agent.progress(2);
        agent.done(TaskResult::Success, HResult::S_OK);
        let task = loop {
            if let Some(task) = world.vm.tasks().list().pop() {
                break task;
            }
            thread::yield_now();
        };
        task.wait(Some(LIMIT));
        world.server = None;
        let (accepted, document) = waiter.join().unwrap();
        assert_eq!(accepted, Some(document.task.id));
        assert_eq!(document.task.result, Some(TaskResult::Success));
        assert!(document.report.is_some());
    }
}

#[test]
fn a_wait_ends_in_time_and_says_that_the_task_has_not() {
    let world = World::new();
    let agent = world.agent();
    let id = world.client().logoff(LogoffOptions::default()).unwrap().task.id;
    for milliseconds in [0, 50] {
        let timeout = Some(Duration::from_millis(milliseconds));
        let document = world.client().wait(id, timeout, |_| ()).unwrap();
        assert!(!document.task.is_complete);
    }
    agent.progress(2);
    agent.done(TaskResult::Success, HResult::S_OK);
    assert!(world.client().wait(id, None, |_| ()).unwrap().task.is_complete);
}

#[test]
fn case_40_a_task_is_cancelled_by_a_call_and_never_by_a_client_that_dies() {
    let world = World::new();
    let agent = world.agent();
    let mut dying = world.raw();
    ask(&mut dying, Request::Logoff { options: LogoffOptions::default() });
    let Some(Response::Task(document)) = answer_to(&mut dying) else { panic!("no task") };
    let id = document.task.id;
    ask(&mut dying, Request::Wait { id });
    dying.read_exact(&mut [0; 1]).unwrap();
    drop(dying);
    agent.logoff();
    assert!(!world.client().task(id).unwrap().task.is_complete);
    let document = world.client().cancel(id).unwrap();
    assert_eq!(document.task.result, Some(TaskResult::Cancelled));
    assert_eq!(document.task.error, HResult::ERROR_CANCELLED);
    assert_eq!(world.client().cancel(id).unwrap_err().code, HResult::E_FAIL);
}

#[test]
fn case_51_everyone_who_waits_is_answered_when_the_machine_ends() {
    let mut world = World::new();
    let agent = world.agent();
    let id = world.client().logoff(LogoffOptions::default()).unwrap().task.id;
    agent.progress(1);
    let mut idle = world.client();
    let mut waiting = world.client();
    let (begun, wait_begun) = bounded(100);
    let waiter = thread::spawn(move || {
        waiting.wait(id, None, |_| begun.try_send(()).unwrap_or_default()).unwrap()
    });
    wait_begun.recv_timeout(LIMIT).unwrap();
    world.vm.end();
    world.server = None;
    let document = waiter.join().unwrap();
    assert_eq!(document.task.error, HResult::VM_E_VM_NOT_RUNNING);
    assert_eq!(idle.tasks().unwrap_err().code, HResult::VM_E_VM_NOT_RUNNING);
    let gone = Client::connect(&world.runtime, "web").err().unwrap();
    assert_eq!(gone.code, HResult::VM_E_VM_NOT_RUNNING, "the lock is held, but nobody listens");
}

#[test]
fn case_51_a_wait_whose_machine_vanishes_ends_with_not_running() {
    let mut world = World::new();
    let _agent = world.agent();
    let id = world.client().logoff(LogoffOptions::default()).unwrap().task.id;
    let mut waiting = world.client();
    let (begun, wait_begun) = bounded(100);
    let waiter =
        thread::spawn(move || waiting.wait(id, None, |_| begun.try_send(()).unwrap_or_default()));
    wait_begun.recv_timeout(LIMIT).unwrap();
    world.server = None;
    let error = waiter.join().unwrap().unwrap_err();
    assert_eq!(error.code, HResult::VM_E_VM_NOT_RUNNING, "{error}");
}

#[test]
fn case_39_slow_and_lying_clients_harm_only_themselves() {
    let world = World::new();
    let mut slow = world.raw();
    slow.write_all(&[9]).unwrap();
    let mut half = world.raw();
    half.write_all(&framed("{\"version\":1")[..8]).unwrap();
    for announced in [0, u32::MAX, 1 << 31, frame::MAX_FRAME as u32 + 1] {
        let mut liar = world.raw();
        liar.write_all(&announced.to_le_bytes()).unwrap();
        assert_eq!(answer_to(&mut liar), None, "the connection ends at once");
    }
    assert_eq!(world.client().tasks().unwrap(), []);
    drop(half);
    // What was slow is answered all the same.
    let rest = framed(r#"{"v":1}"#);
    slow.write_all(&[0, 0, 0]).unwrap();
    slow.write_all(&[&rest[4..], b"  "].concat()).unwrap();
    assert_eq!(refusal(&mut slow), HResult::E_INVALIDARG);
}

#[test]
fn case_39_what_is_no_request_is_refused_and_the_connection_goes_on() {
    let world = World::new();
    let mut stream = world.raw();
    let deep = "[".repeat(frame::MAX_FRAME);
    for text in [
        deep.as_str(),
        r#"{"version":1,"request":{"verb":"explode"}}"#,
        r#"{"version":1,"version":1,"request":{"verb":"tasks"}}"#,
        r#"{"version":1,"request":{"verb":"task","id":1e99}}"#,
        r#"{"version":1,"request":{"verb":"task","id":NaN}}"#,
        r#"{"version":1,"request":{"verb":"logoff","options":{"grace_ms":-1}}}"#,
        "\u{0}",
        "null",
    ] {
        stream.write_all(&framed(text)).unwrap();
        assert_eq!(refusal(&mut stream), HResult::E_INVALIDARG, "{text:.60}");
    }
    frame::write(&mut stream, &Call { version: 2, request: Request::Tasks, follow: false })
        .unwrap();
    assert_eq!(refusal(&mut stream), HResult::DISP_E_EXCEPTION);
    // A later version may say more than this one knows.
    let more = r#"{"version":1,"colour":3,"request":{"verb":"tasks","by":"name"}}"#;
    stream.write_all(&framed(more)).unwrap();
    assert_eq!(answer_to(&mut stream), Some(Response::Tasks { tasks: Vec::new() }));
}

#[test]
fn case_40_hundreds_of_idle_clients_take_no_seat_from_one_who_asks() {
    let world = World::new();
    let mut idle: Vec<UnixStream> = (0..400).map(|_| world.raw()).collect();
    assert_eq!(world.client().tasks().unwrap(), []);
    assert!(world.seats() <= MAX_CLIENTS);
    assert_eq!(refusal(&mut idle[0]), HResult::VM_E_OUT_OF_RESOURCE, "it was told why it left");
    drop(idle);
    world.wait_for_seats(0);
}

#[test]
fn case_40_a_crowd_that_is_being_answered_is_not_disturbed_and_the_next_is_told_to_try_again() {
    let world = World::new();
    let _agent = world.agent();
    let id = world.client().logoff(LogoffOptions::default()).unwrap().task.id;
    let mut crowd: Vec<UnixStream> = (0..MAX_CLIENTS)
        .map(|_| {
            let mut stream = world.raw();
            ask(&mut stream, Request::Wait { id });
            assert!(matches!(answer_to(&mut stream), Some(Response::Changed { .. })));
            stream
        })
        .collect();
    let refused = world.client().tasks().unwrap_err();
    assert_eq!(refused.code, HResult::VM_E_OUT_OF_RESOURCE, "{refused}");
    drop(crowd.pop());
    world.wait_for_seats(MAX_CLIENTS - 1);
    assert_eq!(world.client().tasks().unwrap().len(), 1);
}

#[test]
fn case_40_a_client_that_asks_and_never_reads_is_sent_away() {
    let world = World::new();
    let mut greedy = world.raw();
    let question =
        frame::encode(&Call { version: VERSION, request: Request::Machine, follow: false })
            .unwrap();
    let questions = question.repeat(100);
    let deadline = Instant::now() + LIMIT;
    while greedy.write_all(&questions).is_ok() {
        assert!(Instant::now() < deadline, "it is served for ever");
    }
    world.wait_for_seats(0);
    assert_eq!(world.client().tasks().unwrap(), []);
}

/// What `stream` has been answered already.
fn answered(stream: &mut UnixStream, answers: &mut wire::Answers) -> usize {
    stream.set_nonblocking(true).unwrap();
    let count = std::iter::repeat_with(|| answers.read(stream)).take_while(Result::is_ok).count();
    stream.set_nonblocking(false).unwrap();
    count
}

/// A server that has one client, and lets `look` after that client's first turn.
struct OneTurn<F> {
    clients: Clients,
    client: Option<UnixStream>,
    look: F,
}

impl<F: FnMut() + Send> Source for OneTurn<F> {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        let client = self.client.take().unwrap();
        let peer = Peer::of(&client).unwrap();
        self.clients.seat(client, peer, registry);
        self.clients.converse(FIRST_CLIENT, registry);
        (self.look)();
        Ok(())
    }

    fn ready(&mut self, token: u32, events: EventSet, registry: &mut Registry<'_>) {
        self.clients.ready(token, events, registry);
    }

    fn deadline(&self) -> Option<Instant> {
        self.clients.deadline()
    }

    fn expired(&mut self, registry: &mut Registry<'_>) {
        self.clients.expired(registry);
    }
}

#[test]
fn who_asks_much_at_once_is_answered_in_turns() {
    const MUCH: usize = 3 * STEPS;
    let world = World::new();
    let (mut greedy, client) = UnixStream::pair().unwrap();
    greedy.set_read_timeout(Some(LIMIT)).unwrap();
    let question = Call { version: VERSION, request: Request::Machine, follow: false };
    greedy.write_all(&frame::encode(&question).unwrap().repeat(MUCH)).unwrap();
    let mut looking = greedy.try_clone().unwrap();
    let (tell, told) = bounded(1);
    let look = move || {
        let mut answers = wire::Answers::default();
        let count = answered(&mut looking, &mut answers);
        tell.send((count, answers)).unwrap();
    };
    let listener = UnixListener::bind(world.place.vsock()).unwrap();
    let bell = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let access = Access::of_process();
    let clients = Clients::new(listener, world.vm.clone(), access, bell, Arc::default());
    let thread = IoThread::spawn("control").unwrap();
    thread.handle().add(Box::new(OneTurn { clients, client: Some(client), look })).unwrap();
    let (count, mut answers) = told.recv_timeout(LIMIT).unwrap();
    assert!((1..MUCH).contains(&count), "{count} answers in a turn");
    for _ in count..MUCH {
        assert!(answers.read(&mut greedy).unwrap().is_some());
    }
}

#[test]
fn who_reads_no_events_for_a_long_time_is_told_how_many_were_lost() {
    let world = World::new();
    let mut events = world.client().events().unwrap();
    let deadline = Instant::now() + LIMIT;
    // What is not read waits in the socket first, and then in the queue, until both are full.
    let mut published = 0;
    while published < 50_000 {
        world.vm.events().publish(EventKind::OnReset);
        published += 1;
    }
    thread::sleep(2 * crate::control::conversation::PATIENCE);
    world.vm.events().publish(EventKind::OnTripleFault);
    let (mut seen, mut lost) = (0, 0);
    loop {
        assert!(Instant::now() < deadline);
        match events.next(Some(LIMIT)).unwrap() {
            Some(Notice::Event(event)) if event.kind == EventKind::OnTripleFault => break,
            Some(Notice::Event(_)) => seen += 1,
            Some(Notice::Lost(count)) => lost += count,
            None => panic!("nothing comes any more"),
        }
    }
    assert_eq!(seen + lost, published);
    assert!(lost > 0);
}

#[test]
fn case_43_whoever_the_owner_lets_in_leaves_room_for_the_owner() {
    if !rustix::process::geteuid().is_root() {
        ::tests::not_tested("only root can connect as another user");
        return;
    }
    const GUEST: u32 = 65534;
    let grants = vec![crate::control::access::Grant::User(GUEST)];
    let world = World::admitting(Access::granting(grants, Vec::new()));
    world.open();
    let mut owners: Vec<Client> = (0..4).map(|_| world.client()).collect();
    let path = world.place.control();
    let (tell, told) = bounded(0);
    let (leave, left) = bounded::<()>(0);
    let crowd = thread::spawn(move || {
        become_user(GUEST);
        let crowd: Vec<Option<UnixStream>> = (0..MAX_CLIENTS)
            .map(|_| {
                let mut stream = UnixStream::connect(&path).unwrap();
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                let call = Call { version: VERSION, request: Request::Events, follow: false };
                // Whoever is turned away may be so before having asked.
                let _ = frame::write(&mut stream, &call);
                let admitted = answer_to(&mut stream) == Some(Response::Done);
                admitted.then_some(stream)
            })
            .collect();
        tell.send(crowd.iter().flatten().count()).unwrap();
        // They stay until this fails.
        let _ = left.recv();
    });
    assert_eq!(told.recv_timeout(LIMIT).unwrap(), MAX_CLIENTS / 2);
    for client in &mut owners {
        client.tasks().expect("the owner's connections stay");
    }
    let more: Vec<Client> = (0..MAX_CLIENTS / 4).map(|_| world.client()).collect();
    for mut client in more {
        client.tasks().unwrap();
    }
    drop(leave);
    crowd.join().unwrap();
}

#[test]
fn a_process_that_hangs_keeps_nobody_from_hearing_other_machines() {
    let world = World::new();
    let hanging = world.runtime.claim("hangs").unwrap();
    let _never_accepts = UnixListener::bind(hanging.control()).unwrap();
    let begun = Instant::now();
    let mut all = AllEvents::of(world.runtime.clone());
    world.vm.events().publish(EventKind::OnReset);
    let heard = all.next(Some(LIMIT)).unwrap();
    let Some((name, Heard::Notice(Notice::Event(event)))) = heard else { panic!("{heard:?}") };
    assert_eq!((name.as_str(), event.kind), ("Web", EventKind::OnReset));
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
}

#[test]
fn case_40_two_controllers_race_through_every_pair_of_verbs_in_every_state() {
    let world = World::new();
    let verbs = every_verb();
    let states = [
        VmState::TurnedOff,
        VmState::TurningOn,
        VmState::Running,
        VmState::Paused,
        VmState::TurningOff,
    ];
    for state in states {
        world.vm.set_state(state);
        for first in &verbs {
            for second in &verbs {
                let start = Barrier::new(2);
                thread::scope(|scope| {
                    for verb in [first, second] {
                        let (mut stream, start) = (world.raw(), &start);
                        scope.spawn(move || {
                            start.wait();
                            ask(&mut stream, verb.clone());
                            let Some(answer) = answer_to(&mut stream) else {
                                panic!("{verb:?} when {state:?} is not answered");
                            };
                            if let Response::Refused { code, text } = answer {
                                let known = code.is_failure() && code.symbol().is_some();
                                assert!(known && !text.is_empty(), "{verb:?}: {code} {text:?}");
                            }
                        });
                    }
                });
            }
        }
    }
}

#[test]
fn case_43_to_another_user_the_machine_does_not_exist() {
    if !rustix::process::geteuid().is_root() {
        ::tests::not_tested("only root can connect as another user");
        return;
    }
    let world = World::new();
    world.open();
    let stranger = thread::spawn({
        let path = world.place.control();
        move || {
            become_user(65534);
            let mut stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            refusal(&mut stream)
        }
    });
    assert_eq!(stranger.join().unwrap(), HResult::VM_E_VM_UNKNOWN);
    assert_eq!(world.seats(), 0);
}
