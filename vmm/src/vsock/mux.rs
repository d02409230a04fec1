//! All connections of a guest, and the host sockets they lead to.
