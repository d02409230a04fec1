//! Sizes, as people write and read them.

use std::fmt;

/// A number of bytes as people say it, in MiB where there are some.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 >> 20 {
            0 => write!(f, "{} bytes", self.0),
            mebibytes => write!(f, "{mebibytes} MiB"),
        }
    }
}

/// Reads a size as people write it: `512M`, `2G`, `262144K`, or bytes.
///
/// # Errors
/// It is no number, has another unit, or is more than 64 bits can say.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unreadable = || format!("{text:?} is no size, such as 512M");
    if digits.is_empty() {
        return Err(unreadable());
    }
    let shift = match text[digits.len()..].trim() {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        unit => return Err(format!("{unit:?} is no unit; K, M, G and T are")),
    };
    let number = if digits.starts_with('+') { None } else { digits.parse::<u64>().ok() };
    let number = number.ok_or_else(unreadable)?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than there can be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_never_wrap() {
        for (text, size) in [("512M", 512 << 20), ("2G", 2 << 30), ("262144K", 256 << 20), ("7", 7)]
        {
            assert_eq!(parse_size(text), Ok(size));
        }
        for text in
            ["", "M", "-1", "+1", "1.5G", "12Q", "18446744073709551616", "99999999999T", "5é"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
