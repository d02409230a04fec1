//! The SMBIOS tables (DMTF DSP0134, version 3.0): who made the machine, which one it is, and words
//! for the guest's programs.
//!
//! ```text
//! 0xf_0000  entry point: _SM3_, the address and size of what follows
//! 0xf_0020  type 1    System Information: maker, product, version, UUID
//!           type 11   OEM Strings of the machine's owner, if there are some, then the monitor's
//!           type 127  the end
//! ```
//!
//! A guest without EFI looks for the entry point at every 16 bytes between 0xf_0000 and 1 MiB. OEM
//! strings are how a host hands over credentials: systemd takes those that begin with
//! `io.systemd.credential:` and `io.systemd.credential.binary:`.

use crate::memory::GuestRam;
use crate::x86::layout::{SMBIOS, SMBIOS_END};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// Bytes that all OEM strings may have together, with a NUL behind each.
pub const OEM_STRINGS_MAX: usize = 60 << 10;
/// How many OEM strings there may be: the table counts them in a byte.
pub const OEM_STRINGS_COUNT: usize = 255;

const MANUFACTURER: &str = "vmm";
const PRODUCT: &str = "Virtual Machine";
const VERSION: &str = env!("CARGO_PKG_VERSION");

const ENTRY_POINT_SIZE: u8 = 0x18;
/// Version 3.0 of the specification.
const SPECIFICATION: [u8; 3] = [3, 0, 0];
const ENTRY_POINT_REVISION: u8 = 1;
/// Where the structures begin.
const STRUCTURES: u64 = SMBIOS + 0x20;

const SYSTEM_INFORMATION: u8 = 1;
const OEM_STRINGS: u8 = 11;
const END_OF_TABLE: u8 = 127;
/// `Wake-up Type`: the power switch.
const POWER_SWITCH: u8 = 6;

/// What the tables say.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The machine's UUID, in the order of its text; zeros where it has none.
    pub uuid: [u8; 16],
    /// Words for the guest's programs. None is empty or has a NUL.
    pub oem_strings: &'a [String],
    /// The monitor's own. They are in a table of their own behind the others: of two credentials of
    /// one name systemd takes the first, so the owner's comes before the monitor's.
    pub own_strings: &'a [String],
}

/// Why the tables could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SmbiosError {
    /// They are longer than their place.
    #[error("SMBIOS tables of {0} bytes do not fit")]
    TooLong(usize),
    /// Guest RAM does not reach there.
    #[error("cannot write the SMBIOS tables to guest RAM")]
    Ram(#[from] GuestMemoryError),
}

/// Writes the tables to `ram`; the entry point is at [`SMBIOS`].
///
/// # Errors
/// They do not fit.
pub fn write(ram: &GuestRam, identity: &Identity<'_>) -> Result<(), SmbiosError> {
    let structures = structures(identity);
    let too_long = || SmbiosError::TooLong(structures.len());
    let size = u32::try_from(structures.len()).map_err(|_| too_long())?;
    if STRUCTURES + u64::from(size) > SMBIOS_END {
        return Err(too_long());
    }
    ram.write_slice(&entry_point(size), GuestAddress(SMBIOS))?;
    Ok(ram.write_slice(&structures, GuestAddress(STRUCTURES))?)
}

fn entry_point(size: u32) -> Vec<u8> {
    let mut bytes = b"_SM3_\0".to_vec();
    bytes.push(ENTRY_POINT_SIZE);
    bytes.extend(SPECIFICATION);
    bytes.extend([ENTRY_POINT_REVISION, 0]);
    bytes.extend(size.to_le_bytes());
    bytes.extend(STRUCTURES.to_le_bytes());
    // All bytes together are zero.
    bytes[5] = bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
    bytes
}

fn structures(identity: &Identity<'_>) -> Vec<u8> {
    let mut table = Table::default();
    // Numbers of strings count from 1; there is no serial number, SKU or family.
    let mut system = vec![1, 2, 3, 0];
    system.extend(uuid_field(identity.uuid));
    system.extend([POWER_SWITCH, 0, 0]);
    table.add(SYSTEM_INFORMATION, &system, [MANUFACTURER, PRODUCT, VERSION]);
    for strings in [identity.oem_strings, identity.own_strings] {
        if let Ok(count @ 1..) = u8::try_from(strings.len()) {
            table.add(OEM_STRINGS, &[count], strings.iter().map(String::as_str));
        }
    }
    table.add(END_OF_TABLE, &[], []);
    table.bytes
}

/// A UUID as the tables have it: its first three fields are numbers, in little-endian order.
fn uuid_field(mut uuid: [u8; 16]) -> [u8; 16] {
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
    uuid
}

#[derive(Default)]
struct Table {
    bytes: Vec<u8>,
    /// The number of the next structure.
    handle: u16,
}

impl Table {
    /// Adds a structure: its header, its fields, and its strings.
    fn add<'a>(&mut self, kind: u8, fields: &[u8], strings: impl IntoIterator<Item = &'a str>) {
        // The fields are ours, and a few bytes.
        let length = 4 + fields.len() as u8;
        self.bytes.extend([kind, length]);
        self.bytes.extend(self.handle.to_le_bytes());
        self.bytes.extend(fields);
        let before = self.bytes.len();
        for string in strings {
            self.bytes.extend(string.as_bytes());
            self.bytes.push(0);
        }
        // An empty string ends them, and where there are none, two NULs do.
        if self.bytes.len() == before {
            self.bytes.push(0);
        }
        self.bytes.push(0);
        self.handle += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::credentials;
    use crate::memory;
    use crate::notify::driver;
    use std::fs;
    use std::process::Command;

    const UUID: [u8; 16] = [
        0x0b, 0x3c, 0x9a, 0x52, 0x8d, 0x5e, 0x4f, 0x7a, 0x9c, 0x1d, 0x2e, 0x3f, 0x4a, 0x5b, 0x6c,
        0x7d,
    ];

    /// What dmidecode makes of the tables in guest RAM.
    fn dmidecode(identity: &Identity<'_>, arguments: &[&str]) -> String {
        let ram = memory::map(32 << 20).unwrap();
        write(&ram, identity).unwrap();
        let mut image = vec![0; (SMBIOS_END - SMBIOS) as usize];
        ram.read_slice(&mut image, GuestAddress(SMBIOS)).unwrap();
        // A dump has the entry point at its beginning, and addresses count from there.
        image[16..24].copy_from_slice(&(STRUCTURES - SMBIOS).to_le_bytes());
        image[5] = 0;
        image[5] = image[..24].iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
        let folder = tempfile::tempdir().unwrap();
        let dump = folder.path().join("dump");
        fs::write(&dump, image).unwrap();
        let output = Command::new("/usr/sbin/dmidecode")
            .arg("--from-dump")
            .arg(&dump)
            .args(arguments)
            .output()
            .expect("dmidecode runs; it is in the package dmidecode");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        said
    }

    #[test]
    fn dmidecode_reads_maker_product_and_uuid() {
        let identity = Identity { uuid: UUID, oem_strings: &[], own_strings: &[] };
        let said = dmidecode(&identity, &[]);
        for line in [
            "SMBIOS 3.0.0 present.",
            "Manufacturer: vmm",
            "Product Name: Virtual Machine",
            "Serial Number: Not Specified",
            "UUID: 0b3c9a52-8d5e-4f7a-9c1d-2e3f4a5b6c7d",
            "Wake-up Type: Power Switch",
            "End Of Table",
        ] {
            assert!(said.contains(line), "{line}: {said}");
        }
        assert!(!said.contains("OEM Strings"), "{said}");
    }

    #[test]
    fn dmidecode_reads_every_oem_string_also_if_they_are_many_and_long() {
        let mut strings: Vec<String> = (0..254).map(|number| format!("string {number}")).collect();
        strings.push("x".repeat(50_000));
        let identity = Identity { uuid: [0; 16], oem_strings: &strings, own_strings: &[] };
        assert_eq!(dmidecode(&identity, &["--oem-string", "count"]).trim(), "255");
        for number in [1, 2, 254, 255] {
            let said = dmidecode(&identity, &["--oem-string", &number.to_string()]);
            assert_eq!(said.trim_end(), strings[number - 1]);
        }
    }

    #[test]
    fn the_owners_strings_come_before_the_monitors() {
        let (owner, own) = (["owner".to_owned()], ["own".to_owned(), "other".to_owned()]);
        let identity = Identity { uuid: UUID, oem_strings: &owner, own_strings: &own };
        let said = dmidecode(&identity, &["--type", "11"]);
        let strings: Vec<&str> =
            said.lines().filter_map(|line| Some(line.trim().split_once("String ")?.1)).collect();
        assert_eq!(strings, ["1: owner", "1: own", "2: other"]);
        let said = dmidecode(&Identity { oem_strings: &[], ..identity }, &["--type", "11"]);
        assert_eq!(said.matches("OEM Strings").count(), 1, "{said}");
    }

    #[test]
    fn the_most_that_is_allowed_fits_and_more_is_refused() {
        let ram = memory::map(32 << 20).unwrap();
        let most = ["x".repeat(OEM_STRINGS_MAX)];
        let own = [credentials(), vec![driver()]].concat();
        let identity = Identity { uuid: UUID, oem_strings: &most, own_strings: &own };
        write(&ram, &identity).unwrap();
        let more = ["x".repeat(64 << 10)];
        let refused = write(&ram, &Identity { oem_strings: &more, ..identity });
        assert!(matches!(refused, Err(SmbiosError::TooLong(_))), "{refused:?}");
    }
}
