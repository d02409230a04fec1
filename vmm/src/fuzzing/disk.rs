//! Images of disks, as somebody may have made them.

use super::blank;
use crate::config::{Disk, DiskFormat};
use crate::disk::{Image, SECTOR};
use vm_memory::VolatileSlice;

/// Bytes of an image's file at most: what lies behind is zeroes, or not there.
const FILE_MAX: u64 = 4 << 20;

/// By so many bytes a file grows at most: three sectors and their tables, in clusters of 2 MiB.
const GROWTH: u64 = 32 << 20;

/// A qcow2 image: opened, and used a little where that succeeds. The first byte says whether it may be
/// written, the second one how long its file is, as the number of 64 KiB.
///
/// The library that reads it panics over some images, which is caught: a fuzzer must not end at a
/// panic, but only at one that gets as far as here.
pub fn qcow2(data: &[u8]) {
    let (choice, image) = data.split_at(data.len().min(2));
    let readonly = choice.first().is_some_and(|choice| choice & 1 != 0);
    let length = choice.get(1).map_or(0, |blocks| u64::from(*blocks) << 16);
    let (file, path) = blank::file(image);
    let length = length.min(FILE_MAX).max(image.len() as u64);
    file.set_len(length).expect("memory is left");
    let disk = Disk { format: DiskFormat::Qcow2, readonly, ..Disk::new(path) };
    let mut image = match Image::open(&disk) {
        Ok(image) => image,
        Err(error) => {
            assert!(!error.to_string().is_empty() && !error.fault.to_string().is_empty());
            return;
        }
    };
    let size = image.traits().size;
    assert!(size > 0 && size.is_multiple_of(SECTOR));
    let last = size - SECTOR;
    let mut bytes = [0x5a; SECTOR as usize];
    let slice = [VolatileSlice::from(bytes.as_mut_slice())];
    for offset in [0, last / 2 / SECTOR * SECTOR, last] {
        // Each may fail, for the tables may be anything.
        let _ = image.read(&slice, offset);
        let _ = image.write(&slice, offset);
        let _ = image.write_zeroes(offset, SECTOR, true);
        let _ = image.discard(offset, SECTOR);
    }
    let _ = image.flush();
    drop(image);
    let grown = file.metadata().expect("it is open").len() - length;
    // All that is in use lies in the file, so what is new comes right behind it.
    assert!(grown <= if readonly { 0 } else { GROWTH }, "{grown} bytes more");
}
