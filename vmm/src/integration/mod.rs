//! The host's end of the integration channel.

pub mod channel;
pub mod guest;
pub mod logoff;
