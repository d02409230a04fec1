//! What a machine's process asks of the kernel: every system call that is let through, for whom, on
//! what condition, and why. What is not here kills the process.
//!
//! A call that only one of the two C libraries makes stands beside the other one's, if that can do as
//! much; if not, it has a [row for that library alone](Library). A row that holds for nobody but
//! [`Role::Start`](super::Role) is over when the machine runs.

use super::calls::{
    BLOCK_DEVICE, MACHINE, OFFLOADS, PROCESSOR, TAP, TERMINAL, Value, WINDOW, calls, value, values,
};
use super::role::Roles;
use libc::c_long;
use vmm_sys_util::signal::SIGRTMIN;

/// A row of the table.
pub(super) struct Row {
    /// The calls: what their numbers are called, and these.
    pub(super) calls: &'static [(&'static str, c_long)],
    pub(super) when: When,
    pub(super) roles: Roles,
    pub(super) library: Library,
    /// What in this program needs it.
    pub(super) why: &'static str,
}

impl Row {
    /// Whether it is there with the C library of this program.
    pub(super) fn is_ours(&self) -> bool {
        match self.library {
            Library::Any => true,
            Library::Musl => cfg!(target_env = "musl"),
        }
    }
}

/// With which C library a row is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Library {
    Any,
    Musl,
}

/// A signal that threads of this process send each other.
#[derive(Clone, Copy)]
pub(super) enum Signal {
    /// The end of a process that cannot go on.
    Abort,
    /// Gets a processor out of the guest.
    Kick,
}

impl Signal {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Abort => "SIGABRT",
            Self::Kick => "SIGRTMIN",
        }
    }

    /// Its number, of which the C library says what the first one of its own is.
    pub(super) fn number(self) -> libc::c_int {
        match self {
            Self::Abort => libc::SIGABRT,
            Self::Kick => SIGRTMIN(),
        }
    }
}

/// What who makes a call that is [refused](When::Refused) is answered: a filter has one answer.
pub(super) const REFUSAL: Value = value!(ENOSYS);

/// When a call is let through.
#[derive(Clone, Copy)]
pub(super) enum When {
    /// Whatever its arguments.
    Always,
    /// The argument with this index, counted from 0, is one of these.
    Is(u8, &'static [Value]),
    /// The first argument is this process, and the third one of these signals.
    Signals(&'static [Signal]),
    /// The second argument is one of these signals. Whose thread it is to get is not looked at: it
    /// could be another process's.
    ThreadSignals(&'static [Signal]),
    /// The argument has none of these bits.
    Lacks(u8, Value),
    /// The argument has all of these bits.
    Has(u8, Value),
    /// Never, but it is answered with [`REFUSAL`], and who calls goes another way.
    Refused,
}

const fn row(
    calls: &'static [(&'static str, c_long)],
    when: When,
    roles: Roles,
    why: &'static str,
) -> Row {
    Row { calls, when, roles, library: Library::Any, why }
}

/// A row that only musl needs.
const fn musl(
    calls: &'static [(&'static str, c_long)],
    when: When,
    roles: Roles,
    why: &'static str,
) -> Row {
    Row { calls, when, roles, library: Library::Musl, why }
}

use When::{Always, Has, Is, Lacks, Refused, Signals, ThreadSignals};

const ALL: Roles = Roles::all();

/// The table.
pub(super) const TABLE: &[Row] = &[
    // What every program of more than one thread does.
    row(
        calls!(SYS_futex),
        Always,
        ALL,
        "locks, channels and condition variables that have to wait",
    ),
    row(calls!(SYS_sched_yield), Always, ALL, "channels, before they wait"),
    row(
        calls!(SYS_read SYS_write),
        Always,
        ALL,
        "event counters that wake another thread; sockets, pipes and files that are open; the log and \
         the words of a panic, on standard error",
    ),
    row(calls!(SYS_close), Always, ALL, "what is not used any more"),
    row(
        calls!(SYS_fcntl),
        Is(1, values!(F_GETFD F_SETFD)),
        ALL,
        "the standard library looks whether what it closes was open, in builds with assertions; musl \
         says once more that a new descriptor is to be closed by exec",
    ),
    row(
        calls!(SYS_mmap SYS_mprotect),
        Lacks(2, value!(PROT_EXEC)),
        ALL,
        "the allocator's arenas, guest RAM, stacks of threads and their guards; nothing that could be \
         executed",
    ),
    row(
        calls!(SYS_munmap SYS_mremap SYS_brk),
        Always,
        ALL,
        "the allocator; guest RAM; stacks of threads",
    ),
    row(
        calls!(SYS_madvise),
        Is(2, values!(MADV_DONTNEED MADV_FREE)),
        ALL,
        "the allocator and ending threads give memory back; so does the balloon, of guest RAM",
    ),
    row(calls!(SYS_sysinfo), Always, Roles::VM, "how much memory the host has, for the machine's"),
    row(calls!(SYS_getrandom), Always, ALL, "keys of hash tables; the guest's random numbers"),
    row(
        calls!(SYS_clock_gettime),
        Always,
        ALL,
        "processor time of a machine's threads; any clock where the kernel's page for it cannot be used",
    ),
    row(
        calls!(SYS_restart_syscall),
        Always,
        ALL,
        "the kernel goes on so with a call that a stop (SIGSTOP) interrupted",
    ),
    row(
        calls!(SYS_gettid SYS_getpid),
        Always,
        ALL,
        "a thread's or the process's number, in its words or time",
    ),
    row(
        calls!(SYS_rt_sigprocmask),
        Always,
        ALL,
        "the C library around the start and end of threads; processors block all signals",
    ),
    row(
        calls!(SYS_rt_sigaction),
        Is(0, values!(SIGSEGV SIGBUS SIGABRT)),
        ALL,
        "a fault of the monitor or an abort ends it as it does without a filter",
    ),
    row(
        calls!(SYS_rt_sigaction),
        Is(0, &[("SIGSETXID", 33)]),
        Roles::START,
        "the C library, with the first thread, for a signal of its own",
    ),
    row(
        calls!(SYS_rt_sigreturn),
        Always,
        ALL,
        "the end of the standard library's handler of faults",
    ),
    row(calls!(SYS_sigaltstack), Always, ALL, "that handler's stack, put away when a thread ends"),
    row(calls!(SYS_exit), Always, ALL, "a thread ends"),
    row(
        calls!(SYS_tgkill),
        Signals(&[Signal::Abort, Signal::Kick]),
        ALL,
        "an abort; getting processors out of the guest",
    ),
    musl(
        calls!(SYS_tkill),
        ThreadSignals(&[Signal::Abort, Signal::Kick]),
        ALL,
        "the same; it names no process, so that where Landlock has no bound for signals (Linux before \
         6.12) any process of this user can be sent these two",
    ),
    // Threads and their filters.
    row(
        calls!(SYS_clone),
        Has(0, value!(CLONE_THREAD)),
        Roles::STARTERS,
        "starts threads: no processes, and no name spaces",
    ),
    row(
        calls!(SYS_clone3),
        Refused,
        Roles::STARTERS,
        "its flags lie in memory, where no filter can look; the C library then uses clone",
    ),
    row(
        calls!(SYS_prctl),
        Is(0, values!(PR_SET_NAME PR_SET_NO_NEW_PRIVS)),
        Roles::STARTERS,
        "a new thread takes its name, and narrows its filter",
    ),
    row(
        calls!(SYS_seccomp),
        Is(0, values!(SECCOMP_SET_MODE_FILTER)),
        Roles::STARTERS,
        "a new thread narrows its filter",
    ),
    row(
        calls!(SYS_madvise),
        Is(2, &[("MADV_GUARD_INSTALL", 102), ("MADV_GUARD_REMOVE", 103)]),
        Roles::STARTERS,
        "newer C libraries guard the stack of a new thread so",
    ),
    row(
        calls!(SYS_sched_getaffinity SYS_set_robust_list SYS_rseq),
        Always,
        Roles::STARTERS,
        "the C library in a new thread",
    ),
    // Serving descriptors.
    row(
        calls!(SYS_epoll_wait SYS_epoll_pwait SYS_epoll_ctl),
        Always,
        Roles::SERVERS,
        "the loop of a thread that serves descriptors",
    ),
    row(
        calls!(SYS_accept4 SYS_accept),
        Always,
        Roles::IO.union(Roles::CONTROL),
        "host programs at the vsock socket; clients at the control socket",
    ),
    row(
        calls!(SYS_sendto SYS_recvfrom),
        Always,
        Roles::IO.union(Roles::CONTROL).union(Roles::INTEGRATION).union(Roles::AGENT),
        "connections of the guest, of clients and of who attaches to the console, none of which is \
         waited for; messages of the agent",
    ),
    row(
        calls!(SYS_ioctl),
        Is(1, values!(FIONBIO)),
        Roles::IO
            .union(Roles::CONTROL)
            .union(Roles::INTEGRATION)
            .union(Roles::VM)
            .union(Roles::VCPU),
        "sockets that do not block, or, for the agent's messages, do",
    ),
    row(
        calls!(SYS_shutdown),
        Always,
        Roles::IO.union(Roles::CONTROL).union(Roles::INTEGRATION),
        "the end of one direction of a connection, or of both",
    ),
    row(
        calls!(SYS_fcntl),
        Is(1, values!(F_DUPFD_CLOEXEC)),
        Roles::IO
            .union(Roles::CONTROL)
            .union(Roles::INTEGRATION)
            .union(Roles::VM)
            .union(Roles::VCPU)
            .union(Roles::DISK),
        "a second descriptor of a socket or a bell, for another owner; devices when their driver begins",
    ),
    row(
        calls!(SYS_poll SYS_ppoll),
        Always,
        Roles::IO,
        "whether a terminal takes output; the console's last words",
    ),
    row(
        calls!(SYS_socket SYS_socketpair),
        Is(0, values!(AF_UNIX)),
        Roles::IO.union(Roles::VM),
        "connections of the guest to host programs and to services; the vsock socket",
    ),
    row(
        calls!(SYS_connect),
        Always,
        Roles::IO,
        "what the guest dials on the host: sockets beside the vsock socket",
    ),
    row(
        calls!(SYS_getsockopt),
        Is(2, values!(SO_PEERCRED SO_PEERGROUPS)),
        Roles::CONTROL,
        "who a client is",
    ),
    row(
        calls!(SYS_setsockopt),
        Is(2, values!(SO_SNDTIMEO)),
        Roles::INTEGRATION,
        "how long a message may wait for a guest that does not read",
    ),
    row(calls!(SYS_uname), Always, Roles::INTEGRATION, "the host's name, which guests may ask for"),
    // The processors.
    row(
        calls!(SYS_ioctl),
        Is(1, PROCESSOR),
        Roles::VCPU,
        "runs the guest; interrupts of devices as the guest routes them; its clock after a pause; \
         where it was when KVM failed",
    ),
    row(
        calls!(SYS_rt_sigtimedwait),
        Always,
        Roles::VCPU.union(Roles::SIGNALS),
        "takes a kick off a processor; waits for signals",
    ),
    // Disks and networks.
    row(
        calls!(SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_lseek SYS_ftruncate SYS_fallocate),
        Always,
        Roles::DISK.union(Roles::VM),
        "reads and writes images; files to boot from; the integration disk in memory",
    ),
    row(
        calls!(SYS_fdatasync SYS_fsync),
        Always,
        Roles::DISK.union(Roles::VM),
        "flushes images; keeps unpacked kernels",
    ),
    row(
        calls!(SYS_readv),
        Always,
        Roles::IO.union(Roles::NET),
        "what host programs say, straight into the guest's buffers; packets of a tap",
    ),
    row(calls!(SYS_writev), Always, Roles::NET, "packets of a tap"),
    row(
        calls!(SYS_ioctl),
        Is(1, &[OFFLOADS]),
        Roles::NET,
        "what the guest's driver does itself with packets",
    ),
    row(
        calls!(SYS_fcntl),
        Is(1, values!(F_OFD_SETLK)),
        Roles::DISK.union(Roles::VM),
        "locks and frees images",
    ),
    // A machine is put together, also for a reboot.
    row(calls!(SYS_ioctl), Is(1, MACHINE), Roles::VM, "makes a machine and its processors"),
    row(calls!(SYS_ioctl), Is(1, TAP), Roles::VM, "takes taps"),
    row(calls!(SYS_ioctl), Is(1, BLOCK_DEVICE), Roles::VM, "how large a disk is that is a device"),
    row(calls!(SYS_ioctl), Is(1, WINDOW), Roles::VM, "how large the terminal is, for the guest"),
    row(
        calls!(SYS_openat SYS_open),
        Always,
        Roles::VM,
        "kernel, initrd, images, agent, KVM, taps: what Landlock leaves; no other thread opens \
         anything",
    ),
    row(
        calls!(SYS_fstat SYS_stat SYS_lstat SYS_newfstatat SYS_statx),
        Always,
        Roles::VM.union(Roles::DISK),
        "whether these are files, whose, and how long",
    ),
    row(
        calls!(SYS_fstatfs),
        Always,
        Roles::VM,
        "in what pieces an image's file system gives space back; whether a kernel's is one of this host",
    ),
    row(
        calls!(SYS_readlink SYS_getcwd),
        Always,
        Roles::VM,
        "where this program is: the agent may be beside it",
    ),
    row(
        calls!(SYS_madvise),
        Is(2, values!(MADV_DONTDUMP)),
        Roles::VM,
        "guest RAM is not to be in a core file",
    ),
    row(calls!(SYS_memfd_create), Always, Roles::VM, "the integration disk"),
    row(
        calls!(SYS_fcntl),
        Is(1, values!(F_ADD_SEALS F_GETFL)),
        Roles::VM,
        "nobody can change the integration disk; how an image was opened",
    ),
    row(
        calls!(SYS_mkdir SYS_rename),
        Always,
        Roles::VM,
        "keeps unpacked kernels; Landlock refuses it once the machine runs",
    ),
    row(calls!(SYS_geteuid), Always, Roles::VM, "whose the cache of unpacked kernels is"),
    row(
        calls!(SYS_eventfd2 SYS_epoll_create1),
        Always,
        Roles::VM,
        "doorbells and interrupts; the threads of devices",
    ),
    row(
        calls!(SYS_unlink SYS_unlinkat SYS_rmdir),
        Always,
        Roles::VM.union(Roles::MAIN),
        "sockets of a machine that has ended, and its directory",
    ),
    // The end.
    row(
        calls!(SYS_ioctl),
        Is(1, TERMINAL),
        Roles::MAIN.union(Roles::SIGNALS),
        "the terminal becomes what it was",
    ),
    row(
        calls!(SYS_exit_group),
        Always,
        Roles::MAIN.union(Roles::SIGNALS),
        "the process ends, with the machine or at a second signal",
    ),
    // Before the machine runs.
    row(
        calls!(SYS_listen),
        Always,
        Roles::START,
        "the machine's sockets begin to take connections",
    ),
    row(
        calls!(SYS_fchmod SYS_bind),
        Always,
        Roles::START,
        "a host tool that was confined before makes a machine's sockets, their owner's alone, which \
         Landlock keeps in the machine's directory",
    ),
    row(calls!(SYS_prlimit64), Always, Roles::START, "how many clients there can be"),
    row(
        calls!(SYS_dup2 SYS_dup3),
        Always,
        Roles::START,
        "lets go of the pipe by which `vmm start` has heard that the machine runs",
    ),
];
