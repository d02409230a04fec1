//! The client's end of a control socket.
