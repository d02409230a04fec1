//! A device's registers as memory that the guest can read and not write, so that reading them is no
//! exit: with every interrupt a driver reads which it was.
//!
//! A device shows them so whose configuration never changes. The transport writes here what a read
//! would give, whenever something writes to it; the two registers that change by themselves are
//! written to by whoever changes them.

use crate::memory::PAGE_SIZE;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use vm_memory::{MmapRegion, VolatileMemory};

/// The page.
pub struct RegisterPage(MmapRegion);

impl RegisterPage {
    /// One that is all zeros.
    ///
    /// # Errors
    /// No memory is left.
    pub fn new() -> io::Result<Self> {
        MmapRegion::new(PAGE_SIZE as usize).map(Self).map_err(io::Error::other)
    }

    /// Where it is in this process.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// Bits that are set in the register at `offset` from now on.
    pub(super) fn set(&self, offset: u64, bits: u32) {
        self.change(offset, |word| {
            word.fetch_or(bits, Ordering::SeqCst);
        });
    }

    /// Bits that are no longer.
    pub(super) fn clear(&self, offset: u64, bits: u32) {
        self.change(offset, |word| {
            word.fetch_and(!bits, Ordering::SeqCst);
        });
    }

    /// What the register at `offset` holds from now on.
    pub(super) fn store(&self, offset: u64, value: u32) {
        self.change(offset, |word| word.store(value, Ordering::SeqCst));
    }

    /// What the guest reads at `offset`.
    #[cfg(test)]
    pub(super) fn load(&self, offset: u64) -> u32 {
        let mut value = 0;
        self.change(offset, |word| value = word.load(Ordering::SeqCst));
        value
    }

    fn change(&self, offset: u64, change: impl FnOnce(&AtomicU32)) {
        // Registers lie in the page, and where a word can.
        if let Ok(word) = usize::try_from(offset)
            .map_err(drop)
            .and_then(|offset| self.0.get_atomic_ref::<AtomicU32>(offset).map_err(drop))
        {
            change(word);
        }
    }
}
