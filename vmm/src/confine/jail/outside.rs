//! The process that stays outside: it made the jail, and waits for the end of who is in it.

use super::{JailError, step};
use rustix::thread::UnshareFlags;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;

/// Forks: the child returns and is the first process of a pid name space; the parent never does. It
/// passes on `signals`, which must be blocked, that somebody sends it, waits for the child's end, does
/// `clean_up`, and ends as the child did.
///
/// # Errors
/// The system refuses.
pub fn fork(signals: &[libc::c_int], clean_up: impl FnOnce()) -> Result<(), JailError> {
    // SAFETY: only processes that are forked from now on are elsewhere.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }
        .map_err(step("have a pid name space of its own"))?;
    let waited = block(signals);
    // SAFETY: there is no other thread, so the child finds no lock held by one that it has not.
    match unsafe { libc::fork() } {
        -1 => Err(JailError::Step { what: "fork", source: io::Error::last_os_error() }),
        0 => {
            unblock_children();
            Ok(())
        }
        child => {
            let status = stand_by(child, &waited);
            clean_up();
            std::process::exit(status)
        }
    }
}

/// `signals` and that of a child's end, blocked.
fn block(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialized just before.
    let mut set = unsafe { set.assume_init() };
    for signal in signals.iter().chain([&libc::SIGCHLD]) {
        // SAFETY: the set is initialized, and the signals are valid.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    // SAFETY: the set is initialized, and the former mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    set
}

/// The child has none, and is to hear of none.
fn unblock_children() {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialized just before, and the signal is valid.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD) };
    // SAFETY: the set is initialized, and the former mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut()) };
}

/// Waits for the end of `child`, and gives the exit code that says the same.
fn stand_by(child: libc::pid_t, waited: &libc::sigset_t) -> i32 {
    // Whoever reads what the child writes is to see the end of it when the child lets go.
    if let Ok(nowhere) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(nowhere.as_fd());
        let _ = rustix::stdio::dup2_stdout(nowhere.as_fd());
    }
    loop {
        let mut status = 0;
        // SAFETY: the status is written to `status`.
        let ended = unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) };
        if ended == child {
            return match libc::WIFEXITED(status) {
                true => libc::WEXITSTATUS(status),
                false => {
                    let signal = libc::WTERMSIG(status);
                    tracing::error!(signal, "the machine's process was killed");
                    128 + signal
                }
            };
        }
        let mut told = std::mem::MaybeUninit::<libc::siginfo_t>::uninit();
        // SAFETY: the set is initialized, and what is told is written to `told`.
        let signal = unsafe { libc::sigwaitinfo(waited, told.as_mut_ptr()) };
        if signal < 0 || signal == libc::SIGCHLD {
            continue;
        }
        // SAFETY: the call succeeded, so it has written `told`.
        let told = unsafe { told.assume_init() };
        // What comes from a terminal, the child gets as well.
        if told.si_code <= 0 {
            // SAFETY: it takes numbers, and the child has not been waited for.
            unsafe { libc::kill(child, signal) };
        }
    }
}
