//! virtio-net: a network interface on a tap of the host's (section 5.1).
//!
//! ```text
//! Interface  the tap and the address, from the machine's start to its end
//! Net        the device of one boot: features, configuration space, thread
//! Service    both queues while the driver runs, on that thread
//! Buffers    what the driver has given to be filled with packets that come
//! ```
//!
//! Packets go from guest memory into the tap and the other way without a stop in between: a call of
//! the system for each. With the features for it, guest and host leave checksums undone and TCP
//! uncut between them, up to 64 KiB in a packet, and such a packet takes as many of the driver's
//! buffers as it needs. What does not fit, or is no packet, is lost, as it would be on a wire.

mod buffers;
mod service;
mod told;

use crate::config::Mac;
use crate::confine::Role;
use crate::io::{IoThread, SourceId};
use crate::outcome::{LastWord, OutcomeSlot};
use crate::tap::{HEADER, Offloads, Tap, TapError, Wire};
use crate::usage::Usage;
use crate::virtio::{Activation, VirtioDevice, read_bytes};
use service::Service;
use std::io;
use std::sync::Arc;
use told::Told;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};

const DEVICE_TYPE: u32 = 1;
const QUEUE_SIZE: u16 = 256;
/// The queue of buffers for packets that come, and that of packets that go.
const QUEUE_SIZES: [u16; 2] = [QUEUE_SIZE, QUEUE_SIZE];
/// Bytes of the longest packet, uncut, with its header (section 5.1.6.3.1).
const LONGEST: usize = HEADER + 65_550;
/// The same of a packet that was cut for Ethernet.
const LONGEST_CUT: usize = HEADER + 1_514;

/// What is offered.
const FEATURES: [u32; 11] = [
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_STATUS,
];
/// What the driver does with packets that come, by the feature with which it says so.
const OFFLOADS: [(u32, Offloads); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, Offloads::CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, Offloads::TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, Offloads::TSO6),
    (VIRTIO_NET_F_GUEST_ECN, Offloads::ECN),
];

/// A machine's network interface.
#[derive(Clone)]
pub struct Interface {
    name: String,
    wire: Arc<dyn Wire>,
    mac: Mac,
    usage: Usage,
    told: Arc<Told>,
}

impl Interface {
    /// Takes the tap for the machine's interface number `index`, from 0, whose address is `mac`.
    /// What the guest receives and sends is counted in `usage`.
    ///
    /// # Errors
    /// The tap cannot be used.
    pub fn open(index: usize, tap: &str, mac: Mac, usage: &Usage) -> Result<Self, TapError> {
        Ok(Self::on(index, Arc::new(Tap::open(tap)?), mac, usage))
    }

    /// The interface of this wire.
    pub(crate) fn on(index: usize, wire: Arc<dyn Wire>, mac: Mac, usage: &Usage) -> Self {
        let (name, usage) = (format!("net-{index}"), usage.clone());
        let told = Arc::new(Told::of(&name));
        Self { name, wire, mac, usage, told }
    }
}

/// The device.
pub struct Net {
    interface: Interface,
    thread: IoThread,
    active: Option<SourceId>,
}

impl Net {
    /// The device of `interface` for one boot, whose end is said through `outcome` should the
    /// device's thread fail.
    ///
    /// # Errors
    /// No thread is left.
    pub fn new(interface: Interface, outcome: &OutcomeSlot) -> io::Result<Self> {
        let last_word = LastWord::of(&interface.name, outcome);
        let thread = IoThread::spawn_holding(Role::Net, &interface.name, last_word)?;
        Ok(Self { interface, thread, active: None })
    }

    /// What serves the device, to do so by hand.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn handle(&self) -> crate::io::IoHandle {
        self.thread.handle()
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURES.iter().fold(0, |all, feature| all | 1 << feature)
    }

    fn config_is_fixed(&self) -> bool {
        true
    }

    /// The configuration space (section 5.1.4): the address, and that the cable is in.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 8];
        config[..6].copy_from_slice(&self.interface.mac.bytes());
        config[6] = VIRTIO_NET_S_LINK_UP as u8;
        read_bytes(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let service = Service::new(activation, &self.interface)?;
        self.active = Some(self.thread.handle().add(Box::new(service))?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take() {
            self.thread.handle().remove(active);
        }
    }
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod real_tests;
#[cfg(test)]
mod test_wire;
#[cfg(test)]
mod tests;
