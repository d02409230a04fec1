//! virtio-rng: the host's entropy for the guest.
