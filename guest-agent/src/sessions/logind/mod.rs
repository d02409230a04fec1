//! The backend for guests with systemd-logind or elogind.
//!
//! The login manager says which sessions there are; the kernel says who is in them. systemd keeps
//! every session in a control group of its own, and what is in that group is the session, whatever
//! it looks like. elogind has groups too, but no services beside them: what a session's root has
//! restarted, `sshd` say, stays in the session's group. So there the group stands for the audit
//! session among the rules that are used without a login manager, which leave root's daemons alone.
//!
//! ```text
//! systemd   active:  TerminateSession   closing: KillSession TERM, HUP, CONT   then SIGKILL by pidfd
//! elogind   HUP, TERM, CONT, then SIGKILL, all by pidfd; TerminateSession once nobody is left
//! ```
//!
//! Where the bus is lost in the middle of the work, signals go by pidfd, and the processes alone say
//! when a session has ended. A manager that cannot be asked to stop its user is kept.

mod cgroup;
mod members;
mod tree;

use super::proc::is_touchable;
use super::united::write_to_terminal;
use super::{Backend, Known, Listing, Manager, Member, Sight};
use crate::logind::{CallError, Details, Listed, LoginManager};
use crate::process::{Handle, Identity, Proc, Scope, TICKS_PER_SECOND, Table, tty_name};
use members::{Groups, GroupsOf, Wanted};
use protocol::task::SessionSummary;
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use std::cell::LazyCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tree::Tree;

/// The folder that is there where systemd is process 1: sd_booted(3).
const SYSTEMD: &str = "run/systemd/system";
/// How long it may take to ask after all sessions: the host waits five seconds for a count.
const LIST_WITHIN: Duration = Duration::from_millis(2_500);
/// How long a login manager that did not answer is left alone: the work goes on without it.
const DEAF_FOR: Duration = Duration::from_secs(5);
/// How long a lost connection is left alone.
const LOST_FOR: Duration = Duration::from_millis(200);
/// Ticks by which a leader may seem younger than its session.
const SLACK: u64 = 2 * TICKS_PER_SECOND;
/// Why a manager is kept that nothing is known of.
const SILENT: &str = "logind does not answer";

/// Sessions from a login manager. Made for one operation, or one question.
pub struct Logind {
    root: PathBuf,
    proc: Proc,
    groups: Groups,
    wake: Arc<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    manager: Option<Arc<LoginManager>>,
    /// Until when it is not asked.
    deaf_until: Option<Instant>,
    /// Sessions that have ended. One of the same name that comes later is another one.
    gone: HashSet<String>,
    /// Users whose manager it was asked to stop.
    stopping: HashSet<u32>,
}

impl Logind {
    /// The sessions of the guest whose files are below `root`, within `scope`, as `manager` has them.
    pub(super) fn over(manager: Arc<LoginManager>, root: &Path, scope: Scope) -> Self {
        let proc = Proc::new(&root.join("proc"), scope);
        let reader = proc.clone();
        Self::new(manager, root, proc, Box::new(move |pid| reader.cgroups(pid)))
    }

    /// The same over a connection of its own, with a `proc` that is elsewhere, and another way to know
    /// control groups.
    ///
    /// # Errors
    /// `NotFound` where the guest has no login manager; else the bus cannot be reached.
    pub fn with_cgroups(
        root: &Path,
        proc: Proc,
        cgroups: impl Fn(u32) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Ok(Self::new(Arc::new(LoginManager::connect(root)?), root, proc, Box::new(cgroups)))
    }

    fn new(manager: Arc<LoginManager>, root: &Path, proc: Proc, cgroups: GroupsOf) -> Self {
        let wake = manager.wake();
        let state = State { manager: Some(manager), ..State::default() };
        let systemd = root.join(SYSTEMD).is_dir();
        let groups = Groups {
            systemd,
            proc: proc.clone(),
            tree: Tree::of(root).filter(|_| systemd),
            of: cgroups,
        };
        Self { root: root.to_owned(), proc, groups, wake, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment: a thread that died cannot have left it half made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the login manager, over a new connection if the old one is lost.
    fn ask<R>(
        &self,
        question: impl FnOnce(&LoginManager) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        let answer = self.manager().and_then(|manager| question(&manager));
        if let Err(CallError::Lost(error)) = &answer {
            let mut state = self.state();
            let late = error.kind() == io::ErrorKind::TimedOut;
            let pause = if late { DEAF_FOR } else { LOST_FOR };
            state.deaf_until.get_or_insert_with(|| Instant::now() + pause);
        }
        answer
    }

    fn manager(&self) -> Result<Arc<LoginManager>, CallError> {
        let mut state = self.state();
        if state.deaf_until.is_some_and(|until| Instant::now() < until) {
            return Err(CallError::Lost(io::Error::other(SILENT)));
        }
        state.deaf_until = None;
        if let Some(manager) = state.manager.as_ref().filter(|manager| !manager.is_lost()) {
            return Ok(Arc::clone(manager));
        }
        state.manager = None;
        let manager = LoginManager::connect_waking(&self.root, Arc::clone(&self.wake));
        let manager = Arc::new(manager.map_err(CallError::Lost)?);
        state.manager = Some(Arc::clone(&manager));
        Ok(manager)
    }

    /// All sessions, with what they say of themselves.
    fn sessions(&self) -> Result<Vec<(Listed, Details)>, CallError> {
        let until = Instant::now() + LIST_WITHIN;
        self.ask(|manager| {
            let mut sessions = Vec::new();
            for listed in manager.sessions()? {
                if until < Instant::now() {
                    let late = io::Error::new(io::ErrorKind::TimedOut, "logind is too slow");
                    return Err(CallError::Lost(late));
                }
                match manager.details(&listed) {
                    Ok(details) => sessions.push((listed, details)),
                    // It has gone meanwhile.
                    Err(CallError::Absent) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(sessions)
        })
    }

    /// Whether the login manager says that `listed` goes on.
    fn is_open(&self, listed: &Listed) -> bool {
        self.ask(|manager| manager.details(listed)).is_ok_and(|details| !details.is_closing())
    }

    /// Why `uid`'s manager has to stay, if it has.
    fn keep(
        &self,
        uid: u32,
        sessions: &[Listed],
        snapshot: &[&SessionSummary],
        until: Instant,
    ) -> Option<String> {
        match self.ask(|manager| manager.lingers(uid)) {
            Ok(true) => return Some("linger".into()),
            Ok(false) | Err(CallError::Absent) => {}
            Err(CallError::Lost(_)) => return Some(SILENT.into()),
            Err(error) => return Some(error.to_string()),
        }
        let gone = self.state().gone.clone();
        let known =
            |id: &String| snapshot.iter().any(|one| one.id == *id && !gone.contains(&one.id));
        for listed in sessions.iter().filter(|one| one.uid == uid && !known(&one.id)) {
            if until < Instant::now() {
                return Some(SILENT.into());
            }
            match self.ask(|manager| manager.details(listed)) {
                Ok(details) => match self.stays_for(listed, &details) {
                    Ok(None) => {}
                    Ok(reason) => return reason,
                    Err(error) => return Some(error.to_string()),
                },
                // It has gone meanwhile.
                Err(CallError::Absent) => {}
                Err(_) => return Some(SILENT.into()),
            }
        }
        None
    }

    /// Why a manager has to stay for the session `listed` of its user, if it has.
    fn stays_for(&self, listed: &Listed, details: &Details) -> io::Result<Option<String>> {
        let class = &details.class;
        if !details.is_users() {
            let background = class.starts_with("background");
            let reason = if background { "background" } else { class };
            // A manager's own session is the manager.
            return Ok((!class.starts_with("manager")).then(|| reason.to_owned()));
        }
        let table = self.groups.table(&[wanted(listed, details)], &[])?;
        let summary = summary(&table, listed, details);
        let seen = HashSet::new();
        let known = [Known { session: &summary, seen: &seen, loose: &seen }];
        let empty = self.groups.members(&table, &known, &HashSet::new())[0].is_empty();
        Ok((summary.leader != 0 || !empty).then(|| "relogin".to_owned()))
    }
}

impl Backend for Logind {
    fn name(&self) -> &'static str {
        "logind"
    }

    fn list(&self) -> io::Result<Listing> {
        let sessions = self.sessions()?;
        let users = sessions.iter().filter(|(_, details)| details.is_users());
        let users: Vec<Wanted<'_>> =
            users.map(|(listed, details)| wanted(listed, details)).collect();
        let leaders: Vec<u32> = sessions.iter().map(|(_, details)| details.leader).collect();
        let table = self.groups.table(&users, &leaders)?;
        let mut listing = Listing::default();
        let mut users = Vec::new();
        for (listed, details) in &sessions {
            let summary = summary(&table, listed, details);
            let list = if details.is_users() { &mut users } else { &mut listing.ignored };
            list.push(summary);
        }
        for list in [&mut users, &mut listing.ignored] {
            list.sort_by(|a, b| (a.leader_start, &a.id).cmp(&(b.leader_start, &b.id)));
        }
        let seen = HashSet::new();
        let known: Vec<Known<'_>> =
            users.iter().map(|session| Known { session, seen: &seen, loose: &seen }).collect();
        let members = self.groups.members(&table, &known, &HashSet::new());
        for (session, members) in users.iter().cloned().zip(members) {
            let is_there = session.leader != 0 || !members.is_empty();
            let list = if is_there { &mut listing.counted } else { &mut listing.stale };
            list.push(session);
        }
        Ok(listing)
    }

    fn look(&self, sessions: &[Known<'_>]) -> io::Result<Vec<Sight>> {
        let listed: Option<HashMap<String, Listed>> = self
            .ask(LoginManager::sessions)
            .ok()
            .map(|all| all.into_iter().map(|one| (one.id.clone(), one)).collect());
        let mut reused = HashSet::new();
        if let Some(listed) = &listed {
            let mut state = self.state();
            for (index, known) in sessions.iter().enumerate() {
                let id = &known.session.id;
                if !listed.contains_key(id) {
                    state.gone.insert(id.clone());
                } else if state.gone.contains(id) {
                    reused.insert(index);
                }
            }
        }
        let told_by_groups = reused.is_empty() && sessions.iter().all(|one| one.loose.is_empty());
        let table = if told_by_groups {
            let sessions = sessions.iter().map(|Known { session, .. }| Wanted {
                id: &session.id,
                uid: session.uid,
                leader: session.leader,
            });
            self.groups.table(&sessions.collect::<Vec<_>>(), &[])?
        } else {
            self.proc.table()?
        };
        let members = self.groups.members(&table, sessions, &reused);
        let sight = |(index, members): (usize, Vec<Member>)| {
            let id = &sessions[index].session.id;
            let listed = listed.as_ref().and_then(|listed| listed.get(id));
            let open = match listed.filter(|_| !reused.contains(&index)) {
                None => false,
                // What is not empty is not over, whatever is said of it.
                Some(listed) => !members.is_empty() || self.is_open(listed),
            };
            Sight { members, open }
        };
        Ok(members.into_iter().enumerate().map(sight).collect())
    }

    fn managers(&self, snapshot: &[&SessionSummary]) -> io::Result<Vec<Manager>> {
        if !self.groups.systemd {
            return Ok(Vec::new());
        }
        let mut managers: Vec<Manager> = Vec::new();
        // Sessions of the light classes are told by their name to go without.
        for session in snapshot.iter().filter(|session| !session.class.contains("light")) {
            if managers.iter().all(|manager| manager.uid != session.uid) {
                let (uid, user) = (session.uid, session.user.clone());
                managers.push(Manager { uid, user, ..Manager::default() });
            }
        }
        let until = Instant::now() + LIST_WITHIN;
        let sessions = LazyCell::new(|| self.ask(LoginManager::sessions));
        let uids: Vec<u32> = managers.iter().map(|manager| manager.uid).collect();
        let mut members = self.groups.of_managers(&uids)?;
        for manager in &mut managers {
            manager.members = members.remove(&manager.uid).unwrap_or_default();
            if manager.members.is_empty() && self.state().stopping.contains(&manager.uid) {
                // It has stopped, whatever it could have been kept for.
                continue;
            }
            manager.keep = match &*sessions {
                Ok(sessions) => self.keep(manager.uid, sessions, snapshot, until),
                Err(_) => Some(SILENT.into()),
            };
            manager.silent = manager.keep.as_deref() == Some(SILENT);
        }
        Ok(managers)
    }

    fn terminate(&self, session: &SessionSummary, is_empty: bool) -> bool {
        let id = &session.id;
        if !self.groups.systemd {
            if is_empty {
                // A look says what comes of it.
                let _ = self.ask(|manager| manager.terminate_session(id));
            }
            return false;
        }
        let taken_on = self.ask(|manager| {
            if !manager.is_closing(id)? {
                return manager.terminate_session(id);
            }
            manager.kill_session(id, Signal::TERM.as_raw())?;
            for signal in [Signal::HUP, Signal::CONT] {
                // The first may have done it, and the session is gone.
                let _ = manager.kill_session(id, signal.as_raw());
            }
            Ok(())
        });
        taken_on.is_ok()
    }

    fn stop_manager(&self, uid: u32) -> io::Result<()> {
        self.state().stopping.insert(uid);
        match self.ask(|manager| manager.terminate_user(uid)) {
            // logind has forgotten the user, and the manager is on its way.
            Ok(()) | Err(CallError::Absent) => Ok(()),
            // It may have heard; the next looks tell.
            Err(CallError::Lost(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn changes(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wake.as_fd())
    }

    fn clear(&self) {
        // Fails where nothing has changed, and that is as good.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
    }

    fn hold(&self, member: Identity) -> io::Result<Option<Handle>> {
        self.proc.hold(member)
    }

    fn identify(&self, pid: u32) -> Option<Identity> {
        self.proc.identify(pid)
    }

    fn notify(&self, session: &SessionSummary, text: &str) {
        let Ok(table) = self.proc.table() else { return };
        let seen = HashSet::new();
        let members = self
            .groups
            .members(&table, &[Known { session, seen: &seen, loose: &seen }], &HashSet::new())
            .remove(0);
        let ttys = members.iter().filter_map(|member| table.get(member.identity.pid));
        let mut ttys = ttys.map(|process| process.tty).filter(|tty| *tty != 0);
        // The name is the guest's word; a terminal that one of the processes sits on is one.
        if let Some(tty) = ttys.find(|tty| tty_name(*tty) == session.tty) {
            // A terminal that does not take it goes without.
            let _ = write_to_terminal(&self.root.join("dev"), tty, text);
        }
    }

    fn going_down(&self) -> bool {
        self.ask(LoginManager::is_going_down).unwrap_or(false)
    }
}

fn wanted<'a>(listed: &'a Listed, details: &Details) -> Wanted<'a> {
    Wanted { id: &listed.id, uid: listed.uid, leader: details.leader }
}

/// What is known of a session. Its leader is left out if it has gone.
fn summary(table: &Table, listed: &Listed, details: &Details) -> SessionSummary {
    let since = if details.since == 0 { u64::MAX } else { boot_ticks(details.since) };
    let leader = table
        .get(details.leader)
        .filter(|process| is_touchable(process))
        // A process that is younger than the session has its leader's number, and is another one.
        .filter(|process| process.identity.start <= since.saturating_add(SLACK))
        .map(|process| process.identity);
    let details = details.clone();
    SessionSummary {
        id: listed.id.clone(),
        uid: listed.uid,
        user: listed.user.clone(),
        class: details.class,
        kind: details.kind,
        tty: details.tty,
        remote_host: details.remote_host,
        state: details.state,
        leader: leader.map_or(0, |leader| leader.pid),
        leader_start: leader.map_or(0, |leader| leader.start),
    }
}

/// The latest time, in ticks since boot, that a time of the monotonic clock can have been: that
/// clock stands still while the guest sleeps.
fn boot_ticks(microseconds: u64) -> u64 {
    let ticks = |clock| {
        let now = clock_gettime(clock);
        let hundredths = now.tv_nsec as u64 / (1_000_000_000 / TICKS_PER_SECOND);
        (now.tv_sec as u64).saturating_mul(TICKS_PER_SECOND).saturating_add(hundredths)
    };
    let slept = ticks(ClockId::Boottime).saturating_sub(ticks(ClockId::Monotonic));
    (microseconds / (1_000_000 / TICKS_PER_SECOND)).saturating_add(slept)
}
