//! Sockets of a machine, to which only their owner can connect. They are bound before the process that
//! serves them [gives up](crate::confine) what it takes to make any.
//!
//! The vsock socket leads to every port of the guest and asks nobody who he is, so not even for a moment
//! may it have the mode that the umask would give it: a socket takes its mode when it is bound, from what
//! the descriptor's was.

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Connections that may wait for a listener: as many as the host lets wait.
const BACKLOG: i32 = -1;

/// A socket at its path. Whoever connects is refused until it listens.
#[derive(Debug)]
pub(crate) struct Bound(OwnedFd);

impl Bound {
    /// Makes the socket `path`, where nothing may be.
    pub(crate) fn to(path: &Path) -> io::Result<Self> {
        Ok(Self(bind(path)?))
    }

    /// Takes connections from here on.
    pub(crate) fn listen(self) -> io::Result<UnixListener> {
        rustix::net::listen(&self.0, BACKLOG)?;
        Ok(self.0.into())
    }
}

fn bind(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_the_owner_can_connect_and_nobody_before_it_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let bound = Bound::to(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = UnixStream::connect(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = bound.listen().unwrap();
        UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        assert!(Bound::to(&path).is_err(), "what is there is not replaced");
    }
}
