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
/// The first protocol version that has `setup_header::xloadflags`.
const VERSION_XLOADFLAGS: u16 = 0x020c;
/// `setup_header::xloadflags`: there is a 64-bit entry.
const XLF_KERNEL_64: u16 = 1;
/// Bytes of the header before those that its jump instruction counts.
const COUNTED_FROM: usize = 0x11;
/// The unit of `setup_header::syssize`.
const PARAGRAPH: usize = 16;

/// Bytes from the start of a file that tell whether it is a bzImage.
pub const HEADER_END: usize = HEADER + size_of::<setup_header>();
/// The 64-bit entry, from the start of the protected-mode code.
pub const ENTRY_64: usize = 0x200;

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
    #[error("the file ends before its {0} do; is it cut short?")]
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

    /// Finds the parts of an image of `length` bytes, whose first [`HEADER_END`], or all, are in `head`.
    ///
    /// # Errors
    /// A part is not where the header says, or the kernel is too old.
    pub fn parse(head: &[u8], length: usize) -> Result<Self, BzImageError> {
        let header = header(head).ok_or(BzImageError::Truncated)?;
        let version = header.version;
        if version < VERSION_PAYLOAD {
            return Err(BzImageError::Version(version));
        }
        let sectors = match header.setup_sects {
            0 => DEFAULT_SETUP_SECTORS,
            sectors => sectors,
        };
        let start = (usize::from(sectors) + 1) * SECTOR;
        let code = start..length;
        if code.is_empty() {
            return Err(BzImageError::PastEnd("instructions"));
        }
        let offset = start.saturating_add(header.payload_offset as usize);
        let payload = offset..offset.saturating_add(header.payload_length as usize);
        if payload.is_empty() || payload.end > length {
            return Err(BzImageError::PastEnd("packed bytes"));
        }
        Ok(Self { header, code, payload })
    }

    /// Checks that the protected-mode code is all there and can be entered in 64-bit mode.
    ///
    /// # Errors
    /// It is not, or cannot.
    pub fn entry_64(&self) -> Result<(), BzImageError> {
        let (version, flags) = (self.header.version, self.header.xloadflags);
        if version < VERSION_XLOADFLAGS || flags & XLF_KERNEL_64 == 0 {
            return Err(BzImageError::NoEntry64);
        }
        let said = (self.header.syssize as usize).saturating_mul(PARAGRAPH);
        if self.code.len() < said.max(ENTRY_64 + 1) {
            return Err(BzImageError::PastEnd("instructions"));
        }
        Ok(())
    }
}

/// The setup header of `image`. Older kernels have a shorter one, which ends where its first
/// instruction jumps to: what follows is code, and the fields there count as zero.
fn header(image: &[u8]) -> Option<setup_header> {
    let bytes = image.get(HEADER..HEADER_END)?;
    let mut header = setup_header::default();
    header.as_mut_slice().copy_from_slice(bytes);
    let [_, counted] = header.jump.to_le_bytes();
    if let Some(code) = header.as_mut_slice().get_mut(COUNTED_FROM + usize::from(counted)..) {
        code.fill(0);
    }
    Some(header)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn parse(image: &[u8]) -> Result<BzImage, BzImageError> {
        BzImage::parse(image, image.len())
    }

    /// Bytes of code before the payload of [`image`], among them the 64-bit entry.
    const CODE: usize = ENTRY_64 + 16;

    /// The header of [`image`], with one setup sector.
    pub(crate) fn sound_header(payload: &[u8]) -> setup_header {
        setup_header {
            setup_sects: 1,
            syssize: (CODE + payload.len()).div_ceil(PARAGRAPH) as u32,
            boot_flag: BOOT_FLAG,
            jump: u16::from_le_bytes([0xeb, (size_of::<setup_header>() - COUNTED_FROM) as u8]),
            header: MAGIC,
            version: 0x020f,
            payload_offset: CODE as u32,
            payload_length: payload.len() as u32,
            initrd_addr_max: 0x7fff_ffff,
            cmdline_size: 2047,
            pref_address: 0x20_0000,
            init_size: 0x1_0000,
            xloadflags: XLF_KERNEL_64,
            ..setup_header::default()
        }
    }

    /// A bzImage of `header`, some code and `payload`.
    pub(crate) fn image_with(mut header: setup_header, payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 2 * SECTOR + CODE];
        image[HEADER..HEADER_END].copy_from_slice(header.as_mut_slice());
        image.extend(payload);
        image.resize(image.len().next_multiple_of(PARAGRAPH), 0);
        image
    }

    /// A bzImage around `payload`.
    pub(crate) fn image(payload: &[u8]) -> Vec<u8> {
        image_with(sound_header(payload), payload)
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
        let parsed = parse(&image).unwrap();
        assert_eq!(&image[parsed.payload], b"payload");
    }

    #[test]
    fn case_31_every_truncated_prefix_of_a_bzimage_is_refused() {
        let image = image(b"payload");
        let payload_end = parse(&image).unwrap().payload.end;
        for length in 0..image.len() {
            let outcome = parse(&image[..length]);
            assert_eq!(outcome.is_ok(), length >= payload_end, "{length} bytes");
            // What is behind the payload only matters to a guest that unpacks itself.
            assert!(outcome.and_then(|bzimage| bzimage.entry_64()).is_err(), "{length} bytes");
        }
        assert_eq!(parse(&image).unwrap().entry_64(), Ok(()));
    }

    #[test]
    fn case_33_lying_sizes_are_refused() {
        let payload_offset = HEADER + 0x57;
        for (offset, bytes) in [
            (HEADER, &[255_u8][..]),
            (payload_offset, &[0xff; 4]),
            (payload_offset + 4, &[0xff; 4]),
            (payload_offset + 4, &[0; 4]),
            (payload_offset + 4, &[100, 0, 0, 0]),
        ] {
            let outcome = parse(&patched(offset, bytes));
            assert!(matches!(outcome, Err(BzImageError::PastEnd(_))), "{offset:#x}: {outcome:?}");
        }
        // Setup sectors 0 means 4, and this file has not that many.
        assert!(parse(&patched(HEADER, &[0])).is_err());
    }

    #[test]
    fn case_33_a_wrong_magic_is_no_bzimage_and_an_old_protocol_is_refused() {
        assert!(!BzImage::is_one(&patched(0x202, b"HdrX")));
        assert!(!BzImage::is_one(&patched(0x1fe, &[0; 2])));
        let outcome = parse(&patched(0x206, &[0x07, 0x02]));
        assert_eq!(outcome.unwrap_err(), BzImageError::Version(0x0207));
    }
    #[test]
    fn what_an_older_header_does_not_have_counts_as_zero() {
        let payload = b"payload";
        let mut header = sound_header(payload);
        // It ends before `payload_offset`, or before `pref_address`.
        for (counted, parsed) in [(0x46_u8, false), (0x4e, true)] {
            header.jump = u16::from_le_bytes([0xeb, counted]);
            let outcome = parse(&image_with(header, payload));
            assert_eq!(outcome.is_ok(), parsed, "{counted:#x}");
            if let Ok(bzimage) = outcome {
                let (preferred, size) = (bzimage.header.pref_address, bzimage.header.init_size);
                assert_eq!((preferred, size), (0, 0));
            }
        }
    }

    #[test]
    fn case_33_a_64_bit_entry_must_be_promised_and_within_the_code() {
        let entry = |change: fn(&mut setup_header)| {
            let mut header = sound_header(b"payload");
            change(&mut header);
            parse(&image_with(header, b"payload")).unwrap().entry_64()
        };
        assert_eq!(entry(|_| ()), Ok(()));
        assert_eq!(entry(|header| header.xloadflags = 0), Err(BzImageError::NoEntry64));
        // The flag's field is younger than this version.
        assert_eq!(entry(|header| header.version = 0x020b), Err(BzImageError::NoEntry64));
        let cut_short = Err(BzImageError::PastEnd("instructions"));
        assert_eq!(entry(|header| header.syssize = u32::MAX), cut_short);
        assert_eq!(entry(|header| header.syssize += 1), cut_short);
    }
}
