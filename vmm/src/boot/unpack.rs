//! Unpacks a bzImage's payload: gzip, xz, LZ4 or Zstandard, told apart by their first bytes.
//!
//! The last four bytes of a payload are the size of what is in it (the kernel's build appends them,
//! gzip has them anyway). That size bounds the work: output that is longer is refused when it
//! passes it, so a small file cannot become a large one beyond what it says, and what it says is
//! bounded by [`LIMIT`].

use ruzstd::decoding::StreamingDecoder;
use std::io::{self, Read};

/// The largest kernel, in bytes.
pub const LIMIT: u32 = 512 << 20;

/// Bytes at the end of a payload that say how much it unpacks to.
pub(super) const SIZE: usize = 4;
const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const LZ4_LEGACY: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Bytes that a block of the legacy LZ4 format unpacks to at most.
const LZ4_BLOCK: usize = 8 << 20;
/// Bytes of history that a Zstandard or xz stream may ask for: the kernel's build uses 128 MiB.
const WINDOW: u64 = 128 << 20;
/// The same in KiB, with room for what else the xz decoder needs.
const XZ_LIMIT_KIB: u32 = (WINDOW >> 10) as u32 + 1024;

/// Why a payload could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It begins like none of the formats.
    #[error("packed in a format that is none of gzip, xz, lz4 and zstd")]
    Format,
    /// It says that it unpacks to more than a kernel has.
    #[error("unpacks to {0} bytes, at most {LIMIT} are allowed")]
    TooLarge(u32),
    /// It unpacks to something else than it says.
    #[error("unpacks to {found} bytes or more where it says {said}")]
    Size {
        /// What it says.
        said: u32,
        /// What came out before it was stopped.
        found: usize,
    },
    /// The host has no room for it.
    #[error("the host has no memory for its {0} bytes")]
    Memory(u32),
    /// It is damaged.
    #[error("packed kernel is damaged")]
    Damaged(#[source] io::Error),
}

/// The size, in bytes, that `payload` says it unpacks to.
///
/// # Errors
/// It is shorter than a size, or says more than [`LIMIT`].
pub fn unpacked_size(payload: &[u8]) -> Result<u32, UnpackError> {
    let size = payload.last_chunk::<SIZE>().map(|bytes| u32::from_le_bytes(*bytes));
    let size = size.ok_or(UnpackError::Format)?;
    if size > LIMIT { Err(UnpackError::TooLarge(size)) } else { Ok(size) }
}

/// Unpacks `payload`.
///
/// # Errors
/// The format is unknown, or the payload is not what it says.
pub fn unpack(payload: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let said = unpacked_size(payload)?;
    let packed = &payload[..payload.len() - SIZE];
    let kernel = if payload.starts_with(GZIP) {
        // The size is a part of the format here.
        read(flate2::read::GzDecoder::new(payload), said)
    } else if payload.starts_with(XZ) {
        read(lzma_rust2::XzReader::new_mem_limit(packed, false, XZ_LIMIT_KIB), said)
    } else if payload.starts_with(ZSTD) {
        match StreamingDecoder::new_with_max_window_size(packed, WINDOW) {
            Ok(decoder) => read(decoder, said),
            Err(error) => Err(UnpackError::Damaged(io::Error::other(error))),
        }
    } else if let Some(blocks) = packed.strip_prefix(LZ4_LEGACY) {
        lz4(blocks, said)
    } else {
        Err(UnpackError::Format)
    }?;
    if kernel.len() != said as usize {
        return Err(UnpackError::Size { said, found: kernel.len() });
    }
    Ok(kernel)
}

/// Reads `decoder` to its end, or one byte past `said`.
fn read(decoder: impl Read, said: u32) -> Result<Vec<u8>, UnpackError> {
    // With the byte that is too many: a vector that has to grow for it doubles.
    let mut kernel = room(said, 1)?;
    decoder.take(u64::from(said) + 1).read_to_end(&mut kernel).map_err(UnpackError::Damaged)?;
    Ok(kernel)
}

/// Room for what `said` says, and `more` bytes.
fn room(said: u32, more: usize) -> Result<Vec<u8>, UnpackError> {
    let mut room = Vec::new();
    room.try_reserve_exact(said as usize + more).map_err(|_| UnpackError::Memory(said))?;
    Ok(room)
}

/// The legacy LZ4 format after its magic: blocks, each after its packed size in 32 bits.
fn lz4(mut blocks: &[u8], said: u32) -> Result<Vec<u8>, UnpackError> {
    let damaged = |text: &str| UnpackError::Damaged(io::Error::other(text.to_owned()));
    let mut kernel = room(said, 0)?;
    let mut filled = 0;
    while let Some((size, rest)) = blocks.split_first_chunk::<SIZE>() {
        let size = u32::from_le_bytes(*size) as usize;
        let block = rest.get(..size).ok_or_else(|| damaged("a block is longer than the rest"))?;
        // Block by block: what is never filled is never touched, whatever size was said.
        kernel.resize((said as usize).min(filled + LZ4_BLOCK), 0);
        let room = kernel.get_mut(filled..).unwrap_or_default();
        let count = lz4_flex::block::decompress_into(block, room)
            .map_err(|error| UnpackError::Damaged(io::Error::other(error)))?;
        filled += count;
        blocks = &rest[size..];
    }
    if !blocks.is_empty() {
        return Err(damaged("bytes after the last block"));
    }
    kernel.truncate(filled);
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const KERNEL: &[u8] = b"a kernel, a kernel, a kernel, a kernel; and then its end";

    fn with_size(mut packed: Vec<u8>) -> Vec<u8> {
        packed.extend((KERNEL.len() as u32).to_le_bytes());
        packed
    }

    fn gzip() -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(KERNEL).unwrap();
        encoder.finish().unwrap()
    }

    /// Two blocks, as the format has them for kernels of more than 8 MiB.
    fn lz4() -> Vec<u8> {
        let mut packed = LZ4_LEGACY.to_vec();
        for part in [&KERNEL[..20], &KERNEL[20..]] {
            let block = lz4_flex::block::compress(part);
            packed.extend((block.len() as u32).to_le_bytes());
            packed.extend(block);
        }
        with_size(packed)
    }

    fn zstd() -> Vec<u8> {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        with_size(ruzstd::encoding::compress_to_vec(KERNEL, level))
    }

    /// Made by `xz --check=crc32 --x86 --lzma2` of [`KERNEL`].
    fn xz() -> Vec<u8> {
        with_size(include_bytes!("kernel.xz").to_vec())
    }

    fn all() -> [(&'static str, Vec<u8>); 4] {
        [("gzip", gzip()), ("xz", xz()), ("lz4", lz4()), ("zstd", zstd())]
    }

    #[test]
    fn all_four_formats_unpack() {
        for (format, payload) in all() {
            assert_eq!(unpack(&payload).unwrap(), KERNEL, "{format}");
        }
    }

    #[test]
    fn case_33_a_payload_that_lies_about_its_size_is_refused() {
        for (format, mut payload) in all() {
            let end = payload.len();
            for said in [0, KERNEL.len() as u32 - 1, KERNEL.len() as u32 + 1] {
                payload[end - SIZE..].copy_from_slice(&said.to_le_bytes());
                assert!(unpack(&payload).is_err(), "{format} that says {said}");
            }
            payload[end - SIZE..].copy_from_slice(&(LIMIT + 1).to_le_bytes());
            assert!(matches!(unpack(&payload), Err(UnpackError::TooLarge(_))), "{format}");
        }
    }

    #[test]
    fn case_33_what_unpacks_to_more_than_it_says_takes_no_more_than_that() {
        for size in [1, 4096, 1_000_000] {
            let mut kernel = read(io::repeat(7), size).unwrap();
            assert_eq!(kernel.len(), size as usize + 1, "one byte past what it says");
            assert_eq!(kernel.capacity(), kernel.len());
            kernel.clear();
        }
    }

    #[test]
    fn case_31_every_truncated_prefix_and_every_flipped_byte_is_refused_or_harmless() {
        for (format, payload) in all() {
            for length in 0..payload.len() {
                assert!(unpack(&payload[..length]).is_err(), "{length} bytes of {format}");
                let mut flipped = payload.clone();
                flipped[length] ^= 0x55;
                // The sizes in it may say anything; what it unpacks to is bounded by what it says.
                if flipped[flipped.len() - SIZE..] == payload[payload.len() - SIZE..] {
                    let _ = unpack(&flipped);
                }
            }
        }
    }

    #[test]
    fn case_33_a_stream_that_asks_for_gigabytes_of_history_is_refused() {
        // The header of the one block: 12 bytes, the last four of them a checksum.
        const BLOCK: usize = 12;
        const DICTIONARY: usize = BLOCK + 6;
        let with_dictionary = |size: u8| {
            let mut payload = xz();
            payload[DICTIONARY] = size;
            let mut checksum = flate2::Crc::new();
            checksum.update(&payload[BLOCK..BLOCK + 8]);
            payload[BLOCK + 8..BLOCK + 12].copy_from_slice(&checksum.sum().to_le_bytes());
            unpack(&payload)
        };
        assert_eq!(with_dictionary(30).unwrap(), KERNEL, "128 MiB");
        for larger in [31, 39, 40] {
            assert!(matches!(with_dictionary(larger), Err(UnpackError::Damaged(_))), "{larger}");
        }
        // The window of a Zstandard frame: an exponent in five bits, and eighths of that in three.
        let with_window = |window: u8| {
            let mut payload = ZSTD.to_vec();
            payload.extend([0, window]);
            // One block, the last, as it is.
            payload.extend(&(1 | (KERNEL.len() as u32) << 3).to_le_bytes()[..3]);
            payload.extend(KERNEL);
            unpack(&with_size(payload))
        };
        assert_eq!(with_window(0x88).unwrap(), KERNEL, "128 MiB");
        for larger in [0x89, 0x90, 0xf8, 0xff] {
            assert!(matches!(with_window(larger), Err(UnpackError::Damaged(_))), "{larger:#x}");
        }
    }

    #[test]
    fn an_unknown_format_is_refused() {
        assert!(matches!(unpack(b"BZh91AY&SY\0\0\0\0"), Err(UnpackError::Format)));
        assert!(matches!(unpack(b""), Err(UnpackError::Format)));
    }
}
