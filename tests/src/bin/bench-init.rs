//! The first program of a guest whose boot is measured: says that it is there, and waits for its end,
//! or, if the kernel's command line has [`POWER_OFF`], switches the machine off, as one without a console
//! can be seen to be there.

use rustix::system::{RebootCommand, reboot};
use std::io;
use tests::init;
use tests::monitor::POWER_OFF;

fn main() -> io::Result<()> {
    if std::env::args().any(|word| word == POWER_OFF) {
        reboot(RebootCommand::PowerOff)?;
    }
    init::stay(init::say_userspace)
}
