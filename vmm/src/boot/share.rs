//! Which of a kernel's pages machines share: those that its file has and that hardly any boot writes to.
//!
//! A mapped page costs the guest an exit when it is touched first, and two more when it is written to,
//! which also ends the sharing; copied, 2 MiB cost one. So what is mapped is blocks of 2 MiB, for no other huge
//! page to break, and not those of which a boot leaves next to nothing as it was:
//!
//! - Code. Linux patches it at each boot, to what the processor is like: a stock kernel's pages of code are
//!   all written to. But it aligns parts of it to 2 MiB, with padding that nobody touches.
//! - Segments that are both written to and executed: what is needed for the start alone. Linux frees them, and
//!   uses them for something else.
//! - Gaps between sections, zeros in the file, which it frees too.
//!
//! Whether a block is padding or a gap, a page in its middle tells. It is not worth more: that a block is
//! chosen or not makes the guest no difference.

use super::Image;
use crate::memory::{HUGE_PAGE, PAGE_SIZE};
use std::io;
use std::ops::Range;

/// What Linux fills up code with: an instruction that traps (`int3`).
const PADDING: u8 = 0xcc;

/// A part of a kernel's file that is loaded.
pub(super) struct Part<'a> {
    /// Where it is in the file.
    pub(super) file: Range<u64>,
    /// The address of its first byte in RAM.
    pub(super) address: u64,
    /// Where code is in the file, sorted or not.
    pub(super) code: &'a [Range<u64>],
}

impl Part<'_> {
    /// The blocks of it that are worth sharing, as they lie in the file, in their order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn blocks(&self, image: &Image) -> io::Result<Vec<Range<u64>>> {
        let mut blocks = Vec::new();
        // Only a page can be mapped.
        if self.file.start % PAGE_SIZE != self.address % PAGE_SIZE {
            return Ok(blocks);
        }
        let skipped = self.address.next_multiple_of(HUGE_PAGE) - self.address;
        let mut start = self.file.start.saturating_add(skipped);
        while let Some(end) = start.checked_add(HUGE_PAGE).filter(|end| *end <= self.file.end) {
            if self.is_worth_it(image, start..end)? {
                blocks.push(start..end);
            }
            start = end;
        }
        Ok(blocks)
    }

    fn is_worth_it(&self, image: &Image, block: Range<u64>) -> io::Result<bool> {
        let middle = image.bytes(block.start + HUGE_PAGE / 2, PAGE_SIZE as usize)?;
        let is_all = |byte| middle.iter().all(|found| *found == byte);
        let has_code =
            self.code.iter().any(|code| code.start < block.end && block.start < code.end);
        Ok(is_all(PADDING) || !(has_code || is_all(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = HUGE_PAGE as usize;

    /// A file of blocks, each of one byte all over.
    fn file(bytes: &[u8]) -> Image {
        Image::Bytes(bytes.iter().flat_map(|byte| vec![*byte; BLOCK]).collect())
    }

    fn blocks(image: &Image, part: &Part<'_>) -> Vec<u64> {
        let blocks = part.blocks(image).unwrap();
        assert!(blocks.iter().all(|block| block.end - block.start == HUGE_PAGE));
        blocks.iter().map(|block| block.start).collect()
    }

    #[test]
    fn code_and_gaps_are_not_worth_sharing_and_padding_and_data_are() {
        let image = file(&[0x90, PADDING, 7, 0, PADDING, 7]);
        let code = [0..1, HUGE_PAGE - 1..2 * HUGE_PAGE + 1];
        let part = Part { file: 0..6 * HUGE_PAGE, address: 4 * HUGE_PAGE, code: &code };
        assert_eq!(blocks(&image, &part), [1, 4, 5].map(|block| block * HUGE_PAGE));
        let data = Part { code: &[], ..part };
        assert_eq!(blocks(&image, &data), [0, 1, 2, 4, 5].map(|block| block * HUGE_PAGE));
    }

    #[test]
    fn only_whole_blocks_of_ram_are_shared_and_only_whole_pages_of_the_file() {
        let image = file(&[7; 4]);
        let part = |file, address| Part { file, address, code: &[] };
        // A huge page begins 16 pages after the start.
        let at = 4 * HUGE_PAGE - 16 * PAGE_SIZE;
        let first = 17 * PAGE_SIZE;
        assert_eq!(blocks(&image, &part(PAGE_SIZE..first + HUGE_PAGE, at)), [first]);
        assert!(blocks(&image, &part(PAGE_SIZE..first + HUGE_PAGE - 1, at)).is_empty());
        assert!(blocks(&image, &part(PAGE_SIZE..4 * HUGE_PAGE, at + 1)).is_empty());
        assert_eq!(blocks(&image, &part(0..0, at)), [0; 0]);
        assert_eq!(blocks(&image, &part(u64::MAX - 4095..u64::MAX, at)), [0; 0]);
    }
}
