//! What the backend without logind makes of guests of many kinds, each written out as files.

mod files;

use files::{BASE, Guest, KERNEL_THREAD, NO_TTY, P, PTS0, PTS1, TTY1, numbers, p, real};
use guest_agent::process::{Identity, Scope};
use guest_agent::sessions::united::{Paths, UtmpProc};
use guest_agent::sessions::{Backend, Known};
use protocol::task::SessionSummary;
use std::collections::HashSet;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// The processes of a session in which nothing is left.
const NOBODY: [[u32; 0]; 1] = [[]];

impl Guest {
    fn backend(&self) -> UtmpProc {
        let paths = Paths {
            proc: self.path("proc"),
            utmp: vec![self.path("none"), self.path("utmp")],
            passwd: self.path("passwd"),
            dev: self.path("dev"),
        };
        UtmpProc::new(paths, Scope::Everyone)
    }

    fn sessions(&self) -> Vec<SessionSummary> {
        self.backend().list().unwrap().counted
    }

    /// Who is there: user, terminal and the numbers of the session's processes.
    fn who(&self) -> Vec<(String, String, Vec<u32>)> {
        let sessions = self.sessions();
        let mut members = self.members(&sessions, &HashSet::new()).into_iter();
        let row = |session: &SessionSummary| {
            (session.user.clone(), session.tty.clone(), members.next().unwrap())
        };
        sessions.iter().map(row).collect()
    }

    fn members(&self, sessions: &[SessionSummary], seen: &HashSet<Identity>) -> Vec<Vec<u32>> {
        numbers(&self.backend(), sessions, seen)
    }

    /// Writes the utmp file: number, line, user, host, and how many seconds after boot.
    fn utmp(&self, records: &[(u32, &str, &str, &str, i64)]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
        let mut bytes = Vec::new();
        for (pid, line, user, host, since) in records {
            let mut record = [0; 384];
            record[0] = 7;
            record[4..8].copy_from_slice(&real(*pid).to_le_bytes());
            record[8..8 + line.len()].copy_from_slice(line.as_bytes());
            record[44..44 + user.len()].copy_from_slice(user.as_bytes());
            record[76..76 + host.len()].copy_from_slice(host.as_bytes());
            record[340..344].copy_from_slice(&((now - up + since) as u32).to_le_bytes());
            bytes.extend(record);
        }
        fs::write(self.path("utmp"), bytes).unwrap();
    }
}

fn row(user: &str, tty: &str, members: &[u32]) -> (String, String, Vec<u32>) {
    (user.into(), tty.into(), members.to_vec())
}

#[test]
fn a_login_that_waits_for_its_shell_in_the_same_session_is_one_session_of_the_user() {
    let guest = Guest::new(&[
        p(500, 1, 500, TTY1, "login"),
        p(510, 500, 500, TTY1, "bash").of(1000),
        p(520, 510, 500, TTY1, "vi").of(1000),
    ]);
    assert_eq!(guest.who(), [row("alice", "tty1", &[500, 510, 520])]);
    let session = &guest.sessions()[0];
    assert_eq!((session.uid, &*session.kind, &*session.class), (1000, "tty", "user"));
    assert_eq!(session.id, format!("tty1-{}", BASE + 500));
    let known = Known { session, seen: &HashSet::new(), loose: &HashSet::new() };
    let members = guest.backend().look(&[known]).unwrap().remove(0);
    let doors: Vec<&str> = members
        .members
        .iter()
        .filter(|member| member.door)
        .map(|member| member.comm.as_str())
        .collect();
    assert_eq!(doors, ["login"]);
}

#[test]
fn a_login_that_gave_its_shell_a_session_of_its_own_is_one_session_too() {
    let guest = Guest::new(&[
        p(500, 1, 500, NO_TTY, "login"),
        p(510, 500, 510, TTY1, "bash").of(1001),
        p(520, 510, 510, TTY1, "make").of(1001),
    ]);
    guest.utmp(&[(500, "tty1", "bob", "", 10)]);
    assert_eq!(guest.who(), [row("bob", "tty1", &[500, 510, 520])]);
}

#[test]
fn a_login_that_became_the_shell_is_a_session() {
    let guest = Guest::new(&[p(500, 1, 500, TTY1, "sh").of(1000)]);
    assert_eq!(guest.who(), [row("alice", "tty1", &[500])]);
}

#[test]
fn ssh_connections_count_with_and_without_a_terminal_and_the_server_does_not() {
    let guest = Guest::new(&[
        p(400, 1, 400, NO_TTY, "sshd").title("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100"),
        p(500, 400, 500, NO_TTY, "sshd-session").title("sshd-session: alice [priv]"),
        p(501, 500, 500, NO_TTY, "sshd-session").of(1000).title("sshd-session: alice@pts/0"),
        p(502, 501, 502, PTS0, "bash").of(1000),
        p(600, 400, 600, NO_TTY, "sshd").title("sshd: bob [priv]\0"),
        p(601, 600, 600, NO_TTY, "sshd").of(1001).title("sshd: bob@notty\0"),
        p(602, 601, 602, NO_TTY, "rsync").of(1001),
        p(603, 602, 603, NO_TTY, "daemon").of(1001),
        p(700, 400, 700, NO_TTY, "sshd").title("sshd: root@pts/1"),
        p(701, 700, 701, PTS1, "bash"),
        p(800, 400, 800, NO_TTY, "sshd").title("sshd: unknown [priv]"),
        p(801, 800, 800, NO_TTY, "sshd").of(74).title("sshd: unknown [net]"),
    ]);
    guest.utmp(&[(501, "pts/0", "alice", "192.0.2.7", 10)]);
    let expected = [
        row("alice", "pts/0", &[500, 501, 502]),
        row("bob", "", &[600, 601, 602]),
        row("root", "pts/1", &[700, 701]),
    ];
    assert_eq!(guest.who(), expected, "by the time at which their leaders started");
    assert_eq!(guest.sessions()[0].remote_host, "192.0.2.7");
}

#[test]
fn two_shells_over_one_ssh_connection_are_two_sessions() {
    let guest = Guest::new(&[
        p(500, 1, 500, NO_TTY, "sshd").title("sshd: alice [priv]"),
        p(501, 500, 500, NO_TTY, "sshd").of(1000).title("sshd: alice@pts/0,pts/1"),
        p(502, 501, 502, PTS0, "bash").of(1000),
        p(503, 501, 503, PTS1, "bash").of(1000),
    ]);
    let expected = [row("alice", "pts/0", &[500, 501, 502]), row("alice", "pts/1", &[503])];
    assert_eq!(guest.who(), expected);
}

#[test]
fn prompts_daemons_consoles_kernel_threads_zombies_and_containers_are_nobodys_sessions() {
    let guest = Guest::new(&[
        p(1, 0, 1, TTY1, "init"),
        P { flags: KERNEL_THREAD, ..p(20, 2, 20, TTY1, "kworker/0:1") },
        p(300, 1, 300, TTY1, "agetty"),
        p(301, 1, 301, PTS0, "login"),
        p(302, 1, 302, PTS1, "sulogin"),
        p(303, 1, 303, NO_TTY, "sh"),
        p(304, 303, 303, NO_TTY, "sleep"),
        p(305, 1, 305, NO_TTY, "daemon").of(1000),
        P { state: 'Z', ..p(306, 1, 306, PTS0, "bash").of(1000) },
        P { namespace: "pid:[2]", ..p(307, 1, 307, PTS1, "bash") },
    ]);
    assert_eq!(guest.who(), []);
}

#[test]
fn a_users_program_that_calls_itself_a_login_prompt_does_not_escape() {
    let guest = Guest::new(&[
        p(500, 1, 500, TTY1, "agetty").of(1000),
        p(510, 500, 500, TTY1, "login").of(1000),
    ]);
    assert_eq!(guest.who(), [row("alice", "tty1", &[500, 510])]);
}

#[test]
fn a_terminal_within_a_session_is_part_of_it_and_one_behind_a_daemon_is_not() {
    let guest = Guest::new(&[
        p(500, 1, 500, TTY1, "bash").of(1000),
        p(510, 500, 500, TTY1, "script").of(1000),
        p(511, 510, 511, PTS0, "bash").of(1000),
        p(512, 511, 511, PTS0, "vi").of(1000),
        p(520, 500, 520, NO_TTY, "daemon").of(1000),
        p(530, 1, 530, NO_TTY, "tmux: server").of(1000),
        p(531, 530, 531, PTS1, "bash").of(1000),
    ]);
    let expected = [row("alice", "tty1", &[500, 510, 511, 512]), row("alice", "pts/1", &[531])];
    assert_eq!(guest.who(), expected);
}

#[test]
fn the_audit_session_unites_what_belongs_to_one_login() {
    let guest = Guest::new(&[
        p(500, 1, 500, TTY1, "login").audit(3),
        p(510, 500, 500, TTY1, "bash").of(1000).audit(3),
        p(520, 510, 500, TTY1, "sudo").audit(3),
        p(530, 1, 530, NO_TTY, "tmux: server").of(1000).audit(3),
        p(531, 530, 531, PTS0, "bash").of(1000).audit(3),
        p(540, 1, 540, NO_TTY, "nginx").audit(3),
        p(541, 540, 540, NO_TTY, "nginx").of(33).audit(3),
        p(550, 1, 550, NO_TTY, "cron-job").of(1000).audit(4),
        p(560, 1, 560, NO_TTY, "daemon").of(1000),
    ]);
    assert_eq!(guest.who(), [row("alice", "tty1", &[500, 510, 520, 530, 531])]);
    assert_eq!(guest.sessions()[0].id, "3");
}

#[test]
fn what_root_started_without_a_terminal_is_a_service_and_no_part_of_roots_login() {
    let guest = Guest::new(&[
        p(500, 1, 500, TTY1, "bash").audit(1),
        p(540, 1, 540, NO_TTY, "sshd").audit(1).title("sshd: /usr/sbin/sshd [listener] 0 of 10"),
        p(541, 1, 541, NO_TTY, "postgres").of(110).audit(1),
    ]);
    assert_eq!(guest.who(), [row("root", "tty1", &[500])]);
}

#[test]
fn utmp_names_the_user_and_a_record_that_says_nothing_is_stale() {
    let guest = Guest::new(&[
        p(500, 1, 500, TTY1, "bash").of(1000),
        p(600, 1, 600, NO_TTY, "Xsession").of(1001),
        p(610, 600, 600, NO_TTY, "xterm").of(1001),
        p(611, 610, 611, PTS0, "bash").of(1001),
        p(620, 600, 620, NO_TTY, "daemon").of(1001),
        P { start: 90_000, ..p(700, 1, 700, NO_TTY, "cron") },
    ]);
    guest.utmp(&[
        (500, "tty1", "dora", "", 10),
        (600, ":0", "bob", ":0", 10),
        (700, "tty7", "carl", "", 10),
        (800, "pts/9", "alice", "there", 10),
    ]);
    let listing = guest.backend().list().unwrap();
    assert_eq!(guest.who(), [row("dora", "tty1", &[500]), row("bob", ":0", &[600, 610, 611])]);
    assert_eq!(listing.counted[0].uid, 1000, "unknown to the user database");
    assert_eq!(listing.counted[1].kind, "x11");
    let stale: Vec<&str> = listing.stale.iter().map(|one| one.tty.as_str()).collect();
    assert_eq!(stale, ["tty7", "pts/9"], "younger than its record, and gone");
}

#[test]
fn what_a_leader_left_behind_still_belongs_and_a_new_login_on_the_terminal_does_not() {
    let shell = p(500, 1, 500, TTY1, "bash").of(1000);
    let guest = Guest::new(&[shell, p(510, 500, 500, TTY1, "make").of(1000)]);
    let sessions = guest.sessions();
    // The terminal is taken from the session when its leader ends.
    guest.show(&[p(510, 1, 500, NO_TTY, "make").of(1000), p(520, 1, 520, TTY1, "bash").of(1000)]);
    assert_eq!(guest.members(&sessions, &HashSet::new()), [[510]]);
    let listing = guest.sessions();
    assert_eq!(listing.len(), 1);
    assert_ne!(listing[0].id, sessions[0].id);
}

#[test]
fn a_session_number_that_came_again_belongs_to_its_new_leader() {
    let shell = p(500, 1, 500, TTY1, "bash").of(1000);
    let guest = Guest::new(&[shell]);
    let sessions = guest.sessions();
    guest.show(&[P { start: 90_000, ..shell }, p(510, 500, 500, TTY1, "make").of(1000)]);
    assert_eq!(guest.members(&sessions, &HashSet::new()), NOBODY);
}

#[test]
fn what_was_seen_in_a_session_belongs_to_it_for_good_unless_it_is_another_process() {
    let guest = Guest::new(&[p(500, 1, 500, TTY1, "bash").of(1000)]);
    let sessions = guest.sessions();
    let seen = |start| HashSet::from([Identity { pid: BASE + 530, start }]);
    guest.show(&[p(530, 1, 530, NO_TTY, "escaped").of(1000)]);
    assert_eq!(guest.members(&sessions, &seen(530)), [[530]]);
    assert_eq!(guest.members(&sessions, &seen(529)), NOBODY);
}

#[test]
fn neither_pid_1_nor_the_agent_is_ever_a_member_even_if_it_was_named() {
    let guest = Guest::new(&[p(500, 1, 500, TTY1, "bash").of(1000)]);
    let mut sessions = guest.sessions();
    sessions[0].leader = 1;
    guest.show(&[
        p(600, 1, 1, NO_TTY, "service"),
        P { flags: KERNEL_THREAD, ..p(601, 1, 0, NO_TTY, "kworker") },
    ]);
    let seen = HashSet::from([
        Identity { pid: 1, start: 1 },
        Identity { pid: BASE + 601, start: 601 },
        Identity { pid: 0, start: 0 },
    ]);
    assert_eq!(guest.members(&sessions, &seen), NOBODY);
    sessions[0].leader = 0;
    assert_eq!(guest.members(&sessions, &seen), NOBODY);
}

#[test]
fn where_processes_cannot_be_seen_nobody_is_said_to_be_logged_off() {
    let guest = Guest::new(&[p(500, 1, 500, TTY1, "bash").of(1000)]);
    let sessions = guest.sessions();
    assert_eq!(sessions.len(), 1);
    // As if it were not mounted.
    let proc = guest.path("proc");
    fs::remove_dir_all(&proc).unwrap();
    fs::create_dir(&proc).unwrap();
    assert!(guest.backend().list().is_err());
    let seen = HashSet::new();
    assert!(
        guest
            .backend()
            .look(&[Known { session: &sessions[0], seen: &seen, loose: &seen }])
            .is_err()
    );
}
