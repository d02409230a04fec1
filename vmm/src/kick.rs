//! Getting a vCPU thread out of the guest.
//!
//! `KVM_RUN` returns when a signal is pending that is not blocked. A vCPU thread blocks all signals
//! and gives KVM a mask that lets one through while the guest runs (`KVM_SET_SIGNAL_MASK`). So the
//! signal is never delivered: it stays pending, ends this `KVM_RUN` or the next, and is taken off
//! by [`take`]. No handler is installed, which a library must not do, and no kick is ever lost
//! between a look at a flag and the entry to the guest.

use kvm_ioctls::VcpuFd;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::thread::JoinHandle;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::{ioctl_iow_nr, signal::SIGRTMIN};

/// Bytes of a signal set as the kernel sees it; the C library's is longer.
const KERNEL_SIGSET: usize = 8;

/// `struct kvm_signal_mask` with its flexible array at the only length that the kernel takes.
#[repr(C)]
struct SignalMask {
    length: u32,
    signals: [u8; KERNEL_SIGSET],
}

/// `struct kvm_signal_mask` as the request's number counts it: without the array.
type SignalMaskHeader = u32;
ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, kvm_bindings::KVMIO, 0x8b, SignalMaskHeader);

/// The signal that kicks.
fn signal() -> libc::c_int {
    SIGRTMIN()
}

/// Blocks all signals for the calling thread, and for those that it starts, until dropped.
pub(crate) struct AllBlocked {
    before: libc::sigset_t,
}

impl AllBlocked {
    pub(crate) fn new() -> Self {
        let mut all = MaybeUninit::uninit();
        // SAFETY: sigfillset initializes the set that it is given.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        let mut before = MaybeUninit::uninit();
        // SAFETY: both sets are valid for the call, and the first was initialized above. With a
        // valid `how` the call cannot fail.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: the call above wrote the former mask.
        Self { before: unsafe { before.assume_init() } }
    }
}

impl Drop for AllBlocked {
    fn drop(&mut self) {
        // SAFETY: the set is the mask that this thread had before; it cannot fail.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut())
        };
    }
}

/// Lets the kick through to `vcpu` while its guest runs, and nothing else.
pub(crate) fn admit(vcpu: &VcpuFd) -> io::Result<()> {
    let bit = signal() - 1;
    let signals = !(1_u64 << bit);
    let mask = SignalMask { length: KERNEL_SIGSET as u32, signals: signals.to_le_bytes() };
    // SAFETY: the kernel reads the header and as many bytes after it as the header says, all of
    // them within `mask`.
    match unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Kicks the vCPU that `thread` runs. The thread must have been started under [`AllBlocked`].
pub(crate) fn kick<T>(thread: &JoinHandle<T>) {
    #[allow(clippy::unnecessary_cast, reason = "a pointer with musl, a number with glibc")]
    let id = thread.as_pthread_t() as libc::pthread_t;
    // SAFETY: the handle has not been joined, so its thread id is valid. A thread that has ended
    // already needs no kick.
    unsafe { libc::pthread_kill(id, signal()) };
}

/// Takes a pending kick off the calling thread, if there is one.
pub(crate) fn take() {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialized above and the signal's number is valid.
    unsafe { libc::sigaddset(set.as_mut_ptr(), signal()) };
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: set and time-out are valid for the call, and nothing is asked back.
    unsafe { libc::sigtimedwait(set.as_ptr(), ptr::null_mut(), &raw const now) };
}
