//! Images of disks: what is opened and refused, read and written, and locked.

use super::*;
use crate::error::chain;
use crate::virtio::block::test_disk::{FORMATS, contents, make, new_disk};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MIB: u64 = 1 << 20;

fn fault(disk: &Disk) -> DiskFault {
    match Image::open(disk) {
        Ok(_) => panic!("{disk:?} was opened"),
        Err(error) => error.fault,
    }
}

fn readonly(disk: &Disk) -> Disk {
    Disk { readonly: true, ..disk.clone() }
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn an_image_that_is_written_is_nobody_elses_and_one_that_is_read_is_everybodys() {
    for format in FORMATS {
        let (disk, _directory) = new_disk(format, MIB);
        let writer = Image::open(&disk).unwrap();
        assert!(matches!(fault(&disk), DiskFault::InUse));
        assert!(matches!(fault(&readonly(&disk)), DiskFault::InUse));
        drop(writer);
        let readers =
            [Image::open(&readonly(&disk)).unwrap(), Image::open(&readonly(&disk)).unwrap()];
        assert!(matches!(fault(&disk), DiskFault::InUse));
        drop(readers);
        Image::open(&disk).unwrap();
    }
}

#[test]
fn what_is_no_image_is_refused_and_the_error_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| Disk::new(directory.path().join(name));
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo").path, rustix::fs::Mode::RWXU).unwrap();
    std::fs::write(at("empty").path, []).unwrap();
    std::fs::write(at("odd").path, [0; 1000]).unwrap();
    std::fs::write(at("zeroes").path, [0; 4096]).unwrap();
    let not_qcow2 = Disk { format: DiskFormat::Qcow2, ..at("zeroes") };
    for (disk, words, code) in [
        (at("missing"), "cannot be opened: No such file", HResult::ERROR_FILE_NOT_FOUND),
        (readonly(&at("fifo")), "neither a file nor", HResult::VM_E_DRIVE_INVALID),
        (readonly(&Disk::new(directory.path())), "neither a file nor", HResult::VM_E_DRIVE_INVALID),
        (Disk::new("/dev/null"), "neither a file nor", HResult::VM_E_DRIVE_INVALID),
        (at("empty"), "its disk has 0 bytes", HResult::VM_E_DRIVE_INVALID),
        (at("odd"), "its disk has 1000 bytes", HResult::VM_E_DRIVE_INVALID),
        (not_qcow2, "cannot be read as qcow2: it does not begin", HResult::VM_E_DRIVE_INVALID),
    ] {
        let Err(error) = Image::open(&disk) else { panic!("{disk:?}") };
        let text = chain(&error);
        assert!(text.contains(words) && text.contains(disk.path.to_str().unwrap()), "{text}");
        assert_eq!(error.code(), code, "{text}");
    }
}

#[test]
fn case_38_a_raw_disk_stays_raw_whatever_its_first_sector_says() {
    let (qcow2, _directory) = new_disk(DiskFormat::Qcow2, 64 * MIB);
    let file = std::fs::read(&qcow2.path).unwrap();
    let raw = Disk { format: DiskFormat::Raw, ..qcow2 };
    // As long as a disk.
    let length = file.len().next_multiple_of(512);
    File::options().write(true).open(&raw.path).unwrap().set_len(length as u64).unwrap();
    assert_eq!(Image::open(&raw).unwrap().traits().size, length as u64);
    assert_eq!(contents(&raw)[..file.len()], file);
}

#[test]
fn parts_in_other_files_are_not_followed() {
    let (disk, directory) = new_disk(DiskFormat::Qcow2, MIB);
    let secret = directory.path().join("secret");
    std::fs::write(&secret, b"of the host").unwrap();
    let name = secret.to_str().unwrap().as_bytes();
    // Where the name is, and how long: behind the header and its extensions.
    patch(&disk.path, 1024, name);
    patch(&disk.path, 8, &1024_u64.to_be_bytes());
    patch(&disk.path, 16, &(name.len() as u32).to_be_bytes());
    assert!(matches!(fault(&disk), DiskFault::Reference));
    assert!(matches!(fault(&readonly(&disk)), DiskFault::Reference));

    let (disk, _directory) = new_disk(DiskFormat::Qcow2, MIB);
    patch(&disk.path, 72, &(1_u64 << 2).to_be_bytes());
    assert!(matches!(fault(&disk), DiskFault::Reference), "an external data file");
}

#[test]
fn headers_and_counts_that_would_cost_memory_or_time_are_refused() {
    for (at, bytes) in [
        (36, &u32::MAX.to_be_bytes()[..]),
        (36, &((32 << 20) / 8 + 1_u32).to_be_bytes()),
        (36, &0_u32.to_be_bytes()),
        (56, &u32::MAX.to_be_bytes()),
        (20, &63_u32.to_be_bytes()),
        (20, &8_u32.to_be_bytes()),
        (20, &22_u32.to_be_bytes()),
        (24, &u64::MAX.to_be_bytes()),
        (32, &1_u32.to_be_bytes()),
        (4, &4_u32.to_be_bytes()),
        (96, &u32::MAX.to_be_bytes()),
        (100, &u32::MAX.to_be_bytes()),
        // Counts that are nowhere, and one block of counts for everything.
        (0x1_0000, &[0; 8]),
        (0x1_0000, &0x7_0000_0000_u64.to_be_bytes()),
        (0x1_0000, &0x2_0200_u64.to_be_bytes()),
        (0x1_0008, &0x2_0000_u64.to_be_bytes()),
        // The tables lie nowhere near the file.
        (40, &(u64::MAX - 0xffff).to_be_bytes()),
        (48, &(u64::MAX - 0xffff).to_be_bytes()),
    ] {
        let (disk, _directory) = new_disk(DiskFormat::Qcow2, 64 * MIB);
        patch(&disk.path, at, bytes);
        assert!(matches!(fault(&disk), DiskFault::Format { .. }), "{at} {bytes:?}");
    }
}

#[test]
fn every_start_of_a_qcow2_image_is_refused_or_read() {
    let (whole, directory) = new_disk(DiskFormat::Qcow2, MIB);
    let bytes = std::fs::read(&whole.path).unwrap();
    let start = Disk { path: directory.path().join("start"), ..whole };
    for length in (0..120).chain((128..bytes.len()).step_by(4096)) {
        std::fs::write(&start.path, &bytes[..length]).unwrap();
        if let Ok(image) = Image::open(&start) {
            work_on(image);
        }
    }
}

/// Uses all that an image can do; whether it can do it is another question.
fn work_on(mut image: Image) {
    let mut bytes = vec![7; 0x1_8000];
    let slice = VolatileSlice::from(bytes.as_mut_slice());
    let last = image.traits().size.saturating_sub(bytes_of(&slice));
    for offset in [0, 0x1_0200, last / 2 / 512 * 512, last] {
        let _ = image.read(&[slice], offset);
        let _ = image.write(&[slice], offset);
        let _ = image.write_zeroes(offset, 0x1_8000, false);
        let _ = image.write(&[slice], offset);
        let _ = image.write_zeroes(offset, 0x1_8000, true);
        let _ = image.discard(offset, 0x1_0000);
        let _ = image.flush();
    }
}

fn bytes_of(slice: &VolatileSlice<'_>) -> u64 {
    slice.len() as u64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn damaged_images_harm_nobody(
        damages in prop::collection::vec((0..5_u64, 0..4096_u64, any::<u64>(), 1..8_usize), 1..6),
    ) {
        let (disk, _directory) = new_disk(DiskFormat::Qcow2, 4 * MIB);
        let mut bytes = vec![9; 0x2_0000];
        let mut image = Image::open(&disk).unwrap();
        image.write(&[VolatileSlice::from(bytes.as_mut_slice())], MIB).unwrap();
        image.flush().unwrap();
        drop(image);
        let length = std::fs::metadata(&disk.path).unwrap().len();
        for (cluster, at, value, count) in damages {
            // Near the start of a cluster, where tables have something to say.
            let place = (cluster * 0x1_0000 + at % 256).min(length);
            patch(&disk.path, place, &value.to_be_bytes()[..count]);
        }
        // It is not this that is tried here: a file that is as long as a wrong number says.
        if let Ok(image) = Image::open(&disk) {
            work_on(image);
        }
    }
}

#[test]
fn an_image_over_which_the_library_panics_is_refused() {
    let (disk, _directory) = new_disk(DiskFormat::Qcow2, MIB);
    // Behind the header: a table of feature names with an entry of one byte.
    patch(&disk.path, 100, &104_u32.to_be_bytes());
    patch(&disk.path, 104, &0x6803_f857_u32.to_be_bytes());
    patch(&disk.path, 108, &1_u32.to_be_bytes());
    patch(&disk.path, 112, &[0; 16]);
    assert!(matches!(fault(&disk), DiskFault::Format { .. }));
}

#[test]
fn what_is_made_for_tests_can_be_opened() {
    let directory = tempfile::tempdir().unwrap();
    for format in FORMATS {
        let disk = Disk { format, ..Disk::new(directory.path().join(format.name())) };
        make(&disk, 3 * MIB + 512);
        let traits = Image::open(&disk).unwrap().traits();
        assert_eq!((traits.size, traits.readonly), (3 * MIB + 512, false));
        assert_eq!(Image::open(&readonly(&disk)).unwrap().traits().granularity, None);
    }
}
