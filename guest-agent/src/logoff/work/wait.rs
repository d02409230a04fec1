//! Waiting for something to happen: for the end of processes, by pidfd, for the backend's changes,
//! and for the host.

use super::{MAX_WATCHED, TICK, Work, is_passing};
use crate::logoff::control::Stop;
use crate::logoff::tracked::Tracked;
use crate::process::Identity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The shortest time between two looks, whatever happens, and the longest that has to be.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// So much longer than the processor's work for a look is the pause after it, up to the longest one: whoever
/// is asked works, too, and those who are to leave need the processor as well.
const REST: u32 = 2;

impl Work<'_> {
    /// Takes a hold on the processes that nobody watches yet.
    pub(super) fn watch(&mut self) -> Result<(), Stop> {
        self.missed = false;
        let unwatched: Vec<Identity> =
            self.left().filter(|one| !self.watched.contains_key(one)).collect();
        for identity in unwatched {
            if self.watched.len() >= MAX_WATCHED {
                break;
            }
            if !self.watched.contains_key(&identity) {
                match self.backend.hold(identity) {
                    Ok(Some(handle)) => drop(self.watched.insert(identity, handle)),
                    Ok(None) => self.missed = true,
                    Err(error) if is_passing(&error) => break,
                    Err(error) => return Err(Stop::Failed(error)),
                }
            }
        }
        Ok(())
    }

    /// Waits until all watched processes of some session have ended, or the backend has heard of a
    /// change, but not longer than `limit` and not longer than a tick.
    pub(super) fn wait(&mut self, limit: Duration) -> Result<(), Stop> {
        let pause = (self.effort * REST).clamp(PAUSE, LONGEST_PAUSE);
        let until = self.looked + limit.min(TICK).max(pause);
        let earliest = self.looked + pause;
        // One that seems to be over is looked at again soon, and so is one whose process has gone
        // before it was held: nobody is told of its end.
        let mut quiet =
            self.missed || self.managers.is_quiet() || self.sessions.iter().any(Tracked::is_quiet);
        loop {
            let end = if quiet { earliest } else { until };
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let (ended, changed) = self.poll(left)?;
            if let Some(stop) = self.control.stop() {
                return Err(stop);
            }
            if changed {
                self.backend.clear();
                quiet = true;
            }
            for identity in ended {
                self.watched.remove(&identity);
                quiet = quiet || self.was_last(identity);
            }
        }
    }

    /// Whether nothing that is watched is left of the session that `ended` was in, or of the
    /// managers.
    fn was_last(&self, ended: Identity) -> bool {
        let mut sessions = self.sessions.iter().filter(|one| one.seen.contains(&ended));
        sessions.any(|one| !one.seen.iter().any(|left| self.watched.contains_key(left)))
            || self.managers.members().any(|member| member == ended)
                && !self.managers.members().any(|left| self.watched.contains_key(&left))
    }

    /// The watched processes that have ended, and whether the backend has heard of a change; waits
    /// for one of these, for the control, or for `limit`.
    fn poll(&self, limit: Duration) -> Result<(Vec<Identity>, bool), Stop> {
        let mut identities = Vec::with_capacity(self.watched.len());
        let mut fds = Vec::with_capacity(self.watched.len() + 1);
        for (identity, handle) in &self.watched {
            identities.push(*identity);
            fds.push(handle.poll_fd());
        }
        fds.push(PollFd::from_borrowed_fd(self.control.as_fd(), PollFlags::IN));
        let changes = self.backend.changes();
        fds.extend(changes.map(|changes| PollFd::from_borrowed_fd(changes, PollFlags::IN)));
        let timeout =
            Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Stop::Failed(error.into())),
        }
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let changed = fds.get(identities.len() + 1).is_some_and(is_ready);
        let ended = identities.into_iter().zip(&fds).filter(|(_, fd)| is_ready(fd));
        Ok((ended.map(|(identity, _)| identity).collect(), changed))
    }
}
