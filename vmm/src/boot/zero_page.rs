//! The zero page: what the kernel is told of the machine (`struct boot_params`,
//! Documentation/arch/x86/zero-page.rst).

use crate::boot::Initrd;
use crate::memory::GuestRam;
use crate::x86::layout::{
    ACPI_TABLES, ACPI_TABLES_END, BOOT_PARAMS, CMDLINE, CMDLINE_MAX, HIGH_RAM, LOW_RAM_END, SMBIOS,
    SMBIOS_END,
};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
};

/// Types of the memory map's entries.
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const E820_ACPI: u32 = 3;
/// `type_of_loader`: none that has a number.
const LOADER_UNDEFINED: u8 = 0xff;

/// `setup_header::boot_flag`, `setup_header::header` and `setup_header::version`: a header that is
/// not just zeros.
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: u32 = 0x5372_6448;
const VERSION: u16 = 0x020f;
/// `setup_header::initrd_addr_max`: what 64-bit kernels have said for long.
const INITRD_ADDRESS_MAX: u32 = 0x7fff_ffff;

/// The setup header for a kernel that has none, being an ELF file.
pub(super) fn header_of_elf() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: MAGIC,
        version: VERSION,
        initrd_addr_max: INITRD_ADDRESS_MAX,
        cmdline_size: CMDLINE_MAX as u32 - 1,
        ..setup_header::default()
    }
}

/// Writes the zero page for a kernel with this `header` and `initrd`.
pub(super) fn write(
    ram: &GuestRam,
    header: setup_header,
    initrd: Initrd,
) -> Result<(), GuestMemoryError> {
    let mut params = boot_params { hdr: header, ..boot_params::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    // The initrd lies below 4 GiB, and so do its address and size.
    params.hdr.ramdisk_image = initrd.address as u32;
    params.hdr.ramdisk_size = initrd.size as u32;
    params.acpi_rsdp_addr = ACPI_TABLES;
    let map = memory_map(ram);
    for (entry, row) in params.e820_table.iter_mut().zip(&map) {
        *entry = *row;
    }
    // Six entries at most.
    params.e820_entries = map.len() as u8;
    ram.write_obj(params, GuestAddress(BOOT_PARAMS))
}

fn memory_map(ram: &GuestRam) -> Vec<boot_e820_entry> {
    let entry = |start: u64, end: u64, kind| boot_e820_entry {
        addr: start,
        size: end - start,
        r#type: kind,
    };
    let mut map = vec![
        entry(0, LOW_RAM_END, E820_RAM),
        entry(ACPI_TABLES, ACPI_TABLES_END, E820_ACPI),
        entry(SMBIOS, SMBIOS_END, E820_RESERVED),
    ];
    for region in ram.iter() {
        let start = region.start_addr().raw_value();
        map.push(entry(start.max(HIGH_RAM), start + region.len(), E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn the_map_has_all_ram_but_the_legacy_hole_and_none_of_the_gap() {
        let ram = memory::map(5 << 30).unwrap();
        let map: Vec<_> = memory_map(&ram)
            .iter()
            .map(|entry| (entry.addr, entry.addr + entry.size, entry.r#type))
            .collect();
        assert_eq!(
            map,
            [
                (0, 0x9_fc00, 1),
                (0xe_0000, 0xf_0000, 3),
                (0xf_0000, 0x10_0000, 2),
                (0x10_0000, 0xc000_0000, 1),
                (0x1_0000_0000, 0x1_8000_0000, 1),
            ]
        );
    }
}
