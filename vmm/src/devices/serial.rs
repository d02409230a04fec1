//! The serial port, `ttyS0`: a 16550A on the port bus, its line, and what it is wired to.

use crate::bus::BusDevice;
use crate::console::ConsoleOutput;
use crate::console::port::{InputRoom, Port};
use crate::irq::IrqLine;
use std::io;
use vm_superio::Trigger;
use vm_superio::serial::SerialEvents;

/// Ports, from 0x3f8.
pub const PORTS: u64 = 8;

/// The interrupt line of the port.
struct Line(IrqLine);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.trigger()
    }
}

impl SerialEvents for InputRoom {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        self.is_there();
    }
}

/// The port.
pub struct Serial {
    chip: vm_superio::Serial<Line, InputRoom, ConsoleOutput>,
}

impl Serial {
    /// A port that interrupts through `line` and prints to `output`.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(line: IrqLine, output: ConsoleOutput) -> io::Result<Self> {
        let room = InputRoom::new()?;
        Ok(Self { chip: vm_superio::Serial::with_events(Line(line), room, output) })
    }
}

impl Port for Serial {
    fn room(&self) -> usize {
        self.chip.fifo_capacity()
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        // A full port, or one whose guest tests it in loop mode, takes nothing.
        self.chip.enqueue_raw_bytes(bytes).unwrap_or(0)
    }

    fn input_room(&self) -> InputRoom {
        self.chip.events().clone()
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // The ports are a byte wide: a wider access is one to each of them in turn.
        for (at, byte) in (offset as u8..).zip(data) {
            *byte = self.chip.read(at);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset as u8..).zip(data) {
            // Output never fails; an interrupt line fails only when nobody serves it.
            let _ = self.chip.write(at, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u64 = 0;
    const INTERRUPT_ENABLE: u64 = 1;
    const LINE_STATUS: u64 = 5;

    fn port() -> (Serial, ConsoleOutput, IrqLine) {
        let line = IrqLine::new().unwrap();
        let output = ConsoleOutput::new().unwrap();
        (Serial::new(line.clone(), output.clone()).unwrap(), output, line)
    }

    #[test]
    fn what_the_guest_writes_is_printed() {
        let (mut serial, output, _) = port();
        for byte in b"boot" {
            serial.write(DATA, &[*byte]);
        }
        assert_eq!(output.take(), b"boot");
    }

    #[test]
    fn input_interrupts_and_is_read_in_order_and_room_is_told_when_wanted() {
        let (mut serial, _, line) = port();
        serial.write(INTERRUPT_ENABLE, &[1]);
        let input = [b'a'; 100];
        let taken = serial.receive(&input);
        assert!(taken > 0 && taken < 100, "the port holds a part of it: {taken}");
        assert_eq!(serial.receive(b"x"), 0);
        assert!(line.event().read().is_ok(), "the guest was interrupted");
        let room = serial.input_room();
        room.want();
        let mut byte = [0];
        for _ in 0..taken {
            assert!(room.event().read().is_err(), "there is no room yet");
            serial.read(LINE_STATUS, &mut byte);
            assert_eq!(byte[0] & 1, 1);
            serial.read(DATA, &mut byte);
            assert_eq!(byte, [b'a']);
        }
        assert!(room.event().read().is_ok());
        assert_eq!(serial.room(), taken);
    }

    #[test]
    fn every_port_takes_every_width_and_value() {
        let (mut serial, ..) = port();
        for offset in 0..PORTS {
            for width in [1, 2, 4] {
                for value in [0, 0x5a, 0xff] {
                    serial.write(offset, &vec![value; width]);
                    serial.read(offset, &mut vec![0; width]);
                }
            }
        }
    }
}
