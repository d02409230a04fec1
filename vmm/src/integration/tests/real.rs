//! Logoffs by the real agent, of a real login on a real terminal.
//!
//! The agent sees, and so can signal, only descendants of one process that the test has started.
//! That process is not fetched before the agent has ended, so its number is nobody else's.

use super::*;
use guest_agent::process::Scope;
use guest_agent::serve;
use guest_agent::sessions::united::{Paths, UtmpProc};
use protocol::PROTOCOL;
use protocol::hello::Versions;
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

/// A shell that has to be killed; it does not outlive a test that fails for long.
const STUBBORN: &str = "trap '' HUP TERM; echo ready; for i in $(seq 60); do sleep 1; done";

/// A process whose only child is the shell of a login.
struct Ancestor {
    process: Child,
    said: mpsc::Receiver<String>,
    _terminal: OwnedFd,
    folder: tempfile::TempDir,
    /// The agents' connections, and their threads.
    agents: Vec<(UnixStream, JoinHandle<()>)>,
}

impl Ancestor {
    /// The shell runs `script`, which says `ready`; its parent says `over` when it has ended.
    fn of(script: &str) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = openpt(flags).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = File::from(open(name, flags, Mode::empty()).unwrap());
        let mut process = Command::new("sh")
            .args(["-c", "setsid -c sh -c \"$0\"; echo over; exec sleep 1000", script])
            .stdin(slave)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, said) = mpsc::channel();
        thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let folder = tempfile::tempdir().unwrap();
        let agents = Vec::new();
        let ancestor = Self { process, said, _terminal: terminal, folder, agents };
        assert_eq!(ancestor.says(), "ready");
        ancestor
    }

    fn says(&self) -> String {
        self.said.recv_timeout(PATIENCE).unwrap()
    }

    /// Serves an agent that sees nobody else to `host`.
    fn agent(&mut self, host: &Host) {
        self.agent_speaking(PROTOCOL, host);
    }

    /// The same, as a build does that speaks these versions.
    fn agent_speaking(&mut self, protocols: Versions, host: &Host) {
        let paths = Paths { utmp: vec![self.folder.path().join("utmp")], ..Paths::default() };
        let backend = UtmpProc::new(paths, Scope::DescendantsOf(self.process.id()));
        let agent = serve::Agent::new(Arc::new(backend), "boot").speaking(protocols);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let line = theirs.try_clone().unwrap();
        // How it ends is told by what it does before.
        let serving = thread::spawn(move || drop(agent.serve(theirs)));
        self.agents.push((line, serving));
        host.agents.send(ours).unwrap();
        assert!(host.guest().wait_for_agent(PATIENCE));
    }

    /// Ends the agents, whatever they are doing.
    fn hang_up(&mut self) {
        for (line, serving) in self.agents.drain(..) {
            // Fails where it has ended by itself.
            let _ = line.shutdown(Shutdown::Both);
            let _ = serving.join();
        }
    }
}

impl Drop for Ancestor {
    fn drop(&mut self) {
        self.hang_up();
        // Our own child, which has not been fetched yet.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_login_that_will_not_leave_is_killed_and_the_task_succeeds() {
    let host = Host::new();
    let mut ancestor = Ancestor::of(STUBBORN);
    ancestor.agent(&host);
    let guest = host.guest();
    let list = guest.sessions().unwrap();
    assert_eq!((list.sessions.len(), list.omitted), (1, 0), "{list:?}");
    let options = LogoffOptions { grace_ms: 300, notice_ms: 0, deadline_ms: 20_000 };
    let task = guest.logoff(options).unwrap();
    assert_eq!(end(&task), SUCCESS);
    assert_eq!(ancestor.says(), "over");
    let report = task.report().unwrap();
    assert_eq!(report.sessions.len(), 1);
    let ended = &report.sessions[0];
    assert_eq!(ended.outcome, Some(Outcome::Killed));
    assert_eq!((&ended.session.id, &ended.session.tty), {
        let listed = &list.sessions[0];
        (&listed.id, &listed.tty)
    });
    assert!(guest.sessions().unwrap().sessions.is_empty());

    // There is nobody any more.
    let task = guest.logoff(options).unwrap();
    assert_eq!(end(&task), failed(HResult::ERROR_NO_SUCH_LOGON_SESSION));
    assert_eq!(guest.agent().dropped, 0);
}

#[test]
fn a_real_agent_that_is_started_anew_goes_on_and_succeeds() {
    let host = Host::new();
    let mut ancestor = Ancestor::of(STUBBORN);
    ancestor.agent(&host);
    let options = LogoffOptions { grace_ms: 1_000, notice_ms: 0, deadline_ms: 20_000 };
    let task = host.guest().logoff(options).unwrap();
    until(&task, |info| !info.is_cancelable);
    ancestor.hang_up();
    host.wait_for_no_agent();
    ancestor.agent(&host);
    assert_eq!(end(&task), SUCCESS);
    assert_eq!(ancestor.says(), "over");
    assert_eq!(task.report().unwrap().sessions[0].outcome, Some(Outcome::Killed));
}

#[test]
fn a_real_agent_that_is_cancelled_during_the_notice_touches_nobody() {
    let host = Host::new();
    let mut ancestor = Ancestor::of("echo ready; read -r line");
    ancestor.agent(&host);
    let guest = host.guest();
    let options = LogoffOptions { grace_ms: 0, notice_ms: 20_000, deadline_ms: 20_000 };
    let task = guest.logoff(options).unwrap();
    assert_eq!(task.cancel(), Ok(()));
    assert_eq!(end(&task), CANCELLED);
    assert_eq!(guest.sessions().unwrap().sessions.len(), 1);
    // It can be asked again at once, and then it does it.
    let task = guest.logoff(LogoffOptions { notice_ms: 0, ..options }).unwrap();
    assert_eq!(end(&task), SUCCESS);
    assert_eq!(ancestor.says(), "over");
    assert_eq!(guest.agent().dropped, 0, "nothing that was said was a surprise");
}

#[test]
fn a_real_agent_that_is_one_version_older_or_newer_ends_a_real_login() {
    for (ours, theirs) in [(2, 1), (1, 2)] {
        let host = Host::speaking(Versions::of(ours), Timing::default());
        let mut ancestor = Ancestor::of("echo ready; exec sleep 60");
        ancestor.agent_speaking(Versions::of(theirs), &host);
        let task = host.guest().logoff(LogoffOptions::default()).unwrap();
        assert_eq!(end(&task), SUCCESS, "{ours} and {theirs}");
        assert_eq!(ancestor.says(), "over");
    }
}
