//! The machine's sockets. Root binds them before a jail is entered; without a jail the machine does when
//! it needs them.
//!
//! Only their owner can connect to them. The vsock socket leads to every port of the guest and asks
//! nobody who he is, so not even for a moment may it have the mode that the umask would give it: a
//! socket takes its mode when it is bound, from what the descriptor's was.

use super::{JailError, step};
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Those that are bound, at their paths.
static BOUND: Mutex<Vec<(PathBuf, OwnedFd)>> = Mutex::new(Vec::new());

/// Connections that may wait for a listener.
const BACKLOG: i32 = 128;

/// A socket that listens at `path`: the one that was bound before the jail was entered, if one was.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let mut bound = BOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let at = bound.iter().position(|(of, _)| of == path);
    let before = at.map(|at| bound.swap_remove(at).1);
    drop(bound);
    let socket = before.map_or_else(|| bind_for_owner(path), Ok)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Binds a socket to `path`, for [`listen`]: until then whoever connects is refused.
pub(super) fn bind(path: &Path) -> Result<(), JailError> {
    let socket = bind_for_owner(path).map_err(step("bind the machine's sockets"))?;
    BOUND.lock().unwrap_or_else(PoisonError::into_inner).push((path.to_owned(), socket));
    Ok(())
}

/// A socket at `path` to which only its owner can connect.
fn bind_for_owner(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
