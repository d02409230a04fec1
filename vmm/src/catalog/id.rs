//! The identity of a machine, which survives every change of its name and place.

use rustix::rand::{GetRandomFlags, getrandom};
use std::fmt;
use std::io;
use std::str::FromStr;

/// Where the text of a UUID has its dashes.
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// A machine's identity: a random UUID (version 4, RFC 9562), made when the machine is created.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MachineId([u8; 16]);

impl MachineId {
    /// A new one, which no other machine has.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        // Up to 256 bytes are never given in part.
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }

    /// Its bytes, in the order of its text.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

/// A text that is no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12")]
pub struct MachineIdError;

impl FromStr for MachineId {
    type Err = MachineIdError;

    fn from_str(text: &str) -> Result<Self, MachineIdError> {
        let digit = |c: char| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut bytes = [0; 16];
        let mut digits = 0;
        for (place, character) in text.chars().enumerate() {
            if DASHES.contains(&place) && character == '-' {
                continue;
            }
            let value = digit(character).filter(|_| !DASHES.contains(&place));
            let byte: &mut u8 = bytes.get_mut(digits / 2).ok_or(MachineIdError)?;
            *byte = *byte << 4 | value.ok_or(MachineIdError)?;
            digits += 1;
        }
        if digits == 32 { Ok(Self(bytes)) } else { Err(MachineIdError) }
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_random_uuids_of_version_4() {
        let id = MachineId::random().unwrap();
        assert_ne!(id, MachineId::random().unwrap());
        let text = id.to_string();
        assert_eq!(text.len(), 36);
        assert_eq!(&text[14..15], "4", "{text}");
        assert!(matches!(&text[19..20], "8" | "9" | "a" | "b"), "{text}");
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        let good = "0b3c9a52-8d5e-4f7a-9c1d-2e3f4a5b6c7d";
        assert_eq!(good.parse::<MachineId>().unwrap().to_string(), good);
        for bad in [
            "",
            "-",
            &good[..35],
            &format!("{good}0"),
            &format!("{good}-"),
            &good.replace('-', ""),
            &good.replace('b', "g"),
            &good.replace('-', "0"),
            &good.replace('0', "é"),
            "0b3c9a5-28d5e-4f7a-9c1d-2e3f4a5b6c7d",
        ] {
            assert_eq!(bad.parse::<MachineId>(), Err(MachineIdError), "{bad:?}");
        }
    }
}
