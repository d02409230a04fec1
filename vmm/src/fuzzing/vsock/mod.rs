//! Packets and host programs in any order, and a [model](model::Model) of what each side may see of
//! it. The queues are left out: `vsock_queues` has those.

mod connection;
mod model;

use super::input::Input;
use crate::io::by_hand::Watch;
use crate::vsock::connection::Ports;
use crate::vsock::device::{Service, VsockConfig};
use crate::vsock::mux::Mux;
use crate::vsock::packet::{HOST_CID, Header, MAX_PAYLOAD, TYPE_STREAM, op};
use crossbeam_channel::{Receiver, bounded};
use model::Model;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::VolatileSlice;

const GUEST_CID: u64 = 3;
/// Host programs' own ports begin here.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// The room that the guest grants in the end.
const ROOM: u32 = 1 << 24;
/// Takes whoever dials it.
const OPEN: u32 = 5000;
/// Takes those who may bind a low port.
const PRIVILEGED: u32 = 5001;
/// Has nobody behind it.
const NOBODY: u32 = 9;
/// Connections that wait at a service until the next step at most.
const WAITING: usize = 4;
/// Host programs dial these ports of the guest, one each.
const FIRST_DIALLED: u32 = 20_000;
const DIALS: u32 = 8;
/// Things done in one input.
const STEPS: usize = 200;
/// Rounds in which all must be quiet when nobody does anything any more.
const PATIENCE: usize = 2000;

/// A sequence of packets and of what host programs do.
pub fn vsock(data: &[u8]) {
    let mut input = Input::new(data);
    let mut scene = Scene::new();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        scene.step(&mut input);
    }
    scene.finish();
}

struct Scene {
    mux: Mux,
    watch: Watch,
    model: Model,
    open: Receiver<UnixStream>,
    privileged: Receiver<UnixStream>,
    address: SocketAddr,
    payload: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vmm-fuzz-{}-{number}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).expect("it is short");
        let listener = UnixListener::bind_addr(&address).expect("nobody else has the name");
        listener.set_nonblocking(true).expect("it is a socket");
        let (to_open, open) = bounded(WAITING);
        let (to_privileged, privileged) = bounded(WAITING);
        let service = |port, privileged, accept| Service { port, privileged, accept, bell: None };
        let config = VsockConfig {
            guest_cid: GUEST_CID,
            listener: Some(listener),
            guest_sockets: None,
            services: vec![service(OPEN, false, to_open), service(PRIVILEGED, true, to_privileged)],
        };
        let mut mux = Mux::new(config, Default::default());
        let mut watch = Watch::new().expect("a descriptor is left");
        mux.start(&mut watch.registry()).expect("the listener can be watched");
        let (model, payload) = (Model::default(), Vec::new());
        Self { mux, watch, model, open, privileged, address, payload }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..7 => self.guest_sends(input),
            7 | 8 => {
                let room = input.choose(&[MAX_PAYLOAD, 1, 100, 4096, 70_000]);
                for _ in 0..=input.byte() % 8 {
                    self.guest_takes(room);
                }
            }
            9 | 10 => {
                self.poll();
            }
            11 => {
                let which = input.byte();
                self.model.host_writes(which, input.u16().into());
            }
            12 => {
                let which = input.byte();
                self.model.host_reads(which, input.u16().into());
            }
            13 => {
                let which = input.byte();
                self.model.host_shuts_down(which);
            }
            14 => {
                let which = input.byte();
                self.model.host_goes(which);
            }
            _ => self.host_dials(),
        }
    }

    /// A packet of the guest's, on a connection that there is or on any.
    fn guest_sends(&mut self, input: &mut Input<'_>) {
        if !self.mux.accepts_packets() {
            return;
        }
        let (choice, kind) = (input.byte(), input.byte());
        let ports = match self.model.ports(choice & 0x7f).filter(|_| choice & 0x80 != 0) {
            Some(ports) => ports,
            None => Ports {
                host: [OPEN, PRIVILEGED, NOBODY, FIRST_HOST_PORT][usize::from(choice & 3)],
                guest: [1023, 1024, 6000, FIRST_DIALLED][usize::from(choice >> 2 & 3)],
            },
        };
        let mut header = Header {
            src_cid: GUEST_CID.into(),
            dst_cid: HOST_CID.into(),
            src_port: ports.guest.into(),
            dst_port: ports.host.into(),
            kind: TYPE_STREAM.into(),
            op: u16::from(kind & 0xf).into(),
            buf_alloc: 65_536.into(),
            fwd_cnt: self.model.received(ports).into(),
            ..Header::default()
        };
        if kind & 0x10 != 0 {
            header.buf_alloc = input.choose(&[0, 1, 1000, u32::MAX]).into();
        }
        if kind & 0x20 != 0 {
            header.fwd_cnt = input.u32().into();
        }
        match kind & 0xc0 {
            0x40 if input.byte() == 0 => header.src_cid = input.u64().into(),
            0x80 if input.byte() == 0 => header.dst_cid = input.u64().into(),
            0xc0 if input.byte() == 0 => header.kind = input.u16().into(),
            _ => {}
        }
        header.flags = u32::from(input.byte()).into();
        self.payload.clear();
        if header.op == op::RW {
            self.payload = self.model.next_payload(ports, input.u16().into());
            header.length = (self.payload.len() as u32).into();
        }
        self.send(&header);
    }

    /// What `payload` has goes with `header`.
    fn send(&mut self, header: &Header) {
        let room = match header.dst_port.get() {
            OPEN => !self.open.is_full(),
            PRIVILEGED => header.src_port.get() < 1024 && !self.privileged.is_full(),
            _ => false,
        };
        if header.src_cid == GUEST_CID && header.dst_cid == HOST_CID {
            self.model.guest_sent(header, room);
        }
        let payload = [VolatileSlice::from(self.payload.as_mut_slice())];
        self.mux.receive(header, &payload, &mut self.watch.registry());
        for arriving in [&self.open, &self.privileged] {
            for stream in arriving.try_iter() {
                self.model.arrived(header, stream);
            }
        }
    }

    /// The guest takes a packet, if there is one.
    fn guest_takes(&mut self, room: usize) -> bool {
        let registry = &mut self.watch.registry();
        self.payload.resize(room, 0);
        let payload = [VolatileSlice::from(self.payload.as_mut_slice())];
        let Some(header) = self.mux.next_packet(&payload, registry) else {
            return false;
        };
        let length = header.length.get() as usize;
        assert!(length <= room, "it fits");
        self.payload.truncate(length);
        assert_eq!((header.src_cid.get(), header.dst_cid.get()), (HOST_CID, GUEST_CID));
        self.model.guest_got(&header, &self.payload);
        true
    }

    fn poll(&mut self) -> usize {
        let Self { mux, watch, .. } = self;
        let ready = watch.step(|token, events, registry| mux.ready(token, events, registry));
        ready.expect("it can be asked")
    }

    fn host_dials(&mut self) {
        let guest = FIRST_DIALLED + self.model.dials() as u32;
        if guest < FIRST_DIALLED + DIALS {
            let mut program = UnixStream::connect_addr(&self.address).expect("somebody listens");
            program.write_all(format!("CONNECT {guest}\n").as_bytes()).expect("there is room");
            self.model.dialled(guest, program);
        }
    }

    /// Everybody takes all that there is: then it becomes quiet, and nobody has lost anything.
    fn finish(&mut self) {
        for ports in self.model.open_ports() {
            let header = Header {
                src_cid: GUEST_CID.into(),
                dst_cid: HOST_CID.into(),
                src_port: ports.guest.into(),
                dst_port: ports.host.into(),
                kind: TYPE_STREAM.into(),
                op: op::CREDIT_UPDATE.into(),
                buf_alloc: ROOM.into(),
                fwd_cnt: self.model.received(ports).into(),
                ..Header::default()
            };
            while !self.mux.accepts_packets() {
                assert!(self.guest_takes(MAX_PAYLOAD), "resets are waiting");
            }
            self.payload.clear();
            self.send(&header);
        }
        let mut quiet = 0;
        for _ in 0..PATIENCE {
            let mut busy = self.poll() > 0;
            while self.guest_takes(MAX_PAYLOAD) {
                busy = true;
            }
            busy |= self.model.host_reads_all();
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet == 2 {
                self.model.finish();
                return;
            }
        }
        panic!("it does not become quiet");
    }
}
