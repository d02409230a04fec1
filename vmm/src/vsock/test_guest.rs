//! A guest for tests: the other side of the vsock device, down to its credit.

use crate::io::{IoThread, Registry, Source};
use crate::virtio::test_driver::{Driver, LIMIT};
use crate::vsock::connection::Ports;
use crate::vsock::credit::BUF_ALLOC;
use crate::vsock::device::{Service, Vsock, VsockConfig};
use crate::vsock::packet::{HEADER, HOST_CID, Header, TYPE_STREAM, op};
use crossbeam_channel::{Receiver, bounded};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use vmm_sys_util::epoll::EventSet;
use zerocopy::{FromBytes, IntoBytes};

pub(super) const RECEIVE: usize = 0;
pub(super) const TRANSMIT: usize = 1;

pub(super) const GUEST_CID: u64 = 3;
/// A port of the host that takes whoever dials it.
pub(super) const OPEN: u32 = 5000;
/// A port of the host that takes privileged ports only.
pub(super) const PRIVILEGED: u32 = 5001;
/// A port of the host with room for one connection.
pub(super) const NARROW: u32 = 5002;
/// A port where nobody is.
const NOBODY: u32 = 9;
/// Bytes of the guest's receive buffer.
pub(super) const GUEST_BUFFER: u32 = 256 * 1024;

/// The guest, and the host that it can reach.
pub(super) struct Guest {
    pub(super) driver: Driver,
    /// The receive buffers' shapes, by their first descriptor.
    shapes: HashMap<u16, Vec<usize>>,
    /// How packets that are sent are cut into descriptors, over and over.
    pub(super) cuts: Vec<usize>,
    /// Packets go through tables of their own.
    pub(super) indirect: bool,
    pub(super) open: Receiver<UnixStream>,
    pub(super) privileged: Receiver<UnixStream>,
    pub(super) narrow: Receiver<UnixStream>,
    directory: tempfile::TempDir,
    pub(super) io: IoThread,
}

impl Guest {
    /// A guest with receive buffers as Linux has them.
    pub(super) fn new() -> Self {
        let mut guest = Self::without_buffers();
        for _ in 0..64 {
            guest.post(&[4096]);
        }
        guest
    }

    pub(super) fn without_buffers() -> Self {
        let io = IoThread::spawn("io").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (to_open, open) = bounded(2000);
        let (to_privileged, privileged) = bounded(10);
        let (to_narrow, narrow) = bounded(1);
        let service = |port, accept| {
            let privileged = port == PRIVILEGED;
            Service { port, privileged, accept, bell: None }
        };
        let config = VsockConfig {
            guest_cid: GUEST_CID,
            listener: Some(UnixListener::bind(directory.path().join("v")).unwrap()),
            guest_sockets: Some(directory.path().join("v")),
            services: vec![
                service(OPEN, to_open),
                service(PRIVILEGED, to_privileged),
                service(NARROW, to_narrow),
            ],
        };
        let device = Vsock::new(config, io.handle());
        Self {
            driver: Driver::start(Box::new(device)),
            shapes: HashMap::new(),
            cuts: vec![HEADER],
            indirect: false,
            open,
            privileged,
            narrow,
            directory,
            io,
        }
    }

    /// Resets the device and starts it again.
    pub(super) fn restart(&mut self) {
        self.driver.restart();
        self.shapes.clear();
        for _ in 0..64 {
            self.post(&[4096]);
        }
    }

    /// The socket of the host at which the guest's `port` of the host arrives; none for the one
    /// where host programs connect.
    pub(super) fn path(&self, port: Option<u32>) -> PathBuf {
        let name = port.map_or("v".into(), |port| format!("v_{port}"));
        self.directory.path().join(name)
    }

    /// Gives the device a buffer to receive into.
    pub(super) fn post(&mut self, shape: &[usize]) {
        let head = self.driver.add(RECEIVE, &[], shape);
        self.shapes.insert(head, shape.to_vec());
        self.driver.kick(RECEIVE);
    }

    /// Sends a packet, and waits until the device has given it back.
    pub(super) fn send(&mut self, header: Header, payload: &[u8]) {
        let head = self.send_later(header, payload);
        while self.driver.wait(TRANSMIT).0 != head {}
    }

    /// Sends a packet, and does not wait unless the queue is full; its first descriptor.
    pub(super) fn send_later(&mut self, header: Header, payload: &[u8]) -> u16 {
        let packet = [header.as_bytes(), payload].concat();
        let mut pieces = Vec::new();
        let mut rest = packet.as_slice();
        for cut in self.cuts.iter().copied() {
            if cut >= rest.len() {
                break;
            }
            let (piece, after) = rest.split_at(cut);
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        while self.driver.room(TRANSMIT) <= pieces.len() {
            self.driver.wait(TRANSMIT);
        }
        let head = if self.indirect {
            self.driver.add_indirect(TRANSMIT, &pieces)
        } else {
            self.driver.add(TRANSMIT, &pieces, &[])
        };
        self.driver.kick(TRANSMIT);
        head
    }

    /// The next packet from the host; its buffer is given to the device again.
    pub(super) fn receive(&mut self) -> (Header, Vec<u8>) {
        loop {
            let (head, mut packet) = self.driver.wait(RECEIVE);
            if let Some(shape) = self.shapes.remove(&head) {
                self.post(&shape);
            }
            if packet.is_empty() {
                continue;
            }
            let payload = packet.split_off(HEADER);
            let header = Header::read_from_bytes(&packet).unwrap();
            assert_eq!(header.src_cid, HOST_CID);
            assert_eq!(header.dst_cid, GUEST_CID);
            assert_eq!(header.length.get() as usize, payload.len());
            return (header, payload);
        }
    }

    /// The next packet, which must be `op` for the connection of `ports`.
    pub(super) fn expect(&mut self, ports: Ports, op: u16) -> (Header, Vec<u8>) {
        let (header, payload) = self.receive();
        assert_eq!((header.src_port.get(), header.dst_port.get()), (ports.host, ports.guest));
        assert_eq!(header.op, op, "of {header:?}");
        assert_eq!(header.kind, TYPE_STREAM);
        (header, payload)
    }

    /// The packets that come until the device has taken everything sent so far and has no more.
    ///
    /// Each time round, the device answers a packet to nobody; after the second answer, whatever the
    /// packets before the first have caused is there.
    pub(super) fn settle(&mut self) -> Vec<(Header, Vec<u8>)> {
        let nobody = Ports { host: NOBODY, guest: NOBODY };
        let mut others = Vec::new();
        for _ in 0..2 {
            self.send(header(nobody, op::CREDIT_UPDATE), &[]);
            loop {
                let (header, payload) = self.receive();
                if header.dst_port == NOBODY {
                    assert_eq!(header.op, op::RST);
                    break;
                }
                others.push((header, payload));
            }
        }
        others
    }

    /// Asserts that the device lives and has nothing to say.
    pub(super) fn expect_silence(&mut self) {
        assert_eq!(self.settle(), []);
    }

    /// Dials the host from `ports.guest`, and is accepted.
    pub(super) fn dial(&mut self, ports: Ports) -> Header {
        self.send(header(ports, op::REQUEST), &[]);
        self.expect(ports, op::RESPONSE).0
    }

    /// Dials [`OPEN`] from `guest`; the connection's ports and the host's end.
    pub(super) fn open(&mut self, guest: u32) -> (Ports, UnixStream) {
        let ports = Ports { host: OPEN, guest };
        self.dial(ports);
        let stream = self.open.recv_timeout(LIMIT).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        (ports, stream)
    }

    /// A host program that has said `line` to the guest's socket.
    pub(super) fn program(&self, line: &str) -> UnixStream {
        let mut program = UnixStream::connect(self.path(None)).unwrap();
        program.set_read_timeout(Some(LIMIT)).unwrap();
        program.set_write_timeout(Some(LIMIT)).unwrap();
        program.write_all(line.as_bytes()).unwrap();
        program
    }

    /// A host program that has dialled the guest's `port`, and is accepted.
    pub(super) fn accept(&mut self, port: u32) -> (Ports, UnixStream) {
        let mut program = self.program(&format!("CONNECT {port}\n"));
        let (request, _) = self.receive();
        assert_eq!(request.op, op::REQUEST);
        let ports = Ports { host: request.src_port.get(), guest: port };
        assert_eq!(request.dst_port, port);
        self.send(header(ports, op::RESPONSE), &[]);
        assert_eq!(line(&mut program), format!("OK {}\n", ports.host));
        (ports, program)
    }

    /// Sends all of `data` on the connection in packets of at most the sizes in `chunks`, over and
    /// over, while it takes what comes back, until that is as long.
    pub(super) fn exchange(&mut self, ports: Ports, data: &[u8], chunks: &[usize]) -> Vec<u8> {
        let mut chunks = chunks.iter().copied().cycle();
        let (mut sent, mut taken) = (0, Vec::new());
        let mut room = BUF_ALLOC as usize;
        while taken.len() < data.len() {
            while sent < data.len() && room > 0 {
                let size = chunks.next().unwrap().min(data.len() - sent).min(room);
                self.send(rw(ports, size, taken.len()), &data[sent..sent + size]);
                sent += size;
                room -= size;
            }
            let (header, payload) = self.receive();
            assert!([op::RW, op::CREDIT_UPDATE, op::CREDIT_REQUEST].contains(&header.op.get()));
            taken.extend(payload);
            room = BUF_ALLOC as usize - (sent - header.fwd_cnt.get() as usize);
            if header.op == op::CREDIT_REQUEST {
                let fwd_cnt = (taken.len() as u32).into();
                self.send(Header { fwd_cnt, ..self::header(ports, op::CREDIT_UPDATE) }, &[]);
            }
        }
        taken
    }
}

/// A header of the guest's.
pub(super) fn header(ports: Ports, op: u16) -> Header {
    Header {
        src_cid: GUEST_CID.into(),
        dst_cid: HOST_CID.into(),
        src_port: ports.guest.into(),
        dst_port: ports.host.into(),
        kind: TYPE_STREAM.into(),
        op: op.into(),
        buf_alloc: GUEST_BUFFER.into(),
        ..Header::default()
    }
}

/// The header of data from a guest that has taken `taken` bytes itself.
pub(super) fn rw(ports: Ports, length: usize, taken: usize) -> Header {
    let (length, fwd_cnt) = ((length as u32).into(), (taken as u32).into());
    Header { length, fwd_cnt, ..header(ports, op::RW) }
}

/// A header that shuts `flags` down.
pub(super) fn shutdown(ports: Ports, flags: u32) -> Header {
    Header { flags: flags.into(), ..header(ports, op::SHUTDOWN) }
}

/// Reads a line, and nothing behind it.
pub(super) fn line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.extend(byte);
    }
    String::from_utf8(line).unwrap()
}

/// Whether the stream is at its end, or broken.
pub(super) fn is_over(stream: &mut UnixStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

/// Bytes that differ from their neighbours.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// Calls `test` where it has a registry; what it asserts is the test's.
pub(super) fn with_registry(test: impl FnOnce(&mut Registry<'_>) + Send + 'static) {
    struct Run<F>(Option<F>);
    impl<F: FnOnce(&mut Registry<'_>) + Send> Source for Run<F> {
        fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
            if let Some(test) = self.0.take() {
                test(registry);
            }
            Ok(())
        }
        fn ready(&mut self, _: u32, _: EventSet, _: &mut Registry<'_>) {}
    }
    let thread = IoThread::spawn("io").unwrap();
    thread.handle().add(Box::new(Run(Some(test)))).expect("the assertions held");
}
