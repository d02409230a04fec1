//! The machine's sockets, which root binds before the jail is entered.

use super::{JailError, step};
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
    let Some(at) = bound.iter().position(|(of, _)| of == path) else {
        drop(bound);
        return UnixListener::bind(path);
    };
    let (_, socket) = bound.swap_remove(at);
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Binds a socket to `path`, for [`listen`]: until then whoever connects is refused.
pub(super) fn bind(path: &Path) -> Result<(), JailError> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
    let failed = step("bind the machine's sockets");
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(&failed)?;
    let address = SocketAddrUnix::new(path).map_err(&failed)?;
    bind(&socket, &address).map_err(&failed)?;
    BOUND.lock().unwrap_or_else(PoisonError::into_inner).push((path.to_owned(), socket));
    Ok(())
}
