//! The backend for guests without logind: utmp and `/proc` together.
//!
//! `/proc` shows which logins there are, and utmp adds what only the login program knew: the name
//! and the place that the user came from. A record whose process belongs to a login in `/proc`, or
//! names its terminal, is about that login; one that stands alone, a graphical one say, is a login
//! of its own. A record whose process has gone is stale.

use super::proc::{Candidate, Mark, candidates, is_touchable, merge, owners};
use super::utmp::{self, Login};
use super::{Backend, Known, Listing, Member, Sight, clean};
use crate::process::{
    Handle, Identity, Proc, Process, Scope, TICKS_PER_SECOND, Table, read_at_most, tty_name,
    tty_numbers,
};
use protocol::task::SessionSummary;
use rustix::fs::{Mode, OFlags, fstat, major, minor, open};
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of the user database that are read.
const MAX_PASSWD: usize = 4 << 20;

/// Where the guest keeps what the backend reads.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The proc file system.
    pub proc: PathBuf,
    /// The utmp file, in the order in which it is looked for.
    pub utmp: Vec<PathBuf>,
    /// The user database.
    pub passwd: PathBuf,
    /// The directory of the terminals.
    pub dev: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            utmp: vec!["/run/utmp".into(), "/var/run/utmp".into()],
            passwd: "/etc/passwd".into(),
            dev: "/dev".into(),
        }
    }
}

/// Sessions from utmp and `/proc`.
#[derive(Clone, Debug)]
pub struct UtmpProc {
    proc: Proc,
    paths: Paths,
}

impl UtmpProc {
    /// The sessions of `paths` within `scope`.
    #[must_use]
    pub fn new(paths: Paths, scope: Scope) -> Self {
        Self { proc: Proc::new(&paths.proc, scope), paths }
    }

    fn utmp(&self) -> Vec<u8> {
        let read = |path: &PathBuf| read_at_most(path, utmp::MAX_BYTES).ok();
        self.paths.utmp.iter().find_map(read).unwrap_or_default()
    }
}

impl Backend for UtmpProc {
    fn name(&self) -> &'static str {
        "utmp+proc"
    }

    fn list(&self) -> io::Result<Listing> {
        let table = self.proc.table()?;
        let mut found = candidates(&table, &self.proc);
        let marks: Vec<Mark<'_>> = found.iter().map(Candidate::mark).collect();
        let owners = owners(&table, &marks);
        let booted = boot_time();
        let mut logins = utmp::logins(&self.utmp());
        logins.sort_by_key(|login| login.since);
        let mut stale = Vec::new();
        for login in logins {
            let process = live(&table, &login, booted);
            let owner = table.position(login.pid).and_then(|at| owners[at]);
            let on_line = || found.iter().position(|found| is_on(&found.leader, &login.line));
            match (process, process.and(owner).or_else(on_line)) {
                (Some(_), Some(owner)) => {
                    found[owner].login.get_or_insert(login);
                }
                (Some(leader), None)
                    if !table.is_prompt(leader) && !self.proc.is_contained(leader.pid()) =>
                {
                    let uid = self.proc.uid(leader.pid()).unwrap_or_default();
                    found.push(Candidate { leader: leader.clone(), uid, login: Some(login) });
                }
                (Some(_), None) | (None, Some(_)) => {}
                (None, None) => stale.push(login),
            }
        }
        // A graphical login has terminals in it.
        let found = merge(&table, found);
        let users = users(&read_at_most(&self.paths.passwd, MAX_PASSWD).unwrap_or_default());
        Ok(Listing {
            counted: found.iter().map(|found| summary(found, &users)).collect(),
            ignored: Vec::new(),
            stale: stale.iter().map(|login| gone(login, &users)).collect(),
        })
    }

    fn look(&self, sessions: &[Known<'_>]) -> io::Result<Vec<Sight>> {
        let table = self.proc.table()?;
        let marks: Vec<Mark<'_>> = sessions.iter().copied().map(mark).collect();
        let mut sights = vec![Sight::default(); sessions.len()];
        for (process, owner) in table.processes().iter().zip(owners(&table, &marks)) {
            if let Some(owner) = owner {
                sights[owner].members.push(Member::of(process));
            }
        }
        Ok(sights)
    }

    fn hold(&self, member: Identity) -> io::Result<Option<Handle>> {
        self.proc.hold(member)
    }

    fn identify(&self, pid: u32) -> Option<Identity> {
        self.proc.identify(pid)
    }

    fn notify(&self, session: &SessionSummary, text: &str) {
        // A terminal that does not take it goes without.
        if let Some(tty) = self.proc.tty(leader(session)).filter(|tty| *tty != 0) {
            let _ = write_to_terminal(&self.paths.dev, tty, text);
        }
    }

    fn going_down(&self) -> bool {
        utmp::going_down(&self.utmp(), boot_time())
    }
}

fn mark(known: Known<'_>) -> Mark<'_> {
    Mark {
        leader: leader(known.session),
        uid: known.session.uid,
        // A login that has an audit session is named by its number.
        audit: known.session.id.parse().ok(),
        seen: Some(known.seen),
    }
}

pub(super) fn leader(session: &SessionSummary) -> Identity {
    Identity { pid: session.leader, start: session.leader_start }
}

/// The process that `login` is about, if it is still that one.
fn live<'a>(table: &'a Table, login: &Login, booted: i64) -> Option<&'a Process> {
    let process = table.get(login.pid).filter(|process| is_touchable(process))?;
    let since_boot = (process.identity.start / TICKS_PER_SECOND) as i64;
    login.can_be(booted.saturating_add(since_boot)).then_some(process)
}

fn is_on(leader: &Process, line: &str) -> bool {
    leader.tty != 0 && tty_name(leader.tty) == line
}

/// What is known of `found`.
fn summary(found: &Candidate, users: &[User]) -> SessionSummary {
    let leader = &found.leader;
    let login = found.login.as_ref();
    let tty = match (leader.tty, login) {
        (0, Some(login)) => login.line.clone(),
        (0, None) => String::new(),
        (tty, _) => tty_name(tty),
    };
    let named = login.and_then(|login| users.iter().find(|user| user.name == login.user));
    let uid = named.map_or(found.uid, |user| user.uid);
    let user = match (login, users.iter().find(|user| user.uid == uid)) {
        (Some(login), _) => login.user.clone(),
        (None, Some(user)) => user.name.clone(),
        (None, None) => uid.to_string(),
    };
    let place = if tty.is_empty() { "ssh".into() } else { tty.replace('/', "") };
    let kind = match () {
        () if leader.tty != 0 => "tty",
        () if tty.starts_with(':') => "x11",
        () => "unspecified",
    };
    SessionSummary {
        id: leader.audit.map_or_else(|| format!("{place}-{}", leader.pid()), |n| n.to_string()),
        uid,
        user,
        class: "user".into(),
        kind: kind.into(),
        tty,
        remote_host: login.map(|login| login.host.clone()).unwrap_or_default(),
        state: "active".into(),
        leader: leader.pid(),
        leader_start: leader.identity.start,
    }
}

/// A record that nothing is left of.
fn gone(login: &Login, users: &[User]) -> SessionSummary {
    SessionSummary {
        id: format!("{}-{}", login.line.replace('/', ""), login.pid),
        uid: users.iter().find(|user| user.name == login.user).map_or(u32::MAX, |user| user.uid),
        user: login.user.clone(),
        class: "user".into(),
        kind: "unspecified".into(),
        tty: login.line.clone(),
        remote_host: login.host.clone(),
        state: "closing".into(),
        leader: 0,
        leader_start: 0,
    }
}

/// When the guest booted by today's clock, in seconds since 1970.
fn boot_time() -> i64 {
    let now = clock_gettime(ClockId::Realtime).tv_sec;
    now.saturating_sub(clock_gettime(ClockId::Boottime).tv_sec)
}

/// A user of the guest.
struct User {
    name: String,
    uid: u32,
}

/// The users in the bytes of a user database, passwd(5).
fn users(bytes: &[u8]) -> Vec<User> {
    let user = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = clean(fields.next()?);
        let uid = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
        Some(User { name, uid })
    };
    bytes.split(|byte| *byte == b'\n').filter_map(user).collect()
}

/// Writes `text` to the terminal with this device number, or gives up at once.
pub(super) fn write_to_terminal(dev: &Path, tty: u32, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(dev.join(tty_name(tty)), flags, Mode::empty())?;
    let device = fstat(&file)?.st_rdev;
    if (major(device), minor(device)) != tty_numbers(tty) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "another device of that name"));
    }
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn users_are_read_and_broken_lines_passed_over() {
        let users =
            users(b"root:x:0:0::/root:/bin/sh\n\nbroken\nx:y:z:0\nbob:x:1001:1001:::\nend:x:7");
        let found: Vec<(&str, u32)> =
            users.iter().map(|user| (user.name.as_str(), user.uid)).collect();
        assert_eq!(found, [("root", 0), ("bob", 1001), ("end", 7)]);
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_break_the_user_parser(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            users(&bytes);
        }
    }
}
