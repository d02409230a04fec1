//! Structures that begin with their size in bytes, so that they can grow.
//!
//! A caller that was compiled when a structure was shorter gets the defaults of what it does not
//! know. One that was compiled when it is longer is served too, unless it asks for something that is
//! not known here.

use super::call::no_place;
use crate::error::CallError;
use protocol::HResult;
use std::ptr::NonNull;

/// No structure gets larger than this: the size must have been forgotten.
const SIZE_MAX: usize = 4096;

/// A structure of C.
///
/// # Safety
/// Its first field is its size, a `u32`; all others are numbers or pointers; there is no padding.
pub(super) unsafe trait Structure: Copy {}

/// Reads a structure over its `defaults`, which are all of it if it is null.
///
/// # Safety
/// It is null, or its first four bytes can be read, and then as many as these say.
pub(super) unsafe fn read<T: Structure>(place: *const T, defaults: T) -> Result<T, CallError> {
    if place.is_null() {
        return Ok(defaults);
    }
    // SAFETY: our caller promises that it can be read, and a `Structure` begins so.
    let size = check::<T>(unsafe { place.cast::<u32>().read() })?;
    let known = size.min(size_of::<T>());
    let bytes = place.cast::<u8>();
    // SAFETY: our caller promises that the memory has its size.
    let tail = unsafe { bytes.add(known) };
    // SAFETY: likewise.
    let tail = unsafe { std::slice::from_raw_parts(tail, size - known) };
    if tail.iter().any(|byte| *byte != 0) {
        return Err(refused("it asks for more than this version of the library has"));
    }
    let mut value = defaults;
    // SAFETY: both have so many bytes, and any bytes are a `Structure`.
    unsafe { std::ptr::copy_nonoverlapping(bytes, (&raw mut value).cast(), known) };
    Ok(value)
}

/// Where a call puts a structure that it answers.
pub(super) struct SizedOut<T> {
    place: NonNull<T>,
    size: usize,
}

impl<T: Structure> SizedOut<T> {
    /// Clears the structure but for its size.
    ///
    /// # Safety
    /// It is null, or its first four bytes can be read, and then as many written as these say, until
    /// the call ends.
    pub(super) unsafe fn new(place: *mut T) -> Result<Self, CallError> {
        let place = NonNull::new(place).ok_or_else(no_place)?;
        // SAFETY: our caller promises that it can be read, and a `Structure` begins so.
        let size = check::<T>(unsafe { place.cast::<u32>().read() })?;
        let out = Self { place, size };
        // SAFETY: our caller promises that the memory has its size, and it is more than this.
        let rest = unsafe { place.cast::<u8>().add(size_of::<u32>()) };
        // SAFETY: likewise.
        unsafe { rest.write_bytes(0, size - size_of::<u32>()) };
        Ok(out)
    }

    /// Puts as much of the answer there as the caller knows, and leaves it its size.
    pub(super) fn put(self, value: &T) {
        let start = size_of::<u32>();
        let count = self.size.min(size_of::<T>()) - start;
        let from = std::ptr::from_ref(value).cast::<u8>();
        // SAFETY: a `Structure` is longer than its size.
        let from = unsafe { from.add(start) };
        // SAFETY: `check` has seen to it that the memory is too.
        let to = unsafe { self.place.cast::<u8>().add(start) };
        // SAFETY: both have so many bytes, as whoever made this has promised of the second.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_ptr(), count) };
    }
}

/// The size of a structure as its caller has it.
fn check<T>(size: u32) -> Result<usize, CallError> {
    let size = size as usize;
    if size < size_of::<u32>() || size > SIZE_MAX || !size.is_multiple_of(align_of::<T>()) {
        return Err(refused(&format!("its size cannot be {size}")));
    }
    Ok(size)
}

fn refused(why: &str) -> CallError {
    CallError::new(HResult::E_INVALIDARG, format!("a structure is not what it says: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Two {
        size: u32,
        a: u32,
        b: u32,
    }

    // SAFETY: it is three numbers of the same size.
    unsafe impl Structure for Two {}

    const DEFAULTS: Two = Two { size: 12, a: 7, b: 8 };

    fn read_words(words: &[u32]) -> Result<Two, HResult> {
        // SAFETY: no size that is given below is more than the memory.
        unsafe { read(words.as_ptr().cast(), DEFAULTS) }.map_err(|error| error.code)
    }

    #[test]
    fn what_a_caller_does_not_know_has_its_default() {
        // SAFETY: it is null.
        assert_eq!(unsafe { read(std::ptr::null(), DEFAULTS) }, Ok(DEFAULTS));
        assert_eq!(read_words(&[4]).unwrap(), Two { size: 4, ..DEFAULTS });
        assert_eq!(read_words(&[8, 1]).unwrap(), Two { size: 8, a: 1, b: 8 });
        assert_eq!(read_words(&[12, 1, 2]).unwrap(), Two { size: 12, a: 1, b: 2 });
    }

    #[test]
    fn a_caller_that_knows_more_may_not_ask_for_it() {
        assert_eq!(read_words(&[20, 1, 2, 0, 0]).unwrap(), Two { size: 20, a: 1, b: 2 });
        for words in [&[16, 1, 2, 3][..], &[20, 1, 2, 0, 1 << 31], &[0], &[3], &[10], &[4100]] {
            assert_eq!(read_words(words), Err(HResult::E_INVALIDARG), "{words:?}");
        }
    }

    #[test]
    fn no_more_is_written_than_a_caller_has_room_for() {
        for (size, expected) in [
            (4, [4, 9, 9, 9, 9]),
            (8, [8, 1, 9, 9, 9]),
            (12, [12, 1, 2, 9, 9]),
            (16, [16, 1, 2, 0, 9]),
        ] {
            let mut words = [size, 9, 9, 9, 9];
            // SAFETY: no size is more than the memory.
            let out = unsafe { SizedOut::new(words.as_mut_ptr().cast::<Two>()) };
            out.unwrap().put(&Two { size: 12, a: 1, b: 2 });
            assert_eq!(words, expected);
        }
    }
}
