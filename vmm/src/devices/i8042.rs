//! The keyboard controller, of which only the reset line is connected (Intel 8042).
//!
//! There is no keyboard: the controller has never anything to read. What is left of it is the way
//! in which PCs have been rebooted since the AT: command `0xfe` pulses the processor's reset line.

use crate::bus::BusDevice;
use crate::outcome::{Outcome, OutcomeSlot};
use vm_superio::{I8042Device, Trigger};

/// Ports, from 0x60.
pub const PORTS: u64 = 5;

/// The reset line.
struct ResetLine(OutcomeSlot);

impl Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.put(Outcome::Reset);
        Ok(())
    }
}

/// The controller on the port bus.
pub struct I8042 {
    chip: I8042Device<ResetLine>,
}

impl I8042 {
    /// A controller that resets through `outcome`.
    #[must_use]
    pub fn new(outcome: OutcomeSlot) -> Self {
        Self { chip: I8042Device::new(ResetLine(outcome)) }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(self.chip.read(offset as u8));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // The ports are a byte wide each.
        if let &[value] = data {
            let Ok(()) = self.chip.write(offset as u8, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_resets() {
        let (slot, outcome) = OutcomeSlot::new();
        let mut device = I8042::new(slot);
        for offset in 0..PORTS {
            for value in 0..=u8::MAX {
                if (offset, value) != (4, 0xfe) {
                    device.write(offset, &[value]);
                }
            }
            device.write(offset, &[0xfe; 2]);
            device.read(offset, &mut [0; 4]);
        }
        assert!(outcome.is_empty());
        device.write(4, &[0xfe]);
        assert_eq!(outcome.try_recv(), Ok(Outcome::Reset));
    }
}
