//! How a boot of the guest ends, and the one slot in which everybody who sees the end says so.

use crossbeam_channel::{Receiver, Sender, bounded};

/// How a boot of the guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The host asked for a reset.
    HostReset,
    /// The host stopped it.
    Stopped,
    /// The guest's kernel panicked; with the line that says why, if the console showed it.
    Panic(Option<String>),
    /// A processor could not deliver an exception, nor the fault of that, nor the fault of that.
    TripleFault,
    /// KVM or the monitor cannot go on.
    InternalError(String),
}

/// Where an outcome is said. The first one counts, and saying it never blocks.
#[derive(Clone, Debug)]
pub struct OutcomeSlot {
    sender: Sender<Outcome>,
}

impl OutcomeSlot {
    /// A slot, and its reader.
    #[must_use]
    pub fn new() -> (Self, Receiver<Outcome>) {
        let (sender, receiver) = bounded(1);
        (Self { sender }, receiver)
    }

    /// Says how the boot ended.
    pub fn put(&self, outcome: Outcome) {
        // Full: somebody was first. Disconnected: the boot has ended.
        let _ = self.sender.try_send(outcome);
    }
}

/// Ends the boot when it is dropped, if nobody has said before how it ends.
///
/// It is held by a thread without which the machine could only stand still: should that panic, the
/// machine's owner is told instead of waiting for ever.
pub(crate) struct LastWord {
    slot: OutcomeSlot,
    thread: String,
}

impl LastWord {
    /// To be held by the thread of that name.
    pub(crate) fn of(thread: &str, slot: &OutcomeSlot) -> Self {
        Self { slot: slot.clone(), thread: thread.to_owned() }
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let text = format!("the thread {} has ended; the log says why", self.thread);
        self.slot.put(Outcome::InternalError(text));
    }
}
