//! A network for tests: a socket pair in place of the tap, whose other end the test has, and a driver
//! of the device.

use super::service::Service;
use super::{Interface, Net};
use crate::config::Mac;
use crate::io::by_hand::ByHand;
use crate::outcome::OutcomeSlot;
use crate::tap::{HEADER, Offloads, Wire};
use crate::usage::Usage;
use crate::virtio::test_driver::{Driver, LIMIT, Manner};
use crate::virtio::test_turns::hold;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};

/// The queue of buffers for packets that come.
pub(crate) const RECEIVE: usize = 0;
/// The queue of packets that go.
pub(crate) const SEND: usize = 1;

pub(crate) const ADDRESS: [u8; 6] = [2, 0, 0, 0xab, 0xcd, 0xef];

/// What is read in the socket's place, and how many times more.
type Fault = Arc<Mutex<Option<(OwnedFd, usize)>>>;

/// The device's end.
struct Socket {
    end: OwnedFd,
    fault: Fault,
    offloads: Arc<Mutex<Vec<Offloads>>>,
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self.fault.lock().unwrap().as_mut() {
            Some((instead, times)) if *times > 0 => {
                *times -= 1;
                instead.as_raw_fd()
            }
            _ => self.end.as_raw_fd(),
        }
    }
}

impl Wire for Socket {
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.offloads.lock().unwrap().push(offloads);
        Ok(())
    }
}

/// A packet with its header.
pub(crate) fn packet(length: usize, seed: usize) -> Vec<u8> {
    let frame = (0..length).map(|index| ((index + seed) % 251) as u8);
    [0; HEADER].into_iter().chain(frame).collect()
}

/// A guest with one network interface.
pub(crate) struct Guest {
    pub(crate) driver: Driver,
    pub(crate) usage: Usage,
    host: OwnedFd,
    offloads: Arc<Mutex<Vec<Offloads>>>,
    fault: Fault,
}

impl Guest {
    pub(crate) fn start() -> Self {
        Self::start_refusing(&[], 0)
    }

    /// A guest that does not accept some of the device's features, with interface number `index`.
    pub(crate) fn start_refusing(refused: &[u32], index: usize) -> Self {
        let refused = refused.iter().fold(0, |all, feature| all | 1 << feature);
        Self::start_as(Manner { refused, ..Manner::default() }, index)
    }

    /// A guest whose driver sets interface number `index` up in that manner.
    pub(crate) fn start_as(manner: Manner, index: usize) -> Self {
        let start = |interface| {
            let net = Net::new(interface, &OutcomeSlot::new().0).unwrap();
            Driver::start_as(Box::new(net), manner)
        };
        Self::on_wire(index, start)
    }

    /// A guest whose device is served by hand.
    pub(crate) fn by_hand() -> (Self, ByHand<Service>) {
        let mut service = None;
        let start = |interface: Interface| {
            let (driver, held) = hold(&Net::new(interface.clone(), &OutcomeSlot::new().0).unwrap());
            service = Some(Service::new(held.take(), &interface).unwrap());
            driver
        };
        let guest = Self::on_wire(0, start);
        (guest, ByHand::start(service.unwrap()))
    }

    fn on_wire(index: usize, start: impl FnOnce(Interface) -> Driver) -> Self {
        let (host, end) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (usage, offloads) = (Usage::default(), Arc::<Mutex<_>>::default());
        let fault = Fault::default();
        let wire = Arc::new(Socket { end, fault: fault.clone(), offloads: offloads.clone() });
        let interface = Interface::on(index, wire, Mac::new(ADDRESS).unwrap(), &usage);
        Self { driver: start(interface), usage, host, offloads, fault }
    }

    /// From now on, the device reads `instead`, so many times.
    pub(crate) fn reads(&self, instead: impl Into<OwnedFd>, times: usize) {
        *self.fault.lock().unwrap() = Some((instead.into(), times));
    }

    /// How many of these times are left.
    pub(crate) fn reads_left(&self) -> usize {
        self.fault.lock().unwrap().as_ref().map_or(0, |(_, times)| *times)
    }

    /// What was set as the driver came up.
    pub(crate) fn offloads(&self) -> Vec<Offloads> {
        self.offloads.lock().unwrap().clone()
    }

    /// The host sends `packet` to the guest; false if there is no room.
    pub(crate) fn try_host_sends(&self, packet: &[u8]) -> bool {
        match rustix::net::send(&self.host, packet, SendFlags::NOSIGNAL) {
            Ok(length) => {
                assert_eq!(length, packet.len());
                true
            }
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                false
            }
        }
    }

    pub(crate) fn host_sends(&self, packet: &[u8]) {
        assert!(self.try_host_sends(packet), "there is room");
    }

    /// The next packet that the host gets, if one has come.
    pub(crate) fn try_host_gets(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 1 << 17];
        match rustix::net::recv(&self.host, bytes.as_mut_slice(), RecvFlags::empty()) {
            Ok((length, _)) => {
                bytes.truncate(length);
                Some(bytes)
            }
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                None
            }
        }
    }

    /// The next packet that the host gets.
    pub(crate) fn host_gets(&self) -> Vec<u8> {
        let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
        let count = poll(&mut [PollFd::new(&self.host, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(count, 1, "no packet comes");
        self.try_host_gets().unwrap()
    }

    /// The guest sends `pieces` as one packet, and waits until the device has given it back.
    pub(crate) fn sends(&mut self, pieces: &[&[u8]]) {
        let head = self.driver.add(SEND, pieces, &[]);
        self.driver.kick(SEND);
        assert_eq!(self.driver.wait(SEND), (head, Vec::new()));
    }

    /// The guest gives a buffer of `pieces` bytes.
    pub(crate) fn gives(&mut self, pieces: &[usize]) {
        self.driver.add(RECEIVE, &[], pieces);
        self.driver.kick(RECEIVE);
    }

    /// The next packet that the guest gets: the header says how many buffers it has.
    pub(crate) fn gets(&mut self) -> Vec<u8> {
        let (_, mut bytes) = self.driver.wait(RECEIVE);
        let count = u16::from_le_bytes([bytes[10], bytes[11]]);
        for _ in 1..count {
            // All of them are there when the first one is.
            bytes.extend(self.driver.take(RECEIVE).expect("the rest of the packet").1);
        }
        bytes[10..12].fill(0);
        bytes
    }

    /// Everything still works.
    pub(crate) fn still_works(&mut self) {
        assert_eq!(self.driver.status(), 15);
        let packet = packet(60, 1);
        self.sends(&[&packet]);
        assert_eq!(self.host_gets(), packet);
        self.host_sends(&packet);
        self.gives(&[70_000]);
        assert_eq!(self.gets(), packet);
    }
}
