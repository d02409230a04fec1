//! Control of a machine from other processes, over its socket.
//!
//! [`wire`] is what is said, [`access`] who may say it, [`server`] the machine's side and
//! [`client`] the other, which the command line and host tools share.

pub mod access;
mod accounts;
pub mod all_events;
mod calls;
pub mod client;
mod conversation;
mod crowd;
mod serve;
pub mod server;
mod unsent;
pub mod wire;

#[cfg(test)]
mod every_verb;
#[cfg(test)]
use protocol::task::LogoffOptions;
#[cfg(test)]
use wire::{Property, Request};
