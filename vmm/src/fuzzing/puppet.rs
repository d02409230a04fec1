//! A driver that does what bytes tell it: to a device's registers, its rings, the memory of its
//! guest, and what the host has to do with the device.
//!
//! However it ends, the device can be reset and comes up again: that is asserted for every input,
//! and what [`Rings`] says of a driver that keeps to the rules.

use super::input::Input;
use super::rings::{Manner, Rings};
use crate::bus::BusDevice;
use crate::io::IoHandle;
use crate::irq::IrqLine;
use crate::virtio::VirtioDevice;
use crate::virtio::mmio::{MmioTransport, QUEUE_NOTIFY, register};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Things done in one input.
const DEEDS: usize = 160;
/// Turns that a device may take to give back what it has got.
const PATIENCE: usize = 4000;
const RUNS: u32 = 15;
const NEEDS_RESET: u32 = 64;

/// Registers, each with its neighbours.
const REGISTERS: [u64; 20] = [
    register::DEVICE_FEATURES_SELECT,
    register::DRIVER_FEATURES,
    register::DRIVER_FEATURES_SELECT,
    register::QUEUE_SELECT,
    register::QUEUE_SIZE,
    register::QUEUE_READY,
    QUEUE_NOTIFY,
    register::INTERRUPT_STATUS,
    register::INTERRUPT_ACK,
    register::STATUS,
    register::DESCRIPTORS_LOW,
    register::DESCRIPTORS_HIGH,
    register::DRIVER_RING_LOW,
    register::DRIVER_RING_HIGH,
    register::DEVICE_RING_LOW,
    register::DEVICE_RING_HIGH,
    register::MAGIC,
    register::QUEUE_SIZE_MAX,
    *register::SHARED_MEMORY.start(),
    register::CONFIG,
];

/// A device, and all that is around it.
pub(super) trait Subject {
    /// The device, and what serves it.
    fn device(&mut self) -> (Box<dyn VirtioDevice>, IoHandle);
    /// What a chain of `queue` begins with.
    fn header(&mut self, queue: usize, input: &mut Input<'_>) -> Vec<u8>;
    /// Something happens on the host.
    fn act(&mut self, input: &mut Input<'_>);
    /// Whether every chain of `queue` comes back without more ado.
    fn answers(&self, queue: usize) -> bool;
    /// Whether what the device reads from `queue` can do nothing to the guest's memory.
    fn is_harmless(&self, _queue: usize) -> bool {
        true
    }
}

/// Lets `data` do what it will.
pub(super) fn play(mut subject: impl Subject, data: &[u8]) {
    let mut input = Input::new(data);
    let (device, io) = subject.device();
    let mut puppet = Puppet::new(device, io);
    puppet.bring_up(&mut input);
    for _ in 0..DEEDS {
        if input.is_empty() {
            break;
        }
        puppet.act(&mut subject, &mut input);
    }
    puppet.kick();
    let owes = |puppet: &Puppet| {
        (0..puppet.rings.rings.len())
            .any(|queue| subject.answers(queue) && puppet.rings.owes(queue))
    };
    for _ in 0..PATIENCE {
        if !owes(&puppet) {
            break;
        }
        puppet.io.step();
        puppet.judge();
    }
    assert!(!owes(&puppet), "every chain comes back");
    puppet.bring_up(&mut Input::new(&[]));
}

struct Puppet {
    transport: MmioTransport,
    rings: Rings,
    io: IoHandle,
}

impl Puppet {
    fn new(device: Box<dyn VirtioDevice>, io: IoHandle) -> Self {
        let rings = Rings::new();
        let line = IrqLine::new().expect("a descriptor is left");
        let transport = MmioTransport::new(rings.ram.clone(), line, device);
        let transport = transport.expect("descriptors are left");
        Self { transport, rings, io }
    }

    fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Resets the device and brings it up by the book, with some of what it offers.
    fn bring_up(&mut self, input: &mut Input<'_>) {
        self.write(register::STATUS, 0);
        assert_eq!(self.read(register::STATUS), 0, "the device is reset");
        self.rings.clear();
        let choice = input.byte();
        let size = [256, 1, 2, 8, 16, 64, 128, 256][usize::from(choice & 7)];
        let refused = match choice >> 6 {
            0 => 0,
            1 => 1 << VIRTIO_RING_F_EVENT_IDX,
            2 => 1 << VIRTIO_RING_F_INDIRECT_DESC,
            _ => input.u32(),
        };
        for status in [1, 3] {
            self.write(register::STATUS, status);
        }
        for (half, refused) in [(0, refused), (1, 0)] {
            self.write(register::DEVICE_FEATURES_SELECT, half);
            let offered = self.read(register::DEVICE_FEATURES);
            self.write(register::DRIVER_FEATURES_SELECT, half);
            self.write(register::DRIVER_FEATURES, offered & !refused);
        }
        self.write(register::STATUS, 11);
        for index in 0.. {
            self.write(register::QUEUE_SELECT, index);
            let max = self.read(register::QUEUE_SIZE_MAX);
            let Some(max) = u16::try_from(max).ok().filter(|max| *max > 0) else { break };
            let ring = self.rings.add(max.min(size));
            let addresses = [ring.descriptors(), ring.avail(), ring.used()];
            let size = ring.size.into();
            self.write(register::QUEUE_SIZE, size);
            let [descriptors, avail, used] = addresses.map(|address| address as u32);
            self.write(register::DESCRIPTORS_LOW, descriptors);
            self.write(register::DRIVER_RING_LOW, avail);
            self.write(register::DEVICE_RING_LOW, used);
            self.write(register::QUEUE_READY, 1);
        }
        self.write(register::STATUS, RUNS);
        assert_eq!(self.read(register::STATUS), RUNS, "the device runs");
    }

    fn act(&mut self, subject: &mut impl Subject, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..7 => {
                let queue = usize::from(input.byte()) % self.rings.rings.len();
                let header = subject.header(queue, input);
                let harmless = subject.is_harmless(queue);
                self.rings.offer(queue, input, &Manner { header: &header, harmless });
            }
            7 | 8 => self.kick(),
            9 | 10 => subject.act(input),
            11 => {
                // Mostly the rings.
                let address = input.choose(&[u32::from(u16::MAX), u32::MAX]) & input.u32();
                self.rings.honest = false;
                self.rings.write(address.into(), input.short_piece());
            }
            12 => {
                let offset = input.choose(&REGISTERS) + u64::from(input.byte() / 0xf0);
                // Acknowledging is what honest drivers do all the time.
                self.rings.honest &= offset == register::INTERRUPT_ACK;
                let value = input.choose(&[u32::MAX, 0xff, 0xf]) & input.u32();
                self.write(offset, value);
            }
            13 => {
                let offset = u64::from(input.u16()) % 0x1010;
                let mut data = vec![0xee; usize::from(input.byte() % 17)];
                self.transport.read(offset, &mut data);
            }
            14 => {
                let offset = register::CONFIG + u64::from(input.byte());
                let width = usize::from(input.byte() % 9);
                self.transport.write(offset, input.piece(width));
            }
            _ => self.bring_up(input),
        }
    }

    /// Rings all bells, and lets the device do what comes of it.
    fn kick(&mut self) {
        for doorbell in self.transport.doorbells() {
            let _ = doorbell.write(1);
        }
        self.io.step();
        self.judge();
    }

    fn judge(&mut self) {
        self.rings.collect();
        let status = self.read(register::STATUS);
        assert!(
            !self.rings.honest || status & NEEDS_RESET == 0,
            "a driver that keeps to the rules needs no reset"
        );
    }
}
