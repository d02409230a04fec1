//! The queues that hostile rings are played against: each with what an honest driver does with it.

use crate::VMM;
use std::path::Path;
use tests::puppet::{Descriptor, Setting, linked};

/// Bytes of the guest's RAM, unless a case needs more.
pub(crate) const RAM: u64 = 32 << 20;
/// Where nobody has RAM: behind it, in the hole, at a device, at the end of what can be counted.
pub(crate) const NOWHERE: [u64; 5] = [RAM, 0xc000_0000, 0xd000_0000, 1 << 52, !0xfff];
/// What the device reads.
pub(crate) const READABLE: u64 = 0x100_0000;
/// What the device writes: two pages.
pub(crate) const WRITABLE: u64 = 0x110_0000;
/// Tables of descriptors: room for 65,536.
pub(crate) const TABLE: u64 = 0x120_0000;
/// Lists for storms.
pub(crate) const SCRATCH: u64 = 0x140_0000;
/// Pages that the balloon is given: one that it must take, one that it must not.
pub(crate) const SPARE: u64 = 0x150_0000;
pub(crate) const PRECIOUS: u64 = 0x151_0000;
/// Bytes of the guest's memory that are free, as a malicious driver says.
pub(crate) const MALICIOUS_FREE: u64 = 666;
/// What other queues need.
pub(crate) const ASIDE: u64 = 0x160_0000;
/// What the sectors of the disk have.
pub(crate) const ON_DISK: u8 = 0x5d;
/// Bytes of the disk.
pub(crate) const DISK_SIZE: usize = 1 << 20;
/// A port of the host that nobody listens on.
const DEAD_PORT: u32 = 4_000_000;
/// The port from which an honest guest dials.
pub(crate) const HONEST_PORT: u32 = 1000;
pub(crate) const TAP: &str = "hostile0";
/// Bytes that are before each packet, and of the shortest packet.
pub(crate) const NET_HEADER: usize = 12;
pub(crate) const PACKET: usize = 60;
/// What is in the packets that the guest is sent, and what is before that: the headers of Ethernet, IPv4
/// and UDP.
pub(crate) const DATAGRAM: &[u8] = b"for the guest here";
pub(crate) const HEADERS: usize = PACKET - DATAGRAM.len();

/// Who puts a chain into the queue: what they say and name is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driven {
    Honestly,
    /// What is asked for must not be done.
    Maliciously,
    /// It may be done, or not.
    Wildly,
}
use Driven::{Honestly, Maliciously, Wildly};

/// Which queue of which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Disk,
    Rng,
    ConsoleOut,
    ConsoleIn,
    Inflate,
    Deflate,
    Statistics,
    Reports,
    VsockOut,
    VsockIn,
    NetOut,
    /// Its buffers are kept until a packet comes.
    NetIn,
}
use Subject::{
    ConsoleIn, ConsoleOut, Deflate, Disk, Inflate, NetIn, NetOut, Reports, Rng, Statistics,
    VsockIn, VsockOut,
};

/// All of them that can be had here: networks are root's.
pub(crate) fn every() -> Vec<Subject> {
    let mut subjects = vec![
        Disk, Rng, ConsoleOut, ConsoleIn, Inflate, Deflate, Statistics, Reports, VsockOut, VsockIn,
    ];
    if rustix::process::geteuid().is_root() && Path::new("/dev/net/tun").exists() {
        subjects.extend([NetOut, NetIn]);
    } else {
        tests::not_tested("networks, because only root can make taps");
    }
    subjects
}

/// One of each device, and of the balloon one for each of the features that give it another queue:
/// with their [queues](Subject::queues) all that there are.
pub(crate) fn one_of_each_set_of_queues() -> Vec<Subject> {
    let alike = [ConsoleIn, Deflate, VsockIn, NetIn];
    every().into_iter().filter(|subject| !alike.contains(subject)).collect()
}

impl Subject {
    /// How many queues of its device are used.
    pub(crate) fn queues(self) -> usize {
        match self {
            Disk | Rng => 1,
            ConsoleOut | ConsoleIn | Inflate | Deflate | NetOut | NetIn => 2,
            Statistics | Reports | VsockOut | VsockIn => 3,
        }
    }

    /// The number of the device's type.
    pub(crate) fn kind(self) -> u32 {
        match self {
            NetOut | NetIn => 1,
            Disk => 2,
            ConsoleOut | ConsoleIn => 3,
            Rng => 4,
            Inflate | Deflate | Statistics | Reports => 5,
            VsockOut | VsockIn => 19,
        }
    }

    /// The number of the queue.
    pub(crate) fn queue(self) -> usize {
        match self {
            Disk | Rng | ConsoleIn | Inflate | VsockIn | NetIn => 0,
            ConsoleOut | Deflate | VsockOut | NetOut => 1,
            Statistics | Reports => 2,
        }
    }

    /// Features of the device type that are accepted.
    pub(crate) fn features(self) -> u64 {
        match self {
            Statistics => 1 << 1,
            Reports => 1 << 5,
            _ => 0,
        }
    }

    /// What an honest chain comes back with, in bytes.
    pub(crate) fn written(self) -> u32 {
        match self {
            Disk => 513,
            Rng => 32,
            ConsoleIn => 1,
            VsockIn => 44,
            NetIn => (NET_HEADER + PACKET) as u32,
            _ => 0,
        }
    }

    /// Bytes that the device is given to write.
    pub(crate) fn writable(self) -> u32 {
        match self {
            Disk => 513,
            Rng => 32,
            ConsoleIn => 16,
            NetIn => 2048,
            Reports | VsockIn => 4096,
            _ => 0,
        }
    }

    /// What the device is given to read.
    pub(crate) fn readable(self, driven: Driven) -> Vec<u8> {
        let honest = driven != Maliciously;
        match self {
            // Read the first sector.
            Disk => vec![0; 16],
            ConsoleOut => match driven {
                Honestly => b"honest!".to_vec(),
                Maliciously => b"malign!".to_vec(),
                Wildly => b"either!".to_vec(),
            },
            Inflate | Deflate => {
                let page = if honest { SPARE } else { PRECIOUS };
                ((page >> 12) as u32).to_le_bytes().to_vec()
            }
            Statistics => {
                let free = if honest { MALICIOUS_FREE + 1 } else { MALICIOUS_FREE };
                [&4_u16.to_le_bytes()[..], &free.to_le_bytes()].concat()
            }
            VsockOut => request(if honest { HONEST_PORT } else { 666 }),
            NetOut => {
                // No offloads; to all, from somebody, of an experimental kind.
                let mut packet = vec![0; NET_HEADER];
                packet.extend([0xff; 6]);
                packet.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
                packet.resize(NET_HEADER + PACKET, 0);
                packet
            }
            Rng | ConsoleIn | Reports | VsockIn | NetIn => Vec::new(),
        }
    }

    /// The chain of an honest driver, with which a malicious one begins.
    pub(crate) fn chain(self) -> Vec<Descriptor> {
        let mut chain = Vec::new();
        let readable = self.readable(Maliciously).len();
        if readable > 0 {
            chain.push(Descriptor::readable(READABLE, readable as u32));
        }
        if self.writable() > 0 {
            chain.push(Descriptor::writable(WRITABLE, self.writable()));
        }
        linked(&chain, 0)
    }

    /// The machine that has it; its files are in `folder`.
    pub(crate) fn setting(self, folder: &Path) -> Setting {
        let setting = Setting::new(VMM);
        match self {
            Disk => {
                let image = folder.join("disk");
                std::fs::write(&image, vec![ON_DISK; DISK_SIZE]).unwrap();
                setting.with(&["--disk", &format!("path={}", image.display())])
            }
            ConsoleOut | ConsoleIn => setting.with(&["--console-device", "virtio"]),
            NetOut | NetIn => setting.with(&["--net", &format!("tap={TAP}")]),
            _ => setting,
        }
    }
}

/// A packet that asks for a connection from `port` of the guest to where nobody listens.
pub(crate) fn request(port: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(3_u64.to_le_bytes());
    packet.extend(2_u64.to_le_bytes());
    packet.extend(port.to_le_bytes());
    packet.extend(DEAD_PORT.to_le_bytes());
    packet.extend(0_u32.to_le_bytes());
    packet.extend(1_u16.to_le_bytes());
    packet.extend(1_u16.to_le_bytes());
    packet.resize(44, 0);
    packet
}
