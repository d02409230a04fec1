//! Unpacked kernels, kept from one start to the next under the SHA-256 of their packed file.
//!
//! The cache is a convenience: without a place for it, or with one that cannot be written, every
//! start unpacks. It is in a directory that only its owner can enter, and a file of it is used only
//! if it belongs to that owner, is a regular file that nobody else can write, and has the length
//! that the packed kernel promises. Files appear by renaming, so a torn one is never seen.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Permission bits that let others write.
const OTHERS_WRITE: u32 = 0o022;

/// A place for unpacked kernels.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The user's cache: `$XDG_CACHE_HOME/vmm`, or `.cache/vmm` in the home directory.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let cache =
            absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(Self { directory: cache.join("vmm") })
    }

    /// A cache in `directory`.
    #[must_use]
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The name of what `packed` unpacks to.
    #[must_use]
    pub fn key(packed: &[u8]) -> String {
        let mut key = String::with_capacity(64);
        for byte in Sha256::digest(packed) {
            // Writing to a string cannot fail.
            let _ = write!(key, "{byte:02x}");
        }
        key
    }

    /// The kernel under `key`, if it is there and is `length` bytes long.
    #[must_use]
    pub fn get(&self, key: &str, length: u64) -> Option<File> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.path(key))
            .ok()?;
        let metadata = file.metadata().ok()?;
        let trusted = metadata.is_file()
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.mode() & OTHERS_WRITE == 0
            && metadata.len() == length;
        trusted.then_some(file)
    }

    /// Keeps `kernel` under `key`.
    ///
    /// # Errors
    /// The place cannot be made or written. Nothing is left behind.
    pub fn put(&self, key: &str, kernel: &[u8]) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let draft = self.path(&format!("{key}.{}", std::process::id()));
        let written = write(&draft, kernel).and_then(|()| fs::rename(&draft, self.path(key)));
        if written.is_err() {
            // Not there is as good.
            let _ = fs::remove_file(&draft);
        }
        written
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(key)
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_is_found_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::at(directory.path().join("vmm"));
        let key = Cache::key(b"packed");
        assert!(cache.get(&key, 8).is_none());
        cache.put(&key, b"unpacked").unwrap();
        assert!(cache.get(&key, 8).is_some());
        assert!(cache.get(&key, 9).is_none(), "another length is another kernel");
        assert!(cache.get(&Cache::key(b"other"), 8).is_none());
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
    fn a_digest_is_that_of_sha_256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Cache::key(b""), empty);
    }
}
