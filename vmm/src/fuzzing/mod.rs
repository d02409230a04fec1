//! What the fuzz targets run: one function each, which takes bytes from anywhere and panics if the
//! monitor does not do with them as it has to. Not a part of the library: it is there only for the
//! targets in `fuzz/`, and for the test that plays their corpus again.
//!
//! ```text
//! kernel, unpack          a kernel, an initrd; what is packed in a kernel
//! block ... balloon       a device's registers, rings and guest memory
//! vsock                   packets and host programs, judged by a model of the protocol
//! host_frames             what the host hears: from an agent, from a control client
//! agent_frames            what the others hear: the agent and the client
//! definition, hybrid      a definition file; what a host program says to reach the guest
//! qcow2                   the image of a disk
//! ```

mod blank;
mod boot;
mod devices;
mod disk;
mod frames;
mod input;
mod puppet;
mod rings;
mod vsock;

pub use boot::{kernel, unpack};
pub use devices::{balloon, block, console, net, rng, vsock_queues};
pub use disk::qcow2;
pub use frames::{agent_frames, definition, host_frames, hybrid};
pub use vsock::vsock;

/// A target's function.
pub type Target = fn(&[u8]);

/// The targets, by the names of their programs and folders.
pub const TARGETS: [(&str, Target); 14] = [
    ("agent_frames", agent_frames),
    ("balloon", balloon),
    ("block", block),
    ("console", console),
    ("definition", definition),
    ("host_frames", host_frames),
    ("hybrid", hybrid),
    ("kernel", kernel),
    ("net", net),
    ("qcow2", qcow2),
    ("rng", rng),
    ("unpack", unpack),
    ("vsock", vsock),
    ("vsock_queues", vsock_queues),
];

#[cfg(test)]
mod tests;
