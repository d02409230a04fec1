//! Confinement: a machine's process gives up what it does not need before its guest runs.
//!
//! A guest that has found a flaw in a device runs code in this process. What it then can do is what
//! the process can do, so that is made little, in this order:
//!
//! 1. Limits: descriptors, memory.
//! 2. Nobody but root may look into the process, and its memory is in no core file.
//! 3. Capabilities, if it has any: those for the machine's files and taps are left.
//! 4. `no_new_privs`: no program that is run could gain rights.
//! 5. Landlock: of all files, what the machine is made of, and nothing else; no TCP; signals and
//!    abstract sockets only among its own threads.
//! 6. seccomp: of all system calls those that the program makes, for each of its
//!    [kinds of threads](Role) those of that kind. Every other call kills the process.
//!
//! A thread inherits its starter's filter and narrows it for itself: so the process has one from
//! before its first thread, that lets through what any of them needs.
//!
//! The library does none of this unasked. A host tool that keeps a machine in its own process says so:
//!
//! ```no_run
//! use vmm::confine::{Confinement, Role, narrow};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config = vmm::MachineConfig::new("web", "/boot/vmlinuz");
//! // Before any thread: what is done here holds for those that are started afterwards.
//! Confinement::new().machine(&config).read("/etc/my-tool.conf").enter()?;
//! let vm = vmm::Vm::start(config, None)?;
//! // From here on this thread waits for the machine's end, and nothing else.
//! narrow(Role::Main);
//! println!("{:?}", vm.wait());
//! # Ok(())
//! # }
//! ```
//!
//! What a tool does besides must be within the [`table`]: there is no way back. A machine that has ended
//! can be started again, by clients too: its `vm` thread lives as long as the [`Vm`](crate::Vm), which
//! for that has to be made before the thread that makes it is narrowed.

mod calls;
mod files;
mod filter;
pub mod jail;
mod limits;
mod offer;
mod program;
mod rights;
mod role;
#[cfg(test)]
mod sweep;
mod table;

pub use filter::table;
pub use offer::{Offer, offer};
pub use role::{Role, Roles};

use crate::boot;
use crate::config::{Console, KernelEntry, MachineConfig};
use crate::host_info::MEMINFO;
use crate::kit::agent;
use crate::{kvm, tap};
use files::Use;
use filter::Filters;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What makes the filters of this process, once it is confined.
static FILTERS: OnceLock<Filters> = OnceLock::new();

/// What happens to a thread that makes a call which is not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// The process is killed.
    #[default]
    Kill,
    /// The kernel's audit log has it, and the call is made: for finding out what is missing.
    Log,
}

/// How much of it Landlock enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landlocked {
    /// All.
    Fully,
    /// What this kernel, which is older, knows of it.
    Partly,
    /// Nothing: this kernel has none.
    Not,
}

/// Why a process could not be confined. What had been done before stays.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// What threads it has cannot be looked up, and there may be some that would stay outside.
    #[error("it cannot be seen in /proc/self/task how many threads it has")]
    NoProc(#[source] io::Error),
    /// It has threads that would stay outside.
    #[error("it has {0} threads already, and only those that are started afterwards are confined")]
    Threads(u64),
    /// It is confined already.
    #[error("it is confined already")]
    Twice,
    /// A limit cannot be set.
    #[error("a limit cannot be set")]
    Limit(#[source] io::Error),
    /// Its memory would be in core files.
    #[error("it cannot keep its memory to itself")]
    Hide(#[source] io::Error),
    /// It cannot give up capabilities.
    #[error("it cannot give up capabilities")]
    Capabilities(#[source] io::Error),
    /// A file that it needs cannot be looked at.
    #[error("cannot look at {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot renounce new privileges.
    #[error("it cannot renounce new privileges")]
    NoNewPrivs(#[source] io::Error),
    /// Landlock is there, and refused.
    #[error("Landlock refused")]
    Landlock(#[source] landlock::RulesetError),
    /// The kernel takes no filter.
    #[error("the kernel takes no seccomp filter")]
    Install(#[source] seccompiler::Error),
}

/// What a process will still need.
#[derive(Clone, Debug)]
pub struct Confinement {
    manner: Manner,
    ram: u64,
    files: Vec<(PathBuf, Use)>,
    /// Kernels that are unpacked before nothing can be kept any more.
    kernels: Vec<PathBuf>,
    /// Those of the files that are made if they are not there.
    made: Vec<PathBuf>,
    /// A machine has taps.
    taps: bool,
}

impl Default for Confinement {
    fn default() -> Self {
        Self::new()
    }
}

impl Confinement {
    /// No machine, and no file but `/dev/null`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            manner: Manner::Kill,
            ram: 0,
            files: vec![("/dev/null".into(), Use::Write)],
            kernels: Vec::new(),
            made: Vec::new(),
            taps: false,
        }
    }

    /// What becomes of a thread that does something else.
    #[must_use]
    pub fn manner(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }

    /// The machine that `config` describes, also for its reboots. When the process
    /// [is confined](Self::enter) its kernel is unpacked into the user's cache, while that can still be
    /// written, and the file of its console made.
    #[must_use]
    pub fn machine(mut self, config: &MachineConfig) -> Self {
        self.ram = self.ram.saturating_add(config.memory);
        self.add(kvm::DEVICE, Use::Device);
        if config.hugepages {
            // How many of them there are is said where they are too few.
            self.add(MEMINFO, Use::Read);
        }
        self.add(&config.kernel, Use::Read);
        if config.kernel_entry != KernelEntry::Bzimage {
            self.kernels.push(config.kernel.clone());
        }
        if let Some(path) = &config.initrd {
            self.add(path, Use::Read);
        }
        for path in agent::places_of(&config.integration) {
            self.add(path, Use::Read);
        }
        for disk in &config.disks {
            // A device is asked how large it is.
            let wanted = match (is_device(&disk.path), disk.readonly) {
                (false, true) => Use::Read,
                (false, false) => Use::Write,
                (true, true) => Use::ReadDevice,
                (true, false) => Use::Device,
            };
            self.add(&disk.path, wanted);
        }
        if !config.nets.is_empty() {
            self.add(tap::DEVICE, Use::Device);
            self.taps = true;
        }
        if let Console::File(path) = &config.console {
            self.made.push(path.clone());
            self.add(path, Use::Write);
        }
        self
    }

    /// The directory `path` for the machine's sockets, which is taken away at the end.
    #[must_use]
    pub fn place(mut self, path: &Path) -> Self {
        self.add(path, Use::Sockets);
        if let Some(above) = path.parent() {
            self.add(above, Use::Leave);
        }
        self
    }

    /// Another file to read, or directory with such files.
    #[must_use]
    pub fn read(mut self, path: impl Into<PathBuf>) -> Self {
        self.add(path, Use::Read);
        self
    }

    /// Another file to read and write, or directory with such files.
    #[must_use]
    pub fn write(mut self, path: impl Into<PathBuf>) -> Self {
        self.add(path, Use::Write);
        self
    }

    fn add(&mut self, path: impl Into<PathBuf>, wanted: Use) {
        self.files.push((path.into(), wanted));
    }

    /// Confines this process from here on, and says how much of it Landlock enforces.
    ///
    /// It forgets `RUST_BACKTRACE`: to trace a panic back, its thread would have to open this program.
    ///
    /// # Errors
    /// The process has more than one thread, or may have (there is no `/proc`), or the kernel refuses. Then it is not to go on as if it
    /// were confined.
    pub fn enter(mut self) -> Result<Landlocked, ConfineError> {
        if FILTERS.get().is_some() {
            return Err(ConfineError::Twice);
        }
        match threads() {
            Ok(1) => {}
            Ok(threads) => return Err(ConfineError::Threads(threads)),
            // In a jail there is no looking, but who has just been forked has one.
            Err(_) if jail::is_jailed() => {}
            Err(error) => return Err(ConfineError::NoProc(error)),
        }
        for variable in ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"] {
            // SAFETY: there is no other thread that could read or write the environment.
            unsafe { std::env::remove_var(variable) };
        }
        limits::set(self.ram)?;
        rights::hide()?;
        rights::drop_most(self.taps)?;
        rustix::thread::set_no_new_privs(true)
            .map_err(|error| ConfineError::NoNewPrivs(error.into()))?;
        for kernel in std::mem::take(&mut self.kernels) {
            boot::keep(&kernel);
            if let Some(cache) = boot::cache::directory_of_user() {
                self.add(cache, Use::Read);
            }
        }
        for path in &self.made {
            // One that cannot be made is told of when the machine starts.
            let _ = make(path);
        }
        let landlocked = files::restrict(&self.files)?;
        let filters = Filters::new(self.manner);
        filters.narrow(Role::Start)?;
        FILTERS.set(filters).map_err(|_| ConfineError::Twice)?;
        Ok(landlocked)
    }
}

/// How many threads this process has. Each is a directory in one that has two links of its own, so
/// nothing needs to be listed.
fn threads() -> io::Result<u64> {
    let links = fs::metadata("/proc/self/task")?.nlink();
    links.checked_sub(2).filter(|threads| *threads > 0).ok_or(io::ErrorKind::Unsupported.into())
}

/// Whether this process is confined.
pub(crate) fn is_confined() -> bool {
    FILTERS.get().is_some()
}

/// Narrows the calling thread to `role`, if its process is confined. Each thread of the library does
/// that itself; a host tool does it where it has nothing more to do than `role` has.
///
/// A thread that cannot be narrowed does not go on: the process is aborted.
pub fn narrow(role: Role) {
    if let Some(filters) = FILTERS.get()
        && let Err(error) = filters.narrow(role)
    {
        let error = crate::error::chain(&error);
        tracing::error!(role = role.name(), error, "a thread cannot be confined");
        std::process::abort();
    }
}

fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Makes the file `path`, unless it is there.
fn make(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path).map(drop)
}
