//! What a machine's process asks of the kernel: every system call that is let through, for whom, on
//! what condition, and why. What is not here kills the process.
//!
//! A call that only one of the two C libraries makes stands beside the other one's. A row that holds
//! for nobody but [`Role::Start`](super::Role) is over when the machine runs.
#![allow(
    clippy::unnecessary_cast,
    clippy::cast_lossless,
    reason = "constants of the C library have different types in each, and in a const there is no from"
)]

use super::role::Roles;
use libc::c_long;

/// A row of the table.
pub(super) struct Row {
    /// The calls, by name and number.
    pub(super) calls: &'static [(&'static str, c_long)],
    pub(super) when: When,
    pub(super) roles: Roles,
    /// What in this program needs it.
    pub(super) why: &'static str,
}

/// When a call is let through.
#[derive(Clone, Copy)]
pub(super) enum When {
    /// Whatever its arguments.
    Always,
    /// The argument with this index, counted from 0, is one of these.
    Is(u8, &'static [Value]),
    /// The first argument is this process, and the third one of these signals.
    Signals(&'static [&'static str]),
    /// The argument has none of these bits.
    Lacks(u8, Value),
    /// The argument has all of these bits.
    Has(u8, Value),
    /// Never, but it is answered with this error, and who calls goes another way.
    Refused(&'static str, u16),
}

/// A number and what it is called.
pub(super) type Value = (&'static str, u64);

/// Calls, by their names.
macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), number::$name)),*] };
}

/// The numbers of the calls, under the names that the kernel has for them.
#[allow(non_upper_case_globals, reason = "the kernel's names")]
mod number {
    macro_rules! numbers {
        ($($name:ident = $number:ident,)*) => {
            $(pub(super) const $name: libc::c_long = libc::$number;)*
        };
    }
    numbers! {
        accept = SYS_accept, accept4 = SYS_accept4, bind = SYS_bind, brk = SYS_brk,
        chmod = SYS_chmod, clock_gettime = SYS_clock_gettime, clone = SYS_clone,
        clone3 = SYS_clone3, close = SYS_close, connect = SYS_connect, dup2 = SYS_dup2,
        dup3 = SYS_dup3, epoll_create1 = SYS_epoll_create1, epoll_ctl = SYS_epoll_ctl,
        epoll_pwait = SYS_epoll_pwait, epoll_wait = SYS_epoll_wait, eventfd2 = SYS_eventfd2,
        exit = SYS_exit, exit_group = SYS_exit_group, fallocate = SYS_fallocate,
        fchmodat = SYS_fchmodat, fcntl = SYS_fcntl, fdatasync = SYS_fdatasync, fstat = SYS_fstat,
        fstatfs = SYS_fstatfs, fsync = SYS_fsync, ftruncate = SYS_ftruncate, futex = SYS_futex,
        getcwd = SYS_getcwd, geteuid = SYS_geteuid, getpid = SYS_getpid,
        getrandom = SYS_getrandom, getsockopt = SYS_getsockopt, gettid = SYS_gettid,
        ioctl = SYS_ioctl, listen = SYS_listen, lseek = SYS_lseek, lstat = SYS_lstat,
        madvise = SYS_madvise, memfd_create = SYS_memfd_create, mkdir = SYS_mkdir,
        mmap = SYS_mmap, mprotect = SYS_mprotect, mremap = SYS_mremap, munmap = SYS_munmap,
        newfstatat = SYS_newfstatat, open = SYS_open, openat = SYS_openat, poll = SYS_poll,
        ppoll = SYS_ppoll, prctl = SYS_prctl, pread64 = SYS_pread64, preadv = SYS_preadv,
        prlimit64 = SYS_prlimit64, pwrite64 = SYS_pwrite64, pwritev = SYS_pwritev,
        read = SYS_read, readlink = SYS_readlink, readv = SYS_readv, recvfrom = SYS_recvfrom,
        rename = SYS_rename, restart_syscall = SYS_restart_syscall, rmdir = SYS_rmdir,
        rseq = SYS_rseq, rt_sigaction = SYS_rt_sigaction, rt_sigprocmask = SYS_rt_sigprocmask,
        rt_sigreturn = SYS_rt_sigreturn, rt_sigtimedwait = SYS_rt_sigtimedwait,
        sched_getaffinity = SYS_sched_getaffinity, sched_yield = SYS_sched_yield,
        seccomp = SYS_seccomp, sendto = SYS_sendto, set_robust_list = SYS_set_robust_list,
        setsockopt = SYS_setsockopt, shutdown = SYS_shutdown, sigaltstack = SYS_sigaltstack,
        socket = SYS_socket, socketpair = SYS_socketpair, stat = SYS_stat, statx = SYS_statx,
        tgkill = SYS_tgkill, tkill = SYS_tkill, uname = SYS_uname, unlink = SYS_unlink,
        unlinkat = SYS_unlinkat, write = SYS_write, writev = SYS_writev,
    }
}

/// Constants of the C library, by their names.
macro_rules! values {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name as u64)),*] };
}

/// A constant by its name.
macro_rules! value {
    ($name:ident) => {
        (stringify!($name), libc::$name as u64)
    };
}

/// A request of an ioctl: direction, type, number and size, as `_IOC` of the kernel puts them
/// together.
const fn request(direction: u64, kind: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | kind << 8 | number
}

const NONE: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;

const fn kvm(direction: u64, number: u64, size: usize) -> u64 {
    request(direction, kvm_bindings::KVMIO as u64, number, size)
}

const fn tun(number: u64) -> u64 {
    request(WRITE, b'T' as u64, number, size_of::<libc::c_int>())
}

/// What a processor asks for, the one that it asks for all the time first: a filter is read from its
/// beginning.
const PROCESSOR: &[Value] = &[
    ("KVM_RUN", kvm(NONE, 0x80, 0)),
    ("KVM_SET_SIGNAL_MASK", kvm(WRITE, 0x8b, size_of::<u32>())),
    ("KVM_SET_GSI_ROUTING", kvm(WRITE, 0x6a, size_of::<kvm_bindings::kvm_irq_routing>())),
    ("KVM_KVMCLOCK_CTRL", kvm(NONE, 0xad, 0)),
    ("KVM_GET_REGS", kvm(READ, 0x81, size_of::<kvm_bindings::kvm_regs>())),
];

/// What makes a machine.
const MACHINE: &[Value] = &[
    ("KVM_GET_API_VERSION", kvm(NONE, 0x00, 0)),
    ("KVM_CREATE_VM", kvm(NONE, 0x01, 0)),
    ("KVM_CHECK_EXTENSION", kvm(NONE, 0x03, 0)),
    ("KVM_GET_VCPU_MMAP_SIZE", kvm(NONE, 0x04, 0)),
    ("KVM_GET_SUPPORTED_CPUID", kvm(READ | WRITE, 0x05, size_of::<kvm_bindings::kvm_cpuid2>())),
    (
        "KVM_SET_USER_MEMORY_REGION",
        kvm(WRITE, 0x46, size_of::<kvm_bindings::kvm_userspace_memory_region>()),
    ),
    ("KVM_SET_TSS_ADDR", kvm(NONE, 0x47, 0)),
    ("KVM_ENABLE_CAP", kvm(WRITE, 0xa3, size_of::<kvm_bindings::kvm_enable_cap>())),
    ("KVM_CREATE_VCPU", kvm(NONE, 0x41, 0)),
    ("KVM_SET_CPUID2", kvm(WRITE, 0x90, size_of::<kvm_bindings::kvm_cpuid2>())),
    ("KVM_SET_XCRS", kvm(WRITE, 0xa7, size_of::<kvm_bindings::kvm_xcrs>())),
    ("KVM_SET_MSRS", kvm(WRITE, 0x89, size_of::<kvm_bindings::kvm_msrs>())),
    ("KVM_GET_SREGS", kvm(READ, 0x83, size_of::<kvm_bindings::kvm_sregs>())),
    ("KVM_SET_SREGS", kvm(WRITE, 0x84, size_of::<kvm_bindings::kvm_sregs>())),
    ("KVM_SET_REGS", kvm(WRITE, 0x82, size_of::<kvm_bindings::kvm_regs>())),
    ("KVM_IRQFD", kvm(WRITE, 0x76, size_of::<kvm_bindings::kvm_irqfd>())),
    ("KVM_IOEVENTFD", kvm(WRITE, 0x79, size_of::<kvm_bindings::kvm_ioeventfd>())),
];

const OFFLOADS: Value = ("TUNSETOFFLOAD", tun(208));
const TAP: &[Value] = &[("TUNSETIFF", tun(202)), ("TUNSETVNETHDRSZ", tun(216)), OFFLOADS];
const BLOCK_DEVICE: &[Value] =
    &[("BLKGETSIZE64", request(READ, 0x12, 114, 8)), ("BLKSSZGET", request(NONE, 0x12, 104, 0))];
/// What a terminal is asked; both forms, since newer libraries use the second.
const TERMINAL: &[Value] = &[
    ("TCGETS", libc::TCGETS as u64),
    ("TCSETS", libc::TCSETS as u64),
    ("TCGETS2", request(READ, b'T' as u64, 0x2a, size_of::<libc::termios2>())),
    ("TCSETS2", request(WRITE, b'T' as u64, 0x2b, size_of::<libc::termios2>())),
];
const WINDOW: &[Value] =
    &[("TCGETS", libc::TCGETS as u64), TERMINAL[2], ("TIOCGWINSZ", libc::TIOCGWINSZ as u64)];

const fn row(
    calls: &'static [(&'static str, c_long)],
    when: When,
    roles: Roles,
    why: &'static str,
) -> Row {
    Row { calls, when, roles, why }
}

use When::{Always, Has, Is, Lacks, Refused, Signals};

const ALL: Roles = Roles::all();

/// The table.
pub(super) const TABLE: &[Row] = &[
    // What every program of more than one thread does.
    row(calls!(futex), Always, ALL, "locks, channels and condition variables that have to wait"),
    row(calls!(sched_yield), Always, ALL, "channels, before they wait"),
    row(
        calls!(read write),
        Always,
        ALL,
        "event counters that wake another thread; sockets, pipes and files that are open; the log and \
         the words of a panic, on standard error",
    ),
    row(calls!(close), Always, ALL, "what is not used any more"),
    row(
        calls!(fcntl),
        Is(1, values!(F_GETFD)),
        ALL,
        "the standard library looks whether what it closes was open, in builds with assertions",
    ),
    row(
        calls!(mmap mprotect),
        Lacks(2, value!(PROT_EXEC)),
        ALL,
        "the allocator's arenas, guest RAM, stacks of threads and their guards; nothing that could be \
         executed",
    ),
    row(calls!(munmap mremap brk), Always, ALL, "the allocator; guest RAM; stacks of threads"),
    row(
        calls!(madvise),
        Is(2, values!(MADV_DONTNEED MADV_FREE)),
        ALL,
        "the allocator and ending threads give memory back; so does the balloon, of guest RAM",
    ),
    row(calls!(getrandom), Always, ALL, "keys of hash tables; the guest's random numbers"),
    row(
        calls!(clock_gettime),
        Always,
        ALL,
        "processor time of a machine's threads; any clock where the kernel's page for it cannot be used",
    ),
    row(
        calls!(restart_syscall),
        Always,
        ALL,
        "the kernel goes on so with a call that a stop (SIGSTOP) interrupted",
    ),
    row(
        calls!(gettid getpid),
        Always,
        ALL,
        "a thread's or the process's number, in its words or time",
    ),
    row(
        calls!(rt_sigprocmask),
        Always,
        ALL,
        "the C library around the start and end of threads; processors block all signals",
    ),
    row(
        calls!(rt_sigaction),
        Is(0, values!(SIGSEGV SIGBUS SIGABRT)),
        ALL,
        "a fault of the monitor or an abort ends it as it does without a filter",
    ),
    row(
        calls!(rt_sigaction),
        Is(0, &[("SIGSETXID", 33)]),
        Roles::START,
        "the C library, with the first thread, for a signal of its own",
    ),
    row(calls!(rt_sigreturn), Always, ALL, "the end of the standard library's handler of faults"),
    row(calls!(sigaltstack), Always, ALL, "that handler's stack, put away when a thread ends"),
    row(calls!(exit), Always, ALL, "a thread ends"),
    row(
        calls!(tgkill tkill),
        Signals(&["SIGABRT", "SIGRTMIN"]),
        ALL,
        "an abort; getting processors out of the guest (musl names the thread only)",
    ),
    // Threads and their filters.
    row(
        calls!(clone),
        Has(0, value!(CLONE_THREAD)),
        Roles::STARTERS,
        "starts threads: no processes, and no name spaces",
    ),
    row(
        calls!(clone3),
        Refused("ENOSYS", libc::ENOSYS as u16),
        Roles::STARTERS,
        "its flags lie in memory, where no filter can look; the C library then uses clone",
    ),
    row(
        calls!(prctl),
        Is(0, values!(PR_SET_NAME PR_SET_NO_NEW_PRIVS)),
        Roles::STARTERS,
        "a new thread takes its name, and narrows its filter",
    ),
    row(
        calls!(seccomp),
        Is(0, values!(SECCOMP_SET_MODE_FILTER)),
        Roles::STARTERS,
        "a new thread narrows its filter",
    ),
    row(
        calls!(sched_getaffinity set_robust_list rseq),
        Always,
        Roles::STARTERS,
        "the C library in a new thread",
    ),
    // Serving descriptors.
    row(
        calls!(epoll_wait epoll_pwait epoll_ctl),
        Always,
        Roles::SERVERS,
        "the loop of a thread that serves descriptors",
    ),
    row(
        calls!(accept4 accept),
        Always,
        Roles::IO.union(Roles::CONTROL),
        "host programs at the vsock socket; clients at the control socket",
    ),
    row(
        calls!(sendto recvfrom),
        Always,
        Roles::IO.union(Roles::CONTROL).union(Roles::INTEGRATION).union(Roles::AGENT),
        "connections of the guest, of clients and of who attaches to the console, none of which is \
         waited for; messages of the agent",
    ),
    row(
        calls!(ioctl),
        Is(1, values!(FIONBIO)),
        Roles::IO
            .union(Roles::CONTROL)
            .union(Roles::INTEGRATION)
            .union(Roles::VM)
            .union(Roles::VCPU),
        "sockets that do not block, or, for the agent's messages, do",
    ),
    row(
        calls!(shutdown),
        Always,
        Roles::IO.union(Roles::CONTROL).union(Roles::INTEGRATION),
        "the end of one direction of a connection, or of both",
    ),
    row(
        calls!(fcntl),
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
        calls!(poll ppoll),
        Always,
        Roles::IO,
        "whether a terminal takes output; the console's last words",
    ),
    row(
        calls!(socket socketpair),
        Is(0, values!(AF_UNIX)),
        Roles::IO.union(Roles::VM),
        "connections of the guest to host programs and to services; the vsock socket",
    ),
    row(
        calls!(connect),
        Always,
        Roles::IO,
        "what the guest dials on the host: sockets beside the vsock socket",
    ),
    row(
        calls!(getsockopt),
        Is(2, values!(SO_PEERCRED SO_PEERGROUPS)),
        Roles::CONTROL,
        "who a client is",
    ),
    row(
        calls!(setsockopt),
        Is(2, values!(SO_SNDTIMEO)),
        Roles::INTEGRATION,
        "how long a message may wait for a guest that does not read",
    ),
    row(calls!(uname), Always, Roles::INTEGRATION, "the host's name, which guests may ask for"),
    // The processors.
    row(
        calls!(ioctl),
        Is(1, PROCESSOR),
        Roles::VCPU,
        "runs the guest; interrupts of devices as the guest routes them; its clock after a pause; \
         where it was when KVM failed",
    ),
    row(
        calls!(rt_sigtimedwait),
        Always,
        Roles::VCPU.union(Roles::SIGNALS),
        "takes a kick off a processor; waits for signals",
    ),
    // Disks and networks.
    row(
        calls!(pread64 pwrite64 preadv pwritev lseek ftruncate fallocate),
        Always,
        Roles::DISK.union(Roles::VM),
        "reads and writes images; files to boot from; the integration disk in memory",
    ),
    row(
        calls!(fdatasync fsync),
        Always,
        Roles::DISK.union(Roles::VM),
        "flushes images; keeps unpacked kernels",
    ),
    row(
        calls!(readv writev),
        Always,
        Roles::NET.union(Roles::IO),
        "packets of a tap; random numbers and sockets in several pieces",
    ),
    row(
        calls!(ioctl),
        Is(1, &[OFFLOADS]),
        Roles::NET,
        "what the guest's driver does itself with packets",
    ),
    row(
        calls!(fcntl),
        Is(1, values!(F_OFD_SETLK)),
        Roles::DISK.union(Roles::VM),
        "locks and frees images",
    ),
    // A machine is put together, also for a reboot.
    row(calls!(ioctl), Is(1, MACHINE), Roles::VM, "makes a machine and its processors"),
    row(calls!(ioctl), Is(1, TAP), Roles::VM, "takes taps"),
    row(calls!(ioctl), Is(1, BLOCK_DEVICE), Roles::VM, "how large a disk is that is a device"),
    row(calls!(ioctl), Is(1, WINDOW), Roles::VM, "how large the terminal is, for the guest"),
    row(
        calls!(openat open),
        Always,
        Roles::VM,
        "kernel, initrd, images, agent, KVM, taps: what Landlock leaves; no other thread opens \
         anything",
    ),
    row(
        calls!(fstat stat lstat newfstatat statx),
        Always,
        Roles::VM.union(Roles::DISK),
        "whether these are files, whose, and how long",
    ),
    row(
        calls!(fstatfs),
        Always,
        Roles::VM,
        "in what pieces an image's file system gives space back",
    ),
    row(
        calls!(readlink getcwd),
        Always,
        Roles::VM,
        "where this program is: the agent may be beside it",
    ),
    row(calls!(memfd_create), Always, Roles::VM, "the integration disk"),
    row(
        calls!(fcntl),
        Is(1, values!(F_ADD_SEALS F_GETFL)),
        Roles::VM,
        "nobody can change the integration disk; how an image was opened",
    ),
    row(
        calls!(mkdir rename),
        Always,
        Roles::VM,
        "keeps unpacked kernels; Landlock refuses it once the machine runs",
    ),
    row(calls!(geteuid), Always, Roles::VM, "whose the cache of unpacked kernels is"),
    row(
        calls!(eventfd2 epoll_create1),
        Always,
        Roles::VM.union(Roles::VCPU).union(Roles::IO),
        "doorbells and interrupts; the threads of devices",
    ),
    row(
        calls!(bind listen),
        Always,
        Roles::VM,
        "the vsock socket, which Landlock keeps in the machine's directory",
    ),
    row(
        calls!(unlink unlinkat rmdir),
        Always,
        Roles::VM.union(Roles::MAIN),
        "sockets of a machine that has ended, and its directory",
    ),
    // Tasks.
    row(
        calls!(fcntl),
        Is(1, values!(F_OFD_SETLKW F_OFD_SETLK)),
        Roles::TASKS,
        "the next task's id, from a file that all machines share",
    ),
    row(calls!(pread64 pwrite64 ftruncate), Always, Roles::TASKS, "the same"),
    // The end.
    row(
        calls!(ioctl),
        Is(1, TERMINAL),
        Roles::MAIN.union(Roles::SIGNALS),
        "the terminal becomes what it was",
    ),
    row(
        calls!(exit_group),
        Always,
        Roles::MAIN.union(Roles::SIGNALS),
        "the process ends, with the machine or at a second signal",
    ),
    // Before the machine runs.
    row(
        calls!(chmod fchmodat),
        Always,
        Roles::START,
        "lets others reach the control socket whom the definition grants something",
    ),
    row(calls!(prlimit64), Always, Roles::START, "how many clients there can be"),
    row(
        calls!(dup2 dup3),
        Always,
        Roles::START,
        "lets go of the pipe by which `vmm start` has heard that the machine runs",
    ),
];
