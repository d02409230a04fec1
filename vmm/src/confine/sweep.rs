//! Every system call that there is, tried under each role's filter.
//!
//! A filter that kills would need a process for each call. So the calls are made under one that has
//! the kernel send a signal instead, in one process for each role; that it is the same program but
//! for this answer is looked at before.

use super::filter::{Filters, install, rows};
use super::role::Role;
use super::table::{TABLE, When};
use seccompiler::{BpfProgram, SeccompAction};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Past the last call of this kernel and of those to come.
const NUMBERS: i64 = 1_024;
/// In the numbers of x32's calls.
const X32: i64 = 0x4000_0000;
/// uretprobe(2) and uprobe(2), which newer kernels let pass by every filter: they kill by themselves who
/// does not call them out of the kernel's own page.
const PROBES: [i64; 2] = [335, 336];
/// Seconds that a sweep may take: a call that is let through could wait for ever.
const LIMIT: libc::c_uint = 60;
/// How a child ends that could not be confined.
const UNCONFINED: libc::c_int = 9;

/// The last call was answered with a signal.
static TRAPPED: AtomicBool = AtomicBool::new(false);

extern "C" fn trapped(_: libc::c_int) {
    TRAPPED.store(true, Ordering::Relaxed);
}

/// Who narrowed before: a thread has the filters of all of them.
fn lineage(role: Role) -> &'static [Role] {
    match role {
        Role::Start => &[],
        Role::Vcpu | Role::Io | Role::Disk | Role::Net => &[Role::Start, Role::Vm],
        Role::Agent => &[Role::Start, Role::Integration],
        Role::Call => &[Role::Start, Role::Control],
        _ => &[Role::Start],
    }
}

/// Runs `work` in a process of its own, and gives its status. Only what is safe after a fork of a
/// program with threads may be done there: calls of the system, of memory that is there.
fn in_child(work: impl FnOnce()) -> libc::c_int {
    // SAFETY: the child makes system calls only, and ends by one.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: it takes a number.
        unsafe { libc::alarm(LIMIT) };
        work();
        // SAFETY: it takes a number. Every role may end its thread, which is the only one here.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    assert!(child > 0);
    let mut status = 0;
    // SAFETY: the status is written to `status`.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    status
}

/// The filters of a thread with `role`, in their order.
fn programs(filters: &Filters, role: Role) -> Vec<BpfProgram> {
    lineage(role).iter().chain([&role]).map(|role| filters.of(*role)).collect()
}

/// Confines this process, a child, with `programs`.
fn confine(programs: &[BpfProgram]) {
    let alone = [libc::PR_SET_DUMPABLE, libc::PR_SET_NO_NEW_PRIVS];
    for (option, value) in alone.into_iter().zip([0, 1]) {
        // SAFETY: it takes numbers.
        unsafe { libc::prctl(option, value, 0, 0, 0) };
    }
    if programs.iter().try_for_each(install).is_err() {
        // SAFETY: it takes a number.
        unsafe { libc::_exit(UNCONFINED) };
    }
}

/// Whether the filter answers a call with this number and these arguments with a signal.
fn is_trapped(number: i64, argument: i64) -> bool {
    TRAPPED.store(false, Ordering::Relaxed);
    let [a, b, c, d, e, f] = [argument; 6];
    // SAFETY: a call that is let through, which is what is looked for, gets nothing that is an address.
    unsafe { libc::syscall(number, a, b, c, d, e, f) };
    TRAPPED.load(Ordering::Relaxed)
}

/// What `role` may call, and whether that depends on arguments of which -1 is never right.
fn allowed(role: Role) -> BTreeMap<i64, bool> {
    let mut allowed = BTreeMap::new();
    for row in rows().filter(|row| row.roles.intersects(role.covers())) {
        let conditional = match row.when {
            When::Is(..) | When::Signals(_) | When::ThreadSignals(_) | When::Lacks(..) => true,
            When::Always | When::Has(..) | When::Refused => false,
        };
        for (_, number) in row.calls {
            *allowed.entry(*number).or_insert(true) &= conditional;
        }
    }
    allowed
}

#[test]
fn whatever_a_role_may_not_call_kills_by_any_number_that_it_has() {
    let filters = Filters::answering(SeccompAction::Trap);
    for role in Role::ALL {
        let programs = programs(&filters, role);
        let allowed = allowed(role);
        let forbidden =
            |number: &i64| !PROBES.contains(number) && allowed.get(number).copied().unwrap_or(true);
        let numbers: Vec<i64> = (0..NUMBERS).filter(forbidden).collect();
        let others = (0..NUMBERS).map(|number| number | X32);
        let numbers: Vec<i64> = numbers.into_iter().chain(others).collect();
        assert!(numbers.len() > 1_900, "{role:?}: too much is allowed");
        let mut ends = [0; 2];
        // SAFETY: two descriptors are written to `ends`.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        // SAFETY: the descriptor is open, and nobody else's.
        let mut read = unsafe { File::from_raw_fd(ends[0]) };
        // SAFETY: as above.
        let write = unsafe { File::from_raw_fd(ends[1]) };
        let status = in_child(|| {
            // SAFETY: the handler only stores to an atomic.
            unsafe { libc::signal(libc::SIGSYS, trapped as *const () as libc::sighandler_t) };
            confine(&programs);
            for number in &numbers {
                // What is allowed with some arguments is tried with others only.
                let small = allowed.contains_key(number) || is_trapped(*number, 0);
                if small && is_trapped(*number, -1) {
                    continue;
                }
                let bytes = number.to_ne_bytes();
                // SAFETY: the bytes are read; every role may write.
                unsafe { libc::write(write.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
            }
        });
        drop(write);
        let mut through = Vec::new();
        read.read_to_end(&mut through).unwrap();
        let words =
            through.chunks_exact(8).map(|word| i64::from_ne_bytes(word.try_into().unwrap()));
        assert_eq!(words.collect::<Vec<i64>>(), Vec::<i64>::new(), "{role:?} may call these");
        assert_eq!(status, 0, "{role:?}: the sweep ended early");
    }
}

#[test]
fn the_filter_that_kills_is_the_one_that_was_swept_but_for_its_answer() {
    let kills = Filters::answering(SeccompAction::KillProcess);
    let traps = Filters::answering(SeccompAction::Trap);
    for role in Role::ALL {
        let (kills, traps) = (kills.of(role), traps.of(role));
        assert_eq!(kills.len(), traps.len());
        let mut answers = 0;
        for (kill, trap) in kills.iter().zip(&traps) {
            assert_eq!((kill.code, kill.jt, kill.jf), (trap.code, trap.jt, trap.jf));
            if kill.k != trap.k {
                // BPF_RET | BPF_K
                assert_eq!(kill.code, 0x06);
                let both = (libc::SECCOMP_RET_KILL_PROCESS, libc::SECCOMP_RET_TRAP);
                assert_eq!((kill.k, trap.k), both);
                answers += 1;
            }
        }
        assert!(answers > 0, "{role:?} is not answered");
    }
}

/// Makes the call 20 of 32-bit programs, getpid(2), which writes nothing.
fn old_call() {
    let answer: i32;
    // SAFETY: the kernel changes no register but the one with the answer, and no memory.
    unsafe { std::arch::asm!("int 0x80", inlateout("eax") 20 => answer) };
    std::hint::black_box(answer);
}

#[test]
fn a_call_through_the_door_of_32_bit_programs_kills() {
    let without = in_child(old_call);
    if without != 0 {
        eprintln!("NOT TESTED: this kernel does not have that door: {without:#x}");
        return;
    }
    let filters = Filters::answering(SeccompAction::KillProcess);
    for role in Role::ALL {
        let programs = programs(&filters, role);
        let status = in_child(|| {
            confine(&programs);
            old_call();
        });
        assert!(libc::WIFSIGNALED(status), "{role:?}: {status:#x}");
        assert_eq!(libc::WTERMSIG(status), libc::SIGSYS, "{role:?}");
    }
}

#[test]
fn what_leads_out_of_a_process_is_in_nobodys_part_of_the_table() {
    let never = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_fork,
        libc::SYS_vfork,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_process_madvise,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_send_signal,
        libc::SYS_kill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_setuid,
        libc::SYS_setresuid,
        libc::SYS_capset,
        libc::SYS_sendmsg,
        libc::SYS_sendmmsg,
        libc::SYS_recvmsg,
        libc::SYS_recvmmsg,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_open_by_handle_at,
        libc::SYS_openat2,
        libc::SYS_link,
        libc::SYS_linkat,
        libc::SYS_symlink,
        libc::SYS_symlinkat,
        libc::SYS_mknod,
        libc::SYS_mknodat,
        libc::SYS_chown,
        libc::SYS_fchown,
        libc::SYS_lchown,
        libc::SYS_fchownat,
        libc::SYS_shmget,
        libc::SYS_shmat,
        libc::SYS_mq_open,
        libc::SYS_personality,
        libc::SYS_modify_ldt,
        libc::SYS_pkey_mprotect,
    ];
    for row in TABLE {
        for (name, number) in row.calls {
            assert!(!never.contains(number), "{name}: {}", row.why);
        }
    }
}
