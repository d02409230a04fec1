//! Who may do what with a machine.
//!
//! Its owner and root may do everything. A definition may grant others *read* access, to look at the
//! machine and wait for its tasks, or *execute* access, to do what changes it. To everyone else the
//! machine does not exist. The kernel says who is at the other end of a Unix socket, as of its
//! connecting.

use crate::control::wire::Request;
use crate::error::CallError;
use protocol::HResult;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// What somebody may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Look at the machine.
    Read,
    /// Change what it does.
    Execute,
}

/// Whom a right is granted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The user with this number.
    User(u32),
    /// The members of the group with this number.
    Group(u32),
}

/// The process at the other end of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    user: u32,
    groups: Vec<u32>,
}

impl Peer {
    /// Who connected `stream`.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn of(stream: &impl AsFd) -> io::Result<Self> {
        let credentials = credentials(stream)?;
        let mut groups = supplementary_groups(stream)?;
        groups.push(credentials.gid);
        Ok(Self { user: credentials.uid, groups })
    }
}

/// User and group of the process at the other end (`SO_PEERCRED`). Its number is 0 if it is outside
/// this process's pid name space, as for one in a jail everybody is.
fn credentials(stream: &impl AsFd) -> io::Result<libc::ucred> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut bytes = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes, which `credentials` has.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut bytes,
        )
    };
    if result == 0 { Ok(credentials) } else { Err(io::Error::last_os_error()) }
}

/// The supplementary groups of the process at the other end (`SO_PEERGROUPS`).
fn supplementary_groups(stream: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let mut bytes = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `bytes` bytes, which `groups` has, and puts into `bytes`
        // how many there are.
        let result = unsafe {
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Decides what a peer may do.
#[derive(Clone, Debug)]
pub struct Access {
    owner: u32,
    read: Vec<Grant>,
    execute: Vec<Grant>,
}

impl Access {
    /// The user that this process runs as owns its machines; nothing is granted to others.
    #[must_use]
    pub fn of_process() -> Self {
        Self::granting(Vec::new(), Vec::new())
    }

    /// As [`of_process`](Self::of_process), with these grants.
    #[must_use]
    pub fn granting(read: Vec<Grant>, execute: Vec<Grant>) -> Self {
        Self { owner: rustix::process::geteuid().as_raw(), read, execute }
    }

    /// Whether anybody but the owner and root is granted anything.
    #[must_use]
    pub fn grants_anything(&self) -> bool {
        !self.read.is_empty() || !self.execute.is_empty()
    }

    /// Whether `peer` is the owner, or root, who is as good.
    #[must_use]
    pub fn is_owner(&self, peer: &Peer) -> bool {
        peer.user == self.owner || peer.user == 0
    }

    /// The most that `peer` may do; none if the machine does not exist for it.
    #[must_use]
    pub fn of(&self, peer: &Peer) -> Option<Right> {
        let granted = |grants: &[Grant]| {
            grants.iter().any(|grant| match grant {
                Grant::User(user) => *user == peer.user,
                Grant::Group(group) => peer.groups.contains(group),
            })
        };
        if self.is_owner(peer) || granted(&self.execute) {
            return Some(Right::Execute);
        }
        granted(&self.read).then_some(Right::Read)
    }

    /// Whether `peer` may ask for `request` of the machine `name`.
    ///
    /// # Errors
    /// `VM_E_VM_UNKNOWN` without read access; `ERROR_ACCESS_DENIED` without execute access where
    /// that is needed.
    pub fn check(&self, peer: &Peer, request: &Request, name: &str) -> Result<(), CallError> {
        match self.of(peer) {
            Some(right) if right >= request.needs() => Ok(()),
            Some(_) => {
                let text = format!(
                    "this needs execute access to {name}, and you have read access only; its owner \
                     can grant it under [access] of its definition"
                );
                Err(CallError::new(HResult::ERROR_ACCESS_DENIED, text))
            }
            None => Err(unknown(name)),
        }
    }
}

/// What somebody for whom a machine does not exist is told.
pub(crate) fn unknown(name: &str) -> CallError {
    let text = format!("there is no machine named {name:?}; `vmm ls` lists those there are");
    CallError::new(HResult::VM_E_VM_UNKNOWN, text)
}

#[cfg(test)]
#[path = "rights_tests.rs"]
mod rights;

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::task::LogoffOptions;
    use std::os::unix::net::UnixStream;

    fn peer(user: u32, groups: &[u32]) -> Peer {
        Peer { user, groups: groups.to_vec() }
    }

    #[test]
    fn case_43_each_may_do_what_the_owner_granted_and_no_more() {
        let access = Access {
            owner: 1000,
            read: vec![Grant::User(1001), Grant::Group(50)],
            execute: vec![Grant::User(1002), Grant::Group(51)],
        };
        for (peer, right) in [
            (peer(1000, &[]), Some(Right::Execute)),
            (peer(0, &[]), Some(Right::Execute)),
            (peer(1001, &[1001]), Some(Right::Read)),
            (peer(1002, &[]), Some(Right::Execute)),
            (peer(2000, &[7, 50]), Some(Right::Read)),
            (peer(2000, &[51]), Some(Right::Execute)),
            (peer(1001, &[51]), Some(Right::Execute)),
            (peer(50, &[1000]), None),
            (peer(u32::MAX, &[0]), None),
        ] {
            assert_eq!(access.of(&peer), right, "{peer:?}");
        }
        let logoff = Request::Logoff { options: LogoffOptions::default() };
        let code = |user, request| {
            access.check(&peer(user, &[]), request, "web").err().map(|error| error.code)
        };
        assert_eq!(code(1002, &logoff), None);
        assert_eq!(code(1001, &Request::Machine), None);
        assert_eq!(code(1001, &logoff), Some(HResult::ERROR_ACCESS_DENIED));
        assert_eq!(code(1003, &Request::Machine), Some(HResult::VM_E_VM_UNKNOWN));
        assert_eq!(code(1003, &logoff), Some(HResult::VM_E_VM_UNKNOWN));
    }

    #[test]
    fn the_kernel_says_who_is_at_the_other_end() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        assert_eq!(peer.user, rustix::process::geteuid().as_raw());
        let mut mine = rustix::process::getgroups().unwrap();
        mine.push(rustix::process::getegid());
        let mine: Vec<u32> = mine.iter().map(|group| group.as_raw()).collect();
        assert_eq!(peer.groups, mine);
        assert_eq!(Access::of_process().of(&peer), Some(Right::Execute));
    }
}
