//! What the first programs of measured guests do: load modules, say that they are there, and stay.

use crate::monitor::USERSPACE;
use std::fs::{self, File};
use std::io::{self, Write};
use std::thread;

/// Loads the modules of the initrd, in their order.
///
/// # Errors
/// There are none.
pub fn load_modules() -> io::Result<()> {
    for name in fs::read_to_string("/modules/order")?.lines() {
        // A monitor lacks what another one's driver is for.
        let module = File::open(format!("/modules/{name}.ko"))?;
        if let Err(error) = rustix::system::finit_module(module, c"", 0) {
            println!("{name}: {error}");
        }
    }
    Ok(())
}

/// Says on the console that userspace is reached.
///
/// # Errors
/// There is no console.
pub fn say_userspace() -> io::Result<()> {
    let mut console = io::stdout();
    console.write_all(USERSPACE)?;
    console.flush()
}

/// Does `work`, which says what goes wrong, and stays: the kernel cannot do without its first program.
pub fn stay(work: impl FnOnce() -> io::Result<()>) -> ! {
    if let Err(error) = work() {
        println!("{error}");
    }
    loop {
        thread::park();
    }
}
