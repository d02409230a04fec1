//! The uncompressed kernel: an ELF file for x86-64, loaded where its program headers say.
//!
//! Nothing in the file is believed. All segments are checked before the first byte is written:
//! each lies within the file and within RAM above 1 MiB and below 4 GiB, none overlaps another, and
//! the entry lies in one of them. Guest RAM is new and zero, so the parts of segments that the file
//! does not have need no writing. If machines are to share its pages, some are mapped (`share.rs`).

use crate::boot::Image;
use crate::boot::share::Part;
use crate::memory::GuestRam;
use crate::x86::layout::{HIGH_RAM, MAPPED_END};
use std::io;
use std::ops::Range;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

const MAGIC: &[u8] = b"\x7fELF";
/// `e_ident`: 64-bit, little-endian.
const IDENT: [u8; 2] = [2, 1];
const MACHINE_X86_64: u16 = 62;
/// Bytes of the ELF header and of one program header.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Program headers that a kernel may have; stock ones have five.
const MAX_PROGRAM_HEADERS: u16 = 64;
const PT_LOAD: u32 = 1;
/// `p_flags`: executed, and written to.
const PF_X: u32 = 1;
const PF_W: u32 = 2;
/// Section headers of a kernel that are looked at; stock ones have some forty.
const MAX_SECTION_HEADERS: u16 = 256;
/// Bytes of one section header, and `sh_flags` of sections that are loaded and executed.
const SECTION_HEADER: usize = 64;
const SHF_ALLOC: u64 = 2;
const SHF_EXECINSTR: u64 = 4;

/// What is wrong with an ELF file.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It is for something else.
    #[error("not an ELF file for x86-64")]
    Kind,
    /// Its program headers are not in it, or too many.
    #[error("its program headers are not in the file, or are more than {MAX_PROGRAM_HEADERS}")]
    ProgramHeaders,
    /// It has nothing to load.
    #[error("it has nothing to load")]
    Empty,
    /// A segment is not in the file.
    #[error("segment {0} is not in the file")]
    SegmentFile(usize),
    /// A segment lies where no kernel's is.
    #[error(
        "segment {index} needs the addresses {start:#x} to {end:#x}: a kernel's lie between \
         {HIGH_RAM:#x} and {MAPPED_END:#x}"
    )]
    SegmentAddress {
        /// Which one.
        index: usize,
        /// Its first address.
        start: u64,
        /// The address behind its last.
        end: u64,
    },
    /// A segment does not fit RAM.
    #[error(
        "it lies up to the address {end:#x} and needs more RAM than that, some {} MiB; the machine \
         has {} MiB",
        (end >> 20) + 1,
        ram >> 20
    )]
    Ram {
        /// The address behind a segment's last.
        end: u64,
        /// Bytes of RAM.
        ram: u64,
    },
    /// Two segments overlap.
    #[error("segment {0} overlaps another")]
    SegmentOverlap(usize),
    /// The entry is in no segment.
    #[error("its entry {0:#x} is in none of its segments")]
    Entry(u64),
    /// It could not be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// Its pages could not be mapped; RAM may have a hole.
    #[error("cannot share its pages with other machines")]
    Share(#[source] io::Error),
}

/// A kernel in RAM.
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The physical address of its first instruction.
    pub entry: u64,
    /// The address after its last byte.
    pub end: u64,
    /// Bytes that are mapped, for machines to share them.
    pub shared: u64,
}

struct Segment {
    flags: u32,
    offset: u64,
    file_size: u64,
    ram: Range<u64>,
}

/// Whether a file that begins with `bytes` says that it is an ELF file.
#[must_use]
pub fn is_one(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Loads `image` into `ram`. If machines are to `share` what they leave as it is, it must be a file that nobody
/// will change.
///
/// # Errors
/// It is not a kernel that this RAM can hold; nothing was written then, but for
/// [`ElfError::Read`] and [`ElfError::Share`].
pub fn load(image: &Image, ram: &GuestRam, share: bool) -> Result<Loaded, ElfError> {
    let header = image.bytes(0, HEADER).map_err(|_| ElfError::Kind)?;
    if !is_one(&header)
        || header.get(4..6) != Some(&IDENT[..])
        || u16_at(&header, 18) != Some(MACHINE_X86_64)
    {
        return Err(ElfError::Kind);
    }
    let entry = u64_at(&header, 24).ok_or(ElfError::Kind)?;
    let table = u64_at(&header, 32).ok_or(ElfError::Kind)?;
    let size = u16_at(&header, 54).map(usize::from);
    let count = u16_at(&header, 56).ok_or(ElfError::Kind)?;
    if size != Some(PROGRAM_HEADER) || count == 0 || count > MAX_PROGRAM_HEADERS {
        return Err(ElfError::ProgramHeaders);
    }
    let table = image
        .bytes(table, usize::from(count) * PROGRAM_HEADER)
        .map_err(|_| ElfError::ProgramHeaders)?;

    let mut segments: Vec<Segment> = Vec::new();
    for (index, header) in table.chunks_exact(PROGRAM_HEADER).enumerate() {
        if let Some(segment) = segment(index, header, image.len(), ram)? {
            let overlaps = |other: &Segment| {
                other.ram.start < segment.ram.end && segment.ram.start < other.ram.end
            };
            if segments.iter().any(overlaps) {
                return Err(ElfError::SegmentOverlap(index));
            }
            segments.push(segment);
        }
    }
    let end = segments.iter().map(|segment| segment.ram.end).max().ok_or(ElfError::Empty)?;
    if !segments.iter().any(|segment| segment.ram.contains(&entry)) {
        return Err(ElfError::Entry(entry));
    }
    let code = if share { code(image, &header) } else { None };
    let mut shared = 0;
    for segment in &segments {
        let file = segment.offset..segment.offset + segment.file_size;
        let address = |offset| segment.ram.start + (offset - file.start);
        let is_for_the_start = segment.flags & PF_W != 0 && segment.flags & PF_X != 0;
        let mut blocks = Vec::new();
        if share && !is_for_the_start {
            // Where nothing says more, all of what is executed is code.
            let all = [if segment.flags & PF_X == 0 { 0..0 } else { file.clone() }];
            let code = code.as_deref().unwrap_or(&all);
            let part = Part { file: file.clone(), address: segment.ram.start, code };
            blocks = part.blocks(image).map_err(ElfError::Read)?;
        }
        let mut at = file.start;
        for block in blocks {
            image.copy_to(ram, address(at), at, block.start - at).map_err(ElfError::Read)?;
            image.map_to(ram, address(block.start), &block).map_err(ElfError::Share)?;
            shared += block.end - block.start;
            at = block.end;
        }
        image.copy_to(ram, address(at), at, file.end - at).map_err(ElfError::Read)?;
    }
    Ok(Loaded { entry, end, shared })
}

/// Where code is in the file, as its section headers say; none if it has no such headers, or more than a
/// kernel has.
fn code(image: &Image, header: &[u8]) -> Option<Vec<Range<u64>>> {
    let (table, size, count) = (u64_at(header, 40)?, u16_at(header, 58)?, u16_at(header, 60)?);
    if usize::from(size) != SECTION_HEADER || count == 0 || count > MAX_SECTION_HEADERS {
        return None;
    }
    let table = image.bytes(table, usize::from(count) * SECTION_HEADER).ok()?;
    let code = |header: &[u8]| {
        let (flags, start, size) = (u64_at(header, 8)?, u64_at(header, 24)?, u64_at(header, 32)?);
        let is_code = flags & SHF_ALLOC != 0 && flags & SHF_EXECINSTR != 0;
        is_code.then(|| start..start.saturating_add(size))
    };
    Some(table.chunks_exact(SECTION_HEADER).filter_map(code).collect())
}

/// What the program header `index` wants loaded, if it wants that.
fn segment(
    index: usize,
    header: &[u8],
    file: u64,
    ram: &GuestRam,
) -> Result<Option<Segment>, ElfError> {
    let field = |at| u64_at(header, at).ok_or(ElfError::ProgramHeaders);
    let kind = header.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let (offset, start, file_size, size) = (field(8)?, field(24)?, field(32)?, field(40)?);
    if kind != Some(PT_LOAD) || size == 0 {
        return Ok(None);
    }
    if file_size > size || offset.checked_add(file_size).is_none_or(|end| end > file) {
        return Err(ElfError::SegmentFile(index));
    }
    let end = start.saturating_add(size);
    if start < HIGH_RAM || end > MAPPED_END {
        return Err(ElfError::SegmentAddress { index, start, end });
    }
    if !usize::try_from(size).is_ok_and(|size| ram.check_range(GuestAddress(start), size)) {
        let ram = ram.iter().map(GuestMemoryRegion::len).sum();
        return Err(ElfError::Ram { end, ram });
    }
    let flags = header.get(4..).and_then(|bytes| bytes.first_chunk());
    let flags = u32::from_le_bytes(*flags.ok_or(ElfError::ProgramHeaders)?);
    Ok(Some(Segment { flags, offset, file_size, ram: start..end }))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::memory;
    use vm_memory::Bytes;

    /// Program header: offset, physical address, size in the file, size in RAM.
    type Header = [u64; 4];

    /// An ELF file of `headers`, followed by 64 bytes, which are the numbers from 0.
    pub(crate) fn file(entry: u64, headers: &[Header]) -> Vec<u8> {
        let mut file = vec![0; HEADER];
        file[..4].copy_from_slice(MAGIC);
        file[4..6].copy_from_slice(&IDENT);
        file[18..20].copy_from_slice(&MACHINE_X86_64.to_le_bytes());
        file[24..32].copy_from_slice(&entry.to_le_bytes());
        file[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
        file[54..56].copy_from_slice(&(PROGRAM_HEADER as u16).to_le_bytes());
        file[56..58].copy_from_slice(&(headers.len() as u16).to_le_bytes());
        for [offset, address, file_size, size] in headers {
            file.extend(PT_LOAD.to_le_bytes());
            file.extend(0_u32.to_le_bytes());
            for field in [offset, address, address, file_size, size, &4096] {
                file.extend(field.to_le_bytes());
            }
        }
        file.extend(0..64_u8);
        file
    }

    fn outcome(file: Vec<u8>) -> Result<Loaded, ElfError> {
        load(&Image::Bytes(file), &memory::map(4 << 20).unwrap(), false)
    }

    #[test]
    fn segments_are_loaded_where_they_say() {
        let ram = memory::map(4 << 20).unwrap();
        let headers = [[176, 0x20_0000, 8, 0x1000], [184, 0x30_0000, 4, 4]];
        let image = Image::Bytes(file(0x20_0004, &headers));
        let loaded = load(&image, &ram, false).unwrap();
        assert_eq!(loaded, Loaded { entry: 0x20_0004, end: 0x30_0004, shared: 0 });
        let mut bytes = [0xff; 10];
        ram.read_slice(&mut bytes, GuestAddress(0x20_0000)).unwrap();
        assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 6, 7, 0, 0]);
        assert_eq!(ram.read_obj::<u8>(GuestAddress(0x30_0003)).unwrap(), 11);
    }

    #[test]
    fn case_31_every_truncated_prefix_of_an_elf_file_is_refused() {
        let whole = file(0x20_0000, &[[120, 0x20_0000, 64, 64]]);
        assert!(outcome(whole.clone()).is_ok());
        for length in 0..whole.len() {
            assert!(outcome(whole[..length].to_vec()).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn case_32_segments_that_are_not_in_the_file_are_refused() {
        for (offset, size) in [(u64::MAX, 1), (1 << 40, 1), (120, 65), (120, u64::MAX), (121, 64)] {
            let outcome = outcome(file(0x20_0000, &[[offset, 0x20_0000, size, size]]));
            assert!(matches!(outcome, Err(ElfError::SegmentFile(0))), "{outcome:?}");
        }
        // More in the file than in RAM.
        assert!(outcome(file(0x20_0000, &[[120, 0x20_0000, 64, 63]])).is_err());
    }

    #[test]
    fn case_32_segments_outside_ram_or_over_the_boot_data_are_refused() {
        for (address, size) in [
            (0, 64),
            (HIGH_RAM - 1, 64),
            (0x3f_ffff, 64),
            (0x40_0000, 64),
            (0x20_0000, 1 << 63),
            (0x20_0000, u64::MAX),
            (u64::MAX - 10, 64),
            (0xc000_0000, 64),
        ] {
            let outcome = outcome(file(address, &[[120, address, 64.min(size), size]]));
            let refused =
                matches!(outcome, Err(ElfError::SegmentAddress { .. } | ElfError::Ram { .. }));
            assert!(refused, "{address:#x}+{size:#x}: {outcome:?}");
        }
    }

    #[test]
    fn case_32_segments_that_are_not_mapped_when_the_kernel_is_entered_are_refused() {
        let ram = memory::map(5 << 30).unwrap();
        for address in [MAPPED_END, MAPPED_END + (1 << 29)] {
            for entry in [0x20_0000, address] {
                let headers = [[176, 0x20_0000, 8, 8], [176, address, 8, 8]];
                let outcome = load(&Image::Bytes(file(entry, &headers)), &ram, false);
                let refused = matches!(outcome, Err(ElfError::SegmentAddress { index: 1, .. }));
                assert!(refused, "{address:#x}: {outcome:?}");
            }
        }
    }

    #[test]
    fn case_32_overlaps_lost_entries_and_empty_files_are_refused() {
        let headers = [[176, 0x20_0000, 8, 0x1000], [176, 0x20_0fff, 8, 8]];
        assert!(matches!(outcome(file(0x20_0000, &headers)), Err(ElfError::SegmentOverlap(1))));
        let headers = [[120, 0x20_0000, 8, 8]];
        for entry in [0, 0x1f_ffff, 0x20_0008, u64::MAX] {
            assert!(
                matches!(outcome(file(entry, &headers)), Err(ElfError::Entry(_))),
                "{entry:#x}"
            );
        }
        assert!(matches!(outcome(file(0, &[[0; 4]])), Err(ElfError::Empty)));
        assert!(matches!(outcome(file(0, &[])), Err(ElfError::ProgramHeaders)));
        assert!(matches!(outcome(file(0, &[[0; 4]; 65])), Err(ElfError::ProgramHeaders)));
    }

    #[test]
    fn other_machines_are_refused() {
        let headers = [[120, 0x20_0000, 64, 64]];
        for (at, byte) in [(0, 0), (4, 1), (5, 2), (18, 3)] {
            let mut file = file(0x20_0000, &headers);
            file[at] = byte;
            assert!(matches!(outcome(file), Err(ElfError::Kind)), "byte {at}");
        }
    }
}
