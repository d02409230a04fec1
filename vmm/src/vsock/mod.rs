//! virtio-vsock: the socket device between host and guest.

pub mod connection;
pub mod device;
pub mod mux;
pub mod packet;
