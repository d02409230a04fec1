//! What the console types into: a serial port, or one that takes more at once.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// A port of the guest's.
pub trait Port: Send {
    /// Bytes of input that it has room for.
    fn room(&self) -> usize;
    /// Gives the guest as much of `bytes` as there is [room](Self::room) for, and says how much.
    fn receive(&mut self, bytes: &[u8]) -> usize;
    /// Tells when there is room for input again.
    fn input_room(&self) -> InputRoom;
}

/// A port as its device and the console's input hold it.
pub type SharedPort = Arc<Mutex<dyn Port>>;

/// Tells whoever has more input that the port has room for it again.
#[derive(Clone)]
pub struct InputRoom {
    wanted: Arc<AtomicBool>,
    event: Arc<EventFd>,
}

impl InputRoom {
    /// For a port that has room.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { wanted: Arc::default(), event: Arc::new(event) })
    }

    /// Asks for the [event](Self::event) when the port is empty again.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Release);
    }

    /// The port is empty again.
    pub fn is_there(&self) {
        if self.wanted.swap(false, Ordering::AcqRel) {
            // The counter cannot be full: it is written once for each time that it was wanted.
            let _ = self.event.write(1);
        }
    }

    /// Becomes readable when there is room that somebody wanted.
    #[must_use]
    pub fn event(&self) -> &Arc<EventFd> {
        &self.event
    }
}
