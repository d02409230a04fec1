//! Guests, each written out as a `/proc` of its own.
//!
//! These trees are no proc file system, so nothing in them can be held or signalled. Their process
//! ids are beyond those that a kernel hands out.

#![allow(dead_code, reason = "each test program uses a part of it")]

use guest_agent::process::Identity;
use guest_agent::sessions::{Backend, Known, Member};
use protocol::task::SessionSummary;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// Process ids are counted from here: no kernel goes above 4,194,304.
pub(crate) const BASE: u32 = 5_000_000;
pub(crate) const NO_TTY: u32 = 0;
pub(crate) const TTY1: u32 = 0x401;
pub(crate) const PTS0: u32 = 0x8800;
pub(crate) const PTS1: u32 = 0x8801;
pub(crate) const KERNEL_THREAD: u32 = 0x0020_0000;

/// A process to be written out. Numbers are counted from [`BASE`]; 0 and 1 are themselves.
#[derive(Clone, Copy)]
pub(crate) struct P {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) sid: u32,
    pub(crate) tty: u32,
    pub(crate) comm: &'static str,
    pub(crate) uid: u32,
    pub(crate) audit: Option<u32>,
    pub(crate) title: &'static str,
    pub(crate) flags: u32,
    pub(crate) state: char,
    pub(crate) start: u32,
    pub(crate) namespace: &'static str,
    /// What its `cgroup` file says.
    pub(crate) groups: &'static str,
}

/// A process of root's; it started as many ticks after boot as its number says.
pub(crate) fn p(pid: u32, parent: u32, sid: u32, tty: u32, comm: &'static str) -> P {
    P {
        pid,
        parent,
        sid,
        tty,
        comm,
        uid: 0,
        audit: None,
        title: "",
        flags: 0,
        state: 'S',
        start: pid,
        namespace: "pid:[1]",
        groups: "0::/",
    }
}

impl P {
    pub(crate) fn of(self, uid: u32) -> Self {
        Self { uid, ..self }
    }

    pub(crate) fn audit(self, id: u32) -> Self {
        Self { audit: Some(id), ..self }
    }

    pub(crate) fn group(self, groups: &'static str) -> Self {
        Self { groups, ..self }
    }

    pub(crate) fn title(self, title: &'static str) -> Self {
        Self { title, ..self }
    }
}

pub(crate) fn real(number: u32) -> u32 {
    if number > 1 { BASE + number } else { number }
}

/// A guest, as its files show it.
pub(crate) struct Guest(tempfile::TempDir);

impl Guest {
    pub(crate) fn new(processes: &[P]) -> Self {
        let guest = Self(tempfile::tempdir().unwrap());
        let passwd = "root:x:0:0::/:/bin/sh\nalice:x:1000:1000:::\nbob:x:1001:1001:::\n";
        fs::write(guest.0.path().join("passwd"), passwd).unwrap();
        guest.show(processes);
        guest
    }

    /// A file or directory of the guest's.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Shows these processes from now on, and the first one if it is not among them.
    pub(crate) fn show(&self, processes: &[P]) {
        let first = processes.iter().all(|p| p.pid != 1).then(|| p(1, 0, 1, NO_TTY, "init"));
        let proc = self.0.path().join("proc");
        let _ = fs::remove_dir_all(&proc);
        fs::create_dir_all(proc.join("self/ns")).unwrap();
        symlink("pid:[1]", proc.join("self/ns/pid")).unwrap();
        fs::write(proc.join("self/sessionid"), "4294967295").unwrap();
        for process in first.iter().chain(processes).copied() {
            let P { pid, parent, sid, tty, comm, uid, audit, title, flags, state, start, .. } =
                process;
            let (pid, parent, sid) = (real(pid), real(parent), real(sid));
            let folder = proc.join(pid.to_string());
            fs::create_dir_all(folder.join("ns")).unwrap();
            symlink(process.namespace, folder.join("ns/pid")).unwrap();
            let stat = format!(
                "{pid} ({comm}) {state} {parent} {sid} {sid} {tty} 0 {flags} 0 0 0 0 0 0 0 0 20 0 1 \
                 0 {start} 0 0"
            );
            fs::write(folder.join("stat"), stat).unwrap();
            fs::write(folder.join("status"), format!("Name:\tx\nUid:\t{uid}\t0\t0\t0\n")).unwrap();
            fs::write(folder.join("sessionid"), audit.unwrap_or(u32::MAX).to_string()).unwrap();
            fs::write(folder.join("cmdline"), title).unwrap();
            fs::write(folder.join("cgroup"), format!("{}\n", process.groups)).unwrap();
        }
    }
}

/// The numbers of these processes, in order.
pub(crate) fn sorted(members: &[Member]) -> Vec<u32> {
    let mut numbers: Vec<u32> = members.iter().map(|member| member.identity.pid - BASE).collect();
    numbers.sort_unstable();
    numbers
}

/// The numbers of the processes that `backend` finds in `sessions`, where it has `seen` some.
pub(crate) fn numbers(
    backend: &dyn Backend,
    sessions: &[SessionSummary],
    seen: &HashSet<Identity>,
) -> Vec<Vec<u32>> {
    let known: Vec<Known<'_>> =
        sessions.iter().map(|session| Known { session, seen, loose: seen }).collect();
    backend.look(&known).unwrap().iter().map(|sight| sorted(&sight.members)).collect()
}
