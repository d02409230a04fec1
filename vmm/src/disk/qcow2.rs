//! The header of a qcow2 image, looked at before the image is opened.
//!
//! It says how large the image's tables are, and they are kept in memory: an image from anywhere
//! must not decide alone how much memory that is. It also says whether parts of the contents are in
//! other files, which a guest that can write its image could name as it likes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// "QFI", 0xfb.
const MAGIC: [u8; 4] = [b'Q', b'F', b'I', 0xfb];
/// Bytes of the header's fields that are read here; version 2 has fewer.
const LENGTH: usize = 104;
/// Bytes of the table of the first level: enough for a disk of 8 TiB in clusters of 4 KiB, or of
/// 2 PiB in those of 64 KiB, which is what `qemu-img` makes.
const L1_MAX: u64 = 32 << 20;
/// Bytes of the table of reference counts.
const REFCOUNTS_MAX: u64 = 8 << 20;
/// An incompatible feature: the contents are in another file.
const EXTERNAL_DATA: u64 = 1 << 2;

/// Whether `file` begins as qcow2 images do.
pub(super) fn has_magic(file: &File) -> io::Result<bool> {
    let mut magic = [0; MAGIC.len()];
    Ok(read_at(file, &mut magic, 0)? == MAGIC.len() && magic == MAGIC)
}

/// What is to be known of a header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    /// Whether clusters can be marked as zeroes: from version 3.
    pub(super) can_discard: bool,
    /// Whether parts of the contents are in another file.
    pub(super) refers_to_others: bool,
    /// Whether it has internal snapshots, which share clusters with the disk.
    pub(super) has_snapshots: bool,
    /// Where the table of the first level is, and how long it is, in bytes.
    pub(super) l1: (u64, u64),
    /// The same of the table of reference counts.
    pub(super) refcounts: (u64, u64),
    /// Bits of a reference count.
    pub(super) refcount_bits: u32,
}

impl Header {
    /// Reads the header of `file` and checks it as far as the rest of the image depends on it.
    pub(super) fn read(file: &File) -> io::Result<Self> {
        let mut bytes = [0; LENGTH];
        read_at(file, &mut bytes, 0)?;
        if bytes[..4] != MAGIC {
            return Err(invalid("it does not begin as qcow2 images do"));
        }
        let version = u32_at(&bytes, 4);
        let features = match version {
            2 => 0,
            3 => u64_at(&bytes, 72),
            _ => return Err(invalid("its version is neither 2 nor 3")),
        };
        // Version 2 has counts of 16 bits.
        let refcount_order = if version == 2 { 4 } else { u32_at(&bytes, 96) };
        if refcount_order > 6 {
            return Err(invalid("its reference counts have more than 64 bits"));
        }
        let cluster_bits = u32_at(&bytes, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(invalid("its clusters are not of 512 bytes to 2 MiB"));
        }
        if u32_at(&bytes, 32) != 0 {
            return Err(invalid("it is encrypted"));
        }
        let cluster = 1_u64 << cluster_bits;
        let l1 = u64::from(u32_at(&bytes, 36)) * 8;
        let refcounts = u64::from(u32_at(&bytes, 56)) << cluster_bits;
        if l1 > L1_MAX || refcounts > REFCOUNTS_MAX {
            return Err(invalid("its tables are larger than those of any disk"));
        }
        // What an entry of the first level covers: a cluster of entries for clusters.
        let covered = u128::from(l1 / 8) * u128::from(cluster / 8) * u128::from(cluster);
        if u128::from(u64_at(&bytes, 24)) > covered {
            return Err(invalid("its tables do not reach to the end of its disk"));
        }
        Ok(Self {
            cluster,
            can_discard: version == 3,
            refers_to_others: u64_at(&bytes, 8) != 0 || features & EXTERNAL_DATA != 0,
            has_snapshots: u32_at(&bytes, 60) != 0,
            l1: (u64_at(&bytes, 40), l1),
            refcounts: (u64_at(&bytes, 48), refcounts),
            refcount_bits: 1 << refcount_order,
        })
    }
}

/// Reads from `file` at `offset`, as far as it goes, and gives the number of bytes.
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn u32_at(bytes: &[u8; LENGTH], at: usize) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|index| bytes[at + index]))
}

fn u64_at(bytes: &[u8; LENGTH], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|index| bytes[at + index]))
}

pub(super) fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
