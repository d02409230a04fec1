//! What a call of the API answers when it refuses: a documented code, and words for a person.

use protocol::HResult;
use std::io;
use std::path::Path;

/// A refused call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct CallError {
    /// The documented code.
    pub code: HResult,
    /// What was tried, what was found, and what to do next.
    pub text: String,
}

impl CallError {
    /// A refusal with `code`, explained by `text`.
    #[must_use]
    pub fn new(code: HResult, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// An error with its sources, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The documented code of `error`, which came of using `path`.
pub(crate) fn code_of(error: &io::Error, path: &Path) -> HResult {
    use io::ErrorKind;
    match error.kind() {
        _ if error.raw_os_error() == Some(libc::ELOOP) => HResult::ERROR_BAD_PATHNAME,
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            HResult::VM_E_OUT_OF_RESOURCE
        }
        ErrorKind::NotFound => not_found(path),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => HResult::ERROR_ACCESS_DENIED,
        ErrorKind::InvalidFilename => HResult::ERROR_BUFFER_OVERFLOW,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => HResult::ERROR_DISK_FULL,
        ErrorKind::NotADirectory => HResult::ERROR_PATH_NOT_FOUND,
        // A NUL in it, or a directory where a file should be.
        ErrorKind::InvalidInput | ErrorKind::IsADirectory => HResult::ERROR_BAD_PATHNAME,
        ErrorKind::OutOfMemory => HResult::ERROR_OUTOFMEMORY,
        _ => HResult::DISP_E_EXCEPTION,
    }
}

/// The documented code of an error that came of nobody's file: if something of the host's ran out, it
/// says what.
#[must_use]
pub fn code_of_causes(error: &(dyn std::error::Error + 'static)) -> HResult {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        let errno = io.or_else(|| error.downcast_ref::<kvm_ioctls::Error>().map(|e| e.errno()));
        match errno {
            Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN) => {
                return HResult::VM_E_OUT_OF_RESOURCE;
            }
            Some(libc::ENOMEM) => return HResult::ERROR_OUTOFMEMORY,
            Some(libc::ENOSPC) => return HResult::ERROR_DISK_FULL,
            _ => cause = error.source(),
        }
    }
    HResult::DISP_E_EXCEPTION
}

/// The code of a file that is not there: does at least its directory exist?
pub(crate) fn not_found(path: &Path) -> HResult {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            HResult::ERROR_PATH_NOT_FOUND
        }
        _ => HResult::ERROR_FILE_NOT_FOUND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer<E: std::error::Error + 'static>(#[source] E);

    #[test]
    fn what_has_run_out_is_told_however_deep_the_cause_is() {
        for (errno, code) in [
            (libc::EMFILE, HResult::VM_E_OUT_OF_RESOURCE),
            (libc::ENFILE, HResult::VM_E_OUT_OF_RESOURCE),
            (libc::EAGAIN, HResult::VM_E_OUT_OF_RESOURCE),
            (libc::ENOMEM, HResult::ERROR_OUTOFMEMORY),
            (libc::ENOSPC, HResult::ERROR_DISK_FULL),
            (libc::EIO, HResult::DISP_E_EXCEPTION),
        ] {
            let io = || io::Error::from_raw_os_error(errno);
            assert_eq!(code_of_causes(&io()), code);
            assert_eq!(code_of_causes(&Outer(Outer(io()))), code);
            assert_eq!(code_of_causes(&Outer(kvm_ioctls::Error::new(errno))), code);
        }
    }
}
