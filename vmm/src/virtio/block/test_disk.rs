//! A disk for tests: its image in a directory of its own, its device, and a driver of that.

use super::{Block, Drive};
use crate::config::{Disk, DiskFormat};
use crate::disk::Image;
use crate::outcome::{Outcome, OutcomeSlot};
use crate::usage::Usage;
use crate::virtio::test_driver::Driver;
use crossbeam_channel::Receiver;
use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatCreateBuilder};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const GET_ID: u32 = 8;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;

pub(crate) const OK: u8 = 0;
pub(crate) const IO_ERROR: u8 = 1;
pub(crate) const UNSUPPORTED: u8 = 2;
/// What the driver writes where the status will be.
pub(crate) const NO_STATUS: u8 = 0xee;

pub(crate) const FORMATS: [DiskFormat; 2] = [DiskFormat::Raw, DiskFormat::Qcow2];

/// Makes the image of `disk`, with `size` bytes of zeroes.
pub(crate) fn make(disk: &Disk, size: u64) {
    let file = File::options().read(true).write(true).create_new(true).open(&disk.path).unwrap();
    match disk.format {
        DiskFormat::Raw => file.set_len(size).unwrap(),
        DiskFormat::Qcow2 => {
            let storage = Storage::try_from(file).unwrap();
            Qcow2::<Storage, FormatAccess<Storage>>::create_builder(storage)
                .size(size)
                .create()
                .unwrap();
        }
    }
}

/// A disk in a directory of its own.
pub(crate) fn new_disk(format: DiskFormat, size: u64) -> (Disk, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk { format, ..Disk::new(directory.path().join("disk.img")) };
    make(&disk, size);
    (disk, directory)
}

/// All that `disk` has, from the image itself.
pub(crate) fn contents(disk: &Disk) -> Vec<u8> {
    let mut image = Image::open(&Disk { readonly: true, ..disk.clone() }).unwrap();
    let mut bytes = vec![0; image.traits().size as usize];
    let slice = vm_memory::VolatileSlice::from(bytes.as_mut_slice());
    image.read(&[slice], 0).unwrap();
    bytes
}

/// The header of a request.
pub(crate) fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

/// A range of a request that discards or makes zeroes.
pub(crate) fn range(sector: u64, count: u32, flags: u32) -> [u8; 16] {
    let mut range = [0; 16];
    range[..8].copy_from_slice(&sector.to_le_bytes());
    range[8..12].copy_from_slice(&count.to_le_bytes());
    range[12..].copy_from_slice(&flags.to_le_bytes());
    range
}

/// What comes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u8,
    /// Bytes that the device says it has written.
    pub(crate) length: u32,
    pub(crate) data: Vec<u8>,
}

/// A guest with one disk.
pub(crate) struct Guest {
    pub(crate) driver: Driver,
    pub(crate) drive: Arc<Drive>,
    pub(crate) outcome: Receiver<Outcome>,
}

impl Guest {
    pub(crate) fn start(disk: &Disk) -> Self {
        Self::start_refusing(disk, 0)
    }

    /// A guest that does not accept some of the device's features.
    pub(crate) fn start_refusing(disk: &Disk, refused: u64) -> Self {
        Self::with_drive(Drive::open(0, disk, &Usage::default()).unwrap(), refused)
    }

    /// A guest whose disk is given up after `patience`.
    pub(crate) fn impatient(disk: &Disk, patience: Duration) -> Self {
        Self::with_drive(
            Drive::start("disk-0".into(), Image::open(disk).unwrap(), patience).unwrap(),
            0,
        )
    }

    fn with_drive(drive: Drive, refused: u64) -> Self {
        let drive = Arc::new(drive);
        let (slot, outcome) = OutcomeSlot::new();
        let device = Block::new(drive.clone(), slot);
        Self { driver: Driver::start_refusing(Box::new(device), refused), drive, outcome }
    }

    /// Boots anew: another device on the same drive.
    pub(crate) fn reboot(&mut self) {
        let (slot, outcome) = OutcomeSlot::new();
        let device = Block::new(self.drive.clone(), slot);
        // The former machine goes first.
        drop(std::mem::replace(&mut self.driver, Driver::start(Box::new(Nothing))));
        self.driver = Driver::start(Box::new(device));
        self.outcome = outcome;
    }

    /// Makes a request available; its data lie in pieces of these lengths.
    pub(crate) fn submit(&mut self, header: &[u8], data: &[&[u8]], room: &[usize]) -> u16 {
        let mut readable = vec![header];
        readable.extend(data);
        let mut writable = room.to_vec();
        writable.push(1);
        self.driver.add(0, &readable, &writable)
    }

    /// Waits for the next answer.
    pub(crate) fn answer(&mut self) -> Answer {
        self.driver.kick(0);
        let (_, length, mut data) = self.driver.wait_whole(0);
        let status = data.pop().unwrap_or(NO_STATUS);
        Answer { status, length, data }
    }

    /// A request and its answer.
    pub(crate) fn ask(&mut self, header: &[u8], data: &[&[u8]], room: &[usize]) -> Answer {
        self.submit(header, data, room);
        self.answer()
    }

    pub(crate) fn read(&mut self, sector: u64, length: usize) -> Answer {
        self.ask(&header(IN, sector), &[], &[length])
    }

    pub(crate) fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.ask(&header(OUT, sector), &[data], &[]).status
    }

    pub(crate) fn flush(&mut self) -> u8 {
        self.ask(&header(FLUSH, 0), &[], &[]).status
    }
}

/// A device without queues, in whose place another one comes.
struct Nothing;

impl crate::virtio::VirtioDevice for Nothing {
    fn device_type(&self) -> u32 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[]
    }

    fn activate(&mut self, _activation: crate::virtio::Activation) -> std::io::Result<()> {
        Ok(())
    }

    fn reset(&mut self) {}
}
