//! The serial port, `ttyS0`: a 16550A on the port bus, its line, and what it is wired to.

use crate::bus::BusDevice;
use crate::console::ConsoleOutput;
use crate::irq::IrqLine;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use vm_superio::Trigger;
use vm_superio::serial::SerialEvents;
use vmm_sys_util::eventfd::EventFd;

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

/// Tells whoever has more input that the port has room for it again.
#[derive(Clone)]
pub struct InputRoom {
    wanted: Arc<AtomicBool>,
    event: Arc<EventFd>,
}

impl InputRoom {
    fn new() -> io::Result<Self> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { wanted: Arc::default(), event: Arc::new(event) })
    }

    /// Asks for the [event](Self::event) when the port is empty again.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    /// Becomes readable when there is room that somebody wanted.
    #[must_use]
    pub fn event(&self) -> &Arc<EventFd> {
        &self.event
    }
}

impl SerialEvents for InputRoom {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        if self.wanted.swap(false, Ordering::AcqRel) {
            // The counter cannot be full: it is written once for each time that it was wanted.
            let _ = self.event.write(1);
        }
    }
}

/// The port.
pub struct Serial {
    chip: vm_superio::Serial<Line, InputRoom, ConsoleOutput>,
}

/// The port as the bus and the console's input hold it.
pub type SharedSerial = Arc<Mutex<Serial>>;

impl Serial {
    /// A port that interrupts through `line` and prints to `output`.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(line: IrqLine, output: ConsoleOutput) -> io::Result<Self> {
        let room = InputRoom::new()?;
        Ok(Self { chip: vm_superio::Serial::with_events(Line(line), room, output) })
    }

    /// Tells when there is room for input again.
    #[must_use]
    pub fn input_room(&self) -> InputRoom {
        self.chip.events().clone()
    }

    /// Bytes of input that the port has room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.chip.fifo_capacity()
    }

    /// Gives the guest as much of `bytes` as there is [room](Self::room) for, and says how much.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        // A full port, or one whose guest tests it in loop mode, takes nothing.
        self.chip.enqueue_raw_bytes(bytes).unwrap_or(0)
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
