//! The bzImage: a setup header, and in it a kernel that is packed (Documentation/arch/x86/boot.rst).
//!
//! ```text
//! 0          0x1f1           (setup_sects + 1) * 512
//! | boot     | setup header  | protected-mode code ... payload ... |
//!                              ^                       ^ payload_offset from there
//! ```

use linux_loader::loader::bootparam::setup_header;
use std::ops::Range;
use vm_memory::ByteValued;

/// Where the setup header begins.
const HEADER: usize = 0x1f1;
/// Bytes of a sector.
const SECTOR: usize = 512;
/// Setup sectors if the header says 0, for reasons older than Linux 2.
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// `setup_header::boot_flag`.
const BOOT_FLAG: u16 = 0xaa55;
/// `setup_header::header`: "HdrS".
const MAGIC: u32 = 0x5372_6448;
/// The first protocol version that tells where the payload is.
const VERSION_PAYLOAD: u16 = 0x0208;
/// `setup_header::xloadflags`: there is a 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1;

/// What is wrong with a bzImage.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BzImageError {
    /// It ends before its header does.
    #[error("the file ends within the kernel's header")]
    Truncated,
    /// It is too old.
    #[error("boot protocol {0:#06x}, {VERSION_PAYLOAD:#06x} is needed")]
    Version(u16),
    /// Its header places something past its end.
    #[error("the header says that there are {0} where the file has none")]
    PastEnd(&'static str),
    /// It cannot be entered in 64-bit mode.
    #[error("the kernel has no 64-bit entry")]
    NoEntry64,
}

/// A bzImage and where its parts are.
#[derive(Debug)]
pub struct BzImage {
    /// Its setup header.
    pub header: setup_header,
    /// The protected-mode code, which unpacks the payload if the guest is to do that.
    pub code: Range<usize>,
    /// The packed kernel.
    pub payload: Range<usize>,
}

impl BzImage {
    /// Whether `image` says that it is a bzImage at all.
    #[must_use]
    pub fn is_one(image: &[u8]) -> bool {
        header(image).is_some_and(|header| {
            let (flag, magic) = (header.boot_flag, header.header);
            flag == BOOT_FLAG && magic == MAGIC
        })
    }

    /// Finds the parts of `image`.
    ///
    /// # Errors
    /// A part is not where the header says, or the kernel is too old.
    pub fn parse(image: &[u8]) -> Result<Self, BzImageError> {
        let header = header(image).ok_or(BzImageError::Truncated)?;
        let version = header.version;
        if version < VERSION_PAYLOAD {
            return Err(BzImageError::Version(version));
        }
        let sectors = match header.setup_sects {
            0 => DEFAULT_SETUP_SECTORS,
            sectors => sectors,
        };
        let start = (usize::from(sectors) + 1) * SECTOR;
        let code = start..image.len();
        if code.is_empty() {
            return Err(BzImageError::PastEnd("instructions"));
        }
        let offset = start.saturating_add(header.payload_offset as usize);
        let payload = offset..offset.saturating_add(header.payload_length as usize);
        if payload.is_empty() || payload.end > image.len() {
            return Err(BzImageError::PastEnd("packed bytes"));
        }
        Ok(Self { header, code, payload })
    }

    /// Checks that the protected-mode code can be entered in 64-bit mode.
    ///
    /// # Errors
    /// It cannot.
    pub fn entry_64(&self) -> Result<(), BzImageError> {
        let flags = self.header.xloadflags;
        if flags & XLF_KERNEL_64 == 0 { Err(BzImageError::NoEntry64) } else { Ok(()) }
    }
}

fn header(image: &[u8]) -> Option<setup_header> {
    let bytes = image.get(HEADER..HEADER + size_of::<setup_header>())?;
    let mut header = setup_header::default();
    header.as_mut_slice().copy_from_slice(bytes);
    Some(header)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A bzImage around `payload`, with one setup sector and 16 bytes of code.
    pub(crate) fn image(payload: &[u8]) -> Vec<u8> {
        let mut header = setup_header {
            setup_sects: 1,
            boot_flag: BOOT_FLAG,
            header: MAGIC,
            version: 0x020f,
            payload_offset: 16,
            payload_length: payload.len() as u32,
            initrd_addr_max: 0x7fff_ffff,
            xloadflags: XLF_KERNEL_64,
            ..setup_header::default()
        };
        let mut image = vec![0; 2 * SECTOR + 16];
        image[HEADER..HEADER + size_of::<setup_header>()].copy_from_slice(header.as_mut_slice());
        image.extend(payload);
        image
    }

    fn patched(offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut image = image(b"payload");
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
        image
    }

    #[test]
    fn the_payload_is_where_the_header_says() {
        let image = image(b"payload");
        assert!(BzImage::is_one(&image));
        let parsed = BzImage::parse(&image).unwrap();
        assert_eq!(&image[parsed.payload], b"payload");
    }

    #[test]
    fn every_truncated_prefix_is_refused() {
        let image = image(b"payload");
        for length in 0..image.len() {
            assert!(BzImage::parse(&image[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn lying_sizes_are_refused() {
        let payload_offset = HEADER + 0x57;
        for (offset, bytes) in [
            (HEADER, &[255_u8][..]),
            (payload_offset, &[0xff; 4]),
            (payload_offset + 4, &[0xff; 4]),
            (payload_offset + 4, &[0; 4]),
            (payload_offset + 4, &[8, 0, 0, 0]),
        ] {
            let outcome = BzImage::parse(&patched(offset, bytes));
            assert!(matches!(outcome, Err(BzImageError::PastEnd(_))), "{offset:#x}: {outcome:?}");
        }
        // Setup sectors 0 means 4, and this file has not that many.
        assert!(BzImage::parse(&patched(HEADER, &[0])).is_err());
    }

    #[test]
    fn a_wrong_magic_is_no_bzimage_and_an_old_protocol_is_refused() {
        assert!(!BzImage::is_one(&patched(0x202, b"HdrX")));
        assert!(!BzImage::is_one(&patched(0x1fe, &[0; 2])));
        let outcome = BzImage::parse(&patched(0x206, &[0x07, 0x02]));
        assert_eq!(outcome.unwrap_err(), BzImageError::Version(0x0207));
    }
}
