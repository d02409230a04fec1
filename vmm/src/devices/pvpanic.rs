//! pvpanic: the guest's kernel says that it has panicked (QEMU's docs/specs/pvpanic).
//!
//! One port. Reading it tells which events are understood; writing an event's bit reports it.

use crate::bus::BusDevice;

/// Ports.
pub const PORTS: u64 = 1;
/// The event: the kernel has panicked.
const PANICKED: u8 = 1 << 0;

/// The port.
pub struct Pvpanic {
    on_panic: Box<dyn FnMut() + Send>,
}

impl Pvpanic {
    /// A port that calls `on_panic` when the guest's kernel reports its panic.
    pub fn new(on_panic: impl FnMut() + Send + 'static) -> Self {
        Self { on_panic: Box::new(on_panic) }
    }
}

impl BusDevice for Pvpanic {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = PANICKED;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|events| events & PANICKED != 0) {
            (self.on_panic)();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_panic_is_reported_and_other_events_are_not() {
        let panics = Arc::new(AtomicU32::new(0));
        let counter = panics.clone();
        let mut device = Pvpanic::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        for value in (0..=u8::MAX).filter(|value| value & PANICKED == 0) {
            device.write(0, &[value]);
        }
        assert_eq!(panics.load(Ordering::Relaxed), 0);
        device.write(0, &[PANICKED]);
        assert_eq!(panics.load(Ordering::Relaxed), 1);
        let mut events = [0xff];
        device.read(0, &mut events);
        assert_eq!(events, [PANICKED]);
    }
}
