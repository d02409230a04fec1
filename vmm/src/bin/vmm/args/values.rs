//! Values on the command line, and how they are read.

use std::time::Duration;
use vmm::config::Console;
use vmm::confine::jail::Prisoner;

/// Reads where a serial console goes: `stdio`, `none`, `attach` or `file=PATH`.
pub(super) fn parse_console(text: &str) -> Result<Console, String> {
    match text {
        "stdio" => Ok(Console::Stdio),
        "none" => Ok(Console::None),
        "attach" => Ok(Console::Attach),
        _ => match text.strip_prefix("file=") {
            Some(path) if !path.is_empty() => Ok(Console::File(path.into())),
            _ => Err("it is stdio, none, attach or file=PATH".into()),
        },
    }
}

/// Reads where the serial console of a machine in the catalog goes: `attach` or `file=PATH`.
pub(super) fn parse_console_file(text: &str) -> Result<Console, String> {
    match parse_console(text) {
        Ok(console @ (Console::Attach | Console::File(_))) => Ok(console),
        _ => Err("it is attach or file=PATH".into()),
    }
}

/// Reads whom a machine is run as: `1000` or `1000:1000`, the group being the user's number if none is
/// said.
pub(super) fn parse_prisoner(text: &str) -> Result<Prisoner, String> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    match (user.parse(), group.parse()) {
        // The last number means nobody at all to the kernel.
        (Ok(user), Ok(group)) if user < u32::MAX && group < u32::MAX => {
            Ok(Prisoner { user, group })
        }
        _ => Err("it is a user's number, or a user's and a group's, as 1000:1000".into()),
    }
}

/// Reads a time with its unit: `500ms`, `10s`, `2m`, `1h`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let milliseconds = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(format!("{text:?} has no unit: ms, s, m and h are units")),
        unit => return Err(format!("{unit:?} is no unit; ms, s, m and h are")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no time, such as 10s"))?;
    // More than a day is surely a slip, and keeps every sum of times far from overflowing.
    const DAY: u64 = 24 * 3_600_000;
    match number.checked_mul(milliseconds) {
        Some(total) if total <= DAY => Ok(Duration::from_millis(total)),
        _ => Err(format!("{text} is more than a day")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prisoner_is_a_user_and_perhaps_a_group() {
        let prisoner = |user, group| Ok(Prisoner { user, group });
        assert_eq!(parse_prisoner("1000"), prisoner(1000, 1000));
        assert_eq!(parse_prisoner("1000:7"), prisoner(1000, 7));
        for text in ["", "nobody", "1:", ":1", "1:2:3", "-1", "4294967295", "4294967296"] {
            assert!(parse_prisoner(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_need_units_and_are_bounded() {
        for (text, milliseconds) in [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        for text in ["10", "", "s", "-1s", "1.5s", "1d", "25h", "99999999999999999999s", "1é"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
