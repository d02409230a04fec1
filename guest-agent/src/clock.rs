//! The guest's clock, and what to do about it when the host tells the time.
//!
//! A time daemon of the guest's knows better: it may follow servers that the host does not know, and
//! two who turn one clock make it worse. So a clock that is kept is set only when the machine has
//! stood still, and then only if it is off by more than a second. A clock that nobody keeps follows
//! the host's: by a step where it is far off, else by running a little faster or slower, for
//! programs do not like to see time jump.

use crate::process::{Proc, Scope};
use protocol::clock::{ClockAction, ClockReason, ClockReport, HostTime};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use std::io;
use std::path::Path;

const NANOSECONDS: i64 = 1_000_000_000;
/// Nearer than this a clock is right, in nanoseconds.
const RIGHT: u64 = 1_000_000;
/// Further off than this a clock is set at boot and after a pause.
const STEP_AT_ONCE: u64 = 100_000_000;
/// Further off than this a clock is set at any time: the host's own was set, as a rule, and catching
/// up would take hours.
const STEP: u64 = 1_000_000_000;

/// Users below this number are not people.
const FIRST_PERSON: u32 = 1000;
/// Time daemons, as the kernel names their processes.
const DAEMONS: [&str; 6] =
    ["chronyd", "ntpd", "ntpsec-ntpd", "openntpd", "systemd-timesyn", "ptp4l"];

/// A clock that can be asked and turned.
pub trait GuestClock: Send + Sync {
    /// Nanoseconds since 1970 UTC.
    fn now(&self) -> i64;

    /// Whether somebody keeps it.
    fn is_kept(&self) -> bool;

    /// Sets it to so many nanoseconds since 1970 UTC.
    ///
    /// # Errors
    /// The kernel refuses.
    fn step(&self, to: i64) -> io::Result<()>;

    /// Makes up for an error of so many nanoseconds, a little every second.
    ///
    /// # Errors
    /// The kernel refuses.
    fn slew(&self, by: i64) -> io::Result<()>;
}

/// Takes notice of the host's time.
///
/// # Errors
/// The clock cannot be turned.
pub fn follow(clock: &dyn GuestClock, time: &HostTime) -> io::Result<ClockReport> {
    let way = i64::try_from(time.round_trip_ns / 2).unwrap_or(i64::MAX);
    let now = clock.now();
    let offset_ns = time.host_ns.saturating_add(way).saturating_sub(now);
    let action = decide(offset_ns, way.unsigned_abs(), time.reason, clock.is_kept());
    match action {
        ClockAction::Stepped => clock.step(clock.now().saturating_add(offset_ns))?,
        ClockAction::Slewed => clock.slew(offset_ns)?,
        _ => {}
    }
    Ok(ClockReport { offset_ns, action })
}

/// What to do about a clock that is off by `offset`, where that may be wrong by `uncertainty`.
fn decide(offset: i64, uncertainty: u64, reason: ClockReason, kept: bool) -> ClockAction {
    let off = offset.unsigned_abs();
    // No more is known than that it may be right.
    let right = off <= uncertainty.max(RIGHT);
    let limit = match (kept, reason) {
        (true, ClockReason::Resume) => STEP,
        (true, ClockReason::Boot | ClockReason::Periodic) => return ClockAction::LeftToDaemon,
        (false, ClockReason::Boot | ClockReason::Resume) => STEP_AT_ONCE,
        (false, ClockReason::Periodic) => STEP,
    };
    match (right, off > limit, kept) {
        (false, true, _) => ClockAction::Stepped,
        (_, _, true) => ClockAction::LeftToDaemon,
        (true, _, false) => ClockAction::Right,
        (false, false, false) => ClockAction::Slewed,
    }
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl GuestClock for SystemClock {
    fn now(&self) -> i64 {
        let now = clock_gettime(ClockId::Realtime);
        now.tv_sec.saturating_mul(NANOSECONDS).saturating_add(now.tv_nsec)
    }

    fn is_kept(&self) -> bool {
        is_disciplined() || has_daemon()
    }

    fn step(&self, to: i64) -> io::Result<()> {
        let tv_sec = to.div_euclid(NANOSECONDS);
        let tv_nsec = to.rem_euclid(NANOSECONDS);
        Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec })?)
    }

    fn slew(&self, by: i64) -> io::Result<()> {
        // In microseconds; what adjtime(3) does.
        adjust(libc::ADJ_OFFSET_SINGLESHOT, by / 1_000).map(drop)
    }
}

/// Whether the kernel has been told that its clock follows another one.
fn is_disciplined() -> bool {
    adjust(0, 0).is_ok_and(|status| status & libc::STA_UNSYNC == 0)
}

/// Calls adjtimex(2), and gives the clock's status.
fn adjust(modes: libc::c_uint, offset: i64) -> io::Result<libc::c_int> {
    // SAFETY: the structure is made of integers, for which all zeroes are values.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = modes;
    timex.offset = offset;
    // SAFETY: the pointer is to a structure of the kind that the call reads and writes.
    match unsafe { libc::adjtimex(&raw mut timex) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(timex.status),
    }
}

/// Whether a time daemon runs: one may be about to learn the time, with the kernel none the wiser.
fn has_daemon() -> bool {
    let proc = Proc::new(Path::new("/proc"), Scope::Everyone);
    let Ok(table) = proc.table() else { return false };
    table.processes().iter().any(|process| {
        !process.dead
            && DAEMONS.contains(&&*process.comm)
            // A user's program of that name keeps no clock.
            && proc.uid(process.pid()).is_some_and(|uid| uid < FIRST_PERSON)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::clock::ClockReason::{Boot, Periodic, Resume};
    use std::sync::Mutex;

    const MS: i64 = 1_000_000;
    const S: i64 = NANOSECONDS;

    #[test]
    fn what_is_done_about_a_clock() {
        use ClockAction::{LeftToDaemon, Right, Slewed, Stepped};
        let table = [
            // off by, uncertain by, reason, kept
            (0, 0, Boot, false, Right),
            (900_000, 0, Periodic, false, Right),
            (50 * MS, 60 * MS as u64, Boot, false, Right),
            (2 * MS, 0, Boot, false, Slewed),
            (100 * MS, 0, Boot, false, Slewed),
            (101 * MS, 0, Boot, false, Stepped),
            (-101 * MS, 0, Resume, false, Stepped),
            (101 * MS, 0, Periodic, false, Slewed),
            (-S, 0, Periodic, false, Slewed),
            (S + 1, 0, Periodic, false, Stepped),
            (-3600 * S, 0, Periodic, false, Stepped),
            (5 * S, 6 * S as u64, Resume, false, Right),
            (0, 0, Boot, true, LeftToDaemon),
            (3600 * S, 0, Boot, true, LeftToDaemon),
            (3600 * S, 0, Periodic, true, LeftToDaemon),
            (0, 0, Resume, true, LeftToDaemon),
            (S, 0, Resume, true, LeftToDaemon),
            (S + 1, 0, Resume, true, Stepped),
            (-S - 1, 0, Resume, true, Stepped),
            (5 * S, 6 * S as u64, Resume, true, LeftToDaemon),
        ];
        for (offset, uncertainty, reason, kept, action) in table {
            let decided = decide(offset, uncertainty, reason, kept);
            assert_eq!(decided, action, "{offset} {uncertainty} {reason:?} {kept}");
        }
    }

    struct Fake {
        now: i64,
        kept: bool,
        done: Mutex<Vec<(&'static str, i64)>>,
    }

    impl GuestClock for Fake {
        fn now(&self) -> i64 {
            self.now
        }

        fn is_kept(&self) -> bool {
            self.kept
        }

        fn step(&self, to: i64) -> io::Result<()> {
            self.done.lock().unwrap().push(("step", to));
            Ok(())
        }

        fn slew(&self, by: i64) -> io::Result<()> {
            self.done.lock().unwrap().push(("slew", by));
            Ok(())
        }
    }

    fn follow_with(
        now: i64,
        kept: bool,
        time: HostTime,
    ) -> (ClockReport, Vec<(&'static str, i64)>) {
        let clock = Fake { now, kept, done: Mutex::default() };
        let report = follow(&clock, &time).unwrap();
        (report, clock.done.into_inner().unwrap())
    }

    #[test]
    fn half_the_way_is_added_to_what_the_host_said() {
        let time = HostTime { host_ns: 500 * S, round_trip_ns: 4 * MS as u64, reason: Boot };
        let (report, done) = follow_with(400 * S, false, time);
        assert_eq!(report.offset_ns, 100 * S + 2 * MS);
        assert_eq!(done, [("step", 500 * S + 2 * MS)]);
        let (report, done) = follow_with(500 * S + 12 * MS, false, time);
        assert_eq!((report.action, report.offset_ns), (ClockAction::Slewed, -10 * MS));
        assert_eq!(done, [("slew", -10 * MS)]);
    }

    #[test]
    fn a_clock_that_is_kept_is_not_touched_in_the_course_of_things() {
        for reason in [Boot, Periodic] {
            let time = HostTime { host_ns: 500 * S, round_trip_ns: 0, reason };
            let (report, done) = follow_with(0, true, time);
            assert_eq!(report.action, ClockAction::LeftToDaemon);
            assert!(done.is_empty());
        }
    }

    #[test]
    fn the_systems_clock_can_be_asked() {
        let clock = SystemClock;
        assert!(clock.now() > 1_700_000_000 * S);
        let _ = clock.is_kept();
    }

    proptest! {
        #[test]
        fn no_time_whatever_overflows(
            host_ns in any::<i64>(), round_trip_ns in any::<u64>(), now in any::<i64>(),
        ) {
            let time = HostTime { host_ns, round_trip_ns, reason: Resume };
            follow_with(now, false, time);
        }
    }
}
