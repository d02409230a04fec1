//! The ACPI sleep and reset registers (ACPI 6.5, sections 4.8.3.7 and 4.8.3.6), and the power
//! button's status.
//!
//! Port 0 is the sleep control register: the guest writes the sleep type and the enable bit, and
//! for soft-off (S5) the machine ends. Port 1 is the sleep status register. Port 2 is the reset
//! register. Port 3 tells whether the power button was pressed since it was last read.

use crate::bus::BusDevice;
use crate::outcome::{Outcome, OutcomeSlot};
use crate::x86::layout::{RESET_VALUE, SLEEP_TYPE_S5};

/// Ports.
pub const PORTS: u64 = 4;

const SLEEP_CONTROL: u64 = 0;
const SLEEP_STATUS: u64 = 1;
const RESET: u64 = 2;
/// The power button's status: 1 if it was pressed since the last read.
pub const BUTTON: u64 = 3;

/// Sleep control: go to sleep now.
const SLEEP_ENABLE: u8 = 1 << 5;
/// Sleep control: the sleep type, in three bits from bit 2, for soft-off.
const SLEEP_S5: u8 = SLEEP_TYPE_S5 << 2;
/// Sleep control: both of them.
const SLEEP_MASK: u8 = SLEEP_ENABLE | (7 << 2);
/// Sleep status: the machine has woken up.
const WAKE_STATUS: u8 = 1 << 7;

/// The registers on the port bus.
pub struct Power {
    outcome: OutcomeSlot,
    pressed: bool,
}

impl Power {
    /// Registers that end the boot through `outcome`.
    #[must_use]
    pub fn new(outcome: OutcomeSlot) -> Self {
        Self { outcome, pressed: false }
    }

    /// Presses the power button; the caller raises its interrupt.
    pub fn press(&mut self) {
        self.pressed = true;
    }
}

impl BusDevice for Power {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(first) = data.first_mut() else { return };
        *first = match offset {
            SLEEP_STATUS => WAKE_STATUS,
            BUTTON => u8::from(std::mem::take(&mut self.pressed)),
            _ => 0,
        };
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let &[value] = data else { return };
        match offset {
            SLEEP_CONTROL if value & SLEEP_MASK == SLEEP_ENABLE | SLEEP_S5 => {
                self.outcome.put(Outcome::PowerOff);
            }
            RESET if value == RESET_VALUE => self.outcome.put(Outcome::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_off_and_nothing_else_powers_off() {
        let (slot, outcome) = OutcomeSlot::new();
        let mut power = Power::new(slot);
        let off = SLEEP_ENABLE | SLEEP_S5;
        for value in (0..=u8::MAX).filter(|value| value & SLEEP_MASK != off) {
            power.write(SLEEP_CONTROL, &[value]);
        }
        power.write(SLEEP_CONTROL, &[off, 0]);
        power.write(SLEEP_STATUS, &[off]);
        assert!(outcome.is_empty());
        power.write(SLEEP_CONTROL, &[off]);
        assert_eq!(outcome.try_recv(), Ok(Outcome::PowerOff));
    }

    #[test]
    fn the_reset_value_and_nothing_else_resets() {
        let (slot, outcome) = OutcomeSlot::new();
        let mut power = Power::new(slot);
        for value in (0..=u8::MAX).filter(|value| *value != RESET_VALUE) {
            power.write(RESET, &[value]);
        }
        assert!(outcome.is_empty());
        power.write(RESET, &[RESET_VALUE]);
        assert_eq!(outcome.try_recv(), Ok(Outcome::Reset));
    }

    #[test]
    fn a_press_of_the_button_is_read_once() {
        let mut power = Power::new(OutcomeSlot::new().0);
        let mut data = [0xff; 2];
        power.press();
        power.read(BUTTON, &mut data);
        assert_eq!(data, [1, 0]);
        power.read(BUTTON, &mut data);
        assert_eq!(data, [0, 0]);
    }
}
