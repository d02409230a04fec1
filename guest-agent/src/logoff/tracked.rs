//! One session of a logoff: who is left in it, who has been signalled, and how it ended.

use crate::process::{Handle, Identity};
use crate::sessions::{Known, Member, Sent, Sight};
use protocol::task::{MAX_SURVIVORS, Outcome, Process, SessionReport, SessionSummary};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Rounds of SIGKILL that a session gets; who has escaped all of them stays.
const MAX_PASSES: u32 = 5;
/// How long the doors may take to close after the user has left, and the shortest time between two
/// rounds.
const LINGER: Duration = Duration::from_millis(400);

/// Which signals are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The polite ones.
    Ask,
    /// The last one.
    Kill,
}

/// A session that is being ended.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) report: SessionReport,
    /// Its processes, as of the latest look.
    pub(super) seen: HashSet<Identity>,
    /// Those of them that whoever keeps the sessions does not reach.
    loose: HashSet<Identity>,
    members: Vec<Member>,
    /// Whether it goes on for whoever keeps the sessions, as of the latest look.
    open: bool,
    /// Whether that one was asked to end it, with somebody in it and with nobody.
    terminated: [bool; 2],
    asked: HashSet<Identity>,
    killed: HashSet<Identity>,
    /// Processes that the kernel would not let the agent kill.
    denied: HashSet<Identity>,
    was_asked: bool,
    was_killed: bool,
    passes: u32,
    last_pass: Option<Instant>,
    /// Since when only its doors are left.
    doors_since: Option<Instant>,
    sent: Option<SessionReport>,
}

impl Tracked {
    pub(super) fn new(session: SessionSummary) -> Self {
        let report =
            SessionReport { session, outcome: None, milliseconds: None, survivors: Vec::new() };
        Self::resumed(report, false, HashSet::new())
    }

    /// As an earlier operation left it, with the processes that it named.
    pub(super) fn resumed(
        mut report: SessionReport,
        was_asked: bool,
        seen: HashSet<Identity>,
    ) -> Self {
        let ended = [Outcome::Terminated, Outcome::Killed, Outcome::Vanished];
        if !report.outcome.is_some_and(|outcome| ended.contains(&outcome)) {
            report.outcome = None;
            report.milliseconds = None;
        }
        Self {
            was_killed: report.outcome == Some(Outcome::Killed),
            report,
            // Where they were is not known any more.
            loose: seen.clone(),
            seen,
            members: Vec::new(),
            open: true,
            terminated: [false; 2],
            asked: HashSet::new(),
            killed: HashSet::new(),
            denied: HashSet::new(),
            was_asked,
            passes: 0,
            last_pass: None,
            doors_since: None,
            sent: None,
        }
    }

    pub(super) fn known(&self) -> Known<'_> {
        Known { session: &self.report.session, seen: &self.seen, loose: &self.loose }
    }

    /// Whether it has been verified to have ended.
    pub(super) fn has_ended(&self) -> bool {
        self.report.outcome.is_some()
    }

    /// Whether it is `session`, or a part of it that is still there.
    pub(super) fn is(&self, session: &SessionSummary) -> bool {
        let own = &self.report.session;
        let leader = Identity { pid: session.leader, start: session.leader_start };
        // One whose leader has gone is known by its name.
        let same = if leader.pid == 0 {
            own.id == session.id
        } else {
            (own.leader, own.leader_start) == (leader.pid, leader.start)
        };
        same || self.seen.contains(&leader)
    }

    /// Whether nobody is left in it, and it still goes on for whoever keeps the sessions.
    fn is_hollow(&self) -> bool {
        self.members.is_empty() && self.open
    }

    /// Whether it seems to be over, and is to be looked at once more.
    pub(super) fn is_quiet(&self) -> bool {
        !self.has_ended() && self.members.is_empty() && !self.open
    }

    /// Whether whoever keeps the sessions is to be asked now to end it: once while somebody is in
    /// it, and once when nobody has been for a moment. Says which.
    pub(super) fn termination_due(&mut self) -> Option<bool> {
        let hollow = self.is_hollow();
        let waiting = hollow && self.doors_since.is_some_and(|since| since.elapsed() < LINGER);
        let terminated = &mut self.terminated[usize::from(hollow)];
        if waiting || *terminated || self.report.outcome.is_some() {
            return None;
        }
        *terminated = true;
        Some(hollow)
    }

    /// Notes that its end has been taken on, so that nobody who is in it now and can be reached that
    /// way has to be asked.
    pub(super) fn taken_on(&mut self) {
        let reached = self.members.iter().filter(|member| !member.loose);
        self.asked.extend(reached.map(|member| member.identity));
        self.was_asked = true;
    }

    /// Takes in what a look has found, and whether it was over for the look before it. `elapsed` is
    /// the time since the commit.
    pub(super) fn update(
        &mut self,
        Sight { members, open }: Sight,
        was_over: bool,
        elapsed: Option<Duration>,
    ) {
        self.seen = members.iter().map(|member| member.identity).collect();
        let loose = members.iter().filter(|member| member.loose);
        self.loose = loose.map(|member| member.identity).collect();
        for signalled in [&mut self.asked, &mut self.killed, &mut self.denied] {
            signalled.retain(|identity| self.seen.contains(identity));
        }
        self.doors_since = match self.doors_since {
            _ if !members.iter().all(|member| member.door) => None,
            Some(since) => Some(since),
            None => Some(Instant::now()),
        };
        self.members = members;
        self.open = open;
        if !self.members.is_empty() || open {
            // Thought ended, and is not: it is worked on again.
            self.report.outcome = None;
            self.report.milliseconds = None;
        } else if was_over && !self.has_ended() {
            self.report.outcome = Some(match (self.was_killed, self.was_asked) {
                (true, _) => Outcome::Killed,
                (false, true) => Outcome::Terminated,
                (false, false) => Outcome::Vanished,
            });
            let milliseconds = elapsed.unwrap_or_default().as_millis();
            self.report.milliseconds = Some(u64::try_from(milliseconds).unwrap_or(u64::MAX));
            self.report.survivors.clear();
        }
    }

    /// Who is to be signalled now; counts as a pass where somebody is to be killed.
    pub(super) fn due(&mut self, phase: Phase) -> Vec<Identity> {
        let signalled = match phase {
            Phase::Ask => &self.asked,
            Phase::Kill => &self.killed,
        };
        let recent = self.last_pass.is_some_and(|pass| pass.elapsed() < LINGER);
        if phase == Phase::Kill && (recent || self.passes >= MAX_PASSES) {
            return Vec::new();
        }
        // From the second round on nobody is spared: a door that goes on letting processes in would
        // outlive them all.
        let closing = self.doors_since.is_some_and(|since| since.elapsed() >= LINGER);
        let doors_too = closing || phase == Phase::Kill && self.passes > 0;
        let members = self.members.iter().filter(|member| doors_too || !member.door);
        let members = members.map(|member| member.identity);
        let due: Vec<Identity> = members.filter(|one| !signalled.contains(one)).collect();
        if phase == Phase::Kill && !due.is_empty() {
            self.passes += 1;
            self.last_pass = Some(Instant::now());
        }
        due
    }

    /// Notes that `handles` have been signalled, and what came of it.
    pub(super) fn signalled(&mut self, phase: Phase, handles: &[Handle], sent: Sent) {
        let identities = handles.iter().map(Handle::identity);
        match phase {
            Phase::Ask => {
                self.asked.extend(identities);
                self.was_asked |= sent.reached > 0;
            }
            Phase::Kill => {
                self.was_killed |= sent.reached > 0;
                self.denied.extend(sent.denied);
                self.killed.extend(identities);
            }
        }
    }

    /// Whether it has ended, or the kernel will not let the agent end what is left of it.
    pub(super) fn is_hopeless(&self) -> bool {
        self.has_ended() || self.is_denied()
    }

    fn is_denied(&self) -> bool {
        !self.members.is_empty() && self.seen.iter().all(|one| self.denied.contains(one))
    }

    /// Puts the processes that are left into the report.
    pub(super) fn name_survivors(&mut self) {
        let mut left: Vec<&Member> = self.members.iter().collect();
        left.sort_by_key(|member| (member.door, member.identity.pid));
        let name =
            |member: &Member| Process { pid: member.identity.pid, comm: member.comm.clone() };
        self.report.survivors = left.into_iter().take(MAX_SURVIVORS).map(name).collect();
    }

    /// Ends it as one that is still there, and says which in a few words; none if it has ended.
    pub(super) fn remain(&mut self) -> Option<String> {
        if self.has_ended() {
            return None;
        }
        let denied = self.is_denied();
        self.report.outcome = Some(if denied { Outcome::Denied } else { Outcome::Remaining });
        self.name_survivors();
        let SessionSummary { user, tty, .. } = &self.report.session;
        let place = if tty.is_empty() { String::new() } else { format!(" on {tty}") };
        let survivor = self.report.survivors.first();
        let process = survivor.map(|one| format!(" ({} {})", one.comm, one.pid));
        Some(format!("{user}{place}{}", process.unwrap_or_default()))
    }

    /// The report, if it has changed since it was last asked for.
    pub(super) fn news(&mut self) -> Option<SessionReport> {
        if self.sent.as_ref() == Some(&self.report) {
            return None;
        }
        self.sent = Some(self.report.clone());
        self.sent.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_the_keeper_has_told_to_go_is_told_once_and_who_comes_later_is_told_too() {
        let sight = |pids: &[u32]| {
            let member = |pid: &u32| Member {
                identity: Identity { pid: *pid, start: 1 },
                comm: "sh".into(),
                door: false,
                loose: false,
            };
            Sight { members: pids.iter().map(member).collect(), open: true }
        };
        let mut tracked = Tracked::new(SessionSummary::default());
        tracked.update(sight(&[5]), false, None);
        assert_eq!(tracked.termination_due(), Some(false));
        tracked.taken_on();
        assert!(tracked.due(Phase::Ask).is_empty());
        tracked.update(sight(&[5, 6]), false, None);
        assert_eq!(tracked.termination_due(), None, "once");
        assert_eq!(tracked.due(Phase::Ask), [Identity { pid: 6, start: 1 }]);
        assert_eq!(tracked.due(Phase::Kill).len(), 2);
        assert!(!tracked.is_quiet() && !tracked.has_ended());
    }
}
