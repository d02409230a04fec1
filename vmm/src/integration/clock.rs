//! The guest's clock: the host's half of the clock service.
//!
//! When an agent has connected, after a pause, and every minute, a ping measures how long the way
//! to the guest and back is, and then the host tells its time. What becomes of the guest's clock is
//! the guest's decision; it says what that was.

use crate::integration::guest::GuestOs;
use crate::integration::worker::{Reply, Worker};
use crate::state::VmState;
use protocol::clock::{ClockReason, ClockReport, HostTime};
use protocol::hello::CLOCK;
use protocol::message::{HostMessage, Request};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A way longer than this is measured again, for the time told would be that uncertain.
const LONG_WAY: Duration = Duration::from_millis(20);
/// How often in a row.
const TRIES: u32 = 3;

/// When the guest is told the time next, and why.
#[derive(Debug)]
pub(super) struct Clock {
    reason: ClockReason,
    /// Counts the reasons, for an answer to an earlier one says nothing of the present.
    turn: u64,
    /// None while no agent is connected that wants to know.
    next: Option<Instant>,
    ping: Option<Ping>,
}

/// A ping that is on its way.
#[derive(Debug)]
struct Ping {
    connection: u64,
    seq: u64,
    sent: Instant,
    attempt: u32,
}

impl Default for Clock {
    /// Of a boot that begins.
    fn default() -> Self {
        Self { reason: ClockReason::Boot, turn: 0, next: None, ping: None }
    }
}

impl Worker {
    /// An agent has connected: it is told the time as soon as nothing else is to be done.
    pub(super) fn clock_connected(&mut self) {
        self.clock.next = self.agent(CLOCK).is_ok().then(Instant::now);
        self.clock.ping = None;
    }

    /// The connection of the agent has ended.
    pub(super) fn clock_lost(&mut self) {
        self.clock.next = None;
        self.clock.ping = None;
    }

    /// The machine stood still.
    pub(super) fn clock_resumed(&mut self) {
        self.clock.reason = ClockReason::Resume;
        self.clock.turn += 1;
        if self.clock.next.is_some() {
            self.tell_time();
        }
    }

    /// When the guest is to be told the time, unless it stands still.
    pub(super) fn clock_deadline(&self) -> Option<Instant> {
        self.clock.next.filter(|_| self.state.get() != VmState::Paused)
    }

    pub(super) fn expire_clock(&mut self, now: Instant) {
        if self.clock_deadline().is_some_and(|next| next <= now) {
            self.tell_time();
        }
    }

    /// Begins to tell the time, if that is wanted.
    fn tell_time(&mut self) {
        self.clock.next = Some(Instant::now() + self.timing.clock);
        if self.status.time_sync() {
            self.ping(1);
        }
    }

    fn ping(&mut self, attempt: u32) {
        let Some(connection) = self.ready() else { return };
        let seq = connection.ping_seq();
        let ping = Ping { connection: connection.number, seq, sent: Instant::now(), attempt };
        let number = ping.connection;
        self.clock.ping = Some(ping);
        self.send(number, &HostMessage::Ping { seq });
    }

    /// The answer to a ping.
    pub(super) fn pong(&mut self, number: u64, seq: u64) {
        let awaited = |ping: &mut Ping| (ping.connection, ping.seq) == (number, seq);
        let Some(ping) = self.clock.ping.take_if(awaited) else { return };
        let way = ping.sent.elapsed();
        if way > LONG_WAY && ping.attempt < TRIES {
            return self.ping(ping.attempt + 1);
        }
        // A host whose clock is before 1970, or after 2262, has no time to tell.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        let Some(host_ns) = now.and_then(|now| i64::try_from(now.as_nanos()).ok()) else { return };
        let round_trip_ns = u64::try_from(way.as_nanos()).unwrap_or(u64::MAX);
        let time = HostTime { host_ns, round_trip_ns, reason: self.clock.reason };
        self.ask_at(number, Request::SetClock(time), Reply::Clock { turn: self.clock.turn });
    }

    /// What the guest has done with its clock, when it was told the time in that turn.
    pub(super) fn clock_report(&mut self, turn: u64, report: ClockReport) {
        tracing::debug!(offset_ns = report.offset_ns, action = ?report.action, "guest's clock");
        if turn == self.clock.turn {
            self.clock.reason = ClockReason::Periodic;
        }
        self.status().clock = Some(report);
    }
}

impl GuestOs {
    /// Whether the guest is told the host's time: `IVMGuestOS::IsHostTimeSyncEnabled`. It is so
    /// until it is changed.
    #[must_use]
    pub fn is_host_time_sync_enabled(&self) -> bool {
        self.cell().time_sync()
    }

    /// Has the guest told the host's time, or not, from the next minute on.
    ///
    /// The Virtual PC API has this changed only while the machine is off; whoever speaks for that
    /// API refuses the rest.
    pub fn set_host_time_sync(&self, enabled: bool) {
        self.cell().set_time_sync(enabled);
    }

    /// What the guest did with its clock when it was told the time last in this boot.
    #[must_use]
    pub fn clock(&self) -> Option<ClockReport> {
        self.status().clock
    }
}
