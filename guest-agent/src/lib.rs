//! The guest agent: sessions, logoff, and the channel to the host.
