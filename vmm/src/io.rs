//! The `io` thread: one epoll loop that serves every queue, socket and tap of a machine.
