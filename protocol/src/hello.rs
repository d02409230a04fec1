//! The first words on the integration channel: who is there, and which protocol both speak.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// A range of protocol versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest version spoken.
    pub min: u32,
    /// The newest version spoken.
    pub max: u32,
}

impl Versions {
    /// The newest version that both sides speak, if there is one.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
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
}
