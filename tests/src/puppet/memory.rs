//! The guest's RAM, read and written from outside while the guest runs.

use super::Puppet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

impl Puppet {
    fn place(&self, address: u64, length: usize) -> u64 {
        let end = address.checked_add(length as u64);
        assert!(
            end.is_some_and(|end| end <= self.reach),
            "{address:#x}+{length:#x} is not in the RAM that tests can reach"
        );
        self.ram.get() + address
    }

    /// Reads the guest's RAM, below the hole.
    ///
    /// # Panics
    /// The process has ended.
    #[must_use]
    pub fn peek(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let read = self.memory.read_exact_at(&mut bytes, self.place(address, length));
        assert!(read.is_ok(), "the machine has ended: {read:?}: {}", self.stderr());
        bytes
    }

    /// Writes the guest's RAM, below the hole.
    ///
    /// # Panics
    /// The process has ended.
    pub fn poke(&self, address: u64, bytes: &[u8]) {
        let written = self.memory.write_all_at(bytes, self.place(address, bytes.len()));
        assert!(written.is_ok(), "the machine has ended: {written:?}: {}", self.stderr());
    }

    /// The 16 bits at `address` in RAM.
    #[must_use]
    pub fn peek16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.peek(address, 2).try_into().unwrap_or_default())
    }

    /// The 32 bits at `address` in RAM.
    #[must_use]
    pub fn peek32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.peek(address, 4).try_into().unwrap_or_default())
    }

    /// Writes, on a thread of its own, the two of `values` in turn to `address` in RAM, until what is
    /// given back is dropped.
    ///
    /// # Panics
    /// No descriptor is left.
    #[must_use]
    pub fn flip(&self, address: u64, values: [Vec<u8>; 2]) -> Flip {
        let stop = Arc::new(AtomicBool::new(false));
        let memory = self.memory.try_clone().expect("a descriptor is left");
        let places = values.each_ref().map(|value| self.place(address, value.len()));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for (value, place) in values.iter().zip(places) {
                    // It has ended: who waits for it will tell.
                    let _ = memory.write_all_at(value, place);
                }
            }
        });
        Flip { stop, thread: Some(thread) }
    }
}

/// Memory that changes all the time; no longer when it is dropped.
pub struct Flip {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Flip {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only writes.
            let _ = thread.join();
        }
    }
}
