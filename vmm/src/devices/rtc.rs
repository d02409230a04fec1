//! The CMOS clock (Motorola MC146818A): tells the guest the host's time in UTC.
//!
//! The clock cannot be set, has no alarm and raises no interrupt; Linux reads it once at boot.
//! Port 0 selects one of 128 registers, port 1 is the register. Time is in BCD and 24 hours, as
//! status register B says.

use crate::bus::BusDevice;
use std::time::{SystemTime, UNIX_EPOCH};

/// Ports.
pub const PORTS: u64 = 2;

const INDEX: u64 = 0;
const DATA: u64 = 1;
/// The top bit of the index port masks NMIs on a PC and selects nothing.
const INDEX_MASK: u8 = 0x7f;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;

/// Status A: the usual time base and rate. No update is ever in progress: each read is whole.
const STATUS_A_VALUE: u8 = 0x26;
/// Status B: 24 hours, BCD.
const STATUS_B_VALUE: u8 = 0x02;
/// Status D: the battery is good.
const STATUS_D_VALUE: u8 = 0x80;

const SECONDS_OF_DAY: u64 = 86_400;

/// The clock on the port bus.
pub struct Rtc {
    index: u8,
    now: Box<dyn Fn() -> u64 + Send>,
}

impl Default for Rtc {
    /// A clock that shows the host's time.
    fn default() -> Self {
        // A host whose clock stands before 1970 gives 1970.
        Self::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()))
    }
}

impl Rtc {
    /// A clock that shows `now`, in seconds since 1970, UTC.
    pub fn new(now: impl Fn() -> u64 + Send + 'static) -> Self {
        Self { index: 0, now: Box::new(now) }
    }

    fn register(&self) -> u8 {
        let now = (self.now)();
        let time = now % SECONDS_OF_DAY;
        let days = now / SECONDS_OF_DAY;
        let (year, month, day) = civil(days);
        match self.index {
            SECONDS => bcd(time % 60),
            MINUTES => bcd(time / 60 % 60),
            HOURS => bcd(time / 3600),
            // 1970 began on a Thursday; the chip's week begins with Sunday, 1.
            WEEKDAY => bcd((days + 4) % 7 + 1),
            DAY => bcd(day),
            MONTH => bcd(month),
            YEAR => bcd(year % 100),
            CENTURY => bcd(year / 100 % 100),
            STATUS_A => STATUS_A_VALUE,
            STATUS_B => STATUS_B_VALUE,
            STATUS_D => STATUS_D_VALUE,
            _ => 0,
        }
    }
}

/// Year, month and day of the Gregorian calendar, `days` after 1 January 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    // Cycles of 400 years are alike: what is left is a loop of at most 400 steps.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

/// A number below 100 as two decimal digits.
fn bcd(number: u64) -> u8 {
    (((number / 10 % 10) << 4) | (number % 10)) as u8
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(first) = data.first_mut() else { return };
        *first = if offset == DATA { self.register() } else { self.index };
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (INDEX, &[index, ..]) = (offset, data) {
            self.index = index & INDEX_MASK;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Century, year, month, day, weekday, hours, minutes, seconds as the guest reads them.
    fn shown(now: u64) -> [u8; 8] {
        let mut rtc = Rtc::new(move || now);
        [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|register| {
            rtc.write(INDEX, &[register | 0x80]);
            let mut data = [0];
            rtc.read(DATA, &mut data);
            data[0]
        })
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(shown(0), [0x19, 0x70, 0x01, 0x01, 0x05, 0, 0, 0]);
        // Saturday, 21 November 2026, 02:50:43.
        assert_eq!(shown(1_795_229_443), [0x20, 0x26, 0x11, 0x21, 0x07, 0x02, 0x50, 0x43]);
        // Tuesday, 29 February 2000, 23:59:59.
        assert_eq!(shown(951_868_799), [0x20, 0x00, 0x02, 0x29, 0x03, 0x23, 0x59, 0x59]);
        // Monday, 1 March 2100: no leap year.
        assert_eq!(shown(4_107_542_400), [0x21, 0x00, 0x03, 0x01, 0x02, 0, 0, 0]);
    }

    #[test]
    fn no_time_whatever_panics() {
        for now in [u64::MAX, u64::MAX / 2, 1 << 40] {
            shown(now);
        }
    }

    #[test]
    fn no_update_is_in_progress_and_the_battery_is_good() {
        let mut rtc = Rtc::default();
        let mut data = [0xff; 4];
        rtc.write(INDEX, &[STATUS_A]);
        rtc.read(DATA, &mut data);
        assert_eq!(data, [STATUS_A_VALUE, 0, 0, 0]);
        rtc.write(INDEX, &[STATUS_D]);
        rtc.read(DATA, &mut data);
        assert_eq!(data[0], 0x80);
    }
}
