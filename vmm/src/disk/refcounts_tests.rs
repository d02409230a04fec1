//! Counts of clusters: images that are whole, that a killed process left, and that contradict
//! themselves.

use super::*;
use crate::config::{Disk, DiskFormat};
use crate::disk::Image;
use crate::virtio::block::test_disk::{contents, new_disk};
use std::path::Path;
use std::process::{Command, Output};
use vm_memory::VolatileSlice;

const MIB: u64 = 1 << 20;

fn qemu_img(arguments: &[&str], image: &Path) -> Output {
    let output = Command::new("qemu-img").args(arguments).arg(image).output();
    output.expect("qemu-img runs; it is in the package qemu-utils")
}

/// What `qemu-img check` ends with: 0 if all is well, 2 for damage, 3 for space that is lost.
fn check(disk: &Disk) -> Option<i32> {
    qemu_img(&["check", "-q", "-f", "qcow2"], &disk.path).status.code()
}

fn patch(disk: &Disk, at: u64, bytes: &[u8]) {
    File::options().write(true).open(&disk.path).unwrap().write_all_at(bytes, at).unwrap();
}

/// Writes a pattern all over the image, which it then is full of, and flushes.
fn fill(disk: &Disk, image: &mut Image) {
    let mut bytes: Vec<u8> = (0..0x2_0000).map(|index| (index / 512) as u8 | 1).collect();
    let slice = VolatileSlice::from(bytes.as_mut_slice());
    for offset in (0..image.traits().size).step_by(bytes_of(&slice)) {
        image.write(&[slice], offset).unwrap();
    }
    image.flush().unwrap();
    assert_eq!(check_open(disk), Some(0));
}

/// The same for an image that is open and locked, so that QEMU's tools do not touch it.
fn check_open(disk: &Disk) -> Option<i32> {
    let copy = disk.path.with_extension("copy");
    std::fs::copy(&disk.path, &copy).unwrap();
    check(&Disk { path: copy, ..disk.clone() })
}

fn bytes_of(slice: &VolatileSlice<'_>) -> usize {
    slice.len()
}

/// An image that QEMU has made, with these options.
fn made_by_qemu(options: &str, size: u64) -> (Disk, tempfile::TempDir) {
    let (disk, directory) = new_disk(DiskFormat::Qcow2, MIB);
    let path = disk.path.to_str().unwrap();
    let create = ["create", "-q", "-f", "qcow2", "-o", options, path];
    let made = Command::new("qemu-img").args(create).arg(size.to_string()).output();
    assert!(made.expect("qemu-img runs").status.success());
    (disk, directory)
}

#[test]
fn counts_of_every_width_are_found_and_made() {
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        for index in [0, 1, 7, 8, 63] {
            let mut block = vec![0; 512];
            make_one(&mut block, index, bits);
            let used: Vec<u64> = (0..64).filter(|index| !is_free(&block, *index, bits)).collect();
            assert_eq!(used, [index], "{bits} bits");
            assert_eq!(block.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        }
    }
    // The last of a count's bytes is the lowest.
    let mut block = [0; 8];
    make_one(&mut block, 1, 32);
    assert_eq!(block, [0, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn a_count_that_is_missing_is_made_and_qemu_finds_nothing_wrong() {
    for options in [
        "cluster_size=64K",
        "cluster_size=512",
        "cluster_size=4K,refcount_bits=1",
        "cluster_size=4K,refcount_bits=2",
        "cluster_size=4K,refcount_bits=64",
        "compat=0.10,cluster_size=4K",
    ] {
        let (disk, _directory) = made_by_qemu(options, 4 * MIB);
        let mut image = Image::open(&disk).unwrap();
        fill(&disk, &mut image);
        drop(image);
        let before = contents(&disk);
        let header = Header::read(&File::open(&disk.path).unwrap()).unwrap();
        let blocks = table(&File::open(&disk.path).unwrap(), header.refcounts).unwrap();
        // All counts but that of the header, of those clusters that the first block knows.
        let counts = (header.cluster - 64).min(1000);
        patch(&disk, blocks[0] + 64, &vec![0; counts as usize]);
        assert_eq!(check(&disk), Some(2), "{options}");
        drop(Image::open(&disk).unwrap());
        assert_eq!(check(&disk), Some(0), "{options}");
        assert!(contents(&disk) == before, "{options}");
    }
}

#[test]
fn a_monitor_that_is_killed_between_two_flushes_leaves_an_image_that_can_be_written() {
    for options in ["cluster_size=512", "cluster_size=4K", "cluster_size=64K"] {
        let (disk, directory) = made_by_qemu(options, 64 * MIB);
        let left = Disk { path: directory.path().join("left"), ..disk.clone() };
        let mut image = Image::open(&disk).unwrap();
        let mut mended = 0;
        let write = |image: &mut Image, number: u64, byte: u8| {
            let mut bytes = [byte; 512];
            image.write(&[VolatileSlice::from(&mut bytes[..])], number * 100 * 512).unwrap();
        };
        for number in 0..50_u64 {
            write(&mut image, number, number as u8 + 1);
            if number % 8 == 0 {
                image.flush().unwrap();
            }
            // What is in the file now is what would be left.
            std::fs::copy(&disk.path, &left.path).unwrap();
            mended += u32::from(check(&left) == Some(2));
            let mut again = Image::open(&left).unwrap();
            // Whoever goes on does not put anything where something is.
            for number in 300..303 {
                write(&mut again, number, 0xee);
            }
            again.flush().unwrap();
            drop(again);
            assert!(matches!(check(&left), Some(0 | 3)), "{options} {number}");
            let found = contents(&left);
            for number in 0..=number / 8 * 8 {
                let at = number as usize * 100 * 512;
                assert_eq!(found[at..at + 512], [number as u8 + 1; 512], "{options} {number}");
            }
        }
        assert!(mended > 0 || options.ends_with("64K"), "{options}: nothing had to be mended");
    }
}

#[test]
fn compressed_clusters_share_theirs() {
    let (plain, directory) = new_disk(DiskFormat::Raw, 4 * MIB);
    let mut image = Image::open(&plain).unwrap();
    let mut bytes: Vec<u8> = (0..4 * MIB).map(|index| (index / 4096) as u8).collect();
    image.write(&[VolatileSlice::from(bytes.as_mut_slice())], 0).unwrap();
    drop(image);
    let path = directory.path().join("packed");
    let convert = ["convert", "-c", "-f", "raw", "-O", "qcow2", plain.path.to_str().unwrap()];
    assert!(qemu_img(&convert, &path).status.success());
    let disk = Disk { format: DiskFormat::Qcow2, path, ..plain };
    let mut image = Image::open(&disk).unwrap();
    image.write(&[VolatileSlice::from(&mut [7; 512][..])], MIB).unwrap();
    drop(image);
    assert!(matches!(check(&disk), Some(0 | 3)));
    bytes[MIB as usize..MIB as usize + 512].fill(7);
    assert!(contents(&disk) == bytes);
    // A count of theirs that is missing is none that a kill leaves.
    let header = Header::read(&File::open(&disk.path).unwrap()).unwrap();
    let blocks = table(&File::open(&disk.path).unwrap(), header.refcounts).unwrap();
    patch(&disk, blocks[0] + 2, &[0; 512]);
    assert!(Image::open(&disk).is_err());
}

#[test]
fn damage_is_refused_but_can_be_read() {
    let (whole, directory) = new_disk(DiskFormat::Qcow2, 4 * MIB);
    let mut image = Image::open(&whole).unwrap();
    fill(&whole, &mut image);
    drop(image);
    let file = File::open(&whole.path).unwrap();
    let header = Header::read(&file).unwrap();
    let l1 = table(&file, header.l1).unwrap();
    let l2 = l1[0] & OFFSET;
    let entries = table(&file, (l2, header.cluster)).unwrap();
    for (what, at, entry) in [
        ("two uses of one cluster", l2, entries[1]),
        ("the header as contents", l2, 0x200),
        ("an L2 table as contents", l2, l2 | 1 << 63),
        ("past the end", l2, 0x00ff_0000_0000_0000),
        ("an L2 table past the end", header.l1.0, 0x00ff_0000_0000_0000),
        ("an L2 table in the middle of a cluster", header.l1.0, l2 + 512),
        ("a compressed cluster past the end", l2, COMPRESSED | 0x00ff_0000_0000),
        (
            "a block of counts twice",
            header.refcounts.0 + 8,
            table(&file, header.refcounts).unwrap()[0],
        ),
        ("no counts", header.refcounts.0, 0),
    ] {
        let disk = Disk { path: directory.path().join("damaged"), ..whole.clone() };
        std::fs::copy(&whole.path, &disk.path).unwrap();
        patch(&disk, at, &entry.to_be_bytes());
        let before = std::fs::read(&disk.path).unwrap();
        assert!(Image::open(&disk).is_err(), "{what}");
        assert!(std::fs::read(&disk.path).unwrap() == before, "{what}: it is left as it is");
        let readonly = Image::open(&Disk { readonly: true, ..disk });
        assert!(readonly.is_ok() || what.contains("L2"), "{what}");
    }
}

#[test]
fn an_image_with_snapshots_is_only_read() {
    let (disk, _directory) = new_disk(DiskFormat::Qcow2, MIB);
    assert!(qemu_img(&["snapshot", "-c", "before"], &disk.path).status.success());
    assert!(Image::open(&disk).is_err());
    Image::open(&Disk { readonly: true, ..disk }).unwrap();
}
