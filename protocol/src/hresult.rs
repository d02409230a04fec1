//! The codes that calls and tasks answer with: one table of value, symbol and text.
//!
//! A code is a COM `HRESULT`: 32 bits, the top one set for a failure. Values and meanings are the
//! documented ones of the Windows Virtual PC API, with one exception: `E_INVALIDARG` is the
//! system's 0x80070057; the 0x80000003 that those pages print is a misprint.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A result code, `HRESULT` in COM.
///
/// ```
/// use protocol::HResult;
/// let code = HResult::ERROR_NO_SUCH_LOGON_SESSION;
/// assert_eq!(code.to_string(), "0x80070520");
/// assert_eq!(code.symbol(), Some("ERROR_NO_SUCH_LOGON_SESSION"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HResult(pub u32);

macro_rules! codes {
    ($($value:literal $symbol:ident $text:literal)*) => {
        impl HResult {
            $(#[doc = concat!("`", stringify!($value), "`: ", $text, ".")]
            pub const $symbol: Self = Self($value);)*
        }

        /// Every code that the project knows: value, symbol, text.
        pub const TABLE: &[(HResult, &str, &str)] =
            &[$((HResult::$symbol, stringify!($symbol), $text)),*];
    };
}

codes! {
    0x0000_0000 S_OK "done"
    0x0000_0001 S_FALSE "nothing to answer with"
    0x8000_4003 E_POINTER "an out pointer is null"
    0x8000_4005 E_FAIL "not possible now"
    0x8002_0009 DISP_E_EXCEPTION "unexpected error"
    0x8002_000b DISP_E_BADINDEX "no such item in the collection"
    0x8007_0002 ERROR_FILE_NOT_FOUND "the file does not exist"
    0x8007_0003 ERROR_PATH_NOT_FOUND "the path does not exist"
    0x8007_0005 ERROR_ACCESS_DENIED "access denied"
    0x8007_0006 ERROR_INVALID_HANDLE "not a valid handle"
    0x8007_000e ERROR_OUTOFMEMORY "out of memory"
    0x8007_0015 ERROR_NOT_READY "not ready"
    0x8007_0020 ERROR_SHARING_VIOLATION "in use by somebody else"
    0x8007_0057 E_INVALIDARG "an argument is not valid"
    0x8007_006f ERROR_BUFFER_OVERFLOW "too long"
    0x8007_0070 ERROR_DISK_FULL "no space left"
    0x8007_007b ERROR_INVALID_NAME "not a valid name"
    0x8007_00a1 ERROR_BAD_PATHNAME "not a valid path"
    0x8007_00b7 ERROR_ALREADY_EXISTS "exists already"
    0x8007_045b ERROR_SHUTDOWN_IN_PROGRESS "the guest is shutting down"
    0x8007_04c7 ERROR_CANCELLED "cancelled"
    0x8007_04f7 ERROR_MACHINE_LOCKED "the guest is locked"
    0x8007_0520 ERROR_NO_SUCH_LOGON_SESSION "nobody is logged on"
    0xa004_0202 VM_E_TIMED_OUT "not completed in time"
    0xa004_0203 VM_E_OUT_OF_RESOURCE "the host is short of resources"
    0xa004_0204 VM_E_TOO_MANY_VMS "too many machines are active"
    0xa004_0206 VM_E_VM_NOT_RUNNING "the machine is not running"
    0xa004_0207 VM_E_VM_UNKNOWN "no such machine"
    0xa004_0209 VM_E_APP_SHUTTING_DOWN "the monitor is shutting down"
    0xa004_020b VM_E_VM_RUNNING_OR_SAVED "the machine is running or saved"
    0xa004_0300 VM_E_PREF_NOT_FOUND "no such configuration value"
    0xa004_0301 VM_E_PREF_ILLEGAL_VALUE "the configuration value is not allowed"
    0xa004_0302 VM_E_PREF_VM_ACTIVE "not while the machine is active"
    0xa004_0400 VM_E_CONFIG_NO_NAME "the name is empty"
    0xa004_0401 VM_E_CONFIG_NAME_TOO_LONG "the name is longer than 80 characters"
    0xa004_0402 VM_E_CONFIG_NAME_INVALID_CHAR "the name has a character that is not allowed"
    0xa004_0403 VM_E_CONFIG_DUPLICATE_NAME "the name is taken"
    0xa004_0500 VM_E_VM_RUNNING "the machine is running already"
    0xa004_0501 VM_E_VM_NO_SAVED_STATE "the machine has no saved state"
    0xa004_0502 VM_E_DRIVE_INVALID "no such drive"
    0xa004_0504 VM_E_ADDITIONS_NOT_AVAIL "the integration components are not available"
    0xa004_0505 VM_E_ADDITIONS_FEATURE_NOT_AVAIL "the integration components cannot do this"
    0xa004_0507 VM_E_VM_PAUSED "the machine is paused"
    0xa004_0508 VM_E_MEDIA_UNMOUNT_FAIL "the medium could not be unmounted"
    0xa004_0950 VM_E_UNSUPPORTED_HARDWARE "this processor cannot run virtual machines"
    0xa004_0951 VM_E_HARDWARE_VIRTUALIZATION_DISABLED "hardware virtualization is missing or off"
}

impl HResult {
    /// Whether the code stands for a failure.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }

    /// The documented name, if the project knows the code.
    #[must_use]
    pub fn symbol(self) -> Option<&'static str> {
        self.entry().map(|(_, symbol, _)| *symbol)
    }

    /// The meaning in a few words, if the project knows the code.
    #[must_use]
    pub fn text(self) -> Option<&'static str> {
        self.entry().map(|(_, _, text)| *text)
    }

    fn entry(self) -> Option<&'static (Self, &'static str, &'static str)> {
        TABLE.iter().find(|(code, _, _)| *code == self)
    }
}

impl fmt::Display for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.0)
    }
}

impl fmt::Debug for HResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} {}", self.symbol().unwrap_or("?"))
    }
}

/// As text, `"0x80070520"`: the form people know, and safe from every reader's idea of numbers.
impl Serialize for HResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.strip_prefix("0x")
            .filter(|digits| digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("a code is 0x and eight hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn values_and_symbols_are_unique() {
        let values: HashSet<u32> = TABLE.iter().map(|(code, _, _)| code.0).collect();
        let symbols: HashSet<&str> = TABLE.iter().map(|(_, symbol, _)| *symbol).collect();
        assert_eq!(values.len(), TABLE.len());
        assert_eq!(symbols.len(), TABLE.len());
    }

    #[test]
    fn win32_errors_are_wrapped_as_facility_seven() {
        assert_eq!(HResult::ERROR_NO_SUCH_LOGON_SESSION.0, 0x8007_0000 | 1312);
        assert_eq!(HResult::ERROR_CANCELLED.0, 0x8007_0000 | 1223);
        assert_eq!(HResult::ERROR_SHUTDOWN_IN_PROGRESS.0, 0x8007_0000 | 1115);
    }

    #[test]
    fn only_the_two_success_codes_are_no_failures() {
        let successes: Vec<u32> = TABLE
            .iter()
            .filter(|(code, _, _)| !code.is_failure())
            .map(|(code, _, _)| code.0)
            .collect();
        assert_eq!(successes, [0, 1]);
    }

    #[test]
    fn json_is_the_hexadecimal_text_and_nothing_else() {
        let json = serde_json::to_string(&HResult::VM_E_TIMED_OUT).unwrap();
        assert_eq!(json, r#""0xA0040202""#);
        assert_eq!(serde_json::from_str::<HResult>(&json).unwrap(), HResult::VM_E_TIMED_OUT);
        for bad in ["\"0x1\"", "\"A0040202\"", "\"0x+0040202\"", "5", "\"0xa00402020\""] {
            assert!(serde_json::from_str::<HResult>(bad).is_err(), "{bad}");
        }
    }
}
