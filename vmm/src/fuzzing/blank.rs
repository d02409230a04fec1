//! Files that are nowhere: in memory, and gone when they are closed.

use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A file of these bytes, and a path that opens it as long as it is open.
pub(super) fn file(bytes: &[u8]) -> (File, PathBuf) {
    let file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory is left"));
    file.write_all_at(bytes, 0).expect("memory is left");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    (file, path)
}
