//! Which processes a session, or a user's manager, has.

use super::cgroup::{Place, of_elogind, of_systemd};
use super::tree::Tree;
use crate::process::{Proc, Process, Table};
use crate::sessions::proc::{Mark, is_touchable, owners};
use crate::sessions::united::leader;
use crate::sessions::{Known, Member};
use std::collections::{HashMap, HashSet};
use std::io;

/// The control groups of a guest's processes.
pub(super) struct Groups {
    /// Whether they are systemd's, and not elogind's.
    pub(super) systemd: bool,
    pub(super) proc: Proc,
    /// The groups' own lists, where they say all.
    pub(super) tree: Option<Tree>,
    /// What `/proc/PID/cgroup` says of a process.
    pub(super) of: GroupsOf,
}

/// Gives what `/proc/PID/cgroup` says of a process.
pub(super) type GroupsOf = Box<dyn Fn(u32) -> Option<Vec<u8>> + Send + Sync>;

/// Whose a process is.
struct Owner {
    /// The session's index.
    session: usize,
    /// Whether it is outside of the session's group.
    loose: bool,
}

/// Where a process was found.
enum Found {
    /// In the group of a session.
    In(usize),
    /// In a group that says nothing of a session.
    Outside,
    /// It is a service of the system's.
    Service,
    /// In the group of a user's manager; or it is nobody to be touched.
    Other,
}

/// A session as far as a search for its processes has to know it.
pub(super) struct Wanted<'a> {
    pub(super) id: &'a str,
    pub(super) uid: u32,
    /// Its leader's process id; 0 if it has none.
    pub(super) leader: u32,
}

impl Groups {
    /// A table in which all processes of `sessions` are, and `others`.
    ///
    /// A session's are in its group, and nowhere else as long as its leader is there or has gone: it is
    /// from a leader outside that others are told.
    pub(super) fn table(&self, sessions: &[Wanted<'_>], others: &[u32]) -> io::Result<Table> {
        let listed = |tree: &Tree| {
            let mut groups = Vec::with_capacity(sessions.len());
            for &Wanted { id, uid, leader } in sessions {
                let group = tree.session(uid, id).ok()?;
                if leader != 0 && !group.contains(&leader) && self.proc.is_alive(leader) {
                    return None;
                }
                groups.push(group);
            }
            self.listed(&groups, others)
        };
        self.tree.as_ref().and_then(listed).map_or_else(|| self.proc.table(), Ok)
    }

    /// A table of who is in these lists of groups, and of `others`; none where nobody of a list is there
    /// any more, for whoever they have started in between is in no list.
    fn listed(&self, groups: &[Vec<u32>], others: &[u32]) -> Option<Table> {
        let pids = groups.iter().flatten().chain(others).copied().collect();
        let table = self.proc.table_of(pids).ok()?;
        let is_shown = |group: &Vec<u32>| {
            group.is_empty() || group.iter().any(|pid| table.position(*pid).is_some())
        };
        groups.iter().all(is_shown).then_some(table)
    }

    /// The processes of `sessions`, in their order; of those in `reused`, whose name is now
    /// another's, only what was seen in them before.
    pub(super) fn members(
        &self,
        table: &Table,
        sessions: &[Known<'_>],
        reused: &HashSet<usize>,
    ) -> Vec<Vec<Member>> {
        let mut members = vec![Vec::new(); sessions.len()];
        let owners = match self.systemd {
            true => self.owners_by_group(table, sessions, reused),
            false => self.owners_by_rule(table, sessions, reused),
        };
        for (process, owner) in table.processes().iter().zip(owners) {
            if let Some(Owner { session, loose }) = owner {
                members[session].push(Member { loose, ..Member::of(process) });
            }
        }
        members
    }

    /// On systemd: the control group decides. A session that is still opening has none yet, and one
    /// that was told to end before it had opened never gets one: these are their leader, what it has
    /// started where it is itself, and what was once found to be so.
    fn owners_by_group(
        &self,
        table: &Table,
        sessions: &[Known<'_>],
        reused: &HashSet<usize>,
    ) -> Vec<Option<Owner>> {
        let mut by_id = HashMap::new();
        let mut by_seen = HashMap::new();
        let mut by_leader = HashMap::new();
        for (index, known) in sessions.iter().enumerate() {
            by_leader.insert(leader(known.session), index);
            // What has left the group by itself, a container say, is not the session's any more.
            let mut seen = known.loose;
            if reused.contains(&index) {
                seen = known.seen;
            } else {
                by_id.insert(known.session.id.as_str(), index);
            }
            by_seen.extend(seen.iter().map(|identity| (*identity, index)));
        }
        let place = |process: &Process| {
            let groups = is_touchable(process).then(|| (self.of)(process.pid())).flatten();
            groups.map_or(Found::Other, |groups| match of_systemd(&groups) {
                Place::Session(id) => match by_id.get(id) {
                    Some(index) => Found::In(*index),
                    // The name is another's now, and who was there before still is who it was.
                    None => Found::Outside,
                },
                Place::Service if process.parent == 1 && process.door.is_none() => Found::Service,
                Place::Service | Place::Elsewhere => Found::Outside,
                Place::Manager(_) => Found::Other,
            })
        };
        let found: Vec<Found> = table.processes().iter().map(place).collect();
        let outside = |process: &&Process| {
            let at = table.position(process.pid());
            at.is_some_and(|at| matches!(found[at], Found::Outside))
        };
        let owner = |(at, process): (usize, &Process)| {
            let session = match found[at] {
                Found::In(session) => return Some(Owner { session, loose: false }),
                // Whose parent has gone may look like a service.
                Found::Outside | Found::Service => by_seen.get(&process.identity),
                Found::Other => return None,
            };
            let mut line = table.line(process).take_while(outside);
            let session = session.or_else(|| line.find_map(|one| by_leader.get(&one.identity)))?;
            Some(Owner { session: *session, loose: true })
        };
        table.processes().iter().enumerate().map(owner).collect()
    }

    /// On elogind: the control group is one of the signs.
    fn owners_by_rule(
        &self,
        table: &Table,
        sessions: &[Known<'_>],
        reused: &HashSet<usize>,
    ) -> Vec<Option<Owner>> {
        let number = |index: usize| u32::try_from(index).ok();
        let by_id: HashMap<&str, usize> = sessions
            .iter()
            .enumerate()
            .filter(|(index, _)| !reused.contains(index))
            .map(|(index, known)| (known.session.id.as_str(), index))
            .collect();
        let marked = table.processes().iter().cloned().map(|mut process| {
            let groups = (self.of)(process.pid()).unwrap_or_default();
            // A guest without control groups numbers its sessions as the kernel's audit does.
            let audit = process.audit.map(|audit| audit.to_string());
            let id = of_elogind(&groups).or(audit.as_deref());
            process.audit = id.and_then(|id| number(*by_id.get(id)?));
            if process.audit.is_some() && process.uid.is_none() {
                process.uid = self.proc.uid(process.pid());
            }
            process
        });
        let table = Table::new(marked.collect());
        let marks: Vec<Mark<'_>> = sessions
            .iter()
            .enumerate()
            .map(|(index, known)| Mark {
                leader: leader(known.session),
                uid: known.session.uid,
                audit: number(index),
                seen: Some(known.seen),
            })
            .collect();
        let owned = |session: Option<usize>| session.map(|session| Owner { session, loose: false });
        owners(&table, &marks).into_iter().map(owned).collect()
    }

    /// The processes of the managers of `uids`, and of what these have started, by the users' numbers.
    pub(super) fn of_managers(&self, uids: &[u32]) -> io::Result<HashMap<u32, Vec<Member>>> {
        let listed = |tree: &Tree| {
            let groups = uids.iter().map(|uid| tree.manager(*uid)).collect::<io::Result<Vec<_>>>();
            self.listed(&groups.ok()?, &[])
        };
        let table = self.tree.as_ref().and_then(listed).map_or_else(|| self.proc.table(), Ok)?;
        let mut members: HashMap<u32, Vec<Member>> = HashMap::new();
        for process in table.processes().iter().filter(|process| is_touchable(process)) {
            let groups = (self.of)(process.pid()).unwrap_or_default();
            if let Place::Manager(uid) = of_systemd(&groups) {
                members.entry(uid).or_default().push(Member::of(process));
            }
        }
        Ok(members)
    }
}
