//! What every call from C goes through: arguments checked, panics caught, the answer handed over.

use super::code::{VmmHresult, for_c, remember};
use crate::error::CallError;
use protocol::HResult;
use std::any::Any;
use std::ffi::{CStr, CString, c_char};
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// Does the work of a call, and gives its code to C.
pub(super) fn call(work: impl FnOnce() -> Result<HResult, CallError>) -> VmmHresult {
    // What a panic left half done is behind locks that say so, or gone.
    let answer = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = format!("the library has failed: {}", words(&*panic));
        Err(CallError::new(HResult::DISP_E_EXCEPTION, text))
    });
    match answer {
        Ok(code) => for_c(code),
        Err(error) => {
            remember(&error.text);
            for_c(error.code)
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("it does not say why")
}

/// What can be given to C.
pub(super) trait ForC {
    /// What C has it as.
    type C;
    /// What C has if there is none.
    const NONE: Self::C;

    /// Turns it into that.
    fn for_c(self) -> Self::C;
}

/// Has a handle's object answer, and puts its answer at `place`.
///
/// # Safety
/// As [`object`] and [`Out::new`].
pub(super) unsafe fn ask<T, V: ForC>(
    handle: *mut T,
    place: *mut V::C,
    work: impl FnOnce(&T) -> Result<V, CallError>,
) -> VmmHresult {
    // SAFETY: our caller promises the same.
    unsafe { ask_if_any(handle, place, |object| work(object).map(Some)) }
}

/// As [`ask`]; no answer is `S_FALSE`.
///
/// # Safety
/// As [`object`] and [`Out::new`].
pub(super) unsafe fn ask_if_any<T, V: ForC>(
    handle: *mut T,
    place: *mut V::C,
    work: impl FnOnce(&T) -> Result<Option<V>, CallError>,
) -> VmmHresult {
    call(|| {
        // SAFETY: our caller promises it.
        let out = unsafe { Out::new(place, V::NONE)? };
        // SAFETY: our caller promises it.
        let object = unsafe { object(handle)? };
        let Some(value) = work(object)? else { return Ok(HResult::S_FALSE) };
        out.put(value.for_c());
        Ok(HResult::S_OK)
    })
}

/// Has a handle's object do something that has no answer but its code.
///
/// # Safety
/// As [`object`].
pub(super) unsafe fn act<T>(
    handle: *mut T,
    work: impl FnOnce(&T) -> Result<(), CallError>,
) -> VmmHresult {
    call(|| {
        // SAFETY: our caller promises it.
        work(unsafe { object(handle)? })?;
        Ok(HResult::S_OK)
    })
}

/// The object of a handle.
///
/// # Safety
/// It is null, or was made by [`handle`] and has not been released.
pub(super) unsafe fn object<'a, T>(handle: *mut T) -> Result<&'a T, CallError> {
    // SAFETY: our caller promises that it points to the object if to anything.
    unsafe { handle.as_ref() }
        .ok_or_else(|| CallError::new(HResult::ERROR_INVALID_HANDLE, "the object is null"))
}

/// A counted reference to `object`, for C.
pub(super) fn handle<T>(object: T) -> *mut T {
    Arc::into_raw(Arc::new(object)).cast_mut()
}

/// Counts one reference more.
///
/// # Safety
/// As [`object`].
pub(super) unsafe fn add_ref<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: it was made by `handle`, and is counted at least once.
        unsafe { Arc::increment_strong_count(handle) };
    }
}

/// Counts one reference less.
///
/// # Safety
/// As [`object`], and if it was the last the caller uses it no more.
pub(super) unsafe fn release<T>(handle: *mut T) {
    call(|| {
        if !handle.is_null() {
            // SAFETY: it was made by `handle`, and this is one of those that were counted.
            unsafe { Arc::decrement_strong_count(handle) };
        }
        Ok(HResult::S_OK)
    });
}

/// Where a call puts what it answers.
pub(super) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    /// Puts `none` there to begin with.
    ///
    /// # Safety
    /// `place` is null, or can be written to until the call ends.
    pub(super) unsafe fn new(place: *mut T, none: T) -> Result<Self, CallError> {
        let place = NonNull::new(place).ok_or_else(no_place)?;
        // SAFETY: it is not null, and our caller promises the rest.
        unsafe { place.write(none) };
        Ok(Self(place))
    }

    /// Puts the answer there.
    pub(super) fn put(self, value: T) {
        // SAFETY: whoever made this has promised it.
        unsafe { self.0.write(value) };
    }
}

/// The refusal of an out pointer that is null.
pub(super) fn no_place() -> CallError {
    CallError::new(HResult::E_POINTER, "there is no place for the answer: an out pointer is null")
}

/// An argument that is a text.
///
/// # Safety
/// It is null, or a text that ends with a null byte.
pub(super) unsafe fn text<'a>(argument: *const c_char) -> Result<&'a str, CallError> {
    // SAFETY: our caller promises it.
    let text = unsafe { text_if_any(argument)? };
    text.ok_or_else(|| CallError::new(HResult::E_POINTER, "a text is null"))
}

/// An argument that may be a text.
///
/// # Safety
/// As [`text`].
pub(super) unsafe fn text_if_any<'a>(
    argument: *const c_char,
) -> Result<Option<&'a str>, CallError> {
    if argument.is_null() {
        return Ok(None);
    }
    // SAFETY: it is not null, and our caller promises the rest.
    let text = unsafe { CStr::from_ptr(argument) };
    text.to_str()
        .map(Some)
        .map_err(|error| CallError::new(HResult::E_INVALIDARG, format!("a text: {error}")))
}

/// A path, as text.
pub(super) fn path_text(path: &Path) -> Result<String, CallError> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let text = format!("{} is no UTF-8, which C is to have", path.display());
        CallError::new(HResult::DISP_E_EXCEPTION, text)
    })
}

/// A document, as JSON.
pub(super) fn json(document: &impl serde::Serialize) -> Result<String, CallError> {
    serde_json::to_string(document)
        .map_err(|error| CallError::new(HResult::DISP_E_EXCEPTION, error.to_string()))
}

/// `text` as C has it. There a null byte would end it, and some text is the guest's.
pub(super) fn c_text(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().take_while(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

impl ForC for String {
    type C = *mut c_char;
    const NONE: Self::C = null_mut();

    fn for_c(self) -> Self::C {
        c_text(&self).into_raw()
    }
}

impl ForC for bool {
    type C = i32;
    const NONE: Self::C = 0;

    fn for_c(self) -> Self::C {
        self.into()
    }
}

impl ForC for RawFd {
    type C = Self;
    /// Not 0, which is one.
    const NONE: Self::C = -1;

    fn for_c(self) -> Self::C {
        self
    }
}

impl ForC for u32 {
    type C = Self;
    const NONE: Self::C = 0;

    fn for_c(self) -> Self::C {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::code::{vmm_last_error_text, vmm_string_free};

    #[test]
    fn a_panic_becomes_a_code_and_what_it_said_is_kept() {
        assert_eq!(call(|| panic!("{} of {}", 7, 3)), for_c(HResult::DISP_E_EXCEPTION));
        // SAFETY: it is a text of this thread, and no call comes between.
        let text = unsafe { CStr::from_ptr(vmm_last_error_text()) };
        assert_eq!(text.to_str(), Ok("the library has failed: 7 of 3"));
    }

    #[test]
    fn a_text_of_the_guest_cannot_be_longer_than_it_is() {
        let text = String::from("a\0b").for_c();
        // SAFETY: it was just made.
        assert_eq!(unsafe { CStr::from_ptr(text) }, c"a");
        // SAFETY: it is not used any more.
        unsafe { vmm_string_free(text) };
    }
}
