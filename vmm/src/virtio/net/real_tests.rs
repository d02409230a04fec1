//! The device on a real tap, in a network of the test's own: what the kernel makes of headers.

use super::test_wire::{ADDRESS, RECEIVE, SEND, packet};
use super::{Interface, Net};
use crate::config::Mac;
use crate::outcome::OutcomeSlot;
use crate::tap::HEADER;
use crate::usage::Usage;
use crate::virtio::test_driver::{Driver, LIMIT};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

const TAP: &str = "tap0";
/// A protocol for experiments: nobody else sends it.
const PROTOCOL: [u8; 2] = [0x88, 0xb5];

/// The host's end: all packets of that protocol on the tap, without their headers.
struct Host {
    socket: OwnedFd,
}

impl Host {
    /// Brings the tap up and listens there.
    fn on_tap() -> Self {
        let number = i32::from(u16::from_be_bytes(PROTOCOL).to_be());
        // SAFETY: no memory is passed.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, number) };
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: libc::IFF_UP as libc::c_short },
        };
        for (to, from) in request.ifr_name.iter_mut().zip(TAP.bytes()) {
            *to = from as libc::c_char;
        }
        let fd = socket.as_raw_fd();
        // SAFETY: the kernel reads and writes one `ifreq`, which `request` is.
        let up = unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw mut request) };
        assert_eq!(up, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: likewise.
        let found = unsafe { libc::ioctl(fd, libc::SIOCGIFINDEX, &raw mut request) };
        assert_eq!(found, 0, "{}", std::io::Error::last_os_error());
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: u16::from_be_bytes(PROTOCOL).to_be(),
            // SAFETY: the last request has set this one.
            sll_ifindex: unsafe { request.ifr_ifru.ifru_ifindex },
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the kernel reads one `sockaddr_ll`, which `address` is.
        let bound = unsafe { libc::bind(fd, (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
        Self { socket }
    }

    fn gets(&self) -> Vec<u8> {
        let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
        let count = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(count, 1, "no packet comes");
        let mut bytes = vec![0; 1 << 17];
        let length = rustix::io::read(&self.socket, bytes.as_mut_slice()).unwrap();
        bytes.truncate(length);
        bytes
    }
}

/// A frame from the guest to the host.
fn frame(length: usize, seed: usize) -> Vec<u8> {
    let mut frame = packet(length, seed);
    frame[HEADER..HEADER + 6].fill(0xff);
    frame[HEADER + 6..HEADER + 12].copy_from_slice(&ADDRESS);
    frame[HEADER + 12..HEADER + 14].copy_from_slice(&PROTOCOL);
    frame
}

#[test]
fn the_kernel_takes_honest_packets_and_refuses_headers_that_lie() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        ::tests::not_tested("only root, on a host with /dev/net/tun, can make taps");
        return;
    }
    // SAFETY: of what threads share, this takes only the network.
    let alone = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    if let Err(error) = alone {
        ::tests::not_tested(&format!("no network of the test's own: {error}"));
        return;
    }
    let usage = Usage::default();
    let interface = Interface::open(0, TAP, Mac::new(ADDRESS).unwrap(), &usage).unwrap();
    let net = Net::new(interface, &OutcomeSlot::new().0).unwrap();
    let mut driver = Driver::start(Box::new(net));
    let send = |driver: &mut Driver, packet: &[u8]| {
        let (header, rest) = packet.split_at(HEADER);
        driver.add(SEND, &[header, rest], &[]);
        driver.kick(SEND);
        driver.wait(SEND);
    };
    // The tap is down: the packet is lost.
    send(&mut driver, &frame(60, 0));
    let host = Host::on_tap();
    for length in [60, 1514] {
        send(&mut driver, &frame(length, 1));
        assert_eq!(host.gets(), frame(length, 1)[HEADER..]);
    }
    // An honest header leaves the checksum undone: two bytes at 40, over all from 34 on.
    let mut unsummed = frame(60, 2);
    unsummed[..HEADER].copy_from_slice(&[1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0]);
    send(&mut driver, &unsummed);
    assert_eq!(host.gets().len(), 60);
    let before = usage.used().network_bytes_sent;
    for lie in [
        // A checksum outside of the packet, or wrapping around.
        [1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        [1, 0, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0],
        // To be cut, but into nothing; in a way that there is not; longer headers than packet.
        [1, 1, 54, 0, 0, 0, 34, 0, 6, 0, 0, 0],
        [1, 0x7f, 54, 0, 1, 0, 34, 0, 6, 0, 0, 0],
        [1, 1, 0xff, 0xff, 100, 0, 34, 0, 6, 0, 0, 0],
    ] {
        let mut packet = frame(60, 3);
        packet[..HEADER].copy_from_slice(&lie);
        send(&mut driver, &packet);
    }
    // Less than an Ethernet header.
    send(&mut driver, &frame(60, 3)[..HEADER + 13]);
    assert_eq!(usage.used().network_bytes_sent, before, "none of them was sent");
    send(&mut driver, &frame(100, 4));
    assert_eq!(host.gets(), frame(100, 4)[HEADER..], "an honest one comes next");

    let whole = frame(1000, 5);
    let length = rustix::io::write(&host.socket, &whole[HEADER..]).unwrap();
    assert_eq!(length, 1000);
    loop {
        driver.add(RECEIVE, &[], &[70_000]);
        driver.kick(RECEIVE);
        let (_, bytes) = driver.wait(RECEIVE);
        assert_eq!(bytes[..10], [0; 10]);
        assert_eq!(bytes[10..12], [1, 0]);
        // The host itself may have something to say to a new network.
        if bytes[24..26] == PROTOCOL {
            assert_eq!(bytes[HEADER..], whole[HEADER..]);
            break;
        }
    }
}
