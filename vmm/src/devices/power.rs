//! ACPI sleep, reset and power button registers.
