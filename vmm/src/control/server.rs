//! The server's end of a control socket.
