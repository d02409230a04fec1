//! The I/O APIC: turns interrupt lines into messages to the local APICs.
//!
//! The irqchip is *split*: KVM has the local APICs, this file the I/O APIC (Intel 82093AA). Each
//! pin's redirection entry, which the guest writes, becomes an MSI route of KVM's interrupt
//! routing table, so that a device's eventfd interrupts the guest without passing through here.
//! A masked pin has no route: an edge on it is lost, as it is in the chip.
//!
//! All lines of this machine are edge-triggered. A guest that programs a pin as level-triggered
//! gets one message an edge; there is no line whose level could repeat it.

use crate::bus::BusDevice;
use crate::x86::layout::IOAPIC_PINS;
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry};
use kvm_ioctls::VmFd;
use std::sync::Arc;

/// Offset of the register that selects what the window shows.
const SELECT: u64 = 0x00;
/// Offset of the window.
const WINDOW: u64 = 0x10;

/// Registers behind the window.
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
/// Two registers a redirection entry, low half first.
const REDIRECTION: u8 = 0x10;

/// Version 0x11, and the number of the last entry.
const VERSION_VALUE: u32 = 0x11 | ((IOAPIC_PINS - 1) << 16);

/// Bits of a redirection entry that the guest can write: vector, delivery and destination mode,
/// polarity, trigger mode, mask, destination. Delivery status and remote IRR are the chip's.
const WRITABLE: u64 = 0xff00_0000_0001_afff;
const MASKED: u64 = 1 << 16;

/// Where a pin's entries go: KVM, or a test.
pub trait Routes: Send {
    /// Replaces all routes by `entries`.
    ///
    /// # Errors
    /// The kernel's, as it gave it.
    fn set(&mut self, entries: &[kvm_irq_routing_entry]) -> Result<(), kvm_ioctls::Error>;
}

impl Routes for Arc<VmFd> {
    fn set(&mut self, entries: &[kvm_irq_routing_entry]) -> Result<(), kvm_ioctls::Error> {
        // No more entries than pins: the list's own limit is far away.
        let routing = KvmIrqRouting::from_entries(entries)
            .map_err(|_| kvm_ioctls::Error::new(libc::EINVAL))?;
        self.set_gsi_routing(&routing)
    }
}

/// The chip.
pub struct IoApic<R> {
    routes: R,
    select: u8,
    id: u8,
    entries: [u64; IOAPIC_PINS as usize],
}

impl<R: Routes> IoApic<R> {
    /// A chip after reset: every pin is masked.
    #[must_use]
    pub fn new(routes: R) -> Self {
        Self { routes, select: 0, id: 0, entries: [MASKED; IOAPIC_PINS as usize] }
    }

    fn register(&self) -> u32 {
        match self.select {
            ID | ARBITRATION => u32::from(self.id) << 24,
            VERSION => VERSION_VALUE,
            register => match self.entry_of(register) {
                Some((pin, high)) => (self.entries[pin] >> if high { 32 } else { 0 }) as u32,
                None => 0,
            },
        }
    }

    fn set_register(&mut self, value: u32) {
        if self.select == ID {
            self.id = (value >> 24) as u8 & 0xf;
            return;
        }
        let Some((pin, high)) = self.entry_of(self.select) else { return };
        let old = self.entries[pin];
        let new = if high {
            (old & 0xffff_ffff) | (u64::from(value) << 32)
        } else {
            (old & !0xffff_ffff) | u64::from(value)
        } & WRITABLE;
        self.entries[pin] = new;
        // Changing the routes makes the kernel wait for all who read them: do it only where the
        // guest can tell the difference.
        if new != old && (new & MASKED == 0 || old & MASKED == 0) {
            self.update_routes();
        }
    }

    /// The pin that `register` belongs to, and whether it is the entry's high half.
    fn entry_of(&self, register: u8) -> Option<(usize, bool)> {
        let at = register.checked_sub(REDIRECTION)?;
        let pin = usize::from(at / 2);
        (pin < self.entries.len()).then_some((pin, at % 2 == 1))
    }

    fn update_routes(&mut self) {
        let routes: Vec<_> = (0..)
            .zip(self.entries)
            .filter(|(_, entry)| entry & MASKED == 0)
            .map(|(pin, entry)| route(pin, entry))
            .collect();
        if let Err(error) = self.routes.set(&routes) {
            tracing::error!(%error, "interrupt routes refused; the guest will miss interrupts");
        }
    }
}

/// The message that a line's entry stands for (Intel SDM volume 3, 11.11).
fn route(pin: u32, entry: u64) -> kvm_irq_routing_entry {
    let vector = entry as u32 & 0xff;
    let delivery_mode = (entry >> 8) as u32 & 7;
    let destination_mode = (entry >> 11) as u32 & 1;
    let trigger_mode = (entry >> 15) as u32 & 1;
    let destination = (entry >> 56) as u32;
    let mut route = kvm_irq_routing_entry {
        gsi: pin,
        type_: KVM_IRQ_ROUTING_MSI,
        ..kvm_irq_routing_entry::default()
    };
    route.u.msi.address_lo = 0xfee0_0000 | (destination << 12) | (destination_mode << 2);
    route.u.msi.data = vector | (delivery_mode << 8) | (trigger_mode << 15);
    route
}

impl<R: Routes> BusDevice for IoApic<R> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let value = match offset {
            SELECT => u32::from(self.select),
            WINDOW => self.register(),
            _ => return,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECT, &[select, ..]) => self.select = select,
            (WINDOW, &[a, b, c, d]) => self.set_register(u32::from_le_bytes([a, b, c, d])),
            // The chip knows no narrower and no wider writes to its window.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A routing table: (gsi, address, data) of each route.
    type Table = Vec<(u32, u32, u32)>;

    /// Keeps every table that the chip asks for.
    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<Table>>>);

    impl Routes for Recorder {
        fn set(&mut self, entries: &[kvm_irq_routing_entry]) -> Result<(), kvm_ioctls::Error> {
            let rows = entries
                .iter()
                .map(|entry| {
                    // SAFETY: the entry was made as an MSI route just before.
                    let msi = unsafe { entry.u.msi };
                    (entry.gsi, msi.address_lo, msi.data)
                })
                .collect();
            self.0.lock().unwrap().push(rows);
            Ok(())
        }
    }

    fn write(chip: &mut IoApic<Recorder>, register: u8, value: u32) {
        chip.write(SELECT, &u32::from(register).to_le_bytes());
        chip.write(WINDOW, &value.to_le_bytes());
    }

    fn read(chip: &mut IoApic<Recorder>, register: u8) -> u32 {
        chip.write(SELECT, &[register]);
        let mut data = [0; 4];
        chip.read(WINDOW, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn an_unmasked_pin_becomes_the_message_that_its_entry_describes() {
        let recorder = Recorder::default();
        let mut chip = IoApic::new(recorder.clone());
        write(&mut chip, REDIRECTION + 9, 0x0300_0000);
        assert!(recorder.0.lock().unwrap().is_empty(), "a masked pin has no route");
        write(&mut chip, REDIRECTION + 8, 0x0000_0931);
        assert_eq!(recorder.0.lock().unwrap().last().unwrap(), &[(4, 0xfee0_3004, 0x0131)]);
        write(&mut chip, REDIRECTION + 8, 0x0001_0931);
        assert_eq!(recorder.0.lock().unwrap().last().unwrap(), &[], "masked again");
    }

    #[test]
    fn routes_are_set_only_when_something_changes() {
        let recorder = Recorder::default();
        let mut chip = IoApic::new(recorder.clone());
        for _ in 0..3 {
            write(&mut chip, REDIRECTION, 0x0000_0031);
        }
        write(&mut chip, REDIRECTION + 2, 0x0001_0032);
        assert_eq!(recorder.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn the_guest_cannot_write_what_is_the_chips() {
        let mut chip = IoApic::new(Recorder::default());
        write(&mut chip, REDIRECTION, u32::MAX);
        write(&mut chip, REDIRECTION + 1, u32::MAX);
        assert_eq!(read(&mut chip, REDIRECTION), 0x0001_afff);
        assert_eq!(read(&mut chip, REDIRECTION + 1), 0xff00_0000);
        write(&mut chip, VERSION, 0);
        assert_eq!(read(&mut chip, VERSION), 0x0017_0011);
    }

    #[test]
    fn every_register_offset_and_width_is_answered() {
        let mut chip = IoApic::new(Recorder::default());
        for register in 0..=u8::MAX {
            write(&mut chip, register, u32::MAX);
            for offset in 0..0x40 {
                for width in [1, 2, 4, 8] {
                    chip.read(offset, &mut vec![0; width]);
                }
            }
            read(&mut chip, register);
        }
        for width in [1, 2, 8] {
            chip.write(WINDOW, &vec![0xff; width]);
        }
    }
}
