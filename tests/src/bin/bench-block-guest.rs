//! The first program of a guest whose disk is measured, which loads the modules before, or a process of the
//! host, which gets a file as its argument: obeys the orders of [`tests::disk_load`].

use rustix::fs::OFlags;
use rustix::mount::{MountFlags, mount};
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process;
use tests::disk_load::{self, DISK};
use tests::init;

fn main() {
    if process::id() == 1 {
        init::stay(in_guest);
    }
    if let Err(error) = on_host() {
        println!("{error}");
        process::exit(1);
    }
}

/// The file is in memory, where the kernel has no other way around its page cache.
fn on_host() -> io::Result<()> {
    let file = env::args_os().nth(1).unwrap_or_default();
    serve(OpenOptions::new().read(true).write(true).open(file)?)
}

fn in_guest() -> io::Result<()> {
    for (kind, place) in [("devtmpfs", "/dev"), ("sysfs", "/sys")] {
        fs::create_dir_all(place)?;
        mount(kind, place, kind, MountFlags::empty(), None)?;
    }
    init::load_modules()?;
    let mut disk = None;
    for entry in fs::read_dir("/sys/block")?.flatten() {
        let sectors = fs::read_to_string(entry.path().join("size"))?;
        // A monitor may have brought a disk of its own along.
        if sectors.trim().parse() == Ok(DISK / 512) {
            disk = Some(Path::new("/dev").join(entry.file_name()));
        }
    }
    let direct = OFlags::DIRECT.bits().cast_signed();
    let disk = disk.ok_or(io::ErrorKind::NotFound)?;
    serve(OpenOptions::new().read(true).write(true).custom_flags(direct).open(disk)?)
}

fn serve(disk: File) -> io::Result<()> {
    init::say_userspace()?;
    disk_load::serve(&disk)
}
