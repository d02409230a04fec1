//! The registers of the boot processor: 64-bit mode, as the Linux boot protocol's 64-bit entry
//! wants it (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
//!
//! The kernel is entered with paging on and the first 4 GiB mapped one to one, flat segments
//! `0x10` (code) and `0x18` (data), interrupts off, and `rsi` pointing at the boot parameters. The
//! other processors stay in wait-for-SIPI: the kernel starts them itself.

use crate::boot::Entry;
use crate::memory::GuestRam;
use crate::x86::layout::{BOOT_GDT, BOOT_PAGE_TABLES, MAPPED_END};
use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// Selector of the flat 64-bit code segment.
const CODE_SELECTOR: u16 = 0x10;
/// Selector of the flat data segment.
const DATA_SELECTOR: u16 = 0x18;
/// Selector of the task state segment: VT-x does not enter a guest without one.
const TASK_SELECTOR: u16 = 0x20;

/// Access bytes and flags of the descriptors, as they stand in bits 40 to 55.
mod access {
    /// Present, code, readable, accessed; 64-bit, 4 KiB granularity.
    pub(super) const CODE: u16 = 0xa09b;
    /// Present, data, writable, accessed; 32-bit, 4 KiB granularity.
    pub(super) const DATA: u16 = 0xc093;
    /// Present, 64-bit TSS, busy.
    pub(super) const TASK: u16 = 0x808b;
}

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of `rflags` that is always set.
const RFLAGS_RESERVED: u64 = 1 << 1;

const PAGE: u64 = 4096;
const ENTRIES: u64 = 512;
const LARGE_PAGE: u64 = 2 << 20;
const PTE_PRESENT: u64 = 1 << 0;
const PTE_WRITABLE: u64 = 1 << 1;
const PTE_LARGE: u64 = 1 << 7;
/// GiB mapped one to one.
const MAPPED_GIB: u64 = MAPPED_END >> 30;

/// Why a processor could not be made ready to run.
#[derive(Debug, thiserror::Error)]
pub enum RegsError {
    /// The tables do not fit guest RAM.
    #[error("cannot write the boot tables to guest RAM")]
    Tables(#[source] GuestMemoryError),
    /// KVM refused the registers.
    #[error("cannot set the boot processor's {what}")]
    Registers {
        /// Which.
        what: &'static str,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
}

/// Writes page tables and descriptors to `ram`, and sets `vcpu` up to start at `entry`.
///
/// # Errors
/// RAM is too small for the tables, or KVM refuses the registers.
pub fn set_up(vcpu: &VcpuFd, ram: &GuestRam, entry: &Entry) -> Result<(), RegsError> {
    write_page_tables(ram).map_err(RegsError::Tables)?;
    let refused = |what| move |source| RegsError::Registers { what, source };
    let mut sregs = vcpu.get_sregs().map_err(refused("system registers"))?;
    let code = segment(CODE_SELECTOR, access::CODE);
    let data = segment(DATA_SELECTOR, access::DATA);
    let task = segment(TASK_SELECTOR, access::TASK);
    let gdt =
        [0, 0, descriptor(access::CODE), descriptor(access::DATA), descriptor(access::TASK), 0];
    for (index, entry) in (0..).zip(gdt) {
        ram.write_obj(entry, GuestAddress(BOOT_GDT + index * 8)).map_err(RegsError::Tables)?;
    }
    sregs.gdt.base = BOOT_GDT;
    sregs.gdt.limit = (size_of_val(&gdt) - 1) as u16;
    // No interrupt descriptor table: whatever goes wrong before the kernel has its own is a
    // triple fault, and is reported as one.
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cs = code;
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = task;
    sregs.cr3 = BOOT_PAGE_TABLES;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(refused("system registers"))?;
    let regs = kvm_regs {
        rip: entry.rip,
        rsi: entry.boot_params,
        rflags: RFLAGS_RESERVED,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&regs).map_err(refused("registers"))
}

/// Maps the first [`MAPPED_GIB`] GiB one to one: one table of the fourth level, one of the third,
/// and one of the second for each GiB, in pages that follow each other.
fn write_page_tables(ram: &GuestRam) -> Result<(), GuestMemoryError> {
    let table = |index: u64| BOOT_PAGE_TABLES + index * PAGE;
    let pointer = |index: u64| table(index) | PTE_PRESENT | PTE_WRITABLE;
    ram.write_obj(pointer(1), GuestAddress(table(0)))?;
    for gib in 0..MAPPED_GIB {
        ram.write_obj(pointer(2 + gib), GuestAddress(table(1) + gib * 8))?;
        let mut pages = [0; (ENTRIES * 8) as usize];
        for (index, bytes) in (0..).zip(pages.chunks_exact_mut(8)) {
            let page = (gib * ENTRIES + index) * LARGE_PAGE;
            let entry: u64 = page | PTE_PRESENT | PTE_WRITABLE | PTE_LARGE;
            bytes.copy_from_slice(&entry.to_le_bytes());
        }
        ram.write_slice(&pages, GuestAddress(table(2 + gib)))?;
    }
    Ok(())
}

/// A flat segment as KVM wants it: base 0, limit 4 GiB.
fn segment(selector: u16, access: u16) -> kvm_segment {
    let bit = |at: u16| ((access >> at) & 1) as u8;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: (access & 0xf) as u8,
        s: bit(4),
        dpl: ((access >> 5) & 3) as u8,
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        ..kvm_segment::default()
    }
}

/// The same segment as the processor reads it from the table.
fn descriptor(access: u16) -> u64 {
    (0xf << 48) | (u64::from(access) << 40) | 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    /// Walks the tables as the processor does.
    fn translate(ram: &GuestRam, address: u64) -> Option<u64> {
        let entry = |table: u64, index: u64| -> u64 {
            ram.read_obj(GuestAddress((table & !0xfff) + (index & 511) * 8)).unwrap()
        };
        let fourth = entry(BOOT_PAGE_TABLES, address >> 39);
        let third = entry(fourth, address >> 30);
        let second = entry(third, address >> 21);
        let all = fourth & third & second;
        (all & 3 == 3 && second & PTE_LARGE != 0)
            .then(|| (second & !(LARGE_PAGE - 1)) + address % LARGE_PAGE)
    }

    #[test]
    fn the_first_four_gib_are_mapped_one_to_one() {
        let ram = memory::map(16 << 20).unwrap();
        write_page_tables(&ram).unwrap();
        for address in [0, 0x1f_ffff, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0xfee0_0020, 0xffff_ffff]
        {
            assert_eq!(translate(&ram, address), Some(address), "{address:#x}");
        }
        assert_eq!(ram.read_obj::<u64>(GuestAddress(BOOT_PAGE_TABLES + PAGE + 32)).unwrap(), 0);
    }

    #[test]
    fn a_descriptor_says_what_its_segment_says() {
        let code = segment(CODE_SELECTOR, access::CODE);
        assert_eq!(
            (code.type_, code.s, code.present, code.l, code.db, code.g),
            (0xb, 1, 1, 1, 0, 1)
        );
        let data = segment(DATA_SELECTOR, access::DATA);
        assert_eq!((data.type_, data.s, data.present, data.l, data.db, data.g), (3, 1, 1, 0, 1, 1));
        assert_eq!(descriptor(access::CODE), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(access::DATA), 0x00cf_9300_0000_ffff);
    }
}
