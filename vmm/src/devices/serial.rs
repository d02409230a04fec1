//! The serial port ttyS0: a 16550 chip on the port bus.
