//! The parameters service: values by name, kept in the guest, for the host and the guest's programs.
//!
//! In the guest a parameter is a file below [`DIRECTORY`], named as the parameter, which holds the
//! value and a line feed; a value without the line feed is read as well. Every program can read
//! them, root's can write them. They are gone when the guest boots again.

/// Where the guest's programs find them.
pub const DIRECTORY: &str = "/run/vmm/parameters";
/// Characters of the longest name, and its bytes: a name is a file's name.
pub const MAX_NAME: usize = 255;
/// Bytes of the longest value. One with many characters that JSON escapes must be shorter, to fit
/// a frame.
pub const MAX_VALUE: usize = 32 * 1024;

/// The host's name, as its kernel knows it.
pub const HOST_NAME: &str = "HostName";
/// The same without a domain.
pub const PHYSICAL_HOST_NAME: &str = "PhysicalHostName";
/// The same with its domain, where the host knows it.
pub const PHYSICAL_HOST_NAME_FULLY_QUALIFIED: &str = "PhysicalHostNameFullyQualified";
/// The machine's name on the host.
pub const VIRTUAL_MACHINE_NAME: &str = "VirtualMachineName";

/// Whether `name` can name a parameter: 1 to 255 characters and bytes, without a backslash, as the
/// Virtual PC API has it; and, since it is a file's name, without `/` and control characters, and
/// not with a dot at its beginning.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with('.')
        && !name.chars().any(|c| matches!(c, '\\' | '/') || c.is_control())
}

/// Whether `value` can be a parameter's: at most [`MAX_VALUE`] bytes, and nothing in it that steers
/// a terminal.
#[must_use]
pub fn is_value(value: &str) -> bool {
    value.len() <= MAX_VALUE && !value.chars().any(is_barred)
}

/// Characters that no value has: control characters other than line feed and tab, and those that
/// turn the direction of what follows.
#[must_use]
pub fn is_barred(c: char) -> bool {
    !matches!(c, '\n' | '\t') && crate::text::steers(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_49_names_are_those_of_the_api_that_can_name_a_file() {
        for good in ["a", "Host Name", "ä.b", &"x".repeat(255), "a..b"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".a", "a/b", "/", "a\\b", "a\0", "a\n", "\u{9b}"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(!is_name(&"x".repeat(256)));
        assert!(!is_name(&"ä".repeat(128)), "more bytes than a file's name has");
    }

    #[test]
    fn values_are_bounded_and_steer_no_terminal() {
        for good in ["", "two\nlines\tand a tab", &"x".repeat(MAX_VALUE)] {
            assert!(is_value(good), "{} bytes", good.len());
        }
        for bad in ["\0", "\x1b[2J", "a\rb", "\u{202e}", &"x".repeat(MAX_VALUE + 1)] {
            assert!(!is_value(bad), "{} bytes", bad.len());
        }
    }
}
