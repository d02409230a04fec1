//! ACPI tables of the hardware-reduced profile: RSDP, XSDT, FADT, MADT, DSDT.
