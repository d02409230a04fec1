//! Which processes a session, or a user's manager, has.

use super::cgroup::{Place, of_elogind, of_systemd};
use crate::process::{Proc, Process, Table};
use crate::sessions::proc::{Mark, is_touchable, owners};
use crate::sessions::united::leader;
use crate::sessions::{Known, Member};
use std::collections::{HashMap, HashSet};

/// The control groups of a guest's processes.
pub(super) struct Groups {
    /// Whether they are systemd's, and not elogind's.
    pub(super) systemd: bool,
    pub(super) proc: Proc,
    /// What `/proc/PID/cgroup` says of a process.
    pub(super) of: Box<dyn Fn(u32) -> Option<Vec<u8>> + Send + Sync>,
}

impl Groups {
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
            if let Some(owner) = owner {
                members[owner].push(Member::of(process));
            }
        }
        members
    }

    /// On systemd: the control group decides.
    fn owners_by_group(
        &self,
        table: &Table,
        sessions: &[Known<'_>],
        reused: &HashSet<usize>,
    ) -> Vec<Option<usize>> {
        let mut by_id = HashMap::new();
        let mut by_leader = HashMap::new();
        let mut by_identity = HashMap::new();
        for (index, known) in sessions.iter().enumerate() {
            if reused.contains(&index) {
                by_identity.extend(known.seen.iter().map(|identity| (*identity, index)));
            } else {
                by_id.insert(known.session.id.as_str(), index);
            }
            by_leader.insert(leader(known.session), index);
        }
        let owner = |process: &Process| {
            if !is_touchable(process) {
                return None;
            }
            if let Some(index) = by_identity.get(&process.identity) {
                return Some(*index);
            }
            let groups = (self.of)(process.pid())?;
            match of_systemd(&groups) {
                Place::Session(id) => by_id.get(id).copied(),
                // A leader that is outside of its session's group belongs to it nevertheless.
                Place::Elsewhere => by_leader.get(&process.identity).copied(),
                Place::Manager(_) | Place::Service => None,
            }
        };
        table.processes().iter().map(owner).collect()
    }

    /// On elogind: the control group is one of the signs.
    fn owners_by_rule(
        &self,
        table: &Table,
        sessions: &[Known<'_>],
        reused: &HashSet<usize>,
    ) -> Vec<Option<usize>> {
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
        owners(&table, &marks)
    }

    /// The processes of the users' managers and of what these have started, by the users' numbers.
    pub(super) fn of_managers(&self, table: &Table) -> HashMap<u32, Vec<Member>> {
        let mut members: HashMap<u32, Vec<Member>> = HashMap::new();
        for process in table.processes().iter().filter(|process| is_touchable(process)) {
            let groups = (self.of)(process.pid()).unwrap_or_default();
            if let Place::Manager(uid) = of_systemd(&groups) {
                members.entry(uid).or_default().push(Member::of(process));
            }
        }
        members
    }
}
