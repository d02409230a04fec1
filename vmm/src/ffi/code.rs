//! Codes, texts and the explanation of the last refusal, for C.

use super::call::{c_text, call};
use protocol::HResult;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::sync::OnceLock;

/// What a call answers: 0 is done, 1 is done with nothing to answer, and whatever is negative is a
/// refusal. The values are those of the Windows Virtual PC API, where this is HRESULT.
pub type VmmHresult = i32;

/// A code as C has it.
pub(super) fn for_c(code: HResult) -> VmmHresult {
    code.0.cast_signed()
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps the explanation of a refusal for the thread that was refused.
pub(super) fn remember(text: &str) {
    // A thread that is ending asks nobody any more.
    let _ = LAST.try_with(|last| last.replace(c_text(text)));
}

/// What went wrong in the last call of this thread that failed: what was tried, what was found, what
/// to do next. Empty if none has failed. Never null; good until the next call of this thread fails.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_last_error_text() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The documented name of a code, such as "VM_E_VM_NOT_RUNNING"; "?" if it is not one of those in
/// this header. Never null; good for ever.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_hresult_symbol(code: VmmHresult) -> *const c_char {
    entry(code).map_or(c"?".as_ptr(), |entry| entry.symbol.as_ptr())
}

/// The meaning of a code in a few words; "?" if it is not one of those in this header. Never null;
/// good for ever.
#[unsafe(no_mangle)]
pub extern "C" fn vmm_hresult_text(code: VmmHresult) -> *const c_char {
    entry(code).map_or(c"?".as_ptr(), |entry| entry.text.as_ptr())
}

/// Frees a text that was given out as char *. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmm_string_free(text: *mut c_char) {
    call(|| {
        if !text.is_null() {
            // SAFETY: our caller promises that it was given out, by `CString::into_raw`.
            drop(unsafe { CString::from_raw(text) });
        }
        Ok(HResult::S_OK)
    });
}

struct Entry {
    code: VmmHresult,
    symbol: CString,
    text: CString,
}

/// What is known of a code, with the null bytes that C wants.
fn entry(code: VmmHresult) -> Option<&'static Entry> {
    static TABLE: OnceLock<Vec<Entry>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let entry = |(code, symbol, text): &(HResult, &str, &str)| Entry {
            code: for_c(*code),
            symbol: c_text(symbol),
            text: c_text(text),
        };
        protocol::hresult::TABLE.iter().map(entry).collect()
    });
    table.iter().find(|entry| entry.code == code)
}
