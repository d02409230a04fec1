//! What the monitor brings along for the guest, as its owner chooses it.

use std::path::PathBuf;

/// Whether a machine gets the [integration disk](crate::kit), from which its guest can run and
/// install the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Components {
    /// It does, with the agent that comes with this monitor, if there is one.
    #[default]
    Auto,
    /// It does not, and its guest is told nothing unasked.
    Off,
    /// It does, with this agent: a static program.
    Agent(PathBuf),
}
