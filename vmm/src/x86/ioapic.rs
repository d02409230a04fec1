//! The I/O APIC, emulated here because the irqchip is split: pins to messages.
