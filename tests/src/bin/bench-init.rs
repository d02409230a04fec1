//! The first program of a guest whose boot is measured: says that it is there, and waits for its end,
//! or, if the kernel's command line has [`POWER_OFF`], switches the machine off, as one without a console
//! can be seen to be there.

use rustix::system::{RebootCommand, reboot};
use std::io::{self, Write};
use tests::monitor::POWER_OFF;

fn main() -> io::Result<()> {
    if std::env::args().any(|word| word == POWER_OFF) {
        reboot(RebootCommand::PowerOff)?;
    }
    let mut console = std::io::stdout();
    // Whoever measures misses it.
    let _ = console.write_all(tests::monitor::USERSPACE).and_then(|()| console.flush());
    loop {
        std::thread::park();
    }
}
