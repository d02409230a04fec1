//! That nothing in here grows, seen from inside.

use super::*;
use crate::vsock::test_guest::{GUEST_CID, header, with_registry};
use crossbeam_channel::bounded;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

fn mux(listener: Option<UnixListener>, services: Vec<Service>) -> Mux {
    let config = VsockConfig { guest_cid: GUEST_CID, listener, guest_sockets: None, services };
    Mux::new(config, Arc::default())
}

#[test]
fn connections_that_come_and_go_leave_no_place_taken_and_no_line_behind() {
    with_registry(|registry| {
        let (accept, streams) = bounded(1);
        let service = Service { port: 5, privileged: false, accept, bell: None };
        let mut mux = mux(None, vec![service]);
        for guest in 0..10_000 {
            let ports = Ports { host: 5, guest };
            mux.receive(&header(ports, op::REQUEST), &[], registry);
            assert!(mux.has_packets(), "it is accepted");
            mux.receive(&header(ports, op::RST), &[], registry);
            drop(streams.recv().unwrap());
        }
        assert_eq!((mux.line.len(), mux.by_ports.len(), mux.slots.len()), (0, 0, 1));
        assert!(!mux.has_packets());
    });
}

#[test]
fn packets_are_not_accepted_while_too_many_resets_wait() {
    with_registry(|registry| {
        let mut mux = mux(None, Vec::new());
        let mut taken = 0;
        while mux.accepts_packets() {
            mux.receive(&header(Ports { host: 1, guest: taken }, op::REQUEST), &[], registry);
            taken += 1;
        }
        assert_eq!(taken as usize, MAX_RESETS);
        for guest in 0..taken {
            let reset = mux.next_packet(&[], registry).unwrap();
            assert_eq!((reset.op.get(), reset.dst_port.get()), (op::RST, guest));
        }
        assert_eq!(mux.next_packet(&[], registry), None);
    });
}

#[test]
fn whoever_dials_what_nobody_serves_keeps_no_others_packets_back() {
    with_registry(|registry| {
        let (accept, streams) = bounded(1);
        let service = Service { port: 5, privileged: false, accept, bell: None };
        let mut mux = mux(None, vec![service]);
        mux.receive(&header(Ports { host: 5, guest: 1 }, op::REQUEST), &[], registry);
        let _stream = streams.recv().unwrap();
        // For each buffer that the guest gives, somebody in it dials twice.
        let taken: Vec<u16> = (2..6)
            .map(|guest| {
                for guest in [guest, guest + 100] {
                    mux.receive(&header(Ports { host: 9, guest }, op::REQUEST), &[], registry);
                }
                mux.next_packet(&[], registry).unwrap().op.get()
            })
            .collect();
        assert_eq!(taken, [op::RESPONSE, op::RST, op::RST, op::RST]);
    });
}

#[test]
fn a_listener_that_cannot_accept_is_left_alone_for_a_while() {
    with_registry(|registry| {
        // Accepting on a socket that does not listen fails, as it does without descriptors.
        let (stream, _other) = UnixStream::pair().unwrap();
        let mut mux = mux(Some(UnixListener::from(OwnedFd::from(stream))), Vec::new());
        mux.start(registry).unwrap();
        assert_eq!((mux.listening, mux.deadline()), (true, None));
        mux.ready(LISTENER, EventSet::IN, registry);
        assert!(!mux.listening, "it would be ready for ever");
        let until = mux.deadline().expect("it is tried again");
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        mux.expired(registry);
        assert_eq!((mux.listening, mux.deadline()), (true, None));
    });
}

#[test]
fn host_ports_wrap_around_and_pass_over_those_in_use() {
    let mut mux = mux(None, Vec::new());
    mux.next_host_port = u32::MAX;
    assert_eq!(mux.free_host_port(7), Some(u32::MAX));
    mux.by_ports.insert(Ports { host: FIRST_HOST_PORT, guest: 7 }, 0);
    assert_eq!(mux.free_host_port(7), Some(FIRST_HOST_PORT + 1));
}
