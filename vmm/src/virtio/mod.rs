//! Virtio devices: what a device is, and the MMIO transport that shows it to the guest.

pub mod mmio;
pub mod rng;
