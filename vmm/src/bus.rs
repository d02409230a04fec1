//! The address buses: which device answers at which port or physical address.
//!
//! The machine has two: port I/O (64 KiB of ports) and memory-mapped I/O (everything that is not
//! RAM). The bus decides what a guest sees of an access that nobody answers: reads give all ones,
//! writes vanish, as on a PC.

use std::sync::{Arc, Mutex, PoisonError};

/// A device's side of a bus: registers at offsets from the device's base.
///
/// The guest chooses offset and length (1, 2, 4 or 8 bytes); a device must accept all of them.
pub trait BusDevice: Send {
    /// Fills `data` with what the registers at `offset` hold.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Stores `data` to the registers at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device that a bus and its owner both hold.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;

/// Why a device could not be put on a bus.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Another device is there already, the range is empty, or it wraps.
    #[error("bus range {base:#x}+{length:#x} is not free")]
    Occupied {
        /// First address.
        base: u64,
        /// Length in bytes.
        length: u64,
    },
}

struct Slot {
    base: u64,
    length: u64,
    device: SharedDevice,
}

/// A map from address ranges to devices.
#[derive(Default)]
pub struct Bus {
    slots: Vec<Slot>,
}

impl Bus {
    /// Puts `device` at `base`, `length` bytes long.
    ///
    /// # Errors
    /// The range is empty, wraps, or overlaps another device's.
    pub fn insert(&mut self, base: u64, length: u64, device: SharedDevice) -> Result<(), BusError> {
        let occupied = BusError::Occupied { base, length };
        let Some(end) = base.checked_add(length).filter(|_| length > 0) else {
            return Err(occupied);
        };
        let at = self.slots.partition_point(|slot| slot.base < base);
        let before = at.checked_sub(1).and_then(|index| self.slots.get(index));
        if before.is_some_and(|slot| slot.base + slot.length > base)
            || self.slots.get(at).is_some_and(|slot| slot.base < end)
        {
            return Err(occupied);
        }
        self.slots.insert(at, Slot { base, length, device });
        Ok(())
    }

    /// Reads from whichever device answers at `address`; all ones if none does.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => {
                device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// Writes to whichever device answers at `address`; nothing happens if none does.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        }
    }

    /// The device that holds all of `address..address + length`, and the offset in it.
    fn find(&self, address: u64, length: usize) -> Option<(&SharedDevice, u64)> {
        let at = self.slots.partition_point(|slot| slot.base <= address).checked_sub(1)?;
        let slot = self.slots.get(at)?;
        let offset = address - slot.base;
        let end = offset.checked_add(length as u64)?;
        (end <= slot.length).then_some((&slot.device, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Latch([u8; 8]);

    impl BusDevice for Latch {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            let offset = offset as usize;
            data.copy_from_slice(&self.0[offset..offset + data.len()]);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            let offset = offset as usize;
            self.0[offset..offset + data.len()].copy_from_slice(data);
        }
    }

    fn latch() -> SharedDevice {
        Arc::new(Mutex::new(Latch([0; 8])))
    }

    #[test]
    fn an_access_reaches_its_device_at_the_right_offset() {
        let mut bus = Bus::default();
        bus.insert(0x100, 8, latch()).unwrap();
        bus.write(0x102, &[7, 9]);
        let mut data = [0; 4];
        bus.read(0x100, &mut data);
        assert_eq!(data, [0, 0, 7, 9]);
    }

    #[test]
    fn nobody_answers_with_all_ones_and_an_access_over_the_edge_is_nobodys() {
        let mut bus = Bus::default();
        bus.insert(0x100, 8, latch()).unwrap();
        for address in [0, 0xff, 0x106, 0x108, u64::MAX] {
            let mut data = [0; 4];
            bus.write(address, &[1; 4]);
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 4], "at {address:#x}");
        }
    }

    #[test]
    fn ranges_never_overlap_wrap_or_vanish() {
        let mut bus = Bus::default();
        bus.insert(0x100, 8, latch()).unwrap();
        for (base, length) in [(0xf8, 9), (0x107, 1), (0x100, 8), (0, 0x1000), (0x200, 0)] {
            assert!(bus.insert(base, length, latch()).is_err(), "{base:#x}+{length:#x}");
        }
        assert!(bus.insert(u64::MAX, 2, latch()).is_err());
        bus.insert(0xf8, 8, latch()).unwrap();
        bus.insert(0x108, 8, latch()).unwrap();
    }
}
