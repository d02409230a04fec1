//! One virtual CPU: its thread, its run loop, its exits.
