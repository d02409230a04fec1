//! The clock service: the host tells the time, and the guest decides what to do about it.

use serde::{Deserialize, Serialize};

/// Seconds between two times that the host tells it.
pub const PERIOD_SECONDS: u64 = 60;

/// Why the host tells the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockReason {
    /// For the first time in this boot.
    Boot,
    /// The machine stood still, and its clock with it.
    Resume,
    /// A minute has passed.
    #[serde(other)]
    Periodic,
}

/// The host's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTime {
    /// Nanoseconds since 1970 UTC on the host's clock when this was sent.
    pub host_ns: i64,
    /// Nanoseconds that a question to the guest and its answer took just before: half of it is how
    /// long this is thought to be on its way, and how wrong that can be.
    pub round_trip_ns: u64,
    /// Why it is told.
    pub reason: ClockReason,
}

/// What the guest did with its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockAction {
    /// Set it.
    Stepped,
    /// Let it run a little faster or slower until it is right.
    Slewed,
    /// Nothing: it was right, as far as can be told.
    Right,
    /// Nothing: a time daemon of the guest's keeps it.
    LeftToDaemon,
    /// Something that this build does not know.
    #[serde(other)]
    Unknown,
}

/// The guest's clock, as the guest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockReport {
    /// How far it was from the host's, in nanoseconds; positive: it was behind.
    pub offset_ns: i64,
    /// What was done about it.
    pub action: ClockAction,
}
