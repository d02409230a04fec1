//! The puppet: a guest that does what a test says, instruction by instruction.
//!
//! It is a kernel of some hundred bytes in a machine under `vmm run`. A test puts [calls](Call) into
//! its memory, from outside and through `/proc`, and reads there what came of them: no device of the
//! machine has a part in that, so each of them, the serial port too, is the test's to abuse. The test
//! reads and writes the guest's memory in the same way, without the guest.
//!
//! ```text
//! Setting    what a machine is made of
//! Puppet     its process; the guest's memory; calls, and what came of them
//! Driver     the guest's side of a virtio device, which breaks what it is told to
//! Usage      what the process has of the host
//! ```
//!
//! Between two calls the guest looks for the next one without end: its processor is always busy, and
//! what the monitor does is told by the other threads.

mod call;
mod code;
mod driver;
mod memory;
mod obey;
mod process;
mod watch;

pub use call::Call;
pub use code::Op;
pub use driver::{Descriptor, Driver, INDIRECT, NEXT, Ring, WRITE, bytes_of, linked, register};
pub use memory::Flip;
pub use process::{End, NAME, Puppet, Setting};
pub use watch::Usage;

use std::time::Duration;

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(30);
/// Memory from here on is free for tests, up to where a [`Driver`] has its rings: 4 MiB.
pub const FREE: u64 = 0x20_0000;
