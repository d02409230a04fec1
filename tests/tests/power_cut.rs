//! The monitor is killed while its guest writes and flushes: what the guest was told is safe is there.
//!
//! The judges of qcow2 images are QEMU's tools.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tests::disk_writer::{DISK_SIZE, disk_writer, overwritten_by, place_of};
use vmm::config::{Disk, DiskFormat};
use vmm::disk::Image;

const CUTS: u64 = 50;

fn qemu_img(arguments: &[&str]) -> Output {
    let output = Command::new("qemu-img").args(arguments).output();
    output.expect("qemu-img runs; it is in the package qemu-utils")
}

/// Lets a guest write `first` and the numbers after it, cuts the power after some `enough` of them,
/// and gives the last one that it was told is safe.
fn cut(folder: &Path, format: &str, first: u64, enough: usize) -> Option<u64> {
    let kernel = folder.join("kernel");
    std::fs::write(&kernel, disk_writer(first)).unwrap();
    let mut machine = Command::new(env!("CARGO_BIN_EXE_vmm"))
        .args(["run", "cut", "--memory", "32M", "--console", "stdio", "--kernel"])
        .arg(&kernel)
        .args(["--disk", &format!("path={},format={format}", folder.join("image").display())])
        .env("VMM_RUNTIME_DIR", folder.join("run"))
        .env("VMM_DATA_DIR", folder.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = machine.stdout.take().unwrap();
    let mut said = vec![0; enough * 17];
    let heard = output.read_exact(&mut said);
    machine.kill().unwrap();
    output.read_to_end(&mut said).unwrap();
    let mut errors = String::new();
    machine.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    machine.wait().unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(heard.is_ok(), "the guest said only {said:?}; {errors}");
    // A line that was cut off says nothing.
    let numbers = said.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let numbers: Vec<u64> =
        numbers.map(|line| u64::from_str_radix(line, 16).expect("a number")).collect();
    assert!(numbers.iter().copied().eq(first..first + numbers.len() as u64), "{numbers:?}");
    numbers.last().copied()
}

/// Sees that each place of `disk` has the number of `safe`, or the one that was being written.
fn check(disk: &File, safe: &HashMap<u64, u64>, when: &str) {
    for (place, number) in safe {
        let mut sector = [0; 512];
        disk.read_exact_at(&mut sector, *place).unwrap();
        let ends =
            [&sector[..8], &sector[504..]].map(|end| u64::from_le_bytes(end.try_into().unwrap()));
        let later = overwritten_by(*number);
        let whole = ends[0] == ends[1] && (ends[0] == *number || ends[0] == later);
        assert!(whole, "{when}: at {place} are {ends:?}, and {number} was safe");
    }
}

fn cuts(format: &str, options: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let path = image.to_str().unwrap();
    let create = [&["create", "-q", "-f", format], options, &[path, &DISK_SIZE.to_string()]];
    let made = qemu_img(&create.concat());
    assert!(made.status.success(), "{made:?}");
    let mut safe = HashMap::new();
    let mut next = 1;
    for number in 0..CUTS {
        let enough = 1 + (number * 7 % 29) as usize;
        let last = cut(folder.path(), format, next, enough).expect("it said some");
        safe.extend((next..=last).map(|number| (place_of(number), number)));
        // The one after the last may have been written as well, and is written again.
        next = last + 1;
        let disk = if format == "raw" {
            image.clone()
        } else {
            // As a machine would open it. Then all is well (0), or some space is lost (3); the rest
            // is damage.
            drop(Image::open(&Disk { format: DiskFormat::Qcow2, ..Disk::new(&image) }).unwrap());
            let found = qemu_img(&["check", "-f", format, path]);
            assert!(matches!(found.status.code(), Some(0 | 3)), "cut {number}: {found:?}");
            let plain = folder.path().join("plain");
            let plain_path = plain.to_str().unwrap();
            let converted = qemu_img(&["convert", "-f", format, "-O", "raw", path, plain_path]);
            assert!(converted.status.success(), "{converted:?}");
            plain
        };
        check(&File::open(disk).unwrap(), &safe, &format!("after cut {number}"));
    }
    assert!(safe.len() as u64 > CUTS * 5, "{} numbers are few", safe.len());
    if format == "qcow2" {
        let mended = qemu_img(&["check", "-q", "-r", "leaks", "-f", format, path]);
        assert!(mended.status.success(), "{mended:?}");
        let found = qemu_img(&["check", "-f", format, path]);
        assert_eq!(found.status.code(), Some(0), "{found:?}");
    }
}

#[test]
fn a_raw_disk_loses_nothing_that_was_flushed_when_the_monitor_is_killed() {
    cuts("raw", &[]);
}

#[test]
fn a_qcow2_disk_loses_nothing_that_was_flushed_when_the_monitor_is_killed() {
    cuts("qcow2", &[]);
}

/// Nearly every write makes a table.
#[test]
fn a_qcow2_disk_of_small_clusters_loses_nothing_either() {
    cuts("qcow2", &["-o", "cluster_size=512"]);
}
