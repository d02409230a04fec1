//! The devices, each with what its driver says to it and what the host does with it.

use super::blank;
use super::input::Input;
use super::puppet::{Subject, play};
use crate::config::{Disk, DiskFormat, Mac};
use crate::console::port::Port;
use crate::console::{ConsoleOutput, TerminalSize};
use crate::io::by_hand::without_threads;
use crate::io::{IoHandle, IoThread};
use crate::outcome::OutcomeSlot;
use crate::tap::{HEADER, Offloads, Wire};
use crate::usage::Usage;
use crate::virtio::VirtioDevice;
use crate::virtio::balloon::{Balloon, BalloonControl};
use crate::virtio::block::{Block, Drive};
use crate::virtio::console::{INPUT_LIMIT, Input as Keys, VirtioConsole};
use crate::virtio::net::{Interface, Net};
use crate::virtio::rng::Rng;
use crate::vsock::device::{Service, Vsock, VsockConfig};
use crate::vsock::packet::{HOST_CID, Header, TYPE_STREAM};
use crossbeam_channel::{Receiver, bounded};
use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatCreateBuilder};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use zerocopy::IntoBytes;

/// What serves a device, step by step.
fn io() -> IoThread {
    without_threads(|| IoThread::spawn("io")).expect("descriptors are left")
}

/// virtio-rng.
pub fn rng(data: &[u8]) {
    struct Randomness(IoThread);
    impl Subject for Randomness {
        fn device(&mut self) -> (Box<dyn VirtioDevice>, IoHandle) {
            let io = self.0.handle();
            (Box::new(Rng::new(io.clone())), io)
        }

        fn header(&mut self, _: usize, _: &mut Input<'_>) -> Vec<u8> {
            Vec::new()
        }

        fn act(&mut self, _: &mut Input<'_>) {}

        fn answers(&self, _: usize) -> bool {
            true
        }
    }
    play(Randomness(io()), data);
}

/// Bytes of the disks.
const DISK: u64 = 256 << 10;

/// A qcow2 image of a disk of [`DISK`] bytes, all zeroes.
static QCOW2: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let (mut file, path) = blank::file(&[]);
    let storage = File::options().read(true).write(true).open(path);
    let storage = Storage::try_from(storage.expect("the file is there"));
    Qcow2::<Storage, FormatAccess<Storage>>::create_builder(storage.expect("it is a file"))
        .size(DISK)
        .create()
        .expect("memory is left");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("it can be read");
    bytes
});

/// virtio-blk, on a raw disk, one that can only be read, or a qcow2 image, as the first byte has it.
pub fn block(data: &[u8]) {
    struct Storage {
        _file: File,
        drive: Arc<Drive>,
    }
    impl Subject for Storage {
        fn device(&mut self) -> (Box<dyn VirtioDevice>, IoHandle) {
            let block = Block::new(self.drive.clone(), OutcomeSlot::new().0);
            (Box::new(block), self.drive.handle())
        }

        fn header(&mut self, _: usize, input: &mut Input<'_>) -> Vec<u8> {
            let kind = input.choose(&[0_u32, 1, 4, 8, 11, 13, 2, u32::MAX]);
            let last = DISK / 512;
            let sector = match input.byte() {
                at @ 0..250 => u64::from(at),
                250 => last - 1,
                251 => last,
                252 => u64::MAX,
                253 => u64::MAX / 512,
                _ => input.u64(),
            };
            [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
        }

        fn act(&mut self, _: &mut Input<'_>) {}

        fn answers(&self, _: usize) -> bool {
            true
        }
    }
    let (kind, data) = data.split_first().unwrap_or((&0, &[]));
    let (format, content) = match kind % 3 {
        2 => (DiskFormat::Qcow2, QCOW2.as_slice()),
        _ => (DiskFormat::Raw, &[][..]),
    };
    let (file, path) = blank::file(content);
    if format == DiskFormat::Raw {
        file.set_len(DISK).expect("memory is left");
    }
    let disk = Disk { format, readonly: kind % 3 == 1, ..Disk::new(path) };
    let drive = without_threads(|| Drive::open(0, &disk, &Usage::default()));
    let drive = drive.expect("the disk can be used");
    play(Storage { _file: file, drive: Arc::new(drive) }, data);
}

/// virtio-net, on a socket in place of a tap.
pub fn net(data: &[u8]) {
    struct Socket(OwnedFd);
    impl AsRawFd for Socket {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_raw_fd()
        }
    }
    impl Wire for Socket {
        fn set_offloads(&self, _: Offloads) -> io::Result<()> {
            Ok(())
        }
    }
    struct Network {
        host: OwnedFd,
        interface: Interface,
    }
    impl Subject for Network {
        fn device(&mut self) -> (Box<dyn VirtioDevice>, IoHandle) {
            let outcome = OutcomeSlot::new().0;
            let net = without_threads(|| Net::new(self.interface.clone(), &outcome));
            let net = net.expect("descriptors are left");
            let handle = net.handle();
            (Box::new(net), handle)
        }

        fn header(&mut self, _: usize, input: &mut Input<'_>) -> Vec<u8> {
            [&[0; HEADER], input.short_piece()].concat()
        }

        fn act(&mut self, input: &mut Input<'_>) {
            if input.byte() & 1 == 0 {
                let length = usize::from(input.u16()) + 2 * usize::from(input.byte());
                // The queue of the socket may be full.
                let _ = rustix::net::send(&self.host, &vec![7; length], SendFlags::NOSIGNAL);
            } else {
                let mut bytes = vec![0; 1 << 17];
                let flags = RecvFlags::empty();
                while let Ok((length, _)) =
                    rustix::net::recv(&self.host, bytes.as_mut_slice(), flags)
                {
                    assert!((HEADER..=HEADER + 65_550).contains(&length), "{length} bytes sent");
                }
            }
        }

        fn answers(&self, queue: usize) -> bool {
            queue == 1
        }
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let (host, end) = pair.expect("descriptors are left");
    let mac = Mac::new([2, 0, 0, 0, 0, 1]).expect("it is one");
    let interface = Interface::on(0, Arc::new(Socket(end)), mac, &Usage::default());
    play(Network { host, interface }, data);
}

/// virtio-console.
pub fn console(data: &[u8]) {
    struct Terminal {
        io: IoThread,
        keys: Arc<Mutex<Keys>>,
        output: ConsoleOutput,
    }
    impl Subject for Terminal {
        fn device(&mut self) -> (Box<dyn VirtioDevice>, IoHandle) {
            let io = self.io.handle();
            let size = Some(TerminalSize { columns: 80, rows: 24 });
            let (keys, output) = (self.keys.clone(), self.output.clone());
            (Box::new(VirtioConsole::new(keys, output, size, io.clone())), io)
        }

        fn header(&mut self, _: usize, input: &mut Input<'_>) -> Vec<u8> {
            input.short_piece().to_vec()
        }

        fn act(&mut self, input: &mut Input<'_>) {
            if input.byte() & 1 == 0 {
                let mut keys = self.keys.lock().expect("nobody has panicked");
                let typed = vec![b'k'; usize::from(input.u16())];
                assert!(keys.receive(&typed) <= INPUT_LIMIT);
                assert!(keys.room() <= INPUT_LIMIT);
            } else {
                let _ = self.output.take();
                let _ = self.output.panic();
            }
        }

        fn answers(&self, queue: usize) -> bool {
            queue == 1
        }
    }
    let keys = Keys::new().expect("descriptors are left");
    let output = ConsoleOutput::new().expect("a descriptor is left");
    play(Terminal { io: io(), keys: Arc::new(Mutex::new(keys)), output }, data);
}

/// virtio-balloon.
pub fn balloon(data: &[u8]) {
    /// Pages before this one have the rings.
    const FIRST: u32 = 0x40;
    struct Pressure(BalloonControl, IoThread);
    impl Subject for Pressure {
        fn device(&mut self) -> (Box<dyn VirtioDevice>, IoHandle) {
            let io = self.1.handle();
            (Box::new(Balloon::new(self.0.clone(), io.clone())), io)
        }

        fn header(&mut self, queue: usize, input: &mut Input<'_>) -> Vec<u8> {
            let piece = input.short_piece();
            if queue >= 2 {
                return piece.to_vec();
            }
            let page = |at: &[u8; 2]| (FIRST + u32::from(u16::from_le_bytes(*at))).to_le_bytes();
            piece.as_chunks::<2>().0.iter().flat_map(page).collect()
        }

        fn act(&mut self, input: &mut Input<'_>) {
            match input.byte() % 3 {
                0 => {
                    let _ = self.0.set_target(u64::from(input.u32()) << (input.byte() % 20));
                }
                1 => {
                    let _ = self.0.fresh_info(Duration::ZERO);
                }
                _ => {
                    let _ = serde_json::to_string(&self.0.info()).expect("it can be told");
                }
            }
        }

        fn answers(&self, queue: usize) -> bool {
            queue < 2
        }

        fn is_harmless(&self, queue: usize) -> bool {
            queue > 0
        }
    }
    let control = BalloonControl::new(512 << 20).expect("a descriptor is left");
    play(Pressure(control, io()), data);
}

/// virtio-vsock, its queues above all; `vsock` is about what goes through them.
pub fn vsock_queues(data: &[u8]) {
    const OPEN: u32 = 5000;
    const PRIVILEGED: u32 = 5001;
    struct Sockets {
        io: IoThread,
        arriving: Receiver<UnixStream>,
        config: Option<VsockConfig>,
        streams: Vec<UnixStream>,
    }
    impl Subject for Sockets {
        fn device(&mut self) -> (Box<dyn VirtioDevice>, IoHandle) {
            let io = self.io.handle();
            let config = self.config.take().expect("there is one device");
            (Box::new(Vsock::new(config, io.clone())), io)
        }

        fn header(&mut self, queue: usize, input: &mut Input<'_>) -> Vec<u8> {
            if queue != 1 {
                return Vec::new();
            }
            let choice = input.byte();
            let op = u16::from(choice % 10);
            let port = [OPEN, PRIVILEGED, 9, 1 << 30][usize::from(choice >> 6)];
            let content = input.short_piece();
            let length = match input.byte() {
                0..200 => content.len() as u32,
                200..250 => input.byte().into(),
                _ => input.u32(),
            };
            let header = Header {
                src_cid: if choice & 0x20 != 0 { input.u64() } else { 3 }.into(),
                dst_cid: HOST_CID.into(),
                src_port: u32::from(1020 + input.u16() % 8).into(),
                dst_port: port.into(),
                length: length.into(),
                kind: TYPE_STREAM.into(),
                op: op.into(),
                flags: u32::from(input.byte()).into(),
                buf_alloc: (u32::from(input.u16()) << 4).into(),
                fwd_cnt: u32::from(input.u16()).into(),
            };
            [header.as_bytes(), content].concat()
        }

        fn act(&mut self, input: &mut Input<'_>) {
            for stream in self.arriving.try_iter() {
                stream.set_nonblocking(true).expect("it is a socket");
                self.streams.push(stream);
            }
            let choice = input.byte();
            let which = usize::from(choice >> 2) % self.streams.len().max(1);
            let Some(stream) = self.streams.get_mut(which) else { return };
            match choice % 4 {
                0 => {
                    let _ = stream.write(&vec![9; usize::from(input.u16())]);
                }
                1 => {
                    let _ = stream.read(&mut vec![0; usize::from(input.u16())]);
                }
                2 => {
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                }
                _ => drop(self.streams.swap_remove(which)),
            }
        }

        fn answers(&self, _: usize) -> bool {
            false
        }
    }
    let (accept, arriving) = bounded(8);
    let service =
        |port, privileged| Service { port, privileged, accept: accept.clone(), bell: None };
    let config = VsockConfig {
        guest_cid: 3,
        listener: None,
        guest_sockets: None,
        services: vec![service(OPEN, false), service(PRIVILEGED, true)],
    };
    play(Sockets { io: io(), arriving, config: Some(config), streams: Vec::new() }, data);
}
