//! Who sits where: addresses, ports and interrupt lines of the machine.
//!
//! ```text
//! 0x0000_0500  boot GDT            0x0000_7000  boot parameters (zero page)
//! 0x0000_9000  boot page tables    0x0002_0000  command line, to 0x0003_0000
//! 0x0009_fc00  end of low RAM      0x000e_0000  ACPI tables
//!                                  0x000f_0000  SMBIOS tables, to 1 MiB
//! 0x0010_0000  RAM goes on; the kernel where its ELF headers say, the initrd at the top
//! 0xd000_0000  virtio-mmio devices, 4 KiB each
//! 0xfec0_0000  I/O APIC            0xfee0_0000  local APICs
//! ```

/// The boot global descriptor table.
pub const BOOT_GDT: u64 = 0x500;
/// The zero page, `struct boot_params` of the Linux boot protocol.
pub const BOOT_PARAMS: u64 = 0x7000;
/// Page tables for the 64-bit entry: they map everything below [`MAPPED_END`] one to one.
pub const BOOT_PAGE_TABLES: u64 = 0x9000;
/// End of what a kernel can reach before it has page tables of its own: 4 GiB.
pub const MAPPED_END: u64 = 0x1_0000_0000;
/// The kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Bytes for the command line with its final NUL; Linux reads no more than 2,048.
pub const CMDLINE_MAX: usize = 2048;
/// End of the RAM below 640 KiB that the guest may use.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// The ACPI tables; the RSDP is the first of them.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// End of the ACPI tables.
pub const ACPI_TABLES_END: u64 = 0xf_0000;
/// The SMBIOS tables: guests look for their entry point from here on.
pub const SMBIOS: u64 = 0xf_0000;
/// End of the SMBIOS tables.
pub const SMBIOS_END: u64 = 0x10_0000;
/// RAM goes on here after the legacy hole.
pub const HIGH_RAM: u64 = 0x10_0000;

/// First virtio-mmio device.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Bytes of each virtio-mmio device.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Interrupt line of the first virtio-mmio device; the others follow.
pub const VIRTIO_GSI: u32 = 10;
/// virtio-mmio devices that the interrupt lines suffice for.
pub const VIRTIO_MAX: usize = (IOAPIC_PINS - VIRTIO_GSI) as usize;

/// The I/O APIC's registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Bytes of the I/O APIC's registers.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// Lines of the I/O APIC.
pub const IOAPIC_PINS: u32 = 24;
/// The local APIC's registers.
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// The first serial port, `ttyS0`: 8 ports.
pub const SERIAL: u16 = 0x3f8;
/// The serial port's interrupt line.
pub const SERIAL_GSI: u32 = 4;
/// The keyboard controller: ports 0x60 to 0x64.
pub const I8042: u16 = 0x60;
/// The real-time clock: index and data.
pub const RTC: u16 = 0x70;
/// pvpanic: one port.
pub const PVPANIC: u16 = 0x505;
/// ACPI sleep control, sleep status, reset and power button: one port each, in this order.
pub const POWER: u16 = 0x600;
/// The power button's interrupt line, behind the generic event device.
pub const POWER_GSI: u32 = 9;
/// Value of the reset register that resets the machine.
pub const RESET_VALUE: u8 = 1;
/// Sleep type of the soft-off state (S5).
pub const SLEEP_TYPE_S5: u8 = 5;
