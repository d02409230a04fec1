//! The control socket: how other processes reach a running machine.

pub mod access;
pub mod client;
pub mod server;
pub mod wire;
