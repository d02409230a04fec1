//! The first program of a guest whose boot is measured: says that it is there, and waits for its end.

use std::io::Write;

fn main() {
    let mut console = std::io::stdout();
    // Whoever measures misses it.
    let _ = console.write_all(tests::monitor::USERSPACE).and_then(|()| console.flush());
    loop {
        std::thread::park();
    }
}
