//! The power service: the guest shuts itself down or restarts.
//!
//! ```text
//! host                                              agent
//!   |   Request {id, Power}                           |
//!   |------------------------------------------------>|
//!   |   PowerAccepted {id, init}                      |   it can; nothing has been done
//!   |<------------------------------------------------|
//!   |   Proceed {id}                                  |   the host still wants it
//!   |------------------------------------------------>|
//!   |   Done {id, error}                              |   only where it came to nothing
//!   |<------------------------------------------------|
//! ```
//!
//! A host that has stopped waiting never says `Proceed`, so a call that timed out has done nothing
//! however late the guest wakes up. Success is not said: the machine powers off, or boots anew, and
//! the host sees that itself.

use serde::{Deserialize, Serialize};

/// What is to become of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// Stop everything and power off.
    Shutdown,
    /// Stop everything and boot again.
    Restart,
}

/// A request to shut down or to restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerRequest {
    /// Which of the two.
    pub action: PowerAction,
    /// Without waiting for anybody: neither users nor services can hold it up.
    pub forced: bool,
}
