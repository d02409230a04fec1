//! How long an operation has lasted: in time that the guest has had.
//!
//! The clocks of a machine that was paused have gone on, as a rule. Whoever was asked to leave
//! within the grace has not had that time, so a leap counts little.

use std::time::{Duration, Instant};

/// More than this does not go by between two readings of a guest that runs: it is read every
/// half second.
const LEAP: Duration = Duration::from_secs(2);

/// Counts time from reading to reading.
#[derive(Debug)]
pub(super) struct Stopwatch {
    counted: Duration,
    read: Instant,
}

impl Stopwatch {
    /// Starts with `counted` on it.
    pub(super) fn start(counted: Duration) -> Self {
        Self { counted, read: Instant::now() }
    }

    /// The time until now.
    pub(super) fn read(&mut self) -> Duration {
        self.read_at(Instant::now())
    }

    fn read_at(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.read);
        self.counted = self.counted.saturating_add(passed.min(LEAP));
        self.read = now;
        self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::{LEAP, Stopwatch};
    use std::time::Duration;

    #[test]
    fn a_leap_counts_little_and_what_comes_after_it_counts_again() {
        let mut watch = Stopwatch::start(Duration::from_secs(10));
        let began = watch.read;
        let mut read = |seconds| watch.read_at(began + Duration::from_secs(seconds)).as_secs();
        assert_eq!(read(1), 11);
        assert_eq!(read(3601), 11 + LEAP.as_secs());
        assert_eq!(read(3602), 12 + LEAP.as_secs());
        assert_eq!(read(0), 12 + LEAP.as_secs(), "a clock that goes back takes nothing back");
    }
}
