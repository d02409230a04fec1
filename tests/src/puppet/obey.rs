//! What the guest is told to do, and waiting for it.

use super::code::{CALLS, CALLS_MAX, MAILBOX};
use super::{Call, LIMIT, Op, Puppet};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

impl Puppet {
    /// Has the guest do `calls`, one after the other, and gives them back as they were done.
    ///
    /// # Panics
    /// The machine ends, or the guest never gets through.
    #[must_use]
    pub fn calls(&self, calls: &[Call]) -> Vec<Call> {
        let mut done = Vec::with_capacity(calls.len());
        for calls in calls.chunks(CALLS_MAX) {
            self.send(calls);
            self.await_answer();
            done.extend(self.calls_done(calls.len()));
        }
        done
    }

    /// The `count` calls that were sent last, as they were done.
    #[must_use]
    pub fn calls_done(&self, count: usize) -> Vec<Call> {
        self.peek(CALLS, count * 64).chunks_exact(64).map(Call::from_bytes).collect()
    }

    /// Has the guest do `call`.
    ///
    /// # Panics
    /// The machine ends, or the guest never gets through.
    #[must_use]
    pub fn call(&self, call: Call) -> Call {
        self.calls(&[call])[0]
    }

    /// Tells the guest to do `calls`, and waits for nothing.
    ///
    /// # Panics
    /// They are too many, or the machine has ended.
    pub fn send(&self, calls: &[Call]) {
        assert!((1..=CALLS_MAX).contains(&calls.len()), "{} calls in one go", calls.len());
        let bytes: Vec<u8> = calls.iter().flat_map(|call| call.to_bytes()).collect();
        self.poke(CALLS, &bytes);
        self.poke(MAILBOX + 8, &(calls.len() as u32).to_le_bytes());
        self.sequence.set(self.sequence.get().wrapping_add(1));
        self.poke(MAILBOX, &self.sequence.get().to_le_bytes());
    }

    /// Whether what was sent has been done.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        let mut answered = [0; 4];
        let read = self.memory.read_exact_at(&mut answered, self.ram.get() + MAILBOX + 4);
        // A machine that has ended answers nothing.
        read.is_ok() && u32::from_le_bytes(answered) == self.sequence.get()
    }

    /// Waits until what was sent has been done.
    ///
    /// # Panics
    /// That does not happen.
    pub fn await_answer(&self) {
        self.wait_for("an answer of the guest", || self.has_answered());
    }

    /// Whether what was sent is done within `limit`.
    #[must_use]
    pub fn answers_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while !self.has_answered() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.has_answered()
    }

    /// Waits until `there` is true.
    ///
    /// # Panics
    /// The machine ends, or it never is.
    pub fn wait_for(&self, what: &str, there: impl FnMut() -> bool) {
        self.wait_until(what, there);
        self.must_live();
    }

    /// Waits until `there` is true, or the machine ends.
    ///
    /// # Panics
    /// Neither comes.
    pub fn wait_until(&self, what: &str, mut there: impl FnMut() -> bool) {
        let deadline = Instant::now() + LIMIT;
        let mut looks = 0_u32;
        while self.lives() && !there() {
            assert!(
                Instant::now() < deadline,
                "{what} never came; the monitor said {:?}",
                self.stderr()
            );
            looks += 1;
            // What comes at once is not slept over; who has to compute shall not be kept from it.
            if looks > 20 {
                thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// Reads 32 bits of a device.
    ///
    /// # Panics
    /// As [`calls`](Self::calls).
    #[must_use]
    pub fn read32(&self, address: u64) -> u32 {
        self.call(Call { rdi: address, ..Call::new(Op::Read32) }).rax as u32
    }

    /// Writes 32 bits to a device.
    ///
    /// # Panics
    /// As [`calls`](Self::calls).
    pub fn write32(&self, address: u64, value: u32) {
        self.call_for_effect(Call::write32(address, value));
    }

    /// Has the guest do `call`, of which nobody wants to know the registers.
    ///
    /// # Panics
    /// As [`calls`](Self::calls), or it ran into an exception.
    pub fn call_for_effect(&self, call: Call) {
        let done = self.call(call);
        assert_eq!(done.exception(), None, "{call:?}");
    }
}
