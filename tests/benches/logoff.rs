//! How long a logoff of so many idle sessions takes: by a program that is connected to the machine,
//! and by an administrator's `ssh` and `loginctl`. Prints a document, all times in microseconds.
//!
//! Both are played in turns on one guest, each from its call to the moment when nobody is logged on
//! any more, as the agent sees it.

use protocol::task::{LogoffOptions, TaskResult};
use serde_json::json;
use std::env;
use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tests::stage::{Stage, background, login};
use tests::{Debian, runtime_dir};
use vmm::VirtualPc;
use vmm::control::client::Client;
use vmm::control::wire::Request;

/// Sessions that are started before the next ones are: a guest takes its time for each.
const BATCH: usize = 10;
/// How often one session is ended in either way; more of them are ended once, and not by ssh.
const ROUNDS: usize = 3;
/// Round trips that are measured.
const TRIPS: usize = 101;
/// Between two looks at what ssh has ended: a hundredth of what that takes.
const LOOK: Duration = Duration::from_millis(10);
/// What the guest gets done after logins.
const REST: Duration = Duration::from_secs(2);
/// The guest's network, and the ends of it.
const TAP: &str = "tap0";
const HOST: &str = "10.0.0.1";
const GUEST: &str = "10.0.0.2";
/// A port of the guest's at which whatever is sent comes back.
const ECHO: u32 = 7;
/// Serves it: AF_VSOCK is 40, and the address has two bytes of family and two of nothing, a port and
/// a context id, in which all ones stand for any.
const ECHO_SERVER: &str = "socket(S,40,1,0) or die; bind(S,pack(q(SSLLx4),40,0,7,~0&0xffffffff)) or \
    die; listen(S,1); accept(C,S); while(sysread(C,$b,64)){syswrite(C,$b)}";

fn main() {
    let sessions = env::args().nth(1).and_then(|word| word.parse().ok());
    let sessions: usize = sessions.expect("the number of sessions");
    let mut stage = Stage::boot_with(Debian::Twelve, vec![format!("tap={TAP}")]);
    let pc = VirtualPc::of_user();
    let mut client = pc.connect(&stage.machine.name).expect("the machine runs");
    let vsock = vsock_round_trip(&mut stage);
    let api = api_round_trip(&mut client);
    let ssh = (sessions == 1).then(|| Ssh::set_up(&mut stage));
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..if ssh.is_some() { ROUNDS } else { 1 } {
        log_in(&mut stage, sessions);
        ours.push(log_off(&mut client, sessions));
        eprintln!("logoff and the guest's part of it, in us: {:?}", ours.last());
        if let Some(ssh) = &ssh {
            log_in(&mut stage, sessions);
            theirs.push(ssh.log_off(&mut client));
            eprintln!("ssh, in us: {:?}", theirs.last());
        }
    }
    let (logoff, guest) = middle(ours).unwrap_or_default();
    let document = json!({
        "sessions": sessions,
        "logoff": logoff,
        "guest": guest,
        "vsock_round_trip": vsock,
        "api_round_trip": api,
        "ssh": middle(theirs),
    });
    println!("{document}");
}

/// The middle one of what was measured, if anything was.
fn middle<T: Ord>(mut found: Vec<T>) -> Option<T> {
    found.sort_unstable();
    let middle = found.len() / 2;
    found.into_iter().nth(middle)
}

/// Logs alice on so many times.
fn log_in(stage: &mut Stage, count: usize) {
    let mut there = 0;
    while there < count {
        let more = BATCH.min(count - there);
        stage.run(&format!("for n in $(seq {more}); do {}; done", login("alice")));
        there += more;
        stage.wait(&format!("{there} sessions"), |stage| {
            stage.run("pgrep -cxu alice bash").trim() == there.to_string()
        });
        eprintln!("{there} of {count} sessions are there");
    }
    stage.wait_for("alice", count);
    thread::sleep(REST);
}

/// Ends all sessions as a program does; gives how long that took, and the guest's part of it.
fn log_off(client: &mut Client, sessions: usize) -> (u64, u64) {
    let options = LogoffOptions::default();
    let begun = Instant::now();
    let document = client.work_watching(Request::Logoff { options }, None, |_| (), |_| ());
    let whole = micros(begun);
    let document = document.expect("the logoff is accepted");
    assert_eq!(document.task.result, Some(TaskResult::Success), "{document:?}");
    let report = document.report.expect("a logoff has a report");
    assert_eq!(report.sessions.len(), sessions, "{report:?}");
    (whole, report.guest_us)
}

/// An administrator's way to the guest: the best that can be, with a key, a host that is known, and
/// no names to be looked up.
struct Ssh {
    command: Vec<String>,
    _folder: tempfile::TempDir,
}

impl Ssh {
    fn set_up(stage: &mut Stage) -> Self {
        let folder = tempfile::tempdir().expect("there is room");
        let at = |name: &str| folder.path().join(name).display().to_string();
        host(&["ip", "address", "add", &format!("{HOST}/24"), "dev", TAP]);
        host(&["ip", "link", "set", TAP, "up"]);
        stage.run(&format!(
            "nic=$(ls /sys/class/net | grep -v lo); \
             ip address add {GUEST}/24 dev $nic; ip link set $nic up; \
             cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys"
        ));
        let key = stage.run("cat /root/.ssh/id_ed25519");
        fs::write(at("key"), key + "\n").expect("it can be written");
        fs::set_permissions(at("key"), Permissions::from_mode(0o600)).expect("it is ours");
        let known = stage.run("cat /etc/ssh/ssh_host_ed25519_key.pub");
        fs::write(at("hosts"), format!("{GUEST} {known}\n")).expect("it can be written");
        let options = [
            "BatchMode=yes".into(),
            "IdentitiesOnly=yes".into(),
            "PreferredAuthentications=publickey".into(),
            "StrictHostKeyChecking=yes".into(),
            format!("UserKnownHostsFile={}", at("hosts")),
        ];
        let mut command = ["ssh", "-F", "none", "-i", &at("key")].map(str::to_owned).to_vec();
        command.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        command.push(format!("root@{GUEST}"));
        let ssh = Self { command, _folder: folder };
        // The first time root's manager is started, programs are read from the disk.
        ssh.run(&["true"]);
        ssh
    }

    fn run(&self, words: &[&str]) {
        let mut command = Command::new(&self.command[0]);
        let status = command.args(&self.command[1..]).args(words).stdin(Stdio::null()).status();
        assert!(status.as_ref().is_ok_and(|status| status.success()), "{words:?}: {status:?}");
    }

    /// Ends alice's sessions; gives how long that took.
    fn log_off(&self, client: &mut Client) -> u64 {
        let begun = Instant::now();
        self.run(&["loginctl", "terminate-user", "alice"]);
        while is_there(client, "alice") {
            // Who asks without a pause takes the guest's processor from the logoff.
            thread::sleep(LOOK);
        }
        micros(begun)
    }
}

fn is_there(client: &mut Client, user: &str) -> bool {
    let sessions = client.sessions().expect("the agent answers").sessions;
    sessions.iter().any(|session| session.user == user)
}

/// Runs a program of the host's.
fn host(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{words:?}: {status:?}");
}

/// From a host program to one of the guest's and back, through the monitor's socket.
fn vsock_round_trip(stage: &mut Stage) -> u64 {
    stage.run(&background(&format!("perl -e '{ECHO_SERVER}'")));
    let path = runtime_dir(&stage.machine.name).join("vsock.sock");
    let mut connected = None;
    stage.wait("the guest's echo", |_| {
        connected = dial(&path).ok();
        connected.is_some()
    });
    let mut stream = connected.expect("it was waited for");
    let mut byte = [0];
    median(|| {
        stream.write_all(b"x").expect("it is read");
        stream.read_exact(&mut byte).expect("it comes back");
    })
}

/// A connection to the guest's echo, if it listens by now.
fn dial(path: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(format!("CONNECT {ECHO}\n").as_bytes())?;
    let mut byte = [0];
    while byte != [b'\n'] {
        stream.read_exact(&mut byte)?;
    }
    Ok(stream)
}

/// From a connected program over the machine's process to the agent and back.
fn api_round_trip(client: &mut Client) -> u64 {
    let name = "HostName".to_owned();
    median(|| {
        client.value(Request::GetParameter { name: name.clone() }).expect("it is set");
    })
}

/// The median time of `once`.
fn median(mut once: impl FnMut()) -> u64 {
    let times = (0..TRIPS).map(|_| {
        let begun = Instant::now();
        once();
        micros(begun)
    });
    middle(times.collect()).unwrap_or_default()
}

fn micros(begun: Instant) -> u64 {
    begun.elapsed().as_micros() as u64
}
