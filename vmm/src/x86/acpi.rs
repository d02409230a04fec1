//! The ACPI tables: hardware-reduced (ACPI 6.5, section 4.1), so without the PC's fixed registers.
//!
//! ```text
//! RSDP -> XSDT -> FADT -> DSDT   processors, virtio devices, serial port, clock, power button
//!              -> MADT           local APICs, I/O APIC
//! ```
//!
//! Stock kernels are built without virtio-mmio devices on the command line; they find them in the
//! DSDT, as `LNRO0005`. All interrupts are edge-triggered, active high.

use crate::devices::{power, pvpanic, rtc, serial};
use crate::memory::GuestRam;
use crate::x86::layout::{
    ACPI_TABLES, ACPI_TABLES_END, IOAPIC, LOCAL_APIC, POWER, POWER_GSI, PVPANIC, RESET_VALUE, RTC,
    SERIAL, SERIAL_GSI, SLEEP_TYPE_S5, VIRTIO_GSI, VIRTIO_MMIO, VIRTIO_MMIO_SIZE,
};
use acpi_tables::Aml;
use acpi_tables::aml::{
    Arg, Device, EISAName, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, IO, If, Interrupt, Memory32Fixed, Method, Name, Notify, OpRegion,
    OpRegionSpace, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

const OEM: [u8; 6] = *b"VMM   ";
const OEM_TABLE: [u8; 8] = *b"MACHINE ";
const OEM_REVISION: u32 = 1;
/// The revision of the DSDT: from 2, integers have 64 bits.
const DSDT_REVISION: u8 = 2;
/// `IAPC_BOOT_ARCH`: there is no VGA. No other bit is set, so there is no 8042 to probe.
const NO_VGA: u16 = 1 << 2;
/// Tables begin at multiples of this.
const ALIGNMENT: usize = 16;
/// `_STA`: present, enabled, shown, working.
const PRESENT: u8 = 0xf;

/// What the tables describe.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// Processors, with the APIC ids from 0.
    pub cpus: u8,
    /// virtio-mmio devices, at the places of [`crate::x86::layout`].
    pub virtio: u8,
}

/// Why the tables could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// They are longer than their place.
    #[error("ACPI tables of {0} bytes do not fit")]
    TooLong(usize),
    /// Guest RAM does not reach there.
    #[error("cannot write the ACPI tables to guest RAM")]
    Ram(#[from] GuestMemoryError),
}

/// Writes the tables for `platform` to `ram`; the RSDP is at [`ACPI_TABLES`].
///
/// # Errors
/// They do not fit.
pub fn write(ram: &GuestRam, platform: &Platform) -> Result<(), AcpiError> {
    let bytes = Tables::new(platform).bytes;
    if bytes.len() as u64 > ACPI_TABLES_END - ACPI_TABLES {
        return Err(AcpiError::TooLong(bytes.len()));
    }
    Ok(ram.write_slice(&bytes, GuestAddress(ACPI_TABLES))?)
}

/// The tables as they lie in RAM.
struct Tables {
    bytes: Vec<u8>,
}

impl Tables {
    fn new(platform: &Platform) -> Self {
        // The RSDP comes first, and is written last: it points to all others.
        let mut tables = Self { bytes: vec![0; Rsdp::len()] };
        let dsdt = tables.add(&dsdt(platform));
        let fadt = tables.add(&fadt(dsdt));
        let madt = tables.add(&madt(platform));
        let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
        xsdt.add_entry(fadt);
        xsdt.add_entry(madt);
        let xsdt = tables.add(&encoded(&xsdt));
        let rsdp = encoded(&Rsdp::new(OEM, xsdt));
        tables.bytes[..rsdp.len()].copy_from_slice(&rsdp);
        tables
    }

    /// Puts `table` behind the others, and gives its address.
    fn add(&mut self, table: &[u8]) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let address = ACPI_TABLES + self.bytes.len() as u64;
        self.bytes.extend(table);
        address
    }
}

fn encoded(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A byte-wide port as the tables point to it.
fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = NO_VGA.into();
    fadt.sleep_control_reg = port(POWER);
    fadt.sleep_status_reg = port(POWER + 1);
    fadt.reset_reg = port(POWER + 2);
    fadt.reset_value = RESET_VALUE;
    encoded(&fadt.finalize())
}

fn madt(platform: &Platform) -> Vec<u8> {
    let local = LocalInterruptController::Address(LOCAL_APIC as u32);
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, local);
    for index in 0..platform.cpus {
        madt.add_structure(ProcessorLocalApic::new(index, index, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IOAPIC as u32, 0));
    encoded(&madt)
}

fn dsdt(platform: &Platform) -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", 36, DSDT_REVISION, OEM, OEM_TABLE, OEM_REVISION);
    let sleep = Package::new(vec![&SLEEP_TYPE_S5]);
    dsdt.append_slice(&encoded(&Name::new("_S5_".into(), &sleep)));

    let mut devices = Vec::new();
    for index in 0..platform.cpus {
        devices.extend(processor(index));
    }
    for index in 0..platform.virtio {
        devices.extend(virtio(index));
    }
    devices.extend(isa("COM1", &EISAName::new("PNP0501"), SERIAL, serial::PORTS, Some(SERIAL_GSI)));
    devices.extend(isa("RTC_", &EISAName::new("PNP0B00"), RTC, rtc::PORTS, None));
    devices.extend(isa("PEVT", &"QEMU0001", PVPANIC, pvpanic::PORTS, None));
    devices.extend(power_button());
    dsdt.append_slice(&Scope::raw("\\_SB_".into(), devices));
    dsdt.as_slice().to_vec()
}

fn processor(index: u8) -> Vec<u8> {
    let name = format!("C{index:03X}");
    encoded(&Device::new(
        name.as_str().into(),
        vec![&Name::new("_HID".into(), &"ACPI0007"), &Name::new("_UID".into(), &index)],
    ))
}

fn virtio(index: u8) -> Vec<u8> {
    let name = format!("V{index:03X}");
    let base = VIRTIO_MMIO + u64::from(index) * VIRTIO_MMIO_SIZE;
    encoded(&Device::new(
        name.as_str().into(),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &index),
            &Name::new("_CCA".into(), &1_u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, base as u32, VIRTIO_MMIO_SIZE as u32),
                    &interrupt(VIRTIO_GSI + u32::from(index)),
                ]),
            ),
        ],
    ))
}

/// A device at ports, with an interrupt or without.
fn isa(name: &str, hid: &dyn Aml, base: u16, length: u64, gsi: Option<u32>) -> Vec<u8> {
    let ports = IO::new(base, base, 1, length as u8);
    let interrupt = gsi.map(interrupt);
    let mut resources: Vec<&dyn Aml> = vec![&ports];
    if let Some(interrupt) = &interrupt {
        resources.push(interrupt);
    }
    encoded(&Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), hid),
            &Name::new("_UID".into(), &0_u8),
            &Name::new("_STA".into(), &PRESENT),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
        ],
    ))
}

/// The power button, and the generic event device that tells of it: its interrupt runs `_EVT`,
/// which asks the status port whether the button was pressed.
fn power_button() -> Vec<u8> {
    /// Notification: the button was pressed.
    const PRESSED: u8 = 0x80;
    let mut bytes = encoded(&Device::new(
        "PWRB".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C0C")),
            &Name::new("_UID".into(), &0_u8),
        ],
    ));
    let status = Path::new("STAT");
    bytes.extend(encoded(&Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &0_u8),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt(POWER_GSI)])),
            &OpRegion::new(
                "POWR".into(),
                OpRegionSpace::SystemIO,
                &(POWER + power::BUTTON as u16),
                &1_u8,
            ),
            &Field::new(
                "POWR".into(),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"STAT", 8)],
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&If::new(
                    &Equal::new(&Arg(0), &(POWER_GSI as u8)),
                    vec![&If::new(
                        &Equal::new(&status, &1_u8),
                        vec![&Notify::new(&Path::new("\\_SB_.PWRB"), &PRESSED)],
                    )],
                )],
            ),
        ],
    )));
    bytes
}

/// An edge-triggered, active-high, exclusive interrupt.
fn interrupt(gsi: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, gsi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    /// Every table but the RSDP, found as a kernel finds them.
    fn tables(platform: &Platform) -> Vec<(String, Vec<u8>)> {
        let bytes = Tables::new(platform).bytes;
        let at = |address: u64| (address - ACPI_TABLES) as usize;
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let table = |address: u64| {
            let start = at(address);
            let length = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().unwrap());
            let table = bytes[start..start + length as usize].to_vec();
            (String::from_utf8(table[..4].to_vec()).unwrap(), table)
        };
        assert_eq!(&bytes[..8], b"RSD PTR ");
        let xsdt = table(u64_at(24));
        let mut all: Vec<_> = xsdt.1[36..]
            .chunks_exact(8)
            .map(|entry| table(u64::from_le_bytes(entry.try_into().unwrap())))
            .collect();
        let fadt = &all.iter().find(|(name, _)| name == "FACP").unwrap().1;
        let dsdt = table(u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
        all.extend([xsdt, dsdt]);
        all
    }

    const LARGEST: Platform = Platform { cpus: 255, virtio: 14 };

    #[test]
    fn all_checksums_are_right_and_all_tables_fit() {
        let bytes = Tables::new(&LARGEST).bytes;
        assert!(bytes.len() as u64 <= ACPI_TABLES_END - ACPI_TABLES, "{} bytes", bytes.len());
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum(&bytes[..20]), 0);
        assert_eq!(sum(&bytes[..36]), 0);
        for (name, table) in tables(&LARGEST) {
            assert_eq!(sum(&table), 0, "{name}");
        }
    }

    /// `iasl` takes each table apart and puts the result together again without a complaint.
    #[test]
    fn iasl_accepts_the_tables() {
        for platform in [Platform { cpus: 1, virtio: 0 }, Platform { cpus: 2, virtio: 3 }, LARGEST]
        {
            let folder = tempfile::tempdir().unwrap();
            for (name, table) in tables(&platform) {
                fs::write(folder.path().join(format!("{name}.aml")), table).unwrap();
                let iasl = |arguments: &[&str]| {
                    let output = Command::new("iasl")
                        .args(arguments)
                        .current_dir(folder.path())
                        .output()
                        .expect("iasl runs; it is in the package acpica-tools");
                    let said = [output.stdout, output.stderr].concat();
                    let said = String::from_utf8_lossy(&said).into_owned();
                    assert!(output.status.success(), "{name}: {said}");
                    said
                };
                iasl(&["-d", &format!("{name}.aml")]);
                let said = iasl(&["-we", &format!("{name}.dsl")]);
                assert!(said.contains("Compilation successful. 0 Errors"), "{name}: {said}");
            }
        }
    }
}
