//! The processes that stay outside: one that made the jail and waits for the end of who is in it, and
//! number 1 of the machine's pid name space.
//!
//! That one does nothing. It is there because the kernel drops signals that number 1 has not asked for,
//! its own as well: a machine in its place could neither be stopped by its terminal nor abort.

use super::{JailError, step};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, kill_process, pidfd_open,
    set_parent_process_death_signal, waitpid,
};
use rustix::thread::UnshareFlags;
use rustix::time::Timespec;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The exit code if the machine's process cannot be waited for.
const EXIT_LOST: i32 = 1;

/// The process outside, as the one inside knows it.
pub(super) struct Parent(OwnedFd);

impl Parent {
    /// Has this process killed when that one ends. Becoming another user undoes it.
    pub(super) fn end_with(&self) -> Result<(), JailError> {
        let failed = "end with its parent";
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(step(failed))?;
        // It may have ended before.
        let mut ended = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_err(step(failed))? {
            0 => Ok(()),
            _ => Err(step(failed)(rustix::io::Errno::SRCH)),
        }
    }
}

/// Forks: the child returns, in a pid name space of its own; the parent never does. It passes on
/// `signals`, which must be blocked, that somebody sends it, waits for the child's end, does `clean_up`,
/// and ends as the child did. The process must have one thread.
pub(super) fn fork(signals: &[libc::c_int], clean_up: impl FnOnce()) -> Result<Parent, JailError> {
    let parent = pidfd_open(getpid(), PidfdFlags::empty()).map_err(step("know its own process"))?;
    let parent = Parent(parent);
    // SAFETY: only processes that are forked from now on are elsewhere.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }
        .map_err(step("have a pid name space of its own"))?;
    // Whoever started this process may have had it ignore the end of children: then they would be
    // gone, and their numbers somebody else's, before they are waited for.
    // SAFETY: no handler is set.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let waited = block(signals);
    let Some(first) = fork_one()? else { hold(&parent) };
    match fork_one() {
        Err(error) => {
            end(first);
            Err(error)
        }
        Ok(None) => {
            unblock_children();
            Ok(parent)
        }
        Ok(Some(child)) => {
            let status = stand_by(child, &waited);
            end(first);
            clean_up();
            std::process::exit(status)
        }
    }
}

/// Forks; none is the child.
fn fork_one() -> Result<Option<Pid>, JailError> {
    // SAFETY: there is no other thread, so the child finds no lock held by one that it has not.
    match unsafe { libc::fork() } {
        -1 => Err(JailError::Step { what: "fork", source: io::Error::last_os_error() }),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Is number 1 of the name space until the parent ends it, or ends.
fn hold(parent: &Parent) -> ! {
    let tied = parent.end_with();
    // SAFETY: nothing in this process uses a descriptor any more.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
    while tied.is_ok() {
        // SAFETY: it waits, and touches nothing.
        unsafe { libc::pause() };
    }
    // SAFETY: the process ends, without what belongs to the parent.
    unsafe { libc::_exit(EXIT_LOST) }
}

/// Ends a child, and waits for that.
fn end(child: Pid) {
    // Ended already is as good.
    let _ = kill_process(child, Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()));
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
fn stand_by(child: Pid, waited: &libc::sigset_t) -> i32 {
    // Whoever reads what the child writes is to see the end of it when the child lets go.
    if let Ok(nowhere) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(nowhere.as_fd());
        let _ = rustix::stdio::dup2_stdout(nowhere.as_fd());
    }
    loop {
        match rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::NOHANG)) {
            Ok(None) => {}
            Ok(Some((_, status))) => return exit_code(status),
            Err(error) => {
                tracing::error!(%error, "the machine's process cannot be waited for");
                return EXIT_LOST;
            }
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
            // SAFETY: it takes numbers; the number is the child's until it has been waited for.
            unsafe { libc::kill(child.as_raw_nonzero().get(), signal) };
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => {
            tracing::error!(signal, "the machine's process was killed");
            128 + signal
        }
        (None, None) => EXIT_LOST,
    }
}
