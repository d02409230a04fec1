//! Processes: what `/proc` says of them, and a hold on one that cannot slip.
//!
//! A pid names a process only until it is used again; pid and start time together name one for the
//! whole boot. [`Handle`] turns that into a pidfd: the descriptor is opened first and the start time
//! read after it, so that a signal sent through it reaches the process that was meant or nobody.

mod parse;

pub use parse::{tty_name, tty_numbers};

use parse::{is_prompt_name, lets_users_in, parse_stat, parse_uid, ssh_door};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{PROC_SUPER_MAGIC, statfs};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Clock ticks in a second, as `/proc` counts them on every x86-64 kernel.
pub const TICKS_PER_SECOND: u64 = 100;

/// Bytes of a `stat` file that hold the fields needed here, with plenty to spare.
const STAT_BYTES: usize = 2048;
/// Bytes of a `status` file within which `Uid:` stands.
const STATUS_BYTES: usize = 2048;
/// Bytes of a command line that are looked at.
const TITLE_BYTES: usize = 256;
/// Bytes of a `cgroup` file that are read: one line for each hierarchy.
const CGROUP_BYTES: usize = 16 * 1024;
/// The audit session of a process that has none.
const NO_AUDIT: u32 = u32::MAX;
/// Generations that are followed to find out whether a process is within the scope.
const MAX_DEPTH: usize = 1000;

/// Names one process for the whole boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

/// What part a process has in letting users in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// A `login` of root's, which waits for its user's shell, or for a name.
    Login,
    /// An ssh server's process for one connection, and the user's own.
    SshUser,
    /// An ssh server's process for one connection, that watches over the user's.
    SshMonitor,
}

/// One process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Which one.
    pub identity: Identity,
    /// Its parent's process id.
    pub parent: u32,
    /// Its session's id: the process id of whoever called `setsid`.
    pub sid: u32,
    /// The device number of its controlling terminal, as the kernel encodes it; 0: none.
    pub tty: u32,
    /// Its command's name.
    pub comm: String,
    /// Whether it has ended and only waits to be fetched by its parent.
    pub dead: bool,
    /// Whether it is a thread of the kernel's.
    pub kernel: bool,
    /// The audit session it belongs to, where the guest keeps them.
    pub audit: Option<u32>,
    /// Its real user id, where it was of interest.
    pub uid: Option<u32>,
    /// Whether it is one of those that let users in.
    pub door: Option<Door>,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }
}

/// Which processes an agent may see at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every one.
    Everyone,
    /// Only descendants of this process: nothing else is listed, and so nothing else is touched.
    DescendantsOf(u32),
}

/// A `/proc`, and how much of it may be seen.
#[derive(Clone, Debug)]
pub struct Proc {
    root: PathBuf,
    scope: Scope,
}

impl Proc {
    /// The `/proc` mounted at `root`, seen within `scope`.
    #[must_use]
    pub fn new(root: &Path, scope: Scope) -> Self {
        Self { root: root.to_owned(), scope }
    }

    /// All processes within the scope.
    ///
    /// # Errors
    /// The directory cannot be read or does not show processes. A process that ends meanwhile is no
    /// error.
    pub fn table(&self) -> io::Result<Table> {
        let mut pids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            pids.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        let mut table = self.rows(pids)?;
        if let Scope::DescendantsOf(ancestor) = self.scope {
            table = table.descendants_of(ancestor);
        }
        Ok(table)
    }

    /// Those of `pids` that there are, and process 1.
    ///
    /// # Errors
    /// The directory does not show processes, or the scope is not everyone: who descends from whom is
    /// seen only where all are looked at.
    pub fn table_of(&self, mut pids: Vec<u32>) -> io::Result<Table> {
        if self.scope != Scope::Everyone {
            return Err(io::Error::other("a part of the processes does not show who is in scope"));
        }
        pids.push(1);
        pids.sort_unstable();
        pids.dedup();
        self.rows(pids)
    }

    fn rows(&self, pids: Vec<u32>) -> io::Result<Table> {
        let audited = self.root.join("self/sessionid").exists();
        let rows = pids.into_iter().filter_map(|pid| self.process(pid, audited));
        let processes: Vec<Process> = rows.collect();
        // Where no process is seen nobody seems to be logged on.
        if !processes.iter().any(|process| process.identity.pid == 1) {
            let text = format!("no process 1 in {}", self.root.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        Ok(Table::new(processes))
    }

    /// One process, or none if it has gone or makes no sense.
    fn process(&self, pid: u32, audited: bool) -> Option<Process> {
        let mut process = self.stat(pid)?;
        if process.kernel {
            return Some(process);
        }
        if audited {
            process.audit = self.number(pid, "sessionid").filter(|id| *id != NO_AUDIT);
        }
        let lets_in = lets_users_in(&process.comm);
        if process.audit.is_some() || process.tty != 0 || lets_in {
            process.uid = self.uid(pid);
        }
        if lets_in {
            process.door = self.door(&process);
        }
        Some(process)
    }

    fn stat(&self, pid: u32) -> Option<Process> {
        let process = parse_stat(&self.read(pid, "stat", STAT_BYTES).ok()?)?;
        (process.pid() == pid).then_some(process)
    }

    fn door(&self, process: &Process) -> Option<Door> {
        if process.comm == "login" {
            return (process.uid == Some(0)).then_some(Door::Login);
        }
        ssh_door(&self.read(process.pid(), "cmdline", TITLE_BYTES).ok()?)
    }

    /// Whether a process with this id lives.
    #[must_use]
    pub fn is_alive(&self, pid: u32) -> bool {
        self.stat(pid).is_some_and(|process| !process.dead)
    }

    /// Which process has this id now.
    #[must_use]
    pub fn identify(&self, pid: u32) -> Option<Identity> {
        Some(self.stat(pid)?.identity)
    }

    /// The controlling terminal of `process`, 0 if it has none, or none if it has gone.
    #[must_use]
    pub fn tty(&self, process: Identity) -> Option<u32> {
        self.stat(process.pid).filter(|now| now.identity == process).map(|now| now.tty)
    }

    /// The real user id of `pid`, or none if it has gone.
    #[must_use]
    pub fn uid(&self, pid: u32) -> Option<u32> {
        parse_uid(&self.read(pid, "status", STATUS_BYTES).ok()?)
    }

    /// Whether `pid` lives in another pid namespace than the agent: in a container.
    #[must_use]
    pub fn is_contained(&self, pid: u32) -> bool {
        let space = |who: &str| fs::read_link(self.root.join(who).join("ns/pid")).ok();
        match (space("self"), space(&pid.to_string())) {
            (Some(ours), Some(theirs)) => ours != theirs,
            _ => false,
        }
    }

    /// The control groups that `pid` is in, cgroups(7), or none if it has gone or there are none.
    #[must_use]
    pub fn cgroups(&self, pid: u32) -> Option<Vec<u8>> {
        self.read(pid, "cgroup", CGROUP_BYTES).ok()
    }

    fn number(&self, pid: u32, file: &str) -> Option<u32> {
        let bytes = self.read(pid, file, 32).ok()?;
        std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
    }

    fn read(&self, pid: u32, file: &str, limit: usize) -> io::Result<Vec<u8>> {
        read_at_most(&self.root.join(pid.to_string()).join(file), limit)
    }

    /// A hold on `wanted`, or none if it has gone.
    ///
    /// # Errors
    /// The kernel has no pidfds, descriptors or memory have run out, or this is no real `/proc`,
    /// whose numbers stand for no process.
    pub fn hold(&self, wanted: Identity) -> io::Result<Option<Handle>> {
        if statfs(&self.root)?.f_type != PROC_SUPER_MAGIC {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "not a proc file system"));
        }
        let Some(pid) = i32::try_from(wanted.pid).ok().filter(|pid| *pid > 1) else {
            return Ok(None);
        };
        let Some(pid) = Pid::from_raw(pid).filter(|_| self.in_scope(wanted.pid)) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The descriptor holds the process, so what is read now is either about it or it has gone.
        let same = self.stat(wanted.pid).is_some_and(|process| process.identity == wanted);
        Ok(same.then_some(Handle { identity: wanted, fd }))
    }

    /// Whether `pid` may be touched: asked once more of the processes themselves, not of a table.
    fn in_scope(&self, pid: u32) -> bool {
        let Scope::DescendantsOf(ancestor) = self.scope else { return true };
        let mut at = pid;
        for _ in 0..MAX_DEPTH {
            match self.stat(at).map(|process| process.parent) {
                Some(parent) if parent == ancestor => return true,
                Some(parent) if parent > 1 => at = parent,
                _ => return false,
            }
        }
        false
    }
}

/// The beginning of the file at `path`, at most `limit` bytes.
///
/// # Errors
/// It cannot be read.
pub fn read_at_most(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A process that can be signalled and waited for, and cannot turn into another one.
#[derive(Debug)]
pub struct Handle {
    identity: Identity,
    fd: OwnedFd,
}

impl Handle {
    /// Which process.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Sends `signal`; false if the process has ended.
    ///
    /// # Errors
    /// `PermissionDenied`, as a rule: the kernel does not let the agent do this.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// For `poll`: readable when the process has ended.
    #[must_use]
    pub fn poll_fd(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN)
    }
}

/// All processes of one look, by process id.
#[derive(Debug, Default)]
pub struct Table {
    processes: Vec<Process>,
    index: HashMap<u32, usize>,
    parents: HashSet<u32>,
}

impl Table {
    /// A table of `processes`.
    #[must_use]
    pub fn new(processes: Vec<Process>) -> Self {
        let index = processes.iter().enumerate().map(|(at, process)| (process.pid(), at)).collect();
        let alive = processes.iter().filter(|process| !process.dead);
        let parents = alive.map(|process| process.parent).collect();
        Self { processes, index, parents }
    }

    /// The processes, in no particular order.
    #[must_use]
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Where `pid` stands in [`processes`](Self::processes).
    #[must_use]
    pub fn position(&self, pid: u32) -> Option<usize> {
        self.index.get(&pid).copied()
    }

    /// The process with this id.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.processes.get(self.position(pid)?)
    }

    /// Whether `pid` has a child that lives.
    fn has_child(&self, pid: u32) -> bool {
        self.parents.contains(&pid)
    }

    /// Whether `process` waits for somebody to log in. Only root's programs are believed.
    #[must_use]
    pub fn is_prompt(&self, process: &Process) -> bool {
        let prompts = match &*process.comm {
            // These two stay while the user they let in is there.
            "login" | "sulogin" => !self.has_child(process.pid()),
            name => is_prompt_name(name),
        };
        prompts && process.uid == Some(0)
    }

    /// `process`, its parent, the parent's, and so on, as far as they are in the table.
    pub fn line<'a>(&'a self, process: &'a Process) -> impl Iterator<Item = &'a Process> {
        let parent = |at: &&'a Process| self.get(at.parent).filter(|one| one.pid() != at.pid());
        // A look takes time, so parents may seem to go round in a circle: no more steps than rows.
        std::iter::successors(Some(process), parent).take(self.processes.len())
    }

    /// What descends from `ancestor`, without `ancestor` itself.
    fn descendants_of(&self, ancestor: u32) -> Self {
        let descends = |one: &&Process| self.line(one).any(|at| at.parent == ancestor);
        Self::new(self.processes.iter().filter(descends).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_found_and_is_what_it_is() {
        let proc = Proc::new(Path::new("/proc"), Scope::Everyone);
        let table = proc.table().unwrap();
        let me = table.get(std::process::id()).unwrap();
        assert_eq!(me.parent, std::os::unix::process::parent_id());
        assert_eq!(proc.uid(me.pid()), Some(rustix::process::getuid().as_raw()));
        assert!(!me.dead && !me.kernel && !proc.is_contained(me.pid()));
    }

    #[test]
    fn the_scope_leaves_only_descendants() {
        let row = |pid, parent| {
            let text = format!("{pid} (x) S {parent} 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 5");
            parse_stat(text.as_bytes()).unwrap()
        };
        // 70 and 71 are each other's parents, as a torn look may have it.
        let rows =
            [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (30, 99), (70, 71), (71, 70), (80, 80)];
        let table = Table::new(rows.map(|(pid, parent)| row(pid, parent)).into());
        let mut left: Vec<u32> =
            table.descendants_of(10).processes().iter().map(Process::pid).collect();
        left.sort_unstable();
        assert_eq!(left, [11, 12]);
    }

    #[test]
    fn a_made_up_proc_gives_no_hold_on_anybody() {
        let folder = tempfile::tempdir().unwrap();
        let proc = Proc::new(folder.path(), Scope::Everyone);
        let error = proc.hold(Identity { pid: std::process::id(), start: 1 }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn a_pid_that_was_used_again_gives_no_hold() {
        let proc = Proc::new(Path::new("/proc"), Scope::Everyone);
        let me = proc.table().unwrap().get(std::process::id()).unwrap().identity;
        assert_eq!(proc.hold(me).unwrap().unwrap().identity(), me);
        assert!(proc.hold(Identity { start: me.start + 1, ..me }).unwrap().is_none());
        assert!(proc.hold(Identity { pid: 1, start: 0 }).unwrap().is_none(), "never pid 1");
        assert!(proc.hold(Identity { pid: 0, start: 0 }).unwrap().is_none());
        assert!(proc.hold(Identity { pid: u32::MAX, start: 0 }).unwrap().is_none());
    }

    #[test]
    fn a_process_out_of_scope_gives_no_hold() {
        let everyone = Proc::new(Path::new("/proc"), Scope::Everyone);
        let me = everyone.table().unwrap().get(std::process::id()).unwrap().identity;
        let parent = std::os::unix::process::parent_id();
        let around = Proc::new(Path::new("/proc"), Scope::DescendantsOf(parent));
        assert!(around.hold(me).unwrap().is_some());
        let beneath = Proc::new(Path::new("/proc"), Scope::DescendantsOf(me.pid));
        assert!(beneath.hold(me).unwrap().is_none());
    }
}
