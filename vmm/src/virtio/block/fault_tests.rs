//! A disk that cannot be written, and what the log hears of it.

use super::test_disk::{IO_ERROR, OUT, header};
use super::{Block, Drive};
use crate::config::Disk;
use crate::io::by_hand::ByHand;
use crate::outcome::OutcomeSlot;
use crate::usage::Usage;
use crate::virtio::queue::TURN;
use crate::virtio::test_driver::{Driver, readable};
use crate::virtio::test_turns::{hold, turns};
use crate::virtio::test_warnings::Warnings;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// A disk whose image could be opened, but cannot be written any more.
fn unwritable(index: usize) -> Arc<Drive> {
    let file = memfd_create("disk", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, 1 << 20).unwrap();
    let disk = Disk::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let drive = Drive::open(index, &disk, &Usage::default()).unwrap();
    fcntl_add_seals(&file, SealFlags::WRITE).unwrap();
    Arc::new(drive)
}

/// Boots with `drive`, brings its device up so many times, and lets requests fail.
fn boot(drive: &Arc<Drive>, resets: usize) {
    let device = Block::new(drive.clone(), OutcomeSlot::new().0);
    let (mut driver, held) = hold(&device);
    for _ in 0..resets {
        let mut service = ByHand::start(device.service(held.take(), Arc::default()).unwrap());
        for _ in 0..3 {
            driver.add(0, &[&header(OUT, 0), &[1; 512]], &[1]);
            service.turn(0);
            let (_, _, answer) = driver.take_whole(0).expect("an answer");
            assert_eq!(answer.last(), Some(&IO_ERROR));
        }
        drop(service);
        driver.restart();
    }
}

#[test]
fn the_log_hears_of_a_disks_first_failure_and_of_no_other_whatever_the_guest_resets() {
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        let drive = unwritable(0);
        boot(&drive, 5);
        assert_eq!(warnings.count(), 1);
        boot(&drive, 5);
        assert_eq!(warnings.count(), 1);
        boot(&unwritable(1), 2);
        assert_eq!(warnings.count(), 2);
    });
}

#[test]
fn one_turn_answers_so_many_requests_and_leaves_the_rest_for_the_next() {
    let device = Block::new(unwritable(0), OutcomeSlot::new().0);
    let (mut driver, held) = hold(&device);
    let mut service = ByHand::start(device.service(held.take(), Arc::default()).unwrap());
    driver.repeat(0, readable(0x10_0000, 16), 2 * TURN + 10);
    let given_back = |driver: &Driver| driver.given_back(0).into();
    let turn = TURN as u64;
    assert_eq!(turns(&driver, &mut service, (0, 0), given_back), [turn, turn, 10]);
}
