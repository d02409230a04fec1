//! Unpacked kernels, kept from one start to the next.
//!
//! What is kept is named after its packed file: the device and inode that it is, its length, when it
//! changed last, and a digest of its beginning and end. A start need not read the packed kernel as a
//! whole; a digest of that would take longer than all else until the guest runs. The kernel sets the
//! time of the change on most file systems, whatever a file's owner says. Where it does not, or
//! counts in seconds, the end tells: the last bytes of a bzImage are its checksum, and of a payload its
//! packer's. A file that has just changed might do so again at what the clock calls the same time:
//! nothing is kept for it yet.
//!
//! The cache is a convenience: without a place for it, or with one that cannot be written, every
//! start unpacks. What makes its files trustworthy:
//!
//! - A file appears by renaming, after all of it is on the disk, so a torn one is never seen. Each
//!   draft has a name of its own, so machines that start together do not write into each other's.
//! - A file is used only if it is a regular one that belongs to this user, and neither it nor its
//!   directory can be written by anybody else. Who could tamper with it could as well tamper with
//!   the packed kernel, or with this process.
//! - It must have the length that the packed kernel promises, and is then read as any ELF file is:
//!   nothing in it is believed.
//! - It is never written to again. Machines may have its pages mapped: one that is
//!   forgotten, or replaced, stays for those who have it.

use crate::confine;
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, DirEntry, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Permission bits that let others write.
pub(super) const OTHERS_WRITE: u32 = 0o022;

/// Longer than the clock stands still that files get their times from: a hundredth of a second at most.
const TICK: Duration = Duration::from_millis(20);

/// Bytes of the digest.
const DIGEST: usize = 16;

/// Kernels that are kept, each of some 50 MB.
const KEPT: usize = 8;
/// What was used or made later is kept besides: it may be somebody's draft.
const RECENT: Duration = Duration::from_secs(3600);

/// Bytes of a page, the smallest hole of most file systems.
const PAGE: usize = crate::memory::PAGE_SIZE as usize;

/// A place for unpacked kernels.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The user's cache: `$XDG_CACHE_HOME/vmm`, or `.cache/vmm` in the home directory.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        Some(Self { directory: directory_of_user()? })
    }

    /// A cache in `directory`.
    #[must_use]
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The name of what the file with this `metadata`, `start` and `end` unpacks to; none if it has
    /// changed just now.
    #[must_use]
    pub fn key(metadata: &Metadata, start: &[u8], end: &[u8]) -> Option<String> {
        let (seconds, nanoseconds) = (metadata.ctime(), metadata.ctime_nsec());
        let changed = Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        (changed + TICK < now).then(|| {
            let (device, inode, length) = (metadata.dev(), metadata.ino(), metadata.len());
            let digest = Sha256::new().chain_update(start).chain_update(end).finalize();
            let digits: String =
                digest.iter().take(DIGEST).map(|byte| format!("{byte:02x}")).collect();
            format!("{device:x}-{inode:x}-{length:x}-{seconds:x}.{nanoseconds:09}-{digits}")
        })
    }

    /// The kernel under `key`, if it is there and is `length` bytes long.
    #[must_use]
    pub fn get(&self, key: &str, length: u64) -> Option<File> {
        if !only_ours(&fs::metadata(&self.directory).ok()?) {
            return None;
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(self.path(key))
            .ok()?;
        let metadata = file.metadata().ok()?;
        let trusted = metadata.is_file() && only_ours(&metadata) && metadata.len() == length;
        trusted.then_some(file)
    }

    /// Keeps `kernel` under `key`.
    ///
    /// # Errors
    /// The place cannot be made or written, or is not this user's alone. Nothing is left behind.
    pub fn put(&self, key: &str, kernel: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        if !only_ours(&fs::metadata(&self.directory)?) {
            let place = self.directory.display();
            return Err(io::Error::other(format!("others than this user can write to {place}")));
        }
        let mut unique = [0; 8];
        rustix::rand::getrandom(&mut unique, rustix::rand::GetRandomFlags::empty())?;
        let draft = self.path(&format!("{key}.{:016x}", u64::from_ne_bytes(unique)));
        let written = write(&draft, kernel).and_then(|()| fs::rename(&draft, self.path(key)));
        if written.is_err() {
            // Not there is as good.
            let _ = fs::remove_file(&draft);
        }
        // Who is confined can neither look around there nor remove anything.
        if written.is_ok() && !confine::is_confined() {
            self.forget_oldest();
        }
        written
    }

    /// Removes those that were not used lately, but for the last [`KEPT`].
    fn forget_oldest(&self) {
        let now = SystemTime::now();
        let used = |entry: io::Result<DirEntry>| {
            let entry = entry.ok()?;
            let used = entry.metadata().ok()?.modified().ok()?;
            // A time that is yet to come is none.
            Some((if used > now { SystemTime::UNIX_EPOCH } else { used }, entry.path()))
        };
        let mut kept: Vec<_> =
            fs::read_dir(&self.directory).into_iter().flatten().filter_map(used).collect();
        kept.sort_unstable_by(|one, other| other.cmp(one));
        for (used, path) in kept.into_iter().skip(KEPT) {
            if now.duration_since(used).is_ok_and(|age| age > RECENT) {
                // Whoever reads it has it open; what cannot be removed stays.
                let _ = fs::remove_file(path);
            }
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(key)
    }
}

/// Where the user's cache is. In a [jail](crate::confine::jail) there is none: what names it is forgotten.
pub(crate) fn directory_of_user() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("vmm"))
}

/// Whether nobody but this user can write to what has this `metadata`.
fn only_ours(metadata: &Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & OTHERS_WRITE == 0
}

/// Whether `page` is zeros; in words, for byte by byte that takes eight times as long.
fn is_zeros(page: &[u8]) -> bool {
    let (words, rest) = page.as_chunks();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Writes `bytes`, its pages of zeros as holes: a third of a kernel is zeros, which no start has to copy
/// then.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_len(bytes.len() as u64)?;
    for (page, content) in (0..).zip(bytes.chunks(PAGE)) {
        if !is_zeros(content) {
            file.write_all_at(content, page * PAGE as u64)?;
        }
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_is_found_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().join("vmm"));
        assert!(cache.get("key", 8).is_none());
        cache.put("key", b"unpacked").unwrap();
        assert!(cache.get("key", 8).is_some());
        assert!(cache.get("key", 9).is_none(), "another length is another kernel");
        assert!(cache.get("other", 8).is_none());
        let names: Vec<_> = fs::read_dir(&cache.directory).unwrap().collect();
        assert_eq!(names.len(), 1, "no draft is left: {names:?}");
    }

    #[test]
    fn a_file_that_others_can_write_or_a_link_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        cache.put("open", b"unpacked").unwrap();
        fs::set_permissions(cache.path("open"), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(cache.get("open", 8).is_none());
        cache.put("real", b"unpacked").unwrap();
        std::os::unix::fs::symlink(cache.path("real"), cache.path("link")).unwrap();
        assert!(cache.get("link", 8).is_none());
        assert!(cache.get("real", 8).is_some());
    }

    #[test]
    fn a_place_that_others_can_write_is_neither_believed_nor_used() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        cache.put("key", b"unpacked").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(cache.get("key", 8).is_none());
        assert!(cache.put("other", b"unpacked").is_err());
        assert!(!cache.path("other").exists());
    }

    #[test]
    fn drafts_of_one_kernel_do_not_get_into_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        let kernel = vec![7; 1 << 20];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    cache.put("key", &kernel).unwrap();
                    let mut read = Vec::new();
                    cache.get("key", 1 << 20).unwrap().read_to_end(&mut read).unwrap();
                    assert!(read == kernel);
                });
            }
        });
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_file_has_another_name_when_it_has_changed_and_none_just_then() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let key = || Cache::key(&file.as_file().metadata().unwrap(), b"start", b"end");
        let wait = || loop {
            match key() {
                Some(key) => break key,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let first = wait();
        assert_eq!(key(), Some(first.clone()), "it has not changed");
        for _ in 0..20 {
            fs::write(file.path(), "the same length").unwrap();
            assert_ne!(key(), Some(first.clone()));
        }
        // Who sets the time of the last write back does not hide it.
        let second = wait();
        file.as_file().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_ne!(wait(), second);
        let other = tempfile::NamedTempFile::new().unwrap();
        let metadata = other.as_file().metadata().unwrap();
        assert_ne!(Cache::key(&metadata, b"start", b"end"), Some(second));
        // On file systems without such a time its beginning and end tell.
        let metadata = file.as_file().metadata().unwrap();
        let last = wait();
        assert_ne!(Cache::key(&metadata, b"Start", b"end"), Some(last.clone()));
        assert_ne!(Cache::key(&metadata, b"start", b"End"), Some(last));
    }

    #[test]
    fn the_oldest_of_many_kernels_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path());
        for number in 0..KEPT as u64 + 3 {
            let key = number.to_string();
            cache.put(&key, b"unpacked").unwrap();
            let made = SystemTime::UNIX_EPOCH + Duration::from_secs(number);
            File::open(cache.path(&key)).unwrap().set_modified(made).unwrap();
        }
        // The last was counted while it was new, as the eighth.
        assert!(cache.get("2", 8).is_none() && cache.get("3", 8).is_some());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), KEPT);
        // All are recent now; whoever made them may not be done with them.
        for number in 0..KEPT as u64 + 3 {
            cache.put(&format!("new{number}"), b"unpacked").unwrap();
        }
        assert!(cache.get("new0", 8).is_some() && cache.get("3", 8).is_none());
    }
}
