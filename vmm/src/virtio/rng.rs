//! virtio-rng: the host's randomness for the guest (section 5.4).
//!
//! One queue of buffers that the driver wants filled. A buffer is filled to at most
//! `MAX_REQUEST` bytes: the driver asks again for more.

use crate::io::{IoHandle, Registry, Source, SourceId};
use crate::memory::GuestRam;
use crate::virtio::chain::Whole;
use crate::virtio::queue::{Broken, DeviceQueue, TURN};
use crate::virtio::{Activation, VirtioDevice};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io::{self, Write};
use vmm_sys_util::epoll::EventSet;

const DEVICE_TYPE: u32 = 4;
const QUEUE_SIZES: [u16; 1] = [64];
/// Bytes given for one chain. Up to 256 the kernel gives them whole and without waiting.
const MAX_REQUEST: usize = 256;

/// The device.
pub struct Rng {
    io: IoHandle,
    active: Option<SourceId>,
}

impl Rng {
    /// A device that is served on `io`.
    #[must_use]
    pub fn new(io: IoHandle) -> Self {
        Self { io, active: None }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let mut queues = activation.queues.into_iter();
        let queue = queues.next().ok_or(io::ErrorKind::InvalidInput)?;
        let source = Requests { ram: activation.ram, queue };
        self.active = Some(self.io.add(Box::new(source))?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take() {
            self.io.remove(active);
        }
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        self.reset();
    }
}

/// The device's queue on the `io` thread.
struct Requests {
    ram: GuestRam,
    queue: DeviceQueue,
}

impl Requests {
    fn serve(&mut self) -> Result<(), Broken> {
        let ram = self.ram.clone();
        for _ in 0..TURN {
            let Some(chain) = self.queue.pop(&ram)? else {
                if self.queue.await_buffers()? {
                    continue;
                }
                return Ok(());
            };
            let head = chain.head_index();
            // A chain that cannot be written goes back empty.
            let chain = Whole::of(chain, self.queue.size()).ok();
            let writer = chain.and_then(|chain| chain.writer(&ram).ok());
            let written = writer.map_or(0, |mut writer| {
                let mut bytes = [0; MAX_REQUEST];
                let wanted = writer.available_bytes().min(MAX_REQUEST);
                let given = getrandom(&mut bytes[..wanted], GetRandomFlags::empty());
                writer.write(&bytes[..given.unwrap_or(0)]).unwrap_or(0)
            });
            // At most `MAX_REQUEST`.
            self.queue.add_used(head, written as u32)?;
        }
        self.queue.ring();
        Ok(())
    }
}

impl Source for Requests {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        registry.watch(self.queue.doorbell().as_ref(), 0, EventSet::IN)
    }

    fn ready(&mut self, _token: u32, _events: EventSet, registry: &mut Registry<'_>) {
        self.queue.answer();
        let served = self.serve();
        self.queue.notify();
        if served.is_err() {
            registry.forget(self.queue.doorbell().as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::IoThread;
    use crate::virtio::test_driver::{Descriptor, Driver, WRITE};
    use std::collections::HashSet;

    fn start() -> (Driver, IoThread) {
        let io = IoThread::spawn("io").unwrap();
        (Driver::start(Box::new(Rng::new(io.handle()))), io)
    }

    #[test]
    fn a_buffer_is_filled_with_other_bytes_each_time_whatever_its_shape() {
        let (mut driver, _io) = start();
        let mut seen = HashSet::new();
        for shape in [&[32][..], &[1, 30, 1], &[16, 16], &[0, 32]] {
            driver.add(0, &[], shape);
            driver.kick(0);
            let (_, bytes) = driver.wait(0);
            assert_eq!(bytes.len(), 32);
            assert!(seen.insert(bytes));
        }
    }

    #[test]
    fn a_large_buffer_is_filled_in_part() {
        let (mut driver, _io) = start();
        driver.add(0, &[], &[100_000]);
        driver.kick(0);
        assert_eq!(driver.wait(0).1.len(), MAX_REQUEST);
    }

    #[test]
    fn more_buffers_than_one_turn_takes_are_all_filled() {
        let (mut driver, _io) = start();
        for _ in 0..10 {
            while driver.room(0) > 0 {
                driver.add(0, &[], &[8]);
            }
            driver.kick(0);
            for _ in 0..QUEUE_SIZES[0] {
                assert_eq!(driver.wait(0).1.len(), 8);
            }
        }
    }

    #[test]
    fn what_cannot_be_written_goes_back_empty_and_is_not_touched() {
        let (mut driver, _io) = start();
        driver.add(0, &[b"secret"], &[]);
        driver.kick(0);
        assert_eq!(driver.wait(0).1, b"");
        for (address, length) in [(128 << 20, 8), (u64::MAX, 8), ((128 << 20) - 4, 8), (0, 0)] {
            let index = driver.reserve(0);
            driver.set_descriptor(0, index, Descriptor { address, length, flags: WRITE, next: 0 });
            driver.make_available(0, index);
            driver.kick(0);
            assert_eq!(driver.wait(0).0, index, "{address:#x}");
        }
        assert_eq!(driver.status() & 64, 0);
    }

    #[test]
    fn after_a_reset_in_flight_the_device_starts_again() {
        let (mut driver, _io) = start();
        for _ in 0..50 {
            while driver.room(0) > 0 {
                driver.add(0, &[], &[256]);
            }
            driver.kick(0);
            driver.restart();
        }
        driver.add(0, &[], &[8]);
        driver.kick(0);
        assert_eq!(driver.wait(0).1.len(), 8);
    }
}
