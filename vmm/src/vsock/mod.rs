//! virtio-vsock: stream sockets between host and guest (section 5.10).
//!
//! To the guest the host is context id 2. On the host's side every connection is a `UnixStream`:
//!
//! - what the guest dials goes to a [service](device::Service) of the monitor, such as the
//!   integration channel, or to the Unix socket `<path>_<port>`;
//! - host programs connect to the Unix socket `<path>` and say `CONNECT <port>\n`, which is answered
//!   with `OK <host port>\n` once the guest has accepted.
//!
//! [`packet`] is the wire format, [`connection`] one connection's state, [`credit`] its accounts, [`mux`] all of
//! them with their sockets, [`handshake`] the `CONNECT` line, [`device`] the queues,
//! `room` the guest's buffers, `stream` the way of bytes between them and the sockets.

pub mod connection;
pub mod credit;
pub mod device;
pub mod handshake;
pub mod mux;
pub mod packet;
mod room;
mod stream;
#[cfg(test)]
mod test_guest;
