//! The CMOS real-time clock: the host's time for the guest to start from.
