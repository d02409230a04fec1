//! The virtio-mmio transport: registers of virtio 1.2, section 4.2.
