//! What holds a session together, as far as `/proc` can tell.
//!
//! The kernel knows sessions of its own (`setsid`), and a terminal controls one of them at a time.
//! A login is one kernel session, or a few, plus the processes that opened the door for it:
//!
//! ```text
//! Debian 12    login(sid 500, tty1) ─ bash(sid 500, tty1) ─ vi(sid 500, tty1)
//! Debian 13    login(sid 500)       ─ bash(sid 510, tty1)
//! busybox      sh(sid 500, tty1)                                    login has become the shell
//! ssh          sshd-session [priv](sid 600) ─ sshd-session alice@pts/0(sid 600) ─ bash(sid 610, pts/0)
//! ssh, no tty  sshd-session [priv](sid 600) ─ sshd-session alice@notty(sid 600) ─ rsync(sid 610)
//! ```
//!
//! A process belongs to a session if, the first that holds being decisive,
//! 1. it was seen in it before, or is its leader;
//! 2. its kernel session is the leader's;
//! 3. it has the audit session's number, where the guest keeps them, and either sits on a terminal
//!    or is the user's own and the user is not root: what root started without a terminal is a
//!    system service, also where it inherited the number from root's login;
//! 4. it opened the door: `login` or `sshd`, from the leader's parent upwards;
//! 5. its parent belongs to it, and it is in its parent's kernel session, or on a terminal (a
//!    nested one: `script`, `su --pty`), or its parent is the ssh connection.
//!
//! So a daemon, which has called `setsid` and has no terminal, is outside. Pid 1, the agent itself,
//! kernel threads and login prompts belong to no session whatever they look like.

use super::utmp::Login;
use crate::process::{Door, Identity, Proc, Process, Table};
use std::collections::{HashMap, HashSet};

/// How to tell one session's processes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark<'a> {
    /// The session's leader, which may have gone.
    pub(super) leader: Identity,
    /// The user's number.
    pub(super) uid: u32,
    /// The audit session.
    pub(super) audit: Option<u32>,
    /// Processes that were found in it earlier.
    pub(super) seen: Option<&'a HashSet<Identity>>,
}

/// A login that was found.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) leader: Process,
    pub(super) uid: u32,
    /// Its record in utmp.
    pub(super) login: Option<Login>,
}

impl Candidate {
    pub(super) fn mark(&self) -> Mark<'static> {
        let Process { identity, audit, .. } = self.leader;
        Mark { leader: identity, uid: self.uid, audit, seen: None }
    }
}

/// Whether a logoff may touch `process` at all.
pub(super) fn is_touchable(process: &Process) -> bool {
    let pid = process.pid();
    !process.dead && !process.kernel && pid > 1 && pid != std::process::id()
}

/// The index of the session that each process of `table` belongs to, in the table's order.
pub(super) fn owners(table: &Table, marks: &[Mark<'_>]) -> Vec<Option<usize>> {
    let processes = table.processes();
    let mut owners = told_by_looks(table, marks);
    for (index, mark) in marks.iter().enumerate() {
        for door in doors(table, mark.leader) {
            owners[door].get_or_insert(index);
        }
    }
    // Rule 5. What has been settled is not climbed again, so this is linear.
    let mut settled = vec![false; processes.len()];
    for start in 0..processes.len() {
        let mut climbed = Vec::new();
        let mut at = start;
        let owner = loop {
            let process = &processes[at];
            if owners[at].is_some() || settled[at] {
                break owners[at];
            }
            settled[at] = true;
            climbed.push(at);
            if !is_touchable(process) || table.is_prompt(process) {
                break None;
            }
            match table.position(process.parent) {
                Some(parent) if passes_on(&processes[parent], process) => at = parent,
                _ => break None,
            }
        };
        for at in climbed {
            owners[at] = owner;
        }
    }
    owners
}

/// Rules 1 to 3.
fn told_by_looks(table: &Table, marks: &[Mark<'_>]) -> Vec<Option<usize>> {
    let mut by_identity = HashMap::new();
    let mut by_sid = HashMap::new();
    let mut by_audit = HashMap::new();
    for (index, mark) in marks.iter().enumerate() {
        let seen = mark.seen.into_iter().flatten().copied();
        for identity in seen.chain([mark.leader]) {
            by_identity.entry(identity).or_insert(index);
        }
        // The number of a kernel session that has ended may come again, with a leader of its own.
        let holder = table.get(mark.leader.pid);
        if mark.leader.pid > 1 && holder.is_none_or(|process| process.identity == mark.leader) {
            by_sid.entry(mark.leader.pid).or_insert(index);
        }
        if let Some(audit) = mark.audit {
            by_audit.entry(audit).or_insert(index);
        }
    }
    let owner = |process: &Process| {
        if !is_touchable(process) {
            return None;
        }
        if let Some(index) = by_identity.get(&process.identity) {
            return Some(*index);
        }
        if table.is_prompt(process) {
            return None;
        }
        by_sid.get(&process.sid).copied().or_else(|| {
            let index = *by_audit.get(&process.audit?)?;
            let uid = marks[index].uid;
            (process.tty != 0 || uid != 0 && process.uid == Some(uid)).then_some(index)
        })
    };
    table.processes().iter().map(owner).collect()
}

/// Where the processes that let `leader` in stand in the table.
fn doors(table: &Table, leader: Identity) -> Vec<usize> {
    let mut doors = Vec::new();
    let mut process = table.get(leader.pid).filter(|process| process.identity == leader);
    while let Some(parent) = process.and_then(|process| table.position(process.parent)) {
        let found = &table.processes()[parent];
        if found.door.is_none() || !is_touchable(found) || doors.contains(&parent) {
            break;
        }
        doors.push(parent);
        process = Some(found);
    }
    doors
}

/// Whether a child belongs where its parent does.
fn passes_on(parent: &Process, child: &Process) -> bool {
    let connection = matches!(parent.door, Some(Door::SshUser | Door::SshMonitor));
    child.sid == parent.sid || child.tty != 0 || connection
}

/// The logins that `/proc` shows, earliest first: session leaders on a terminal, and ssh
/// connections without one. Several that belong to one login are one.
pub(super) fn candidates(table: &Table, proc: &Proc) -> Vec<Candidate> {
    let is_login = |process: &&Process| {
        is_touchable(process)
            && (process.sid == process.pid() && process.tty != 0
                || process.door == Some(Door::SshUser))
            && !table.is_prompt(process)
            && !proc.is_contained(process.pid())
    };
    let mut leaders: Vec<&Process> = table.processes().iter().filter(is_login).collect();
    let opened: HashSet<usize> = leaders
        .iter()
        .filter(|leader| leader.tty != 0)
        .flat_map(|leader| doors(table, leader.identity))
        .collect();
    leaders.retain(|leader| {
        let at = table.position(leader.pid());
        leader.tty != 0 || at.is_none_or(|at| !opened.contains(&at))
    });
    leaders.sort_by_key(|leader| (leader.identity.start, leader.pid()));
    let candidates = leaders
        .into_iter()
        .map(|leader| {
            let uid = user_of(table, proc, leader);
            Candidate { leader: leader.clone(), uid, login: None }
        })
        .collect();
    merge(table, candidates)
}

/// Whose login it is: a `login` that waits for a shell is root's, the shell is not.
fn user_of(table: &Table, proc: &Proc, leader: &Process) -> u32 {
    let user = match leader.door {
        Some(Door::Login) => table.processes().iter().find(|child| child.parent == leader.pid()),
        _ => None,
    };
    let user = user.unwrap_or(leader);
    user.uid.or_else(|| proc.uid(user.pid())).unwrap_or_default()
}

/// Leaves out those that run within another one, on a nested terminal, or have the audit session of
/// an earlier one.
pub(super) fn merge(table: &Table, candidates: Vec<Candidate>) -> Vec<Candidate> {
    let marks: Vec<Mark<'_>> = candidates.iter().map(Candidate::mark).collect();
    let owners = owners(table, &marks);
    let mut audits = HashSet::new();
    let mut merged = candidates.clone();
    let mut index = 0;
    merged.retain(|candidate| {
        let own = index;
        index += 1;
        let leader = &candidate.leader;
        if leader.audit.is_some_and(|audit| !audits.insert(audit)) {
            return false;
        }
        let parent = table.position(leader.parent).filter(|_| leader.tty != 0);
        let around = parent
            .filter(|parent| table.processes()[*parent].door.is_none())
            .and_then(|parent| owners[parent])
            .filter(|around| *around != own)
            .and_then(|around| candidates.get(around));
        around.is_none_or(|around| around.leader.audit != leader.audit)
    });
    merged
}
