//! The install service: the agent puts what the host has brought along in its own place.
//!
//! ```text
//! host                                              agent
//!   |   Request {id, Install}                         |
//!   |------------------------------------------------>|
//!   |   Installing {id, version}                      |   the disk is there
//!   |<------------------------------------------------|
//!   |   Installed {id}                                |   or Done {id, error}
//!   |<------------------------------------------------|
//!   |   Hello {agent_version}                         |   over a new connection
//!   |<------------------------------------------------|
//! ```
//!
//! After `Installed` the agent makes way for the program that it has installed, as soon as no other
//! request is under way, or the connection has ended. If that program does not run, it says `Done`.
//! The host believes that it was installed when an agent of that version has connected.

/// The name of the disk, as a volume and as a device's serial number.
pub const DISK: &str = "VMM-IC";
