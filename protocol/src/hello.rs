//! The first words on the integration channel: who is there, and which protocol both speak.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Name of the logoff service in [`Hello::services`].
pub const LOGOFF: &str = "logoff";
/// Name of the session list in [`Hello::services`].
pub const SESSIONS: &str = "sessions";
/// Name of the [power service](crate::power) in [`Hello::services`].
pub const POWER: &str = "power";
/// Name of the [info service](crate::info) in [`Hello::services`].
pub const INFO: &str = "info";
/// Name of the [parameters service](crate::parameters) in [`Hello::services`].
pub const PARAMETERS: &str = "parameters";
/// Name of the [clock service](crate::clock) in [`Hello::services`].
pub const CLOCK: &str = "clock";
/// Name of the [install service](crate::install) in [`Hello::services`].
pub const INSTALL: &str = "install";

/// A range of protocol versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest version spoken.
    pub min: u32,
    /// The newest version spoken.
    pub max: u32,
}

impl Versions {
    /// What a build speaks whose newest version is `newest`: that one, and the one before.
    #[must_use]
    pub const fn of(newest: u32) -> Self {
        // There has never been a version 0.
        Self { min: if newest > 1 { newest - 1 } else { 1 }, max: newest }
    }

    /// The newest version that both sides speak, if there is one.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (min, max) if min == max => write!(f, "version {min}"),
            (min, max) => write!(f, "versions {min} to {max}"),
        }
    }
}

/// What the agent says of itself when it has connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol versions that the agent speaks.
    pub protocols: Versions,
    /// The agent's own version, for people.
    pub agent_version: String,
    /// The guest kernel's `/proc/sys/kernel/random/boot_id`: changes with every boot.
    pub boot_id: String,
    /// What the agent can do, by service name, and in which version of that service.
    pub services: BTreeMap<String, u32>,
}

/// The host's answer to a [`Hello`] that it can work with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version of this connection.
    pub protocol: u32,
    /// The monitor's own version, for people.
    pub host_version: String,
}

/// The host's answer to a [`Hello`] that it cannot work with; it closes the connection after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refuse {
    /// Why, for the guest's log.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_chosen() {
        let range = |min, max| Versions { min, max };
        assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
        assert_eq!(range(2, 2).common(range(1, 9)), Some(2));
        assert_eq!(range(1, 2).common(range(3, 4)), None);
        assert_eq!(range(9, 1).common(range(1, 9)), None, "an empty range has nothing in common");
    }

    #[test]
    fn builds_that_are_one_version_apart_have_one_in_common_and_those_two_apart_have_none() {
        for version in 1..20 {
            let (this, next) = (Versions::of(version), Versions::of(version + 1));
            assert_eq!((this.common(next), next.common(this)), (Some(version), Some(version)));
            assert_eq!(this.common(this), Some(version));
            assert_eq!(this.common(Versions::of(version + 2)), None);
        }
    }
}
