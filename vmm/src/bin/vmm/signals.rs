//! Signals that end a program, turned into calls on a thread of their own.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread;
use vmm::confine::{Role, narrow};

/// A signal that this process got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// Its number.
    pub(crate) number: libc::c_int,
    /// It comes from a key of the terminal, or from its end, rather than from a program.
    pub(crate) is_typed: bool,
}

/// Calls `on_signal` with each of `signals` that this process gets: see [`block`].
pub(crate) fn watch(
    signals: &[libc::c_int],
    on_signal: impl FnMut(Told) + Send + 'static,
) -> io::Result<()> {
    block(signals).watch(on_signal)
}

/// Signals that wait until somebody hears them.
pub(crate) struct Blocked {
    signals: Vec<libc::c_int>,
    set: libc::sigset_t,
}

/// Has `signals` wait.
///
/// They are blocked for the calling thread and those that it starts afterwards, so this must come
/// before any other thread. Signals that whoever started this process had it ignore, as nohup(1)
/// does, stay ignored.
pub(crate) fn block(signals: &[libc::c_int]) -> Blocked {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialized just before.
    let mut set = unsafe { set.assume_init() };
    let signals: Vec<_> = signals.iter().copied().filter(|signal| !is_ignored(*signal)).collect();
    for signal in &signals {
        // SAFETY: the set is initialized, and the callers' signals are all valid.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    // SAFETY: the set is initialized, and the former mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    Blocked { signals, set }
}

impl Blocked {
    /// Which they are.
    pub(crate) fn signals(&self) -> &[libc::c_int] {
        &self.signals
    }

    /// Calls `on_signal` with each of them, also those that came meanwhile.
    pub(crate) fn watch(self, mut on_signal: impl FnMut(Told) + Send + 'static) -> io::Result<()> {
        let set = self.set;
        thread::Builder::new().name("signals".into()).spawn(move || {
            narrow(Role::Signals);
            loop {
                let mut told = MaybeUninit::<libc::siginfo_t>::uninit();
                // SAFETY: the set is initialized, and what is told is written to `told`.
                if unsafe { libc::sigwaitinfo(&raw const set, told.as_mut_ptr()) } < 0 {
                    match io::Error::last_os_error().kind() {
                        io::ErrorKind::Interrupted => continue,
                        _ => return,
                    }
                }
                // SAFETY: the call succeeded, so it has written `told`.
                let told = unsafe { told.assume_init() };
                on_signal(Told { number: told.si_signo, is_typed: told.si_code > 0 });
            }
        })?;
        Ok(())
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is changed, and what holds now is written to `action`.
    if unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call succeeded, so it has written `action`.
    let action = unsafe { action.assume_init() };
    action.sa_sigaction == libc::SIG_IGN
}
