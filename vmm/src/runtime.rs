//! A running machine's directory: its lock and its sockets.
