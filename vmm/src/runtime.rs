//! Where running machines are found: a directory each, below the user's runtime directory.
//!
//! ```text
//! $VMM_RUNTIME_DIR, $XDG_RUNTIME_DIR/vmm or /run/vmm
//! `-- web/            mode 0700; the name in lower case, for names differ only by their letters;
//!     |               a name that would leave no room for a socket's path is shortened
//!     |-- lock        held by the machine's process, and holds its name as it was written
//!     |-- control.sock
//!     |-- vsock.sock
//!     `-- log         what the machine's process last said, if that has no terminal; it stays
//! ```
//!
//! Beside the directories a file holds the last id of a task that a machine has got, so that ids are
//! unique among machines. A machine gets a [block](Runtime::task_ids) of them before it runs, and never
//! comes back: a file that all machines could lock would let each of them stop all others.
//!
//! A machine is alive while a process holds its lock, never because a file says so: what a killed
//! process left behind is replaced without a word.

use crate::config::{ConfigError, NAME_MAX, check_name};
use crate::error::code_of;
use crate::lock::{await_lock, free_lock, is_at, is_locked, open_lock, take_lock};
use protocol::HResult;
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of a Unix socket's path that the kernel takes, without the final NUL.
const SOCKET_PATH_MAX: usize = 107;
/// The longest thing that is put behind the path of the vsock socket: `_` and a port.
const PORT_SUFFIX: usize = "_4294967295".len();
/// Bytes of a name that leave room for the sockets in the runtime directory of any user.
const WHOLE_NAME: usize = 60;
/// Bytes that are left of a longer one, before its digest.
const SHORTENED: usize = 40;
/// Bytes of the digest: enough for names to differ in.
const DIGEST: usize = 8;
/// Permission bits that let others write.
const OTHERS_WRITE: u32 = 0o022;
/// Permission bits that let others pass through a directory.
const OTHERS_PASS: u32 = 0o011;
/// The permission bit by which others may write, but not rename or remove what is not theirs.
const STICKY: u32 = 0o1000;
/// The file with the id of the last task; no machine can have this name.
const LAST_TASK: &str = ":last-task";
/// Ids of a machine's block: more than there are tasks that are [kept](crate::task::KEPT), and few
/// enough for half a million machines.
const BLOCK: u32 = 4_096;
/// How long a machine waits for others that take their blocks, which is done in an instant.
const BLOCK_PATIENCE: Duration = Duration::from_secs(1);
/// What the machine's process says.
const LOG: &str = "log";
/// Bytes of the longest name.
const NAME_BYTES: u64 = NAME_MAX as u64 * 4;

/// Why a machine got no place.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The name is not allowed.
    #[error(transparent)]
    Name(#[from] ConfigError),
    /// Another process has it.
    #[error("a machine named {0} is running already; choose another name, or end that one")]
    InUse(String),
    /// Something else is where the directory should be, or others can write to it.
    #[error(
        "{} is not a directory of this user that nobody else can write to; remove it, or set \
         VMM_RUNTIME_DIR to another place", .0.display()
    )]
    NotOurs(PathBuf),
    /// Sockets could not be bound there.
    #[error(
        "the path {} is too long for sockets; choose a shorter name, or set VMM_RUNTIME_DIR to a \
         shorter path", .0.display()
    )]
    TooLong(PathBuf),
    /// Somebody keeps the ids of tasks to himself.
    #[error(
        "another process holds the lock on {} and does not let go of it; it may be stopped, and \
         `fuser -v` names it", .0.display()
    )]
    Locked(PathBuf),
    /// The directory could not be made.
    #[error("cannot make {} (VMM_RUNTIME_DIR can name another place)", path.display())]
    NotMade {
        /// What was to be made.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot use {}", path.display())]
    Io {
        /// What was to be used.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl RuntimeError {
    /// The documented code of this error.
    #[must_use]
    pub fn code(&self) -> HResult {
        match self {
            Self::Name(error) => error.code(),
            Self::InUse(_) => HResult::VM_E_VM_RUNNING,
            Self::Locked(_) => HResult::ERROR_SHARING_VIOLATION,
            Self::TooLong(_) => HResult::ERROR_BUFFER_OVERFLOW,
            Self::NotOurs(_) => HResult::ERROR_BAD_PATHNAME,
            Self::NotMade { path, source } | Self::Io { path, source } => code_of(source, path),
        }
    }
}

/// The directory of all running machines.
#[derive(Clone, Debug)]
pub struct Runtime {
    base: PathBuf,
    /// Where root's machines are, if that is elsewhere.
    system: Option<PathBuf>,
}

impl Runtime {
    /// The user's: `$VMM_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/vmm`, else `/run/vmm`; root has the
    /// last one in any case.
    #[must_use]
    pub fn of_user() -> Self {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let xdg = || absolute("XDG_RUNTIME_DIR").filter(|_| !rustix::process::geteuid().is_root());
        let system = PathBuf::from("/run/vmm");
        match (absolute("VMM_RUNTIME_DIR"), xdg()) {
            (Some(base), _) => Self::at(base),
            (None, Some(xdg)) => Self { base: xdg.join("vmm"), system: Some(system) },
            (None, None) => Self::at(system),
        }
    }

    /// The one at `base`.
    #[must_use]
    pub fn at(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into(), system: None }
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.base.join(folder_name(name))
    }

    /// Makes a place for the machine `name`, which then is alive until the place is dropped.
    ///
    /// # Errors
    /// The name is not allowed or in use, or the place cannot be made safely.
    pub fn claim(&self, name: &str) -> Result<Place, RuntimeError> {
        check_name(name)?;
        let directory = self.directory(name);
        let vsock = directory.join("vsock.sock");
        if vsock.as_os_str().len() + PORT_SUFFIX > SOCKET_PATH_MAX {
            return Err(RuntimeError::TooLong(vsock));
        }
        let lock_path = directory.join("lock");
        let lock = loop {
            self.make(&directory)?;
            let lock = match open_lock(&lock_path) {
                // Its former owner removed the directory in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    // Somebody else may be about to use it, and makes it anew.
                    let _ = fs::remove_dir(&directory);
                    return Err(failed(&lock_path)(error));
                }
                Ok(lock) => lock,
            };
            if !take_lock(&lock).map_err(failed(&lock_path))? {
                return Err(RuntimeError::InUse(name.to_owned()));
            }
            // Or removed the lock between opening and locking it.
            if is_at(&lock, &lock_path) {
                break lock;
            }
        };
        let place = Place { directory, lock: Some(lock) };
        for stale in [place.control(), place.vsock()] {
            match fs::remove_file(&stale) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&stale)(error));
                }
                _ => {}
            }
        }
        if let Some(mut file) = place.lock.as_ref() {
            file.set_len(0)
                .and_then(|()| file.write_all(name.as_bytes()))
                .map_err(failed(&lock_path))?;
        }
        Ok(place)
    }

    /// Makes the directory of a machine.
    fn make(&self, directory: &Path) -> Result<(), RuntimeError> {
        let make = |recursive: bool, path: &Path| {
            let made = DirBuilder::new().recursive(recursive).mode(0o700).create(path);
            match made {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => {
                    made.map_err(|source| RuntimeError::NotMade { path: path.to_owned(), source })
                }
            }
        };
        make(true, &self.base)?;
        if !is_safe(&self.base) {
            return Err(RuntimeError::NotOurs(self.base.clone()));
        }
        make(false, directory)?;
        if !is_ours(directory) {
            return Err(RuntimeError::NotOurs(directory.to_owned()));
        }
        Ok(())
    }

    /// Opens the log of the machine `name`, for a process that is to run it and has no terminal. What
    /// an earlier one said stays in it until that process has its [place](Self::claim): another may
    /// be first.
    ///
    /// # Errors
    /// The name is not allowed, or the log cannot be made safely.
    pub fn open_log(&self, name: &str) -> Result<File, RuntimeError> {
        check_name(name)?;
        let path = self.log(name);
        loop {
            self.make(&self.directory(name))?;
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            match options.open(&path) {
                // A machine that ended removed the directory in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                log => return log.map_err(failed(&path)),
            }
        }
    }

    /// Where the log of the machine `name` is, if it has one.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.directory(name).join(LOG)
    }

    /// The name of the machine `name` as it was written when it was started, if it is alive.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<String> {
        check_name(name).ok()?;
        self.alive(&self.directory(name))
    }

    /// Where the control socket of the machine `name` is, if it is alive.
    #[must_use]
    pub fn control(&self, name: &str) -> PathBuf {
        self.directory(name).join("control.sock")
    }

    /// Where the control socket of a machine `name` may be whose owner lets others in. Its directory
    /// cannot be looked into.
    pub(crate) fn others(&self, name: &str) -> Vec<PathBuf> {
        if check_name(name).is_err() {
            return Vec::new();
        }
        let bases = std::iter::once(&self.base).chain(&self.system);
        bases.map(|base| base.join(folder_name(name)).join("control.sock")).collect()
    }

    /// The names of all machines that are alive and can be seen.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.base).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| self.alive(&entry.path())).collect();
        names.sort_by_key(|name| name.to_lowercase());
        names
    }

    /// The ids of one machine's tasks: a block that no other machine gets as long as the directory
    /// lasts, unless half a million others have started meanwhile. The file that says so is not
    /// needed any more when this returns.
    ///
    /// If that file cannot be used, which is logged, the ids may be those of another machine, too.
    ///
    /// # Errors
    /// [`RuntimeError::Locked`]: another process keeps the file to itself for longer than a second.
    pub fn task_ids(&self) -> Result<RangeInclusive<u32>, RuntimeError> {
        let path = self.base.join(LAST_TASK);
        match next_block(&path) {
            Ok(Some(ids)) => Ok(ids),
            Ok(None) => Err(RuntimeError::Locked(path)),
            Err(error) => {
                let file = path.display();
                tracing::warn!(%error, %file, "ids of tasks may be those of another machine's, too");
                Ok(1..=BLOCK)
            }
        }
    }

    fn alive(&self, directory: &Path) -> Option<String> {
        let lock = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(directory.join("lock"))
            .ok()?;
        if !is_locked(&lock).ok()? {
            return None;
        }
        let mut name = String::new();
        lock.take(NAME_BYTES).read_to_string(&mut name).ok()?;
        check_name(&name).ok()?;
        (self.directory(&name) == directory).then_some(name)
    }
}

/// The name of the directory of the machine `name`.
fn folder_name(name: &str) -> String {
    let name = name.to_lowercase();
    if name.len() <= WHOLE_NAME {
        return name;
    }
    let digest = Sha256::digest(name.as_bytes());
    let digits: String = digest.iter().take(DIGEST).map(|byte| format!("{byte:02x}")).collect();
    let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= SHORTENED;
    let beginning: String = name.char_indices().take_while(fits).map(|(_, c)| c).collect();
    format!("{beginning}~{digits}")
}

/// A machine's place. Dropping it frees the name and leaves nothing behind but a log.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    /// None if the place is another process's.
    lock: Option<File>,
}

impl Place {
    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the control socket belongs.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Where the vsock socket belongs.
    #[must_use]
    pub fn vsock(&self) -> PathBuf {
        self.directory.join("vsock.sock")
    }

    /// Removes the log: the machine is to leave nothing behind.
    pub(crate) fn remove_log(&self) {
        // None is as good.
        let _ = fs::remove_file(self.directory.join(LOG));
    }

    /// Lets others reach the control socket, which decides what they may; they still cannot look
    /// around.
    ///
    /// # Errors
    /// The modes cannot be changed.
    pub fn open_to_others(&self) -> io::Result<()> {
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        set(&self.control(), 0o666)?;
        set(&self.directory, 0o711)?;
        let Some(base) = self.directory.parent() else { return Ok(()) };
        // It may be somebody else's, and others may look around in it already.
        let mode = fs::metadata(base)?.mode();
        if mode & OTHERS_PASS == OTHERS_PASS { Ok(()) } else { set(base, mode | OTHERS_PASS) }
    }
}

/// A refusal of the system to use `path`.
fn failed(path: &Path) -> impl FnOnce(io::Error) -> RuntimeError + use<> {
    let path = path.to_owned();
    move |source| RuntimeError::Io { path, source }
}

/// The ids after those that the file at `path` tells of, which then tells of these; none if somebody
/// else keeps it.
fn next_block(path: &Path) -> io::Result<Option<RangeInclusive<u32>>> {
    let file = open_lock(path)?;
    // Whose file it is, he can lock it for ever.
    if file.metadata()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    if !await_lock(&file, BLOCK_PATIENCE)? {
        return Ok(None);
    }
    let block = following_block(&file);
    // A process that is just being started may have the file open for longer.
    free_lock(&file);
    block.map(Some)
}

fn following_block(file: &File) -> io::Result<RangeInclusive<u32>> {
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0)?;
    // The API's ids are positive, in 31 bits.
    let text = std::str::from_utf8(&text[..length]).unwrap_or_default();
    let last: u32 = text.trim().parse().unwrap_or(0);
    let first = if last <= i32::MAX as u32 - BLOCK { last + 1 } else { 1 };
    let last = first + (BLOCK - 1);
    // Of the same length as the last one, and over it: that needs no room on a full disk.
    let text = format!("{last:010}");
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)?;
    Ok(first..=last)
}

impl Place {
    /// Leaves it to the process that this one was forked from, which holds the lock as well.
    pub(crate) fn let_go(&mut self) {
        self.lock = None;
    }

    /// Removes what the machine leaves behind, but a log, while its name is still taken.
    pub fn clear(&self) {
        if self.lock.is_none() {
            return;
        }
        // While the lock is held nobody else uses the directory; what is gone already is as good.
        for path in [self.control(), self.vsock(), self.directory.join("lock")] {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_dir(&self.directory);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Whether nobody but root and this user can replace what is in `base`.
fn is_safe(base: &Path) -> bool {
    fs::metadata(base).is_ok_and(|metadata| {
        let owners = [0, rustix::process::geteuid().as_raw()];
        let mode = metadata.mode();
        metadata.is_dir()
            && owners.contains(&metadata.uid())
            && (mode & OTHERS_WRITE == 0 || mode & STICKY != 0)
    })
}

/// Whether `directory` is one, of this user, that nobody else can write to.
fn is_ours(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|metadata| {
        metadata.is_dir()
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.mode() & OTHERS_WRITE == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn runtime() -> (tempfile::TempDir, Runtime) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::at(folder.path().join("vmm"));
        (folder, runtime)
    }

    #[test]
    fn a_name_is_taken_until_its_place_is_dropped_whatever_its_letters() {
        let (_folder, runtime) = runtime();
        let place = runtime.claim("Web").unwrap();
        for name in ["Web", "web", "WEB"] {
            assert!(matches!(runtime.claim(name), Err(RuntimeError::InUse(_))));
            assert_eq!(runtime.find(name).as_deref(), Some("Web"));
        }
        assert_eq!(runtime.list(), ["Web"]);
        drop(place);
        assert_eq!(runtime.find("web"), None);
        assert_eq!(fs::read_dir(&runtime.base).unwrap().count(), 0, "nothing is left behind");
        runtime.claim("web").unwrap();
    }

    #[test]
    fn a_place_that_was_let_go_is_its_other_holders_alone() {
        let (_folder, runtime) = runtime();
        let mut place = runtime.claim("web").unwrap();
        // As a fork leaves it: the same open file, in two processes.
        let lock = place.lock.as_ref().map(|lock| lock.try_clone().unwrap());
        let other = Place { directory: place.directory.clone(), lock };
        place.let_go();
        drop(place);
        assert_eq!(runtime.find("web").as_deref(), Some("web"));
        assert!(matches!(runtime.claim("web"), Err(RuntimeError::InUse(_))));
        drop(other);
        assert_eq!(fs::read_dir(&runtime.base).unwrap().count(), 0);
    }

    #[test]
    fn case_41_what_a_killed_process_left_is_replaced() {
        let (_folder, runtime) = runtime();
        let directory = runtime.base.join("web");
        fs::create_dir_all(&directory).unwrap();
        for name in ["lock", "control.sock", "vsock.sock"] {
            fs::write(directory.join(name), "stale").unwrap();
        }
        assert_eq!(runtime.list(), Vec::<String>::new(), "no process holds the lock");
        let place = runtime.claim("web").unwrap();
        assert!(!place.control().exists() && !place.vsock().exists());
    }

    #[test]
    fn case_41_a_link_or_a_directory_that_others_can_write_to_is_refused() {
        let (folder, runtime) = runtime();
        fs::create_dir_all(&runtime.base).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, runtime.base.join("web")).unwrap();
        assert!(matches!(runtime.claim("web"), Err(RuntimeError::NotOurs(_))));
        let open = runtime.base.join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(runtime.claim("open"), Err(RuntimeError::NotOurs(_))));
        let linked = runtime.base.join("linked");
        DirBuilder::new().mode(0o700).create(&linked).unwrap();
        let precious = folder.path().join("precious");
        fs::write(&precious, "text").unwrap();
        symlink(&precious, linked.join("lock")).unwrap();
        assert!(matches!(runtime.claim("linked"), Err(RuntimeError::Io { .. })));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "text");
    }

    #[test]
    fn case_41_a_place_that_others_could_swap_is_refused() {
        let (_folder, runtime) = runtime();
        fs::create_dir_all(&runtime.base).unwrap();
        let set = |mode| {
            fs::set_permissions(&runtime.base, fs::Permissions::from_mode(mode)).unwrap();
        };
        for mode in [0o777, 0o770, 0o702] {
            set(mode);
            assert!(matches!(runtime.claim("web"), Err(RuntimeError::NotOurs(_))), "{mode:o}");
        }
        set(0o1777);
        runtime.claim("web").unwrap();
    }

    #[test]
    fn what_others_may_do_in_the_directory_of_all_machines_is_only_ever_widened() {
        let (_folder, runtime) = runtime();
        fs::create_dir_all(&runtime.base).unwrap();
        for (before, after) in [(0o1777, 0o1777), (0o755, 0o755), (0o700, 0o711), (0o750, 0o751)] {
            fs::set_permissions(&runtime.base, fs::Permissions::from_mode(before)).unwrap();
            let place = runtime.claim("web").unwrap();
            fs::write(place.control(), "").unwrap();
            place.open_to_others().unwrap();
            assert_eq!(fs::metadata(&runtime.base).unwrap().mode() & 0o7777, after, "{before:o}");
            assert_eq!(fs::metadata(&place.directory).unwrap().mode() & 0o7777, 0o711);
        }
    }

    #[test]
    fn looking_never_keeps_a_machine_from_starting() {
        let (_folder, runtime) = runtime();
        let done = std::sync::atomic::AtomicBool::new(false);
        let order = std::sync::atomic::Ordering::Relaxed;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(order) {
                    let _ = runtime.list();
                }
            });
            let failed = (0..500).find_map(|_| runtime.claim("web").err());
            done.store(true, order);
            assert!(failed.is_none(), "{failed:?}");
        });
    }

    #[test]
    fn of_many_who_want_a_name_one_gets_it_and_it_is_free_afterwards() {
        let (_folder, runtime) = runtime();
        for _ in 0..50 {
            let start = std::sync::Barrier::new(4);
            let places: Vec<_> = std::thread::scope(|scope| {
                let claim = || {
                    start.wait();
                    runtime.claim("web")
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(places.iter().filter(|place| place.is_ok()).count(), 1);
            let in_use = |place: &Result<Place, _>| {
                place.is_ok() || matches!(place, Err(RuntimeError::InUse(_)))
            };
            assert!(places.iter().all(in_use));
        }
        assert_eq!(fs::read_dir(&runtime.base).unwrap().count(), 0);
    }

    #[test]
    fn ids_of_tasks_are_given_once_whoever_asks() {
        let (_folder, runtime) = runtime();
        let _place = runtime.claim("web").unwrap();
        let mut firsts: Vec<u32> = std::thread::scope(|scope| {
            let ask = || {
                (0..50)
                    .map(|_| {
                        let ids = runtime.task_ids().unwrap();
                        assert_eq!(ids.clone().count(), BLOCK as usize);
                        *ids.start()
                    })
                    .collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        firsts.sort_unstable();
        assert_eq!(firsts, (0..200).map(|block| block * BLOCK + 1).collect::<Vec<u32>>());
        let highest = i32::MAX as u32;
        for (last, first) in [
            ("7", 8),
            (&*(highest - BLOCK).to_string(), highest - BLOCK + 1),
            (&(highest - BLOCK + 1).to_string(), 1),
            ("2147483647", 1),
            ("4294967295", 1),
            ("99999999999", 1),
            ("nonsense", 1),
            ("", 1),
        ] {
            fs::write(runtime.base.join(LAST_TASK), last).unwrap();
            assert_eq!(runtime.task_ids().unwrap(), first..=first + (BLOCK - 1), "after {last}");
            let length = fs::metadata(runtime.base.join(LAST_TASK)).unwrap().len();
            assert_eq!(length, 10, "a longer one would need room on a full disk");
        }
        assert_eq!(runtime.list(), ["web"]);
        assert!(check_name(LAST_TASK).is_err());
    }

    #[test]
    fn who_keeps_the_ids_of_tasks_is_not_waited_for_longer_than_a_bound() {
        let (_folder, runtime) = runtime();
        let _place = runtime.claim("web").unwrap();
        let path = runtime.base.join(LAST_TASK);
        let keeper = open_lock(&path).unwrap();
        assert!(take_lock(&keeper).unwrap());
        let (answer, answered) = std::sync::mpsc::channel();
        let asked = runtime.clone();
        std::thread::spawn(move || answer.send(asked.task_ids()));
        let refused = answered.recv_timeout(Duration::from_secs(30)).unwrap().unwrap_err();
        assert_eq!(refused.code(), HResult::ERROR_SHARING_VIOLATION);
        assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
        drop(keeper);
        assert_eq!(runtime.task_ids().unwrap(), 1..=BLOCK);
    }

    #[test]
    fn a_file_of_ids_that_is_another_users_keeps_nobody_from_starting() {
        let (_folder, runtime) = runtime();
        let _place = runtime.claim("web").unwrap();
        let path = runtime.base.join(LAST_TASK);
        if rustix::process::geteuid().is_root() {
            let theirs = open_lock(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(61_234), None).unwrap();
            assert!(take_lock(&theirs).unwrap());
            assert_eq!(runtime.task_ids().unwrap(), 1..=BLOCK);
            assert_eq!(fs::metadata(&path).unwrap().len(), 0, "nothing is written there");
            fs::remove_file(&path).unwrap();
        }
        symlink("/nowhere", &path).unwrap();
        assert_eq!(runtime.task_ids().unwrap(), 1..=BLOCK);
    }

    #[test]
    fn case_41_names_never_leave_the_directory_and_long_paths_are_explained() {
        let (folder, runtime) = runtime();
        for name in ["", "..", ".", "a/b", "/etc"] {
            assert!(matches!(runtime.claim(name), Err(RuntimeError::Name(_))), "{name:?}");
            assert_eq!(runtime.find(name), None);
        }
        let deep = Runtime::at(folder.path().join("x".repeat(100)));
        assert!(matches!(deep.claim("web"), Err(RuntimeError::TooLong(_))));
    }

    #[test]
    fn case_41_the_longest_names_have_sockets_below_the_runtime_directory_of_any_user() {
        let base = "/run/user/4294967294/vmm";
        let names = ["x".repeat(NAME_MAX), "\u{1d11e}".repeat(NAME_MAX), "x".repeat(WHOLE_NAME)];
        for name in &names {
            let vsock = Runtime::at(base).directory(name).join("vsock.sock_4294967295");
            assert!(vsock.as_os_str().len() <= SOCKET_PATH_MAX, "{}", vsock.display());
        }
        let (_folder, runtime) = runtime();
        let upper = "X".repeat(NAME_MAX);
        let place = runtime.claim(&upper).unwrap();
        assert_eq!(runtime.find(&names[0]), Some(upper.clone()));
        assert_eq!(runtime.list(), [upper]);
        let _other = runtime.claim(&"x".repeat(NAME_MAX - 1)).unwrap();
        assert!(matches!(runtime.claim(&names[0]), Err(RuntimeError::InUse(_))));
        drop(place);
        assert_eq!(runtime.find(&names[0]), None);
    }
}
