//! The messages of the control socket.
