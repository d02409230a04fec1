//! Who is logged on, and which processes that makes.
//!
//! A [`Backend`] is one way to know. It keeps nothing between calls: a session is named by its
//! [`SessionSummary`], which crosses the wire, so that a logoff can go on in an agent that was
//! started afresh. Whoever works on a session also remembers which processes it has seen in it
//! ([`Known`]), because a process whose parents are gone can no longer be told by its looks.

pub mod guest;
pub mod logind;
mod proc;
pub mod united;
pub mod utmp;

use crate::process::{Handle, Identity, Process};
use protocol::frame::encode;
use protocol::message::{MAX_ROWS, MAX_TEXT};
use protocol::task::SessionSummary;
use rustix::process::Signal;
use serde::Serialize;
use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// The sessions of one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Those that count.
    pub counted: Vec<SessionSummary>,
    /// Those that do not: greeters, managers, background work.
    pub ignored: Vec<SessionSummary>,
    /// Those in which nothing is left.
    pub stale: Vec<SessionSummary>,
}

/// A session that is being worked on.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Which one.
    pub session: &'a SessionSummary,
    /// Processes that were found in it earlier.
    pub seen: &'a HashSet<Identity>,
    /// Those of them that were [loose](Member::loose).
    pub loose: &'a HashSet<Identity>,
}

/// A process of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which process.
    pub identity: Identity,
    /// Its command's name.
    pub comm: String,
    /// Whether it let the user in and leaves after them, closing the door: `login`, `sshd`.
    pub door: bool,
    /// Whether it is out of reach for whoever keeps the sessions, and has to be asked itself.
    pub loose: bool,
}

impl Member {
    fn of(process: &Process) -> Self {
        Self {
            identity: process.identity,
            comm: clean(process.comm.as_bytes()),
            door: process.door.is_some(),
            loose: false,
        }
    }
}

/// What a look has found of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Its processes.
    pub members: Vec<Member>,
    /// Whether whoever keeps the sessions takes it for one that goes on, also where it has no
    /// processes.
    pub open: bool,
}

impl Sight {
    /// Whether there is nothing left of the session.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.members.is_empty() && !self.open
    }
}

/// A user's service manager, which outlives the user's sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manager {
    /// The user's number.
    pub uid: u32,
    /// The user's name.
    pub user: String,
    /// Why it has to stay; none if it has not.
    pub keep: Option<String>,
    /// Whether it has to stay only because whoever keeps the sessions does not answer: that may pass.
    pub silent: bool,
    /// Its processes, and those of what it has started.
    pub members: Vec<Member>,
}

/// What became of a round of signals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Processes that got theirs.
    pub reached: usize,
    /// Processes that the kernel would not let the agent signal.
    pub denied: Vec<Identity>,
}

/// One way to know sessions and to end them.
pub trait Backend: Send + Sync {
    /// Its name, for reports.
    fn name(&self) -> &'static str;

    /// The sessions there are now.
    ///
    /// # Errors
    /// They cannot be found out.
    fn list(&self) -> io::Result<Listing>;

    /// What there is now of each of `sessions`, by a fresh look, in their order.
    ///
    /// # Errors
    /// It cannot be found out.
    fn look(&self, sessions: &[Known<'_>]) -> io::Result<Vec<Sight>>;

    /// The managers of the users of `snapshot`, as they are now; none where users have no managers.
    ///
    /// # Errors
    /// Their processes cannot be found out.
    fn managers(&self, snapshot: &[&SessionSummary]) -> io::Result<Vec<Manager>> {
        let _ = snapshot;
        Ok(Vec::new())
    }

    /// Asks whoever keeps the sessions to end this one, in which somebody is, or nobody any more.
    /// True if it has taken that on, so that the processes need not be asked.
    fn terminate(&self, session: &SessionSummary, is_empty: bool) -> bool {
        let _ = (session, is_empty);
        false
    }

    /// Asks whoever keeps the sessions to stop the manager of `uid`, and all that is left of the
    /// user's with it.
    ///
    /// # Errors
    /// It will not, or is not there.
    fn stop_manager(&self, uid: u32) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("no manager of {uid}")))
    }

    /// For `poll`: readable once sessions have come or gone since [`clear`](Self::clear).
    fn changes(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Takes note of what has changed.
    fn clear(&self) {}

    /// A hold on a process that a look has found, or none if it has gone.
    ///
    /// # Errors
    /// The kernel cannot do that, or has no descriptors left.
    fn hold(&self, member: Identity) -> io::Result<Option<Handle>>;

    /// Which process has this id now.
    fn identify(&self, pid: u32) -> Option<Identity>;

    /// Asks `members` of `session` to leave.
    fn end(&self, session: &SessionSummary, members: &[Handle]) -> Sent {
        let _ = session;
        signal(members, &[Signal::HUP, Signal::TERM, Signal::CONT])
    }

    /// Kills `members` of `session`.
    fn kill(&self, session: &SessionSummary, members: &[Handle]) -> Sent {
        let _ = session;
        signal(members, &[Signal::KILL])
    }

    /// Writes `text` to the session's terminal, if it has one that takes it at once.
    fn notify(&self, session: &SessionSummary, text: &str);

    /// Whether the guest is shutting down already.
    fn going_down(&self) -> bool;
}

/// Where the backend of an operation comes from: what a guest has may change while the agent runs,
/// but an operation goes on as it began.
pub trait Backends: Send + Sync {
    /// The backend that serves now, and what it lists.
    ///
    /// # Errors
    /// There is none that can list the sessions.
    fn choose(&self) -> io::Result<(Arc<dyn Backend>, Listing)>;
}

impl Backends for Arc<dyn Backend> {
    fn choose(&self) -> io::Result<(Arc<dyn Backend>, Listing)> {
        Ok((Self::clone(self), self.list()?))
    }
}

/// Sends each of `members` all `signals`.
fn signal(members: &[Handle], signals: &[Signal]) -> Sent {
    let mut sent = Sent::default();
    for member in members {
        let outcomes: Vec<_> = signals.iter().map(|signal| member.signal(*signal)).collect();
        sent.reached += usize::from(outcomes.iter().any(|outcome| matches!(outcome, Ok(true))));
        if outcomes.iter().all(Result::is_err) {
            sent.denied.push(member.identity());
        }
    }
    sent
}

/// A guest's text made fit for the wire: control characters and what is no UTF-8 become `?`, and
/// what is too long is cut.
#[must_use]
pub fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let plain = text.chars().map(|c| if c.is_control() || c == '\u{fffd}' { '?' } else { c });
    let mut length = 0;
    plain
        .take_while(|c| {
            length += c.len_utf8();
            length <= MAX_TEXT
        })
        .collect()
}

/// The first of `list`, as many as a list on the wire may have and as `bytes` of a frame hold, and
/// how many are left out.
#[must_use]
pub fn rows<T: Serialize>(mut list: Vec<T>, mut bytes: usize) -> (Vec<T>, u32) {
    let fits = |row: &&T| {
        let length = encode(row).map_or(usize::MAX, |row| row.len());
        let left = bytes.checked_sub(length);
        bytes = left.unwrap_or(0);
        left.is_some()
    };
    let count = list.iter().take(MAX_ROWS).take_while(fits).count();
    let omitted = list.len() - count;
    list.truncate(count);
    (list, u32::try_from(omitted).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::frame::MAX_FRAME;

    #[test]
    fn lists_are_cut_to_what_a_frame_holds() {
        let session = SessionSummary { user: "x".repeat(MAX_TEXT), ..SessionSummary::default() };
        let many = vec![session; 1000];
        let (few, omitted) = rows(many.clone(), MAX_FRAME / 2);
        assert_eq!((few.len(), omitted), (MAX_ROWS, 1000 - MAX_ROWS as u32));
        let (few, omitted) = rows(many, 2000);
        assert!((2..7).contains(&few.len()), "{}", few.len());
        assert_eq!(few.len() + omitted as usize, 1000);
        assert_eq!(rows(Vec::<SessionSummary>::new(), 0), (Vec::new(), 0));
    }

    #[test]
    fn texts_are_cleaned_and_cut_between_characters() {
        assert_eq!(clean(b"al\x1bice\xff\n"), "al?ice??");
        assert_eq!(clean("ä".repeat(200).as_bytes()), "ä".repeat(128));
        assert_eq!(clean(format!("x{}", "ä".repeat(200)).as_bytes()).len(), 255);
    }
}
