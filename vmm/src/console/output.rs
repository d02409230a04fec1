//! What the guest prints, between the port it prints on and whoever writes it to the host.
//!
//! What does not fit the buffer is dropped, and a line in its place says how much. On the way every
//! line is looked at for the words of a kernel panic, because that is all that a kernel whose
//! pvpanic driver is a module says before it reboots.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of output that wait for a reader.
pub const OUTPUT_LIMIT: usize = 256 * 1024;
/// Bytes of a line that are looked at.
const LINE_LIMIT: usize = 1024;

/// How Linux begins the line that says why it panics.
const PANIC: &str = "Kernel panic - not syncing";
/// What Linux prints last before it ends in good order.
const ORDERLY: [&str; 3] =
    ["reboot: Restarting system", "reboot: Power down", "reboot: System halted"];

/// What the guest prints, between the port it prints on and whoever writes it to the host.
#[derive(Clone)]
pub struct ConsoleOutput {
    buffer: Arc<Mutex<Buffer>>,
    filled: Arc<EventFd>,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    dropped: u64,
    line: Vec<u8>,
    panic: Option<String>,
}

impl ConsoleOutput {
    /// An empty buffer.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let filled = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { buffer: Arc::default(), filled: Arc::new(filled) })
    }

    /// Becomes readable when there is output where there was none.
    #[must_use]
    pub fn filled(&self) -> &Arc<EventFd> {
        &self.filled
    }

    /// Takes all output that waits; what had to be dropped is mentioned at the end of it.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        let mut buffer = self.lock();
        let mut bytes = mem::take(&mut buffer.bytes);
        let dropped = mem::take(&mut buffer.dropped);
        drop(buffer);
        if dropped > 0 {
            bytes.extend(
                format!("\r\n[{dropped} bytes dropped here: nobody read the console]\r\n").bytes(),
            );
        }
        bytes
    }

    /// Whether no output waits.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    /// The line with which the guest's kernel began to panic, if it did and has said nothing since
    /// that tells of an end in good order.
    #[must_use]
    pub fn panic(&self) -> Option<String> {
        self.lock().panic.clone()
    }

    /// Forgets what an earlier boot printed about a panic.
    pub fn boot_begins(&self) {
        let mut buffer = self.lock();
        buffer.panic = None;
        buffer.line.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for ConsoleOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut buffer = self.lock();
        let first = buffer.bytes.is_empty();
        for byte in bytes {
            buffer.print(*byte);
        }
        drop(buffer);
        if first {
            // The counter cannot be full: it is written once for each time that it was emptied.
            let _ = self.filled.write(1);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn print(&mut self, byte: u8) {
        if self.bytes.len() < OUTPUT_LIMIT {
            self.bytes.push(byte);
        } else {
            self.dropped += 1;
        }
        if byte == b'\n' {
            self.end_line();
        } else if self.line.len() < LINE_LIMIT {
            self.line.push(byte);
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        if let Some(at) = line.find(PANIC) {
            // A panic within a panic says less than the first.
            let said = line[at..].chars().filter(|c| !c.is_control()).collect();
            self.panic.get_or_insert(said);
        } else if ORDERLY.iter().any(|words| line.contains(words)) {
            self.panic = None;
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> ConsoleOutput {
        let mut output = ConsoleOutput::new().unwrap();
        output.write_all(text.as_bytes()).unwrap();
        output
    }

    #[test]
    fn a_reader_that_stopped_costs_a_bounded_buffer_and_is_told_what_it_missed() {
        let mut output = printed("");
        let flood = vec![b'x'; OUTPUT_LIMIT + 77];
        output.write_all(&flood).unwrap();
        let taken = output.take();
        assert_eq!(taken[..OUTPUT_LIMIT], flood[..OUTPUT_LIMIT]);
        let note = String::from_utf8_lossy(&taken[OUTPUT_LIMIT..]);
        assert!(note.contains("77 bytes dropped"), "{note}");
        output.write_all(b"more").unwrap();
        assert_eq!(output.take(), b"more");
    }

    #[test]
    fn the_reader_is_woken_once_for_each_time_it_emptied_the_buffer() {
        let mut output = printed("a");
        output.write_all(b"b").unwrap();
        assert_eq!(output.filled().read().unwrap(), 1);
        assert!(output.filled().read().is_err());
        assert_eq!(output.take(), b"ab");
        output.write_all(b"c").unwrap();
        assert_eq!(output.filled().read().unwrap(), 1);
    }

    #[test]
    fn a_panic_is_known_by_its_line() {
        let text =
            "[    1.5] Kernel panic - not syncing: VFS: no \x1b[1mroot\r\n[    1.6] CPU: 0\r\n";
        assert_eq!(
            printed(text).panic().as_deref(),
            Some("Kernel panic - not syncing: VFS: no [1mroot")
        );
        assert_eq!(printed("Kernel panic - not syncing: unfinished").panic(), None);
        let output = printed(text);
        output.boot_begins();
        assert_eq!(output.panic(), None, "another boot knows nothing of it");
    }

    #[test]
    fn a_guest_that_ends_in_good_order_did_not_panic_whatever_was_printed_before() {
        for orderly in ORDERLY {
            let text = format!("$ cat log\nKernel panic - not syncing: x\n[9.1] {orderly}\n");
            assert_eq!(printed(&text).panic(), None, "{orderly}");
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let output = printed(&"y".repeat(10 * LINE_LIMIT));
        assert_eq!(output.lock().line.len(), LINE_LIMIT);
    }
}
