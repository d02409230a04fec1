//! The guest's heartbeat: ten a minute say that its user space runs.

use crate::error::CallError;
use crate::integration::guest::{GuestOs, Status, no_agent};
use crate::state::{Verb, admit};
use protocol::{HEARTBEAT_MS, HResult};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Time between two heartbeats.
const INTERVAL: Duration = Duration::from_millis(HEARTBEAT_MS);
/// How long back the percentage looks.
const MINUTE: Duration = Duration::from_secs(60);
/// How late or early a heartbeat may be. One that comes within this time of another is the same:
/// nobody can beat for an hour in advance.
const TOLERANCE: Duration = Duration::from_millis(HEARTBEAT_MS / 2);

/// The heartbeats of the last minute.
#[derive(Debug)]
pub(crate) struct Heartbeats {
    since: Instant,
    beats: VecDeque<Instant>,
}

impl Heartbeats {
    /// From `now` on they are expected.
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, beats: VecDeque::new() }
    }

    /// One has come.
    pub(crate) fn beat(&mut self, now: Instant) {
        self.forget(now);
        let last = self.beats.back();
        if last.is_none_or(|last| now.saturating_duration_since(*last) >= TOLERANCE) {
            self.beats.push_back(now);
        }
    }

    /// How many of those that were to come within the last minute have come, in percent.
    pub(crate) fn percent(&mut self, now: Instant) -> u8 {
        self.forget(now);
        let watched = now.saturating_duration_since(self.since).min(MINUTE);
        // The first is due at once; it is expected only when it is late.
        let expected = watched.as_millis() / INTERVAL.as_millis();
        let come = self.beats.len() as u128;
        // At most 100, which fits.
        (come * 100).checked_div(expected).unwrap_or(100).min(100) as u8
    }

    fn forget(&mut self, now: Instant) {
        let old = |beat: &Instant| now.saturating_duration_since(*beat) >= MINUTE + TOLERANCE;
        while self.beats.front().is_some_and(old) {
            self.beats.pop_front();
        }
    }
}

impl GuestOs {
    /// How many of the heartbeats expected in the last minute have come, in percent; 0 suggests
    /// that the guest hangs: `IVMGuestOS::HeartbeatPercentage`.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`; `VM_E_ADDITIONS_NOT_AVAIL` if no agent has connected in this boot.
    pub fn heartbeat_percentage(&self) -> Result<u8, CallError> {
        admit(Verb::GuestWork, self.state())?;
        let mut status = self.status();
        match &mut status.heartbeats {
            Some(heartbeats) => Ok(heartbeats.percent(Instant::now())),
            None => Err(no_agent_yet(&status)),
        }
    }

    /// Whether a heartbeat has come in the last minute: `IVMGuestOS::IsHeartbeating`.
    ///
    /// # Errors
    /// As for [`heartbeat_percentage`](Self::heartbeat_percentage).
    pub fn is_heartbeating(&self) -> Result<bool, CallError> {
        Ok(self.heartbeat_percentage()? > 0)
    }
}

/// Why a member that needs an agent of this boot, but none that is there now, has no answer.
pub(crate) fn no_agent_yet(status: &Status) -> CallError {
    CallError::new(HResult::VM_E_ADDITIONS_NOT_AVAIL, no_agent(status).text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_guest_that_beats_as_it_should_has_all_of_them_at_any_moment() {
        let start = Instant::now();
        let mut heartbeats = Heartbeats::new(start);
        for tenth in 0..3_000 {
            let now = start + Duration::from_millis(tenth * 100);
            // A little late each time, as timers are.
            if tenth % 61 == 0 {
                heartbeats.beat(now);
            }
            assert_eq!(heartbeats.percent(now), 100, "after {tenth} tenths of a second");
        }
    }

    #[test]
    fn a_guest_that_falls_silent_fades_within_a_minute() {
        let start = Instant::now();
        let mut heartbeats = Heartbeats::new(start);
        for beat in 0..20 {
            heartbeats.beat(start + INTERVAL * beat);
        }
        let last = start + INTERVAL * 19;
        let at = |heartbeats: &mut Heartbeats, after| heartbeats.percent(last + seconds(after));
        assert_eq!(at(&mut heartbeats, 5), 100);
        assert_eq!(at(&mut heartbeats, 33), 50);
        assert_eq!(at(&mut heartbeats, 59), 10);
        assert_eq!(at(&mut heartbeats, 63), 0);
    }

    #[test]
    fn half_of_them_is_half_and_a_flood_is_no_more_than_all() {
        let start = Instant::now();
        let mut slow = Heartbeats::new(start);
        for beat in 0..10 {
            slow.beat(start + INTERVAL * 2 * beat);
        }
        assert_eq!(slow.percent(start + seconds(114)), 50);
        let mut flood = Heartbeats::new(start);
        for beat in 0..100_000 {
            flood.beat(start + Duration::from_micros(beat));
        }
        assert_eq!(flood.beats.len(), 1, "all within one beat's time are one");
        assert_eq!(flood.percent(start + seconds(59)), 11);
    }

    #[test]
    fn a_guest_that_has_only_begun_is_not_blamed_for_the_time_before() {
        let start = Instant::now();
        let mut heartbeats = Heartbeats::new(start);
        assert_eq!(heartbeats.percent(start), 100);
        heartbeats.beat(start);
        heartbeats.beat(start + seconds(6));
        assert_eq!(heartbeats.percent(start + seconds(11)), 100);
        assert_eq!(Heartbeats::new(start).percent(start + seconds(12)), 0);
    }
}
