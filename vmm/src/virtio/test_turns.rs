//! A device that no thread serves, for tests: what a driver has set up waits for the test, which
//! serves it itself and counts what one turn does.

use crate::io::Source;
use crate::io::by_hand::ByHand;
use crate::virtio::test_driver::{Descriptor, Driver, Manner};
use crate::virtio::{Activation, VirtioDevice};
use std::io;
use std::sync::{Arc, Mutex};

/// Descriptors of each queue: more than a turn may take, whatever it is that it counts.
pub(crate) const LONG: u16 = 1024;

/// What the device was given when its driver was ready.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Option<Activation>>>);

impl Held {
    /// Takes it; the driver must have come.
    pub(crate) fn take(&self) -> Activation {
        self.0.lock().unwrap().take().expect("the driver is ready")
    }
}

/// A driver of what looks like `device`, but has long queues and is served by nobody.
pub(crate) fn hold(device: &dyn VirtioDevice) -> (Driver, Held) {
    let held = Held::default();
    let idle = Idle {
        device_type: device.device_type(),
        queue_sizes: vec![LONG; device.queue_sizes().len()],
        features: device.features(),
        held: held.clone(),
    };
    let manner = Manner { size: LONG, ..Manner::default() };
    (Driver::start_as(Box::new(idle), manner), held)
}

struct Idle {
    device_type: u32,
    queue_sizes: Vec<u16>,
    features: u64,
    held: Held,
}

impl VirtioDevice for Idle {
    fn device_type(&self) -> u32 {
        self.device_type
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        *self.held.0.lock().unwrap() = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        *self.held.0.lock().unwrap() = None;
    }
}

impl Driver {
    /// Makes a chain of one `descriptor` available so many times.
    pub(crate) fn repeat(&mut self, queue: usize, descriptor: Descriptor, count: usize) {
        let index = self.reserve(queue);
        self.set_descriptor(queue, index, descriptor);
        for _ in 0..count {
            self.make_available(queue, index);
        }
    }
}

/// Rings `queue`, calls the source until that is not ready any more, and gives what each call added
/// to `done`.
pub(crate) fn turns<S: Source>(
    driver: &Driver,
    source: &mut ByHand<S>,
    (queue, token): (usize, u32),
    done: impl Fn(&Driver) -> u64,
) -> Vec<u64> {
    driver.ring(queue);
    let mut turns = Vec::new();
    while source.ready().contains(&token) {
        let before = done(driver);
        source.turn(token);
        turns.push(done(driver) - before);
        assert!(turns.len() < 10_000, "there is an end: {turns:?}");
    }
    turns
}
