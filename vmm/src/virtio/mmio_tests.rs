//! A driver that brings devices up by the book, and all the ways not to.

use super::*;
use crate::memory;
use std::sync::Mutex;
use virtio_queue::mock::MockSplitQueue;
use vm_memory::GuestAddress;

const SIZES: [u16; 2] = [16, 8];

/// A device that notes what is done to it.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<(u32, u32)>>);

impl VirtioDevice for Notes {
    fn device_type(&self) -> u32 {
        42
    }
    fn queue_sizes(&self) -> &[u16] {
        &SIZES
    }
    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        assert_eq!(activation.queues.len(), SIZES.len());
        self.0.lock().unwrap().0 += 1;
        Ok(())
    }
    fn reset(&mut self) {
        self.0.lock().unwrap().1 += 1;
    }
}

impl Notes {
    fn activations(&self) -> u32 {
        self.0.lock().unwrap().0
    }
}

struct Driver {
    transport: MmioTransport,
    device: Notes,
    ram: GuestRam,
}

impl Driver {
    fn new() -> Self {
        let ram = memory::map(1 << 20).unwrap();
        let device = Notes::default();
        let line = IrqLine::new().unwrap();
        let transport = MmioTransport::new(ram.clone(), line, Box::new(device.clone())).unwrap();
        Self { transport, device, ram }
    }

    fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    fn agree(&mut self) {
        self.write(register::STATUS, 1);
        self.write(register::STATUS, 3);
        self.write(register::DRIVER_FEATURES_SELECT, 1);
        self.write(register::DRIVER_FEATURES, 1);
        self.write(register::STATUS, 11);
    }

    fn set_up(&mut self, queue: u32, size: u32, [descriptors, avail, used]: [u64; 3]) {
        self.write(register::QUEUE_SELECT, queue);
        self.write(register::QUEUE_SIZE, size);
        for (register, address) in [
            (register::DESCRIPTORS_LOW, descriptors),
            (register::DRIVER_RING_LOW, avail),
            (register::DEVICE_RING_LOW, used),
        ] {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(register::QUEUE_READY, 1);
    }

    fn set_up_all(&mut self) {
        let ram = self.ram.clone();
        for (queue, size) in (0..).zip(SIZES) {
            let start = GuestAddress(0x1_0000 * u64::from(queue + 1));
            let rings = MockSplitQueue::create(&ram, start, size);
            let addresses = [rings.desc_table_addr(), rings.avail_addr(), rings.used_addr()];
            self.set_up(queue, size.into(), addresses.map(|address| address.0));
        }
    }

    fn start(&mut self) {
        self.write(register::STATUS, 15);
    }

    fn needs_reset(&mut self) -> bool {
        self.read(register::STATUS) & 64 != 0
    }
}

#[test]
fn a_driver_by_the_book_starts_the_device_once() {
    let mut driver = Driver::new();
    assert_eq!(driver.read(register::MAGIC), MAGIC);
    assert_eq!(driver.read(register::VERSION), 2);
    assert_eq!(driver.read(register::DEVICE_ID), 42);
    driver.agree();
    assert_eq!(driver.read(register::STATUS), 11);
    driver.set_up_all();
    driver.start();
    assert_eq!(driver.read(register::STATUS), 15);
    driver.start();
    assert_eq!(driver.device.activations(), 1);
    driver.write(register::STATUS, 0);
    assert_eq!(driver.read(register::STATUS), 0);
    assert_eq!(driver.read(register::QUEUE_READY), 0);
}

#[test]
fn features_that_were_never_offered_or_no_version_1_are_not_agreed_on() {
    for (low, high) in [(1 << 5, 1), (0, 0), (0, 1 | 1 << 6), (u32::MAX, u32::MAX)] {
        let mut driver = Driver::new();
        driver.write(register::STATUS, 3);
        driver.write(register::DRIVER_FEATURES, low);
        driver.write(register::DRIVER_FEATURES_SELECT, 1);
        driver.write(register::DRIVER_FEATURES, high);
        driver.write(register::STATUS, 11);
        assert_eq!(driver.read(register::STATUS), 3, "{low:#x} {high:#x}");
    }
}

#[test]
fn no_step_is_skipped() {
    let mut driver = Driver::new();
    driver.set_up_all();
    for status in [4, 8, 12, 13, 14, 5, 15] {
        driver.write(register::STATUS, status);
        assert_eq!(driver.read(register::STATUS) & 12, 0, "after {status}");
    }
    assert_eq!(driver.device.activations(), 0);
    let mut driver = Driver::new();
    driver.agree();
    driver.start();
    assert!(driver.needs_reset(), "no queue was set up");
    assert_eq!(driver.device.activations(), 0);
}

#[test]
fn queues_of_a_wrong_size_or_outside_ram_are_not_usable() {
    let good = [0x1_0000, 0x2_0000, 0x3_0000];
    let mut cases: Vec<(u32, [u64; 3])> =
        [0, 3, 32, 32769, u32::MAX].map(|size| (size, good)).to_vec();
    for at in 0..3 {
        for address in [1 << 20, (1 << 20) - 4, 0xc000_0000, !0xfff, 0x1_0001] {
            let mut addresses = good;
            addresses[at] = address;
            cases.push((16, addresses));
        }
    }
    for (size, addresses) in cases {
        let mut driver = Driver::new();
        driver.agree();
        driver.set_up_all();
        driver.write(register::QUEUE_SELECT, 0);
        driver.write(register::QUEUE_READY, 0);
        driver.set_up(0, size, addresses);
        driver.start();
        assert!(driver.needs_reset(), "{size} at {addresses:x?}");
        assert_eq!(driver.device.activations(), 0);
    }
}

#[test]
fn what_is_written_at_the_wrong_time_changes_nothing() {
    let mut driver = Driver::new();
    driver.set_up_all();
    assert_eq!(driver.read(register::QUEUE_READY), 0, "features are not agreed on yet");
    driver.agree();
    driver.set_up_all();
    driver.start();
    driver.write(register::QUEUE_SELECT, 0);
    driver.write(register::QUEUE_READY, 0);
    assert_eq!(driver.read(register::QUEUE_READY), 1, "the device runs");
    driver.write(register::STATUS, 3);
    assert_eq!(driver.read(register::STATUS), 15, "bits are not taken back");
    driver.write(register::STATUS, 15 | 128);
    driver.write(register::STATUS, 15);
    assert_eq!(driver.read(register::STATUS), 15 | 128, "a failed driver must reset");
}

#[test]
fn a_queue_that_does_not_exist_has_no_size_and_no_bell() {
    let mut driver = Driver::new();
    driver.agree();
    for queue in [2, 0xffff, u32::MAX] {
        driver.write(register::QUEUE_SELECT, queue);
        assert_eq!(driver.read(register::QUEUE_SIZE_MAX), 0);
        driver.write(register::QUEUE_READY, 1);
        assert_eq!(driver.read(register::QUEUE_READY), 0);
        driver.write(QUEUE_NOTIFY, queue);
    }
    driver.write(QUEUE_NOTIFY, 0);
    assert!(driver.transport.doorbells()[0].read().is_err(), "nobody rings before the start");
    driver.set_up_all();
    driver.start();
    driver.write(QUEUE_NOTIFY, 1);
    assert_eq!(driver.transport.doorbells()[1].read().unwrap(), 1);
}

#[test]
fn ten_thousand_resets_leave_a_device_that_starts() {
    let mut driver = Driver::new();
    for _ in 0..10_000 {
        driver.agree();
        driver.write(register::STATUS, 0);
    }
    driver.agree();
    driver.set_up_all();
    driver.start();
    assert_eq!(driver.device.activations(), 1);
}

#[test]
fn every_offset_and_width_is_answered() {
    let mut driver = Driver::new();
    for offset in 0..0x1000 {
        for width in [1, 2, 4, 8] {
            driver.transport.write(offset, &vec![0xff; width]);
            driver.transport.read(offset, &mut vec![0; width]);
        }
    }
    driver.write(register::STATUS, 0);
    assert_eq!(driver.read(register::SHARED_MEMORY.start() + 4), u32::MAX);
}

#[test]
fn what_the_guest_reads_by_itself_is_what_a_read_would_give_at_every_step() {
    let mut driver = Driver::new();
    let page = Arc::new(RegisterPage::new().unwrap());
    driver.transport.show(page.clone());
    let same = |driver: &mut Driver, step: &str| {
        for offset in (0..REGISTERS_END).step_by(4) {
            assert_eq!(page.load(offset), driver.read(offset), "{offset:#x} {step}");
        }
    };
    same(&mut driver, "at first");
    driver.agree();
    same(&mut driver, "when features are agreed on");
    driver.set_up_all();
    same(&mut driver, "when there are queues");
    driver.start();
    same(&mut driver, "when it runs");
    let interrupt = driver.transport.interrupt.clone();
    interrupt.queue();
    assert_eq!(page.load(register::INTERRUPT_STATUS), USED_BUFFERS);
    same(&mut driver, "when buffers were used");
    driver.write(INTERRUPT_ACK, USED_BUFFERS);
    assert_eq!(page.load(register::INTERRUPT_STATUS), 0);
    interrupt.needs_reset(&"a test");
    same(&mut driver, "when it needs a reset");
    driver.write(register::QUEUE_SELECT, 1);
    same(&mut driver, "when it still does");
    driver.write(register::STATUS, 0);
    assert_eq!(page.load(register::INTERRUPT_STATUS), 0);
    same(&mut driver, "after the reset");
}
