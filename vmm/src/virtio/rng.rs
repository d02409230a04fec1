//! virtio-rng: the host's randomness for the guest (section 5.4).
//!
//! One queue of buffers that the driver wants filled. A buffer is filled to at most
//! `MAX_REQUEST` bytes: the driver asks again for more.

use crate::io::{IoHandle, Registry, Source, SourceId};
use crate::memory::GuestRam;
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
            let written = chain.writer(&ram).map_or(0, |mut writer| {
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
