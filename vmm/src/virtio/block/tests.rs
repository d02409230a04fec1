//! What a well-behaved driver gets.

use super::test_disk::*;
use super::*;
use crate::config::{Disk, DiskFormat};
use crate::usage::Usage;
use crate::virtio::mmio::register;
use crate::virtio::test_driver::LIMIT;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 512) as u8 ^ index as u8 ^ seed).collect()
}

#[test]
fn what_was_written_is_read_whatever_its_shape_and_lies_in_the_image() {
    for format in FORMATS {
        let (disk, _directory) = new_disk(format, 4 * MIB);
        let mut guest = Guest::start(&disk);
        let mut expected = vec![0; 4 * MIB as usize];
        let shapes = [&[512][..], &[100, 412], &[1, 511, 1024, 4096], &[0, 512, 0], &[65_536; 20]];
        for (index, shape) in shapes.into_iter().enumerate() {
            let sector = [0, 5, 127, 2000, 4096][index];
            let data = pattern(index as u8 + 1, shape.iter().sum());
            let (mut rest, mut pieces) = (data.as_slice(), Vec::new());
            for length in shape {
                let (piece, later) = rest.split_at(*length);
                pieces.push(piece);
                rest = later;
            }
            let written = guest.ask(&header(OUT, sector), &pieces, &[]);
            assert_eq!(written, Answer { status: OK, length: 1, data: vec![] });
            let read = guest.ask(&header(IN, sector), &[], shape);
            assert_eq!(read.length as usize, data.len() + 1);
            assert!(read.status == OK && read.data == data, "{format:?} {shape:?}");
            let at = sector as usize * 512;
            expected[at..at + data.len()].copy_from_slice(&data);
        }
        assert_eq!(guest.flush(), OK);
        drop(guest);
        assert!(contents(&disk) == expected, "{format:?}");
    }
}

#[test]
fn a_header_in_pieces_and_in_a_table_of_its_own_is_a_header() {
    let (disk, _directory) = new_disk(DiskFormat::Raw, MIB);
    let mut guest = Guest::start(&disk);
    let whole = header(OUT, 3);
    let data = pattern(7, 512);
    for cut in 0..=16 {
        let (first, second) = whole.split_at(cut);
        assert_eq!(guest.ask(first, &[second, &data], &[]).status, OK, "{cut}");
    }
    // Header and data in one buffer.
    let both: Vec<u8> = whole.iter().chain(&data).copied().collect();
    assert_eq!(guest.ask(&both, &[], &[]).status, OK);
    assert_eq!(guest.read(3, 512).data, data);
}

#[test]
fn the_last_sector_is_the_disks_and_the_next_is_not() {
    for format in FORMATS {
        let (disk, _directory) = new_disk(format, MIB);
        let mut guest = Guest::start(&disk);
        assert_eq!(guest.write(2047, &[1; 512]), OK);
        assert_eq!(guest.read(2047, 512).data, [1; 512]);
        for (sector, length) in
            [(2048, 512), (2047, 1024), (u64::MAX, 512), (u64::MAX / 512, 512), (1 << 55, 512)]
        {
            assert_eq!(guest.write(sector, &vec![2; length]), IO_ERROR, "{sector}");
            let read = guest.read(sector, length);
            assert_eq!((read.status, read.length), (IO_ERROR, 0), "{sector}");
        }
        assert_eq!(guest.read(2048, 0).status, OK, "nothing of nowhere");
    }
}

#[test]
fn a_length_that_is_no_whole_sectors_is_refused() {
    let (disk, _directory) = new_disk(DiskFormat::Raw, MIB);
    let mut guest = Guest::start(&disk);
    for length in [1, 511, 513, 1000] {
        assert_eq!(guest.write(0, &vec![1; length]), IO_ERROR);
        assert_eq!(guest.read(0, length).status, IO_ERROR);
    }
    assert_eq!(guest.read(0, 1024).data, [0; 1024]);
}

#[test]
fn a_readonly_disk_says_so_and_refuses_whatever_would_change_it() {
    for format in FORMATS {
        let (disk, _directory) = new_disk(format, MIB);
        assert_eq!(Guest::start(&disk).write(1, &[7; 512]), OK);
        let before = std::fs::read(&disk.path).unwrap();
        let mut guest = Guest::start(&Disk { readonly: true, ..disk.clone() });
        assert_ne!(features(&mut guest) & 1 << VIRTIO_BLK_F_RO, 0);
        assert_eq!(guest.read(1, 512).data, [7; 512]);
        assert_eq!(guest.write(1, &[8; 512]), IO_ERROR);
        for kind in [DISCARD, WRITE_ZEROES] {
            assert_eq!(guest.ask(&header(kind, 0), &[&range(0, 8, 0)], &[]).status, IO_ERROR);
        }
        assert_eq!(guest.flush(), OK);
        drop(guest);
        assert!(std::fs::read(&disk.path).unwrap() == before);
    }
}

/// The features that the device offers, of those below 32.
fn features(guest: &mut Guest) -> u64 {
    guest.driver.write(register::DEVICE_FEATURES_SELECT, 0);
    guest.driver.read(register::DEVICE_FEATURES).into()
}

#[test]
fn the_configuration_space_says_how_large_everything_is() {
    let (disk, _directory) = new_disk(DiskFormat::Qcow2, 3 * MIB);
    let mut guest = Guest::start(&disk);
    let mut at = |offset| guest.driver.read(register::CONFIG + offset);
    assert_eq!((at(0), at(4)), (3 * 2048, 0), "sectors");
    assert_eq!((at(12), at(20)), (254, 512), "buffers of a request, bytes of a block");
    assert_eq!((at(36), at(40), at(44)), (1 << 21, 16, 128), "discard, in clusters");
    assert_eq!((at(48), at(52), at(56)), (1 << 21, 16, 1), "zeroes");
    for offset in [60, 64, 0xefc] {
        assert_eq!(at(offset), 0, "nothing is there");
    }
}

#[test]
fn the_disk_has_a_name() {
    let (disk, _directory) = new_disk(DiskFormat::Raw, MIB);
    let mut guest = Guest::start(&disk);
    let id = guest.ask(&header(GET_ID, 0), &[], &[20]);
    assert_eq!((id.status, id.length), (OK, 21));
    assert_eq!(id.data, b"disk-0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let long = guest.ask(&header(GET_ID, 0), &[], &[7, 30]);
    assert_eq!((long.status, long.length), (OK, 20));
    assert_eq!(guest.ask(&header(GET_ID, 0), &[], &[3]).data, b"dis");
    assert_eq!(guest.ask(&header(GET_ID, 0), &[], &[]).status, OK);
}

#[test]
fn requests_that_do_not_exist_are_unsupported() {
    let (disk, _directory) = new_disk(DiskFormat::Raw, MIB);
    let mut guest = Guest::start(&disk);
    for kind in [2, 3, 5, 7, 9, 10, 12, 14, 24, 0x8000_0000, u32::MAX] {
        let answer = guest.ask(&header(kind, 0), &[&[0; 512]], &[512]);
        assert_eq!((answer.status, answer.length), (UNSUPPORTED, 0), "{kind}");
    }
}

#[test]
fn zeroes_are_written_and_their_space_is_given_back_if_that_is_wanted() {
    for format in FORMATS {
        let (disk, _directory) = new_disk(format, 4 * MIB);
        let mut guest = Guest::start(&disk);
        for piece in 0..32 {
            assert_eq!(guest.write(piece * 256, &[0xaa; 0x2_0000 - 512]), OK);
            assert_eq!(guest.write(piece * 256 + 255, &[0xaa; 512]), OK);
        }
        assert_eq!(guest.flush(), OK);
        let blocks = || std::fs::metadata(&disk.path).unwrap().blocks();
        let full = blocks();
        // Not at the borders of clusters or blocks.
        let kept = [range(1, 1023, 0), range(1025, 1000, 0)].concat();
        assert_eq!(guest.ask(&header(WRITE_ZEROES, 0), &[&kept], &[]).status, OK);
        assert_eq!(guest.flush(), OK);
        assert!(blocks() + 8 >= full, "{format:?}: the space is kept: {} of {full}", blocks());
        let given = range(4095, 4097, 1);
        assert_eq!(guest.ask(&header(WRITE_ZEROES, 0), &[&given], &[]).status, OK);
        assert_eq!(guest.flush(), OK);
        if format == DiskFormat::Raw {
            assert!(blocks() < full - 3800, "it is given back: {} of {full}", blocks());
        }
        drop(guest);
        let found = contents(&disk);
        for (sector, bytes) in found.chunks(512).enumerate() {
            let zero = sector != 1024 && matches!(sector, 1..2025 | 4095..);
            assert!(bytes.iter().all(|b| *b == if zero { 0 } else { 0xaa }), "{format:?} {sector}");
        }
    }
}

#[test]
fn what_is_discarded_gives_its_space_back_and_the_rest_stays() {
    for format in FORMATS {
        let (disk, _directory) = new_disk(format, 4 * MIB);
        let mut guest = Guest::start(&disk);
        for sector in 0..64 {
            assert_eq!(guest.write(sector * 128, &[0xbb; 0x1_0000]), OK);
        }
        assert_eq!(guest.flush(), OK);
        let full = std::fs::metadata(&disk.path).unwrap().blocks();
        let answer = guest.ask(&header(DISCARD, 0), &[&range(130, 128 * 40, 0)], &[]);
        assert_eq!((answer.status, answer.length), (OK, 1));
        assert_eq!(guest.flush(), OK);
        // In a qcow2 image the space is there for other parts of the disk, of which there are none
        // here: nothing grows when the same is written again.
        if format == DiskFormat::Qcow2 {
            for sector in 2..40 {
                assert_eq!(guest.write(sector * 128, &[0xbb; 0x1_0000]), OK);
            }
            assert_eq!(guest.flush(), OK);
        }
        let left = std::fs::metadata(&disk.path).unwrap().blocks();
        let given_back = if format == DiskFormat::Raw { 128 * 35 } else { 0 };
        assert!(left <= full - given_back, "{format:?}: {left} of {full}");
        for sector in [0, 128, 129, 130 + 128 * 40, 8191] {
            assert_eq!(guest.read(sector, 512).data, [0xbb; 512], "{format:?} {sector}");
        }
    }
}

#[test]
fn case_05_ranges_that_are_not_on_the_disk_are_refused_before_the_first_is_touched() {
    for format in FORMATS {
        let (disk, _directory) = new_disk(format, MIB);
        let mut guest = Guest::start(&disk);
        assert_eq!(guest.write(0, &[1; 4096]), OK);
        let good = range(0, 8, 0);
        let mut ask = |kind, data: &[u8]| guest.ask(&header(kind, 0), &[data], &[]).status;
        for kind in [DISCARD, WRITE_ZEROES] {
            assert_eq!(ask(kind, &[]), IO_ERROR);
            assert_eq!(ask(kind, &good[..15]), IO_ERROR);
            assert_eq!(ask(kind, &[0; 17]), IO_ERROR);
            assert_eq!(ask(kind, &good.repeat(17)), IO_ERROR, "more than are allowed");
            for (bad, status) in [
                (range(2041, 8, 0), IO_ERROR),
                (range(u64::MAX, 1, 0), IO_ERROR),
                (range(u64::MAX / 512, 1, 0), IO_ERROR),
                (range(0, u32::MAX, 0), IO_ERROR),
                (range(0, 8, 2), UNSUPPORTED),
                (range(0, 8, u32::MAX), UNSUPPORTED),
            ] {
                assert_eq!(ask(kind, &[good, bad].concat()), status, "{bad:?}");
            }
        }
        assert_eq!(ask(DISCARD, &range(0, 8, 1)), UNSUPPORTED, "that flag is not for discards");
        assert_eq!(guest.read(0, 4096).data, [1; 4096], "{format:?}");
    }
}

#[test]
fn what_was_flushed_survives_the_death_of_the_monitor() {
    for format in FORMATS {
        let (disk, directory) = new_disk(format, 64 * MIB);
        let copy = Disk { path: directory.path().join("copy.img"), ..disk.clone() };
        let mut guest = Guest::start(&disk);
        for round in 1..20_u8 {
            for place in 0..8 {
                // All over the disk, so that tables of both levels change.
                let sector = u64::from(round) * 6000 + place * 700;
                assert_eq!(guest.write(sector, &[round; 2048]), OK);
            }
            assert_eq!(guest.flush(), OK);
            // What is in the file now is what would be left.
            std::fs::copy(&disk.path, &copy.path).unwrap();
            let found = contents(&copy);
            for round in 1..=round {
                for place in 0..8 {
                    let at = (usize::from(round) * 6000 + place * 700) * 512;
                    assert_eq!(found[at..at + 2048], [round; 2048], "{format:?} {round} {place}");
                }
            }
        }
    }
}

#[test]
fn a_driver_that_knows_no_flushes_loses_nothing_either() {
    for format in FORMATS {
        let (disk, directory) = new_disk(format, MIB);
        let copy = Disk { path: directory.path().join("copy.img"), ..disk.clone() };
        let mut guest = Guest::start_refusing(&disk, 1 << VIRTIO_BLK_F_FLUSH);
        assert_eq!(guest.write(77, &[5; 512]), OK);
        assert_eq!(guest.write(78, &[5; 512]), OK);
        let zeroes = guest.ask(&header(WRITE_ZEROES, 0), &[&range(78, 1, 0)], &[]);
        assert_eq!(zeroes.status, OK);
        std::fs::copy(&disk.path, &copy.path).unwrap();
        let found = contents(&copy);
        assert_eq!(found[77 * 512..78 * 512], [5; 512], "{format:?}");
        assert_eq!(found[78 * 512..79 * 512], [0; 512], "{format:?}");
    }
}

#[test]
fn many_requests_at_once_are_all_answered_in_order() {
    let (disk, _directory) = new_disk(DiskFormat::Raw, MIB);
    let mut guest = Guest::start(&disk);
    for round in 0..20_u64 {
        let mut heads = Vec::new();
        while guest.driver.room(0) >= 3 {
            let sector = heads.len() as u64;
            let data = [round as u8 ^ sector as u8; 512];
            heads.push(guest.submit(&header(OUT, sector), &[&data], &[]));
        }
        guest.driver.kick(0);
        for head in &heads {
            assert_eq!(guest.driver.wait(0), (*head, vec![OK]));
        }
        let sector = round % heads.len() as u64;
        assert_eq!(guest.read(sector, 512).data, [round as u8 ^ sector as u8; 512]);
    }
}

#[test]
fn resets_and_reboots_with_requests_in_flight_leave_a_disk_that_works() {
    for format in FORMATS {
        let (disk, _directory) = new_disk(format, 8 * MIB);
        let mut guest = Guest::start(&disk);
        for round in 0..40_u64 {
            while guest.driver.room(0) >= 3 {
                let sector = guest.driver.room(0) as u64 * 60;
                guest.submit(&header(OUT, sector), &[&[round as u8; 4096]], &[]);
            }
            guest.driver.kick(0);
            if round % 4 == 3 {
                guest.reboot();
            } else {
                guest.driver.restart();
            }
            assert_eq!(guest.write(16_383, &[round as u8; 512]), OK);
            assert_eq!(guest.read(16_383, 512).data, [round as u8; 512]);
        }
        assert_eq!(guest.flush(), OK);
        assert!(guest.outcome.is_empty(), "{format:?}");
    }
}

#[test]
fn a_disk_that_does_not_come_back_keeps_nobody_waiting() {
    let (disk, _directory) = new_disk(DiskFormat::Raw, MIB);
    let mut guest = Guest::impatient(&disk, Duration::from_millis(50));
    assert_eq!(guest.write(1, &[1; 512]), OK);
    // Whoever has the image works on it: the thread waits as it would for a server that has gone.
    let image = guest.drive.image().unwrap();
    let stuck = image.lock().unwrap();
    let deadline = Instant::now() + LIMIT;
    loop {
        guest.submit(&header(OUT, 1), &[&[2; 512]], &[]);
        guest.submit(&header(OUT, 2), &[&[2; 512]], &[]);
        guest.driver.kick(0);
        std::thread::sleep(Duration::from_millis(1));
        guest.driver.write(register::STATUS, 0);
        if guest.driver.status() == 64 {
            break;
        }
        assert!(Instant::now() < deadline, "the reset is not complete, and the driver can see it");
        // The reset came before the thread had begun.
        guest.driver.restart();
    }
    for status in [1, 3, 11, 15] {
        guest.driver.write(register::STATUS, status);
        assert_eq!(guest.driver.status(), 64);
    }
    drop(stuck);
    let deadline = Instant::now() + LIMIT;
    while guest.driver.status() != 0 {
        assert!(Instant::now() < deadline, "the disk has come back");
        std::thread::yield_now();
    }
    guest.driver.restart();
    assert_eq!(guest.read(2, 512).data, [0; 512], "what was left is not begun again");

    let stuck = image.lock().unwrap();
    guest.submit(&header(OUT, 1), &[&[3; 512]], &[]);
    guest.driver.kick(0);
    // The machine is turned off.
    drop(guest);
    drop(stuck);
    drop(image);
    // The thread that was left behind closes the image when it comes to it.
    let deadline = Instant::now() + LIMIT;
    while Drive::open(0, &disk, &Usage::default()).is_err() {
        assert!(Instant::now() < deadline, "the image is free again");
        std::thread::yield_now();
    }
}

#[test]
fn a_thread_that_fails_ends_the_machine() {
    let (disk, _directory) = new_disk(DiskFormat::Raw, MIB);
    let mut guest = Guest::start(&disk);
    struct Fails;
    impl crate::io::Source for Fails {
        fn start(&mut self, _: &mut crate::io::Registry<'_>) -> io::Result<()> {
            panic!("as a defect would")
        }
        fn ready(
            &mut self,
            _: u32,
            _: vmm_sys_util::epoll::EventSet,
            _: &mut crate::io::Registry<'_>,
        ) {
        }
    }
    assert!(guest.drive.add(Box::new(Fails)).is_err());
    let outcome = guest.outcome.recv_timeout(LIMIT).unwrap();
    assert!(
        matches!(outcome, crate::outcome::Outcome::InternalError(text) if text.contains("disk-0"))
    );
    // And nobody waits for it.
    guest.driver.write(register::STATUS, 0);
    assert_eq!(guest.driver.status(), 0);
}
