//! Who may control a machine: its owner and root.
//!
//! The kernel says who is at the other end of a Unix socket, as of its connecting. To everyone else
//! the machine does not exist.

use rustix::net::sockopt::socket_peercred;
use std::os::fd::AsFd;

/// Decides by the peer's user.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    owner: u32,
}

impl Access {
    /// The user that this process runs as owns its machines.
    #[must_use]
    pub fn of_process() -> Self {
        Self { owner: rustix::process::geteuid().as_raw() }
    }

    /// Whether the process at the other end of `stream` may control the machine.
    #[must_use]
    pub fn admits(&self, stream: &impl AsFd) -> bool {
        socket_peercred(stream).is_ok_and(|peer| self.admits_user(peer.uid.as_raw()))
    }

    fn admits_user(&self, user: u32) -> bool {
        user == self.owner || user == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_owner_and_root_are_admitted_and_nobody_else() {
        let access = Access { owner: 1000 };
        assert!(access.admits_user(1000) && access.admits_user(0));
        for stranger in [1, 999, 1001, u32::MAX] {
            assert!(!access.admits_user(stranger));
        }
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(Access::of_process().admits(&ours), "this process is at both ends");
    }
}
