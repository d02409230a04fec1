//! The ports of the devices that every machine has, and what a write to them would end it with.

use tests::puppet::{Call, Op};

/// Where the ports of each device begin.
pub(crate) const I8042: u64 = 0x60;
pub(crate) const RTC: u64 = 0x70;
pub(crate) const SERIAL: u64 = 0x3f8;
pub(crate) const PVPANIC: u64 = 0x505;
pub(crate) const POWER: u64 = 0x600;
/// Each device's first port, and how many it has.
pub(crate) const PORTS: [(u64, u64); 5] =
    [(I8042, 5), (RTC, 2), (SERIAL, 8), (PVPANIC, 1), (POWER, 4)];

/// A call that reads or writes `rax` at a port.
pub(crate) fn port(op: Op, rdx: u64, rax: u64) -> Call {
    Call { rdx, rax, ..Call::new(op) }
}

/// What a write to a port would end the machine with.
pub(crate) fn ends(port: u64, value: u8) -> bool {
    match port {
        0x64 => value == 0xfe,
        0x505 => value & 1 != 0,
        0x600 => value & 0x3c == 0x34,
        0x602 => value == 1,
        _ => false,
    }
}
