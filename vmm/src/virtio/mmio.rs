//! The MMIO transport (section 4.2): a device's registers in 4 KiB of physical addresses.
//!
//! The driver brings the device up in steps, each a bit of the status register (section 3.1.1), and
//! the transport accepts them in this order only:
//!
//! ```text
//! 0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK
//!      features are written     queues are     nothing but notifications,
//!      before this -----^       set up here    acknowledgements and reset
//! ```
//!
//! Writing 0 resets from everywhere. Whatever else a driver writes at the wrong time is ignored;
//! what makes the device unusable sets `DEVICE_NEEDS_RESET`.

use crate::bus::BusDevice;
use crate::irq::IrqLine;
use crate::memory::GuestRam;
use crate::virtio::queue::DeviceQueue;
use crate::virtio::registers::RegisterPage;
use crate::virtio::{Activation, INTERRUPT_QUEUE, Interrupt, VirtioDevice};
use bitflags::bitflags;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

/// Offset of the register to which the driver writes the number of a queue with new buffers.
pub const QUEUE_NOTIFY: u64 = 0x50;
/// Offset of the register to which the driver writes what interrupts it has seen.
pub const INTERRUPT_ACK: u64 = register::INTERRUPT_ACK;
/// What it writes there after the interrupt of a queue.
pub const USED_BUFFERS: u32 = INTERRUPT_QUEUE;

/// The registers that change by themselves.
pub(super) const INTERRUPT_STATUS: u64 = register::INTERRUPT_STATUS;
pub(super) const STATUS: u64 = register::STATUS;
/// What the latter changes to.
pub(super) const NEEDS_RESET: u32 = Status::NEEDS_RESET.bits();

pub(crate) mod register {
    pub(crate) const MAGIC: u64 = 0x00;
    pub(crate) const VERSION: u64 = 0x04;
    pub(crate) const DEVICE_ID: u64 = 0x08;
    pub(crate) const VENDOR_ID: u64 = 0x0c;
    pub(crate) const DEVICE_FEATURES: u64 = 0x10;
    pub(crate) const DEVICE_FEATURES_SELECT: u64 = 0x14;
    pub(crate) const DRIVER_FEATURES: u64 = 0x20;
    pub(crate) const DRIVER_FEATURES_SELECT: u64 = 0x24;
    pub(crate) const QUEUE_SELECT: u64 = 0x30;
    pub(crate) const QUEUE_SIZE_MAX: u64 = 0x34;
    pub(crate) const QUEUE_SIZE: u64 = 0x38;
    pub(crate) const QUEUE_READY: u64 = 0x44;
    pub(crate) const INTERRUPT_STATUS: u64 = 0x60;
    pub(crate) const INTERRUPT_ACK: u64 = 0x64;
    pub(crate) const STATUS: u64 = 0x70;
    pub(crate) const DESCRIPTORS_LOW: u64 = 0x80;
    pub(crate) const DESCRIPTORS_HIGH: u64 = 0x84;
    pub(crate) const DRIVER_RING_LOW: u64 = 0x90;
    pub(crate) const DRIVER_RING_HIGH: u64 = 0x94;
    pub(crate) const DEVICE_RING_LOW: u64 = 0xa0;
    pub(crate) const DEVICE_RING_HIGH: u64 = 0xa4;
    /// Length and base of the shared memory region selected: all ones, there is none.
    pub(crate) const SHARED_MEMORY: std::ops::RangeInclusive<u64> = 0xb0..=0xbc;
    pub(crate) const CONFIG_GENERATION: u64 = 0xfc;
    pub(crate) const CONFIG: u64 = 0x100;
}

/// End of the registers and the longest configuration that is [shown](MmioTransport::show).
const REGISTERS_END: u64 = 0x140;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface.
const VERSION: u32 = 2;
/// No vendor has this.
const VENDOR: u32 = 0;

bitflags! {
    /// The device status (section 2.1).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Status: u32 {
        const ACKNOWLEDGE = 1;
        const DRIVER = 2;
        const DRIVER_OK = 4;
        const FEATURES_OK = 8;
        const NEEDS_RESET = 64;
        const FAILED = 128;
    }
}

/// A queue as the driver sets it up.
#[derive(Clone, Copy, Debug, Default)]
struct Setup {
    size: u16,
    ready: bool,
    descriptors: u64,
    driver_ring: u64,
    device_ring: u64,
}

/// A device's registers.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    ram: GuestRam,
    interrupt: Interrupt,
    doorbells: Vec<Arc<EventFd>>,
    queues: Vec<Setup>,
    queue_select: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    status: Status,
}

impl MmioTransport {
    /// The registers of `device`, which finds its queues in `ram` and interrupts through `line`.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(ram: GuestRam, line: IrqLine, device: Box<dyn VirtioDevice>) -> io::Result<Self> {
        let count = device.queue_sizes().len();
        let doorbell = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Arc::new);
        Ok(Self {
            doorbells: (0..count).map(|_| doorbell()).collect::<io::Result<_>>()?,
            queues: vec![Setup::default(); count],
            device,
            ram,
            interrupt: Interrupt::new(line),
            queue_select: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            status: Status::default(),
        })
    }

    /// Shows the registers of a device whose configuration never changes in `page` as well, from which
    /// the guest reads them without asking.
    ///
    /// What the driver says in [`INTERRUPT_ACK`] may be kept from this then if it is [`USED_BUFFERS`]:
    /// that bit of the status stays, which only means that drivers look at their queues, as they do
    /// with every interrupt. One that reads the status until nothing is set would not end; no known one does.
    pub fn show(&mut self, page: Arc<RegisterPage>) {
        for offset in (register::CONFIG..REGISTERS_END).step_by(4) {
            let mut data = [0; 4];
            self.device.read_config(offset - register::CONFIG, &mut data);
            page.store(offset, u32::from_le_bytes(data));
        }
        self.interrupt.page = Some(page);
        self.publish();
    }

    /// Shows what has changed.
    fn publish(&self) {
        let Some(page) = &self.interrupt.page else { return };
        let offsets = (0..register::CONFIG).step_by(4);
        for offset in offsets.filter(|offset| *offset != INTERRUPT_STATUS) {
            page.store(offset, self.register(offset));
        }
        // It may have come to need one while that was written.
        if self.interrupt.needs_reset.load(Ordering::SeqCst) != 0 {
            page.set(STATUS, NEEDS_RESET);
        }
    }

    /// The queues' doorbells, to be rung by KVM when the driver writes a queue's number to
    /// [`QUEUE_NOTIFY`].
    #[must_use]
    pub fn doorbells(&self) -> &[Arc<EventFd>] {
        &self.doorbells
    }

    fn offered(&self) -> u64 {
        self.device.features()
            | 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn status(&self) -> Status {
        let needs_reset =
            self.interrupt.needs_reset.load(Ordering::Acquire) != 0 || !self.device.is_reset();
        if needs_reset { self.status | Status::NEEDS_RESET } else { self.status }
    }

    fn register(&self, offset: u64) -> u32 {
        let half = |value: u64, select: u32| match select {
            0 => value as u32,
            1 => (value >> 32) as u32,
            _ => 0,
        };
        let selected = usize::try_from(self.queue_select).unwrap_or(usize::MAX);
        match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.device.device_type(),
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.offered(), self.device_features_select),
            register::QUEUE_SIZE_MAX => {
                self.device.queue_sizes().get(selected).map_or(0, |size| u32::from(*size))
            }
            register::QUEUE_READY => self.queues.get(selected).map_or(0, |q| u32::from(q.ready)),
            register::INTERRUPT_STATUS => self.interrupt.status.load(Ordering::Acquire),
            register::STATUS => self.status().bits(),
            register::CONFIG_GENERATION => self.device.config_generation(),
            offset if register::SHARED_MEMORY.contains(&offset) => u32::MAX,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            register::DEVICE_FEATURES_SELECT => self.device_features_select = value,
            register::DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            register::DRIVER_FEATURES => self.accept_features(value),
            register::QUEUE_SELECT => self.queue_select = value,
            QUEUE_NOTIFY => self.ring(value),
            register::INTERRUPT_ACK => {
                self.interrupt.status.fetch_and(!value, Ordering::AcqRel);
                if let Some(page) = &self.interrupt.page {
                    page.clear(INTERRUPT_STATUS, value);
                }
            }
            register::STATUS => self.set_status(value),
            _ => self.set_up_queue(offset, value),
        }
    }

    /// Features can be chosen until they are agreed on.
    fn accept_features(&mut self, value: u32) {
        let stage = self.status & !Status::FAILED;
        if stage != Status::ACKNOWLEDGE | Status::DRIVER {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_select {
            0 => self.driver_features = (self.driver_features & !0xffff_ffff) | value,
            1 => self.driver_features = (self.driver_features & 0xffff_ffff) | value << 32,
            _ => {}
        }
    }

    /// Queues can be set up between the agreement on features and the start.
    fn set_up_queue(&mut self, offset: u64, value: u32) {
        if !self.status.contains(Status::FEATURES_OK)
            || self.status.intersects(Status::DRIVER_OK | Status::FAILED)
        {
            return;
        }
        let selected = usize::try_from(self.queue_select).unwrap_or(usize::MAX);
        let max = self.device.queue_sizes().get(selected).copied().unwrap_or(0);
        let Some(queue) = self.queues.get_mut(selected) else { return };
        let low = |old: u64| (old & !0xffff_ffff) | u64::from(value);
        let high = |old: u64| (old & 0xffff_ffff) | u64::from(value) << 32;
        match offset {
            register::QUEUE_READY => queue.ready = value == 1,
            // A queue that is ready keeps its shape.
            _ if queue.ready => {}
            register::QUEUE_SIZE => {
                let size = u16::try_from(value).unwrap_or(0);
                queue.size = if size <= max && size.is_power_of_two() { size } else { 0 };
            }
            register::DESCRIPTORS_LOW => queue.descriptors = low(queue.descriptors),
            register::DESCRIPTORS_HIGH => queue.descriptors = high(queue.descriptors),
            register::DRIVER_RING_LOW => queue.driver_ring = low(queue.driver_ring),
            register::DRIVER_RING_HIGH => queue.driver_ring = high(queue.driver_ring),
            register::DEVICE_RING_LOW => queue.device_ring = low(queue.device_ring),
            register::DEVICE_RING_HIGH => queue.device_ring = high(queue.device_ring),
            _ => {}
        }
    }

    /// The driver rang, and KVM did not see it: an access of another width, say.
    fn ring(&mut self, queue: u32) {
        let doorbell = usize::try_from(queue).ok().and_then(|queue| self.doorbells.get(queue));
        if let Some(doorbell) = doorbell.filter(|_| self.status.contains(Status::DRIVER_OK)) {
            // The counter is full only after 2^64 rings that nobody answered.
            let _ = doorbell.write(1);
        }
    }

    fn set_status(&mut self, value: u32) {
        let new = Status::from_bits_truncate(value) & !Status::NEEDS_RESET;
        if value == 0 {
            self.reset();
            return;
        }
        if !self.device.is_reset() {
            return;
        }
        let added = new & !self.status;
        // Bits are never taken back but by a reset, and a device that failed takes no more.
        if !new.contains(self.status) || self.status.contains(Status::FAILED) {
            return;
        }
        if added.contains(Status::FAILED) {
            self.status |= Status::FAILED;
            return;
        }
        let (acknowledged, driven) = (Status::ACKNOWLEDGE, Status::ACKNOWLEDGE | Status::DRIVER);
        let agreed = driven | Status::FEATURES_OK;
        // A driver may take several steps at once, but none out of order.
        if new.contains(acknowledged) {
            self.status |= Status::ACKNOWLEDGE;
        }
        if new.contains(driven) {
            self.status |= Status::DRIVER;
        }
        if added.contains(Status::FEATURES_OK) && self.status.contains(driven) && self.agree() {
            self.status |= Status::FEATURES_OK;
        }
        if added.contains(Status::DRIVER_OK) && self.status.contains(agreed) {
            self.start();
        }
    }

    /// Whether the driver's features are some of those offered, with the one that is not optional.
    fn agree(&self) -> bool {
        self.driver_features & !self.offered() == 0
            && self.driver_features & (1 << VIRTIO_F_VERSION_1) != 0
    }

    /// Hands the queues to the device. All that the driver uses must be usable.
    fn start(&mut self) {
        self.status |= Status::DRIVER_OK;
        let used = self.device.queues_used(self.driver_features);
        let queues: Option<Vec<DeviceQueue>> = (0..used).map(|index| self.queue(index)).collect();
        let Some(queues) = queues else {
            self.interrupt.needs_reset(&"its queues are not usable");
            return;
        };
        let activation = Activation {
            ram: self.ram.clone(),
            features: self.driver_features,
            queues,
            interrupt: self.interrupt.clone(),
        };
        if let Err(error) = self.device.activate(activation) {
            self.interrupt.needs_reset(&error);
        }
    }

    /// Queue `index` as the driver has set it up, if it is ready and lies in RAM.
    fn queue(&self, index: usize) -> Option<DeviceQueue> {
        let setup = self.queues.get(index).filter(|setup| setup.ready)?;
        let max = *self.device.queue_sizes().get(index)?;
        let mut queue = Queue::new(max).ok()?;
        queue.set_size(Some(setup.size).filter(|size| *size > 0)?);
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let (low, high) = halves(setup.descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(setup.driver_ring);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(setup.device_ring);
        queue.set_used_ring_address(low, high);
        // The crate keeps the old address where it does not like the new one.
        let as_set = queue.desc_table() == setup.descriptors
            && queue.avail_ring() == setup.driver_ring
            && queue.used_ring() == setup.device_ring;
        queue.set_event_idx(self.driver_features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        queue.set_ready(true);
        if !as_set || !queue.is_valid(&self.ram) {
            return None;
        }
        let doorbell = self.doorbells.get(index)?.clone();
        Some(DeviceQueue::new(queue, self.ram.clone(), doorbell, self.interrupt.clone()))
    }

    fn reset(&mut self) {
        self.device.reset();
        for doorbell in &self.doorbells {
            // Non-blocking: nobody may have rung.
            let _ = doorbell.read();
        }
        self.queues.fill(Setup::default());
        self.queue_select = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.interrupt.status.store(0, Ordering::Release);
        if let Some(page) = &self.interrupt.page {
            page.store(INTERRUPT_STATUS, 0);
        }
        self.interrupt.needs_reset.store(0, Ordering::SeqCst);
        self.status = Status::default();
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.device.read_config(offset, data);
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            // Registers are 32 bits wide and accessed so (section 4.2.2.2).
            *data = self.register(offset).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            self.device.write_config(offset, data);
        } else if let Ok(data) = <[u8; 4]>::try_from(data) {
            self.set_register(offset, u32::from_le_bytes(data));
            self.publish();
        }
    }
}

#[cfg(test)]
#[path = "mmio_tests.rs"]
mod tests;
