//! A small world of real logins, and a host to play against the agent.
//!
//! Nothing outside of it can be touched: the agent sees only descendants of the test's own process,
//! and is asked about nothing else. Worlds of one test program exist one after the other, since
//! their logins descend from the same process; orphans come back to it, as to a guest's init.

#![allow(dead_code, reason = "each test program uses a part of it")]

use guest_agent::process::{Identity, Proc, Scope};
use guest_agent::serve::{Agent, ServeError};
use guest_agent::sessions::Backend;
use guest_agent::sessions::united::{Paths, UtmpProc};
use protocol::frame::{self, Decoder};
use protocol::hello::{Hello, Welcome};
use protocol::message::{AgentMessage, Done, HostMessage, LogoffRequest, Request};
use protocol::task::{Outcome, SessionReport};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, WaitOptions, getpid, set_child_subreaper, wait};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longer than anything here takes; only bounds a test that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A shell that leaves when asked.
pub(crate) const POLITE: &str = "echo ready; read -r line";
/// A shell that has to be killed.
pub(crate) const STUBBORN: &str = "trap '' HUP TERM; echo ready; while :; do sleep 1; done";

/// The variable that says which control groups a process is in: children inherit both alike.
pub(crate) const GROUPS: &str = "WORLD_CONTROL_GROUPS";

/// What `/proc/PID/cgroup` would say of `pid` in the world.
pub(crate) fn groups_of(pid: u32) -> Option<Vec<u8>> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let groups = variables.find_map(|one| one.strip_prefix(GROUPS.as_bytes())?.strip_prefix(b"="));
    Some(groups.unwrap_or(b"0::/").to_vec())
}

/// Logins on terminals, a utmp file, and the agent's view of them.
pub(crate) struct World {
    folder: tempfile::TempDir,
    _only: MutexGuard<'static, ()>,
}

impl World {
    pub(crate) fn new() -> Self {
        let only = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        set_child_subreaper(Some(getpid())).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), _only: only }
    }

    pub(crate) fn scope() -> Scope {
        Scope::DescendantsOf(std::process::id())
    }

    /// A file of the world's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn backend(&self) -> UtmpProc {
        let paths = Paths { utmp: vec![self.path("utmp")], ..Paths::default() };
        UtmpProc::new(paths, Self::scope())
    }

    /// Runs `script` as the shell of a new terminal, and waits until it says `ready`.
    pub(crate) fn login(&self, script: &str) -> Login {
        let mut shell = Command::new("setsid");
        shell.args(["-c", "sh", "-c", script]);
        self.log_in(shell)
    }

    /// The same in the control groups that `groups` names, as [`groups_of`] tells.
    pub(crate) fn login_in(&self, groups: &str, script: &str) -> Login {
        let mut shell = Command::new("setsid");
        shell.args(["-c", "sh", "-c", script]).env(GROUPS, groups);
        self.log_in(shell)
    }

    /// Runs `script` in these control groups, without a terminal, until it says `ready`.
    #[expect(clippy::zombie_processes, reason = "the world fetches all that are left at its end")]
    pub(crate) fn run_in(&self, groups: &str, script: &str) -> u32 {
        let mut shell = Command::new("setsid");
        shell.args(["sh", "-c", script]).env(GROUPS, groups);
        let mut child = shell
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready\n");
        child.id()
    }

    /// The same by way of a process that looks like an ssh connection's, which does `after` when
    /// the shell has ended.
    pub(crate) fn login_by_ssh(&self, script: &str, after: &str) -> Login {
        let sshd = self.path("sshd");
        std::os::unix::fs::symlink("/bin/sh", &sshd).unwrap();
        let mut door = Command::new(sshd);
        door.arg0("sshd: alice@pts/0");
        door.args(["-c", &format!("setsid -c sh -c \"$0\"; {after}"), script]);
        self.log_in(door)
    }

    fn log_in(&self, mut shell: Command) -> Login {
        let terminal =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())).to_owned();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = File::from(open(&path, flags, Mode::empty()).unwrap());
        let shell = shell
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let tty = path.strip_prefix("/dev").unwrap().to_str().unwrap().to_owned();
        let mut login = Login { shell, tty, output: listen(terminal.into()), said: String::new() };
        login.wait_for("ready");
        login
    }

    /// The agent, served to the host that is returned.
    pub(crate) fn connect(&self) -> Host {
        self.connect_with(Arc::new(self.backend()))
    }

    /// The same, with another view of the world.
    pub(crate) fn connect_with(&self, backend: Arc<dyn Backend>) -> Host {
        self.connect_to(Agent::new(backend, "boot"))
    }

    /// This agent, served to the host that is returned.
    pub(crate) fn connect_to(&self, agent: Agent) -> Host {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || agent.serve(theirs));
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        Host { stream: ours, decoder: Decoder::default(), serving: Some(serving) }
    }

    /// A connection on which both have said hello.
    pub(crate) fn host(&self) -> Host {
        let mut host = self.connect();
        assert!(matches!(host.next(), AgentMessage::Hello(_)));
        host.welcome();
        host
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Our own descendants only, by pidfd; what they leave to us is fetched.
        let proc = Proc::new(Path::new("/proc"), Self::scope());
        for _ in 0..100 {
            let table = proc.table().unwrap();
            let living: Vec<Identity> =
                table.processes().iter().filter(|one| !one.dead).map(|one| one.identity).collect();
            for one in &living {
                if let Ok(Some(handle)) = proc.hold(*one) {
                    let _ = handle.signal(Signal::KILL);
                }
            }
            while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
            if living.is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Reads a terminal to its end on a thread of its own.
fn listen(mut terminal: File) -> mpsc::Receiver<String> {
    let (sender, output) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = [0; 1024];
        while let Ok(count @ 1..) = terminal.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    output
}

/// Somebody at a terminal.
pub(crate) struct Login {
    shell: Child,
    pub(crate) tty: String,
    output: mpsc::Receiver<String>,
    pub(crate) said: String,
}

impl Login {
    pub(crate) fn pid(&self) -> u32 {
        self.shell.id()
    }

    pub(crate) fn is_there(&mut self) -> bool {
        matches!(self.shell.try_wait(), Ok(None))
    }

    /// Waits until the terminal shows `text`.
    pub(crate) fn wait_for(&mut self, text: &str) {
        while !self.said.contains(text) {
            self.hear();
        }
    }

    fn hear(&mut self) {
        let more = self.output.recv_timeout(PATIENCE);
        self.said += &more.unwrap_or_else(|_| panic!("no more than {:?}", self.said));
    }

    /// The number after `word` on the terminal.
    pub(crate) fn number(&mut self, word: &str) -> u32 {
        self.wait_for(word);
        while !self.said.split_once(word).unwrap().1.contains('\n') {
            self.hear();
        }
        let rest = self.said.split_once(word).unwrap().1.trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    }

    /// Ends the shell, as its user would.
    pub(crate) fn leave(mut self) {
        self.shell.kill().unwrap();
        self.shell.wait().unwrap();
    }
}

/// Whether the process `pid` is there, and no zombie.
pub(crate) fn lives(pid: u32) -> bool {
    let table = Proc::new(Path::new("/proc"), World::scope()).table().unwrap();
    table.get(pid).is_some_and(|process| !process.dead)
}

/// The host's end of a connection.
pub(crate) struct Host {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    serving: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Host {
    pub(crate) fn welcome(&mut self) {
        self.say(&HostMessage::Welcome(Welcome { protocol: 1, host_version: "test".into() }));
    }

    pub(crate) fn say(&mut self, message: &HostMessage) {
        frame::write(&mut self.stream, message).unwrap();
    }

    pub(crate) fn request(&mut self, id: u64, request: Request) {
        self.say(&HostMessage::Request { id, request });
    }

    /// The next message; none at the end.
    pub(crate) fn hear(&mut self) -> Option<AgentMessage> {
        self.decoder.read(&mut self.stream).unwrap()
    }

    /// The next message that is no heartbeat.
    pub(crate) fn next(&mut self) -> AgentMessage {
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "nothing but heartbeats");
            match self.hear().expect("the agent goes on talking") {
                AgentMessage::Heartbeat => {}
                message => return message,
            }
        }
    }

    pub(crate) fn hello(&mut self) -> Hello {
        match self.next() {
            AgentMessage::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    /// Asks for a logoff and follows it to its end.
    pub(crate) fn logoff(&mut self, id: u64, request: LogoffRequest) -> Ended {
        self.request(id, Request::Logoff(request));
        self.follow(id)
    }

    /// Follows the logoff `id` to its end.
    pub(crate) fn follow(&mut self, id: u64) -> Ended {
        let mut messages = Vec::new();
        loop {
            let message = self.next();
            messages.push(message.clone());
            if let AgentMessage::Done(done) = message {
                assert_eq!(done.id, id);
                return Ended { done, messages };
            }
        }
    }

    /// Follows the logoff until it says that it has committed, and returns what it said.
    pub(crate) fn until_committed(&mut self) -> Vec<AgentMessage> {
        let mut messages = Vec::new();
        loop {
            let message = self.next();
            messages.push(message.clone());
            if matches!(message, AgentMessage::Progress(progress) if progress.committed) {
                return messages;
            }
        }
    }

    /// Hangs up, and returns what the agent made of the connection.
    pub(crate) fn hang_up(mut self) -> Result<(), ServeError> {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
        self.serving.take().unwrap().join().unwrap()
    }
}

/// A logoff that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) done: Done,
    pub(crate) messages: Vec<AgentMessage>,
}

impl Ended {
    /// The sessions' last rows, in the order of the snapshot.
    pub(crate) fn sessions(&self) -> Vec<SessionReport> {
        last_rows(&self.messages)
    }

    /// What became of the session that `login` was in.
    pub(crate) fn of(&self, login: &Login) -> SessionReport {
        let mut rows = self.sessions();
        rows.retain(|row| row.session.tty == login.tty);
        assert_eq!(rows.len(), 1, "{self:?}");
        rows.remove(0)
    }

    pub(crate) fn outcome(&self, login: &Login) -> Option<Outcome> {
        self.of(login).outcome
    }

    /// Sessions ended, by every progress message after the other.
    pub(crate) fn progress(&self) -> Vec<u32> {
        let done = |message: &AgentMessage| match message {
            AgentMessage::Progress(progress) => Some(progress.done),
            _ => None,
        };
        self.messages.iter().filter_map(done).collect()
    }
}

/// The last row of every session in `messages`.
pub(crate) fn last_rows(messages: &[AgentMessage]) -> Vec<SessionReport> {
    let mut rows: Vec<SessionReport> = Vec::new();
    for message in messages {
        if let AgentMessage::Session { session, .. } = message {
            match rows.iter_mut().find(|row| row.session.id == session.session.id) {
                Some(row) => *row = session.clone(),
                None => rows.push(session.clone()),
            }
        }
    }
    rows
}

/// A logoff without a notice.
pub(crate) fn within(grace_ms: u64, deadline_ms: u64) -> LogoffRequest {
    LogoffRequest { grace_ms, notice_ms: 0, deadline_ms, resume: None }
}
