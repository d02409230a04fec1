//! A vsock packet: the 44-byte header and the payload behind it.
