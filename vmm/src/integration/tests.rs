//! The logoff and the channel beneath it, against scripted agents and the real one.

mod cancelling;
