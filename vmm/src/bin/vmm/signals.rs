//! Signals that end a program, turned into calls on a thread of their own.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread;

/// Calls `on_signal` with each of `signals` that this process gets, and how many came before it.
///
/// They are blocked for the calling thread and those that it starts afterwards, so this must come
/// before any other thread.
pub(crate) fn watch(
    signals: &[libc::c_int],
    mut on_signal: impl FnMut(libc::c_int, u32) + Send + 'static,
) -> io::Result<()> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialized just before.
    let mut set = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: the set is initialized, and the callers' signals are all valid.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    // SAFETY: the set is initialized, and the former mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    thread::Builder::new().name("signals".into()).spawn(move || {
        for count in 0.. {
            let mut signal = 0;
            // SAFETY: the set is initialized and the number is written to `signal`.
            if unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {
                return;
            }
            on_signal(signal, count);
        }
    })?;
    Ok(())
}
