//! The guest agent: it counts sessions, ends them when the host asks, and says how far it is. It
//! also shuts the guest down, says what system it is, keeps its parameters and follows the host's
//! time.
//!
//! It runs as a plain service under any init and dials the host over vsock ([`dial`]). What comes
//! over the connection is served by [`serve::Agent`], which takes any stream that is a socket, so
//! that the host's side can be tested against the real agent over a socket pair.
//!
//! Who is logged on is a [`sessions::Backend`]'s knowledge; what a logoff does with it is in
//! [`logoff`]; processes are named and held by [`process`]. The other [`services`] have a file each.

pub mod clock;
pub mod command;
pub mod dial;
pub mod info;
pub mod install;
mod logind;
pub mod logoff;
pub mod parameters;
pub mod power;
pub mod process;
pub mod serve;
pub mod services;
pub mod sessions;
mod wire;
