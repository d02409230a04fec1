//! Locks on files, by which processes keep out of each other's way.
//!
//! A lock belongs to the open file, not to the process (`F_OFD_SETLK` in fcntl(2)): two threads that
//! open the same file exclude each other, and the kernel frees the lock when its holder dies,
//! however that happens.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long a lock that is waited for is left alone: the kernel knows no wait for one that ends.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Opens the file that is to be locked, for this user only, and makes it if it is not there.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Takes the lock on `file` until that is closed; false if another process has it.
pub(crate) fn take_lock(file: &File) -> io::Result<bool> {
    try_lock(file, libc::F_WRLCK)
}

/// Takes a lock on `file` that others can have at the same time, but none that excludes others,
/// until that is closed; false if somebody has one that does.
pub(crate) fn share_lock(file: &File) -> io::Result<bool> {
    try_lock(file, libc::F_RDLCK)
}

/// Frees the lock on `file` now. Closing it may do that later: a process that is just being started
/// has all files open for a moment.
pub(crate) fn free_lock(file: &File) {
    // Closing the file frees it at last.
    let _ = lock_call(file, libc::F_OFD_SETLK, libc::F_UNLCK);
}

fn try_lock(file: &File, kind: libc::c_int) -> io::Result<bool> {
    match lock_call(file, libc::F_OFD_SETLK, kind) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes the lock on `file` until that is closed, and waits for it, but no longer than `patience`: who
/// has it may be stopped, or mean no good. False if it was not to be had.
pub(crate) fn await_lock(file: &File, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    while !take_lock(file)? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(true)
}

/// Whether somebody has the lock on `file`. Only looks: taking it for a moment, to see whether that
/// is possible, could keep a machine from starting.
pub(crate) fn is_locked(file: &File) -> io::Result<bool> {
    Ok(lock_call(file, libc::F_OFD_GETLK, libc::F_WRLCK)?.l_type != libc::F_UNLCK as libc::c_short)
}

/// An operation on the lock of the whole file for writing or reading.
fn lock_call(file: &File, operation: libc::c_int, kind: libc::c_int) -> io::Result<libc::flock> {
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open, and these operations read and write one `flock`.
    match unsafe { libc::fcntl(file.as_raw_fd(), operation, &raw mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(lock),
    }
}

/// Whether `file` is what `path` names.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: fs::Metadata, b: fs::Metadata| a.dev() == b.dev() && a.ino() == b.ino();
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(theirs)) => same(ours, theirs),
        _ => false,
    }
}
