//! What crosses the two wires of the monitor.
//!
//! There are two: the **integration channel** between the host and the agent in the guest, and the
//! **control socket** between a machine's process and the tools that drive it. Both carry the same
//! [frames](frame): a 32-bit length and a JSON document of at most 64 KiB.
//!
//! # The integration channel
//!
//! The agent dials the host ([`HOST_CID`], [`AGENT_PORT`]) from a source port below
//! [`PRIVILEGED_PORTS`], which in Linux only a privileged process can bind; the host refuses all
//! others. Then, for as long as the connection lives:
//!
//! ```text
//! agent                                             host
//!   | Hello {protocols, version, boot id, services}   |
//!   |------------------------------------------------>|
//!   |        Welcome {protocol} or Refuse {text}      |
//!   |<------------------------------------------------|
//!   |   Ping {seq}                                    |   proves that somebody is there,
//!   |<------------------------------------------------|   not only that the connection is
//!   |   Pong {seq}                                    |
//!   |------------------------------------------------>|
//!   |   Heartbeat, ten a minute                       |
//!   |------------------------------------------------>|
//!   |   Request {id, Logoff}                          |
//!   |<------------------------------------------------|
//!   |   Accepted {id}, then Session, Progress ...     |
//!   |------------------------------------------------>|
//!   |   Done {id, error}                              |
//!   |------------------------------------------------>|
//! ```
//!
//! Request ids rise and belong to one connection of one boot. A reply with an id that is not
//! pending is dropped and counted. What may be lost: everything in flight when the connection
//! ends. The agent then dials again, and the host sends an unfinished logoff again with what it
//! knows of it ([`message::Resume`]), so that the guest goes on without counting anew.
//!
//! What else can be asked is in services, which the hello names; an agent that lacks one is an older
//! one. [`power`] shuts the guest down, [`info`] describes it, [`parameters`] keeps values, [`clock`]
//! tells it the time. Except for power, one message answers each of their requests.
//!
//! # Versions
//!
//! Monitor and agent are not updated together, so each build speaks two versions of the protocol: its
//! newest and the one before ([`hello::Versions::of`]). Two builds that are one version apart have
//! the older one's newest version in common, and all that it can do works, logging off first. From
//! the welcome on, both keep to the version that it names. Builds that are further apart do not work
//! together: the host refuses the agent and says which versions both speak.
//!
//! Not every change is a new version. Fields, message types, verbs and services may be added to one
//! that exists: a side that does not know a field or a message type passes it over (the host counts
//! the messages), rejects a verb, and asks nothing of a service that the hello does not name. A new
//! version is due where something that is sent already would mean something else, have another
//! type, or go missing, and where one of several words is new in a field whose words are fixed, such
//! as the outcome of a session. The hello, the welcome and the refusal themselves never change but
//! by new fields, so that any two builds can at least tell each other why they do not go together.

pub mod clock;
pub mod frame;
pub mod hello;
pub mod hresult;
pub mod info;
pub mod install;
pub mod message;
pub mod parameters;
pub mod power;
pub mod task;
pub mod text;

pub use hresult::HResult;

/// The vsock context id of the host, as every guest sees it.
pub const HOST_CID: u32 = 2;
/// The vsock port of the host that the agent dials: the letters `VM`.
pub const AGENT_PORT: u32 = 0x564d;
/// The vsock port of the host on which the guest's init says that it is ready.
pub const NOTIFY_PORT: u32 = AGENT_PORT + 1;
/// Source ports below this one are reserved for privileged guest processes.
pub const PRIVILEGED_PORTS: u32 = 1024;
/// The oldest and the newest version of the channel's protocol that this build speaks.
pub const PROTOCOL: hello::Versions = hello::Versions::of(1);
/// Milliseconds between two heartbeats: ten a minute.
pub const HEARTBEAT_MS: u64 = 6_000;
