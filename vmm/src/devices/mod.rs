//! The platform's small devices: serial port, i8042, RTC, power registers, pvpanic.

pub mod i8042;
pub mod power;
pub mod pvpanic;
pub mod rtc;
pub mod serial;
