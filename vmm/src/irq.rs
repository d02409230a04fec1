//! Interrupt lines: how a device interrupts the guest.
//!
//! A line is an eventfd that KVM watches (an *irqfd*): writing to it injects the interrupt without
//! a trip through the vCPU threads. All lines of this machine are edge-triggered, so there is
//! nothing to lower and no end-of-interrupt to wait for.

use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

/// An edge-triggered interrupt line of the guest's I/O APIC.
#[derive(Clone, Debug)]
pub struct IrqLine {
    event: Arc<EventFd>,
}

impl IrqLine {
    /// A line that nothing listens to yet; [`event`](Self::event) is to be registered with KVM.
    ///
    /// # Errors
    /// No descriptor is left for the eventfd.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { event: Arc::new(event) })
    }

    /// Raises the interrupt.
    ///
    /// # Errors
    /// Never in practice: the counter would have to be full, which means nobody reads it.
    pub fn trigger(&self) -> io::Result<()> {
        self.event.write(1)
    }

    /// The eventfd behind the line, for registration as an irqfd and for tests.
    #[must_use]
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}
