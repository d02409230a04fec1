//! The service managers of the users who are logged off.
//!
//! A manager is stopped once all sessions of its user have ended, so that what the user has started
//! in it goes too; unless it has to stay: because it lingers, or for a session that is none of the
//! logoff's business, a job of cron's say, or a new login. It has the same grace as a session.

use crate::process::Identity;
use crate::sessions::{Manager, Member};
use protocol::task::{MAX_SURVIVORS, ManagerReport};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

/// Rounds of SIGKILL that a manager gets.
const MAX_PASSES: u32 = 5;
/// How long whoever keeps the managers may be silent, as it is for a moment when it is restarted, or
/// when the machine was paused in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(10);

/// What is to be done about a manager now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing but wait.
    Wait,
    /// Ask whoever keeps it to stop it.
    Stop,
    /// Kill these.
    Kill(Vec<Identity>),
}

/// A manager that is to be stopped.
#[derive(Debug)]
struct Tracked {
    report: ManagerReport,
    settled: bool,
    /// How long after the commit it was asked to stop.
    asked: Option<Duration>,
    members: Vec<Member>,
    killed: HashSet<Identity>,
    passes: u32,
    /// The latest look has found nobody.
    empty: bool,
    /// How long after the commit nothing could be found out any more.
    silent: Option<Duration>,
}

/// The managers of a logoff.
#[derive(Debug, Default)]
pub(super) struct Managers {
    /// Those that had to stay from the beginning.
    kept: Vec<ManagerReport>,
    tracked: Vec<Tracked>,
}

impl Managers {
    /// As they are when the sessions are counted.
    pub(super) fn new(managers: Vec<Manager>) -> Self {
        let mut all = Self::default();
        for Manager { uid, user, keep, silent, .. } in managers {
            let mut report = ManagerReport { uid, user, stopped: false, reason: String::new() };
            if let Some(reason) = keep.filter(|_| !silent) {
                report.reason = reason;
                all.kept.push(report);
            } else {
                all.tracked.push(Tracked {
                    report,
                    settled: false,
                    asked: None,
                    members: Vec::new(),
                    killed: HashSet::new(),
                    passes: 0,
                    empty: false,
                    silent: None,
                });
            }
        }
        all
    }

    /// How many are to be stopped.
    pub(super) fn to_stop(&self) -> u32 {
        self.tracked.len() as u32
    }

    /// How many of them are stopped, or had to stay after all.
    pub(super) fn settled(&self) -> u32 {
        self.tracked.iter().filter(|one| one.settled).count() as u32
    }

    pub(super) fn are_settled(&self) -> bool {
        self.tracked.iter().all(|one| one.settled)
    }

    /// Whether `uid`'s is still to be stopped.
    pub(super) fn awaits(&self, uid: u32) -> bool {
        self.tracked.iter().any(|one| one.report.uid == uid && !one.settled)
    }

    /// The processes that are left of those that were asked to stop.
    pub(super) fn members(&self) -> impl Iterator<Item = Identity> {
        let waiting = self.tracked.iter().filter(|one| !one.settled && one.asked.is_some());
        waiting.flat_map(|one| one.members.iter().map(|member| member.identity))
    }

    /// Whether one seems to have stopped, and is to be looked at once more.
    pub(super) fn is_quiet(&self) -> bool {
        self.tracked.iter().any(|one| !one.settled && one.empty)
    }

    /// Takes in what a manager is at `elapsed` after the commit, and says what is to be done.
    pub(super) fn update(&mut self, now: Manager, elapsed: Duration, grace: Duration) -> Step {
        let mut open = self.tracked.iter_mut().filter(|one| !one.settled);
        let Some(one) = open.find(|one| one.report.uid == now.uid) else { return Step::Wait };
        let was_empty = std::mem::replace(&mut one.empty, now.members.is_empty());
        one.members = now.members;
        if one.empty && was_empty {
            one.settled = true;
            one.report.stopped = true;
            return Step::Wait;
        }
        one.silent = now.silent.then(|| one.silent.unwrap_or(elapsed));
        if let Some(reason) = now.keep {
            if one.silent.is_none_or(|since| elapsed.saturating_sub(since) >= SILENCE) {
                one.settle(reason);
            }
            return Step::Wait;
        }
        match one.asked {
            _ if one.empty => Step::Wait,
            None => {
                one.asked = Some(elapsed);
                Step::Stop
            }
            Some(asked) if elapsed.saturating_sub(asked) < grace => Step::Wait,
            Some(_) => {
                let left = one.members.iter().map(|member| member.identity);
                let due: Vec<Identity> = left.filter(|left| !one.killed.contains(left)).collect();
                if due.is_empty() || one.passes >= MAX_PASSES {
                    return Step::Wait;
                }
                one.passes += 1;
                one.killed.extend(&due);
                Step::Kill(due)
            }
        }
    }

    /// `uid`'s cannot be stopped, for this `reason`.
    pub(super) fn keep(&mut self, uid: u32, reason: String) {
        if let Some(one) = self.tracked.iter_mut().find(|one| one.report.uid == uid) {
            one.settle(reason);
        }
    }

    /// Ends with those that are still there, and says which in a few words.
    pub(super) fn give_up(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        for one in self.tracked.iter_mut().filter(|one| !one.settled) {
            one.report.reason = match one.asked {
                Some(_) => format!("still there:{}", one.survivors()),
                None => "sessions remain".into(),
            };
            if one.asked.is_some() {
                left.push(format!("manager of {}{}", one.report.user, one.survivors()));
            }
        }
        left
    }

    /// What became of all of them.
    pub(super) fn reports(&self) -> Vec<ManagerReport> {
        let tracked = self.tracked.iter().map(|one| &one.report);
        self.kept.iter().chain(tracked).cloned().collect()
    }
}

impl Tracked {
    fn settle(&mut self, reason: String) {
        self.settled = true;
        self.report.reason = reason;
    }

    fn survivors(&self) -> String {
        let mut text = String::new();
        for Member { identity, comm, .. } in self.members.iter().take(MAX_SURVIVORS) {
            // Writing to a string does not fail.
            let _ = write!(text, " ({comm} {})", identity.pid);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn manager(pids: &[u32], keep: Option<&str>) -> Manager {
        let member = |pid: &u32| Member {
            identity: Identity { pid: *pid, start: 1 },
            comm: "sleep".into(),
            door: false,
            loose: false,
        };
        Manager {
            uid: 1000,
            user: "alice".into(),
            keep: keep.map(Into::into),
            silent: false,
            members: pids.iter().map(member).collect(),
        }
    }

    /// A manager with processes that goes through `looks`, one a second.
    fn steps(looks: Vec<Manager>) -> (Vec<Step>, Managers) {
        let mut managers = Managers::new(vec![manager(&[5], None)]);
        assert_eq!((managers.to_stop(), managers.settled()), (1, 0));
        let seconds = (0..).map(Duration::from_secs);
        let steps = looks
            .into_iter()
            .zip(seconds)
            .map(|(look, elapsed)| managers.update(look, elapsed, GRACE / 5));
        (steps.collect(), managers)
    }

    #[test]
    fn a_manager_is_asked_once_then_killed_and_stopped_when_two_looks_find_nobody() {
        let there = || manager(&[5, 6], None);
        let (steps, managers) = steps(vec![
            there(),
            there(),
            there(),
            manager(&[6, 7], None),
            manager(&[], None),
            manager(&[], None),
        ]);
        let identity = |pid| Identity { pid, start: 1 };
        assert_eq!(steps[..2], [Step::Stop, Step::Wait]);
        assert_eq!(steps[2], Step::Kill(vec![identity(5), identity(6)]));
        assert_eq!(steps[3], Step::Kill(vec![identity(7)]), "nobody is killed twice");
        assert_eq!(steps[4..], [Step::Wait, Step::Wait]);
        let report = &managers.reports()[0];
        assert!(report.stopped && report.reason.is_empty() && managers.are_settled());
        assert_eq!(managers.settled(), 1);
    }

    #[test]
    fn a_new_login_keeps_the_manager_whether_or_not_it_was_asked_to_stop() {
        for before in [0, 1] {
            let mut looks = vec![manager(&[5], None); before];
            looks.push(manager(&[5], Some("relogin")));
            let (steps, mut managers) = steps(looks);
            assert_eq!(steps.last(), Some(&Step::Wait));
            assert!(managers.are_settled() && managers.give_up().is_empty());
            let report = &managers.reports()[0];
            assert_eq!((report.stopped, report.reason.as_str()), (false, "relogin"));
        }
    }

    #[test]
    fn silence_keeps_a_manager_only_if_it_lasts() {
        let silent = || Manager { silent: true, ..manager(&[5], Some("no answer")) };
        let mut looks = vec![silent(); 9];
        looks.push(manager(&[5], None));
        let (all, managers) = steps(looks);
        assert_eq!(all.last(), Some(&Step::Stop));
        assert!(!managers.are_settled());
        let (_, managers) = steps(vec![silent(); 11]);
        assert_eq!(managers.reports()[0].reason, "no answer");
        assert!(managers.are_settled());
        assert_eq!(Managers::new(vec![silent()]).to_stop(), 1, "it may answer yet");
    }

    #[test]
    fn a_manager_that_has_to_stay_from_the_beginning_is_no_work() {
        let managers = Managers::new(vec![manager(&[5], Some("linger"))]);
        assert_eq!(managers.to_stop(), 0);
        assert!(managers.are_settled() && !managers.awaits(1000));
        assert_eq!(managers.reports()[0].reason, "linger");
    }

    #[test]
    fn a_manager_that_does_not_stop_is_named_with_what_is_left_in_it() {
        let (_, mut managers) = steps(vec![manager(&[5], None)]);
        assert_eq!(managers.give_up(), ["manager of alice (sleep 5)"]);
        let report = &managers.reports()[0];
        assert_eq!((report.stopped, report.reason.as_str()), (false, "still there: (sleep 5)"));
        let mut managers = Managers::new(vec![manager(&[5], None)]);
        assert!(managers.give_up().is_empty());
        assert_eq!(managers.reports()[0].reason, "sessions remain");
    }
}
