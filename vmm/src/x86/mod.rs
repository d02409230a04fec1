//! What is x86: the address map, CPUID, MSRs, boot registers, ACPI and SMBIOS tables,
//! the I/O APIC.

pub mod acpi;
pub mod cpuid;
pub mod ioapic;
pub mod layout;
pub mod msr;
pub mod regs;
pub mod smbios;
