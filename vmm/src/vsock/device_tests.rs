//! What a well-behaved guest and well-behaved host programs can rely on.

use crate::virtio::test_driver::LIMIT;
use crate::vsock::connection::Ports;
use crate::vsock::credit::BUF_ALLOC;
use crate::vsock::packet::{Header, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, op};
use crate::vsock::test_guest::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

/// Sends everything back, until the end.
fn echo(mut stream: UnixStream) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 10_000];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..count]).unwrap();
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_sent_comes_back_whole_whatever_the_scatter(
        length in 1_usize..600_000,
        chunks in vec(1_usize..=65_536, 1..10),
        cuts in vec(1_usize..4000, 0..40),
        shapes in vec(vec(1_usize..3000, 1..6), 0..12),
        indirect: bool,
        host_dials: bool,
    ) {
        let mut guest = Guest::without_buffers();
        (guest.cuts, guest.indirect) = (cuts, indirect);
        guest.post(&[44, 4096]);
        shapes.iter().for_each(|shape| guest.post(shape));
        let (ports, stream) = if host_dials { guest.accept(70) } else { guest.open(70) };
        stream.set_read_timeout(None).unwrap();
        let echo = echo(stream);
        let data = pattern(length);
        let back = guest.exchange(ports, &data, &chunks);
        prop_assert!(back == data, "{} bytes came back of {length}", back.len());
        guest.send(header(ports, op::RST), &[]);
        echo.join().unwrap();
    }
}

#[test]
fn a_host_program_reaches_the_guest_and_learns_its_own_port() {
    let mut guest = Guest::new();
    let (ports, mut program) = guest.accept(1234);
    let (others, _other) = guest.accept(1234);
    assert_ne!(ports, others, "two programs may dial the same port");
    program.write_all(b"hello").unwrap();
    assert_eq!(guest.expect(ports, op::RW).1, b"hello");
    guest.send(rw(ports, 5, 5), b"world");
    let mut answer = [0; 5];
    program.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"world");
}

#[test]
fn what_a_host_program_says_before_it_is_accepted_is_not_lost() {
    let mut guest = Guest::new();
    let mut program = guest.program("CONNECT 80\nearly");
    program.shutdown(std::net::Shutdown::Write).unwrap();
    let (request, _) = guest.receive();
    let ports = Ports { host: request.src_port.get(), guest: 80 };
    guest.expect_silence();
    guest.send(header(ports, op::RESPONSE), &[]);
    assert_eq!(line(&mut program), format!("OK {}\n", ports.host));
    assert_eq!(guest.expect(ports, op::RW).1, b"early");
    assert_eq!(guest.expect(ports, op::SHUTDOWN).0.flags, SHUTDOWN_SEND);
}

#[test]
fn a_host_program_that_the_guest_refuses_is_let_go_without_a_word() {
    let mut guest = Guest::new();
    let mut program = guest.program("CONNECT 80\n");
    let (request, _) = guest.receive();
    guest.send(header(Ports { host: request.src_port.get(), guest: 80 }, op::RST), &[]);
    assert!(is_over(&mut program));
    guest.expect_silence();
}

#[test]
fn a_host_program_that_leaves_before_it_is_accepted_is_told_of_to_the_guest() {
    let mut guest = Guest::new();
    let program = guest.program("CONNECT 80\n");
    let (request, _) = guest.receive();
    let ports = Ports { host: request.src_port.get(), guest: 80 };
    drop(program);
    guest.expect(ports, op::RST);
    guest.send(header(ports, op::RESPONSE), &[]);
    guest.expect(ports, op::RST);
}

#[test]
fn a_port_that_no_service_has_is_the_socket_of_that_number() {
    let mut guest = Guest::new();
    let listener = UnixListener::bind(guest.path(Some(77))).unwrap();
    let ports = Ports { host: 77, guest: 2000 };
    guest.dial(ports);
    let (mut program, _) = listener.accept().unwrap();
    guest.send(rw(ports, 3, 0), b"abc");
    let mut heard = [0; 3];
    program.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"abc");
    program.write_all(b"def").unwrap();
    assert_eq!(guest.expect(ports, op::RW).1, b"def");

    let nobody = Ports { host: 78, guest: 2000 };
    guest.send(header(nobody, op::REQUEST), &[]);
    guest.expect(nobody, op::RST);
}

#[test]
fn a_privileged_service_takes_privileged_ports_only() {
    let mut guest = Guest::new();
    let mut streams = Vec::new();
    for (port, taken) in [(0, true), (1023, true), (1024, false), (u32::MAX, false)] {
        let ports = Ports { host: PRIVILEGED, guest: port };
        guest.send(header(ports, op::REQUEST), &[]);
        guest.expect(ports, if taken { op::RESPONSE } else { op::RST });
        let stream = guest.privileged.try_recv();
        assert_eq!(stream.is_ok(), taken, "from port {port}");
        streams.extend(stream);
    }
}

#[test]
fn a_service_that_is_full_refuses() {
    let mut guest = Guest::new();
    let ports = |guest| Ports { host: NARROW, guest };
    guest.dial(ports(1));
    guest.send(header(ports(2), op::REQUEST), &[]);
    guest.expect(ports(2), op::RST);
    let _taken = guest.narrow.recv_timeout(LIMIT).unwrap();
    guest.dial(ports(2));
}

#[test]
fn either_side_can_end_its_half_and_still_hear_the_other() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    guest.send(rw(ports, 4, 0), b"last");
    guest.send(shutdown(ports, SHUTDOWN_SEND), &[]);
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"last");
    stream.write_all(b"still here").unwrap();
    assert_eq!(guest.expect(ports, op::RW).1, b"still here");
    drop(stream);
    assert_eq!(guest.expect(ports, op::SHUTDOWN).0.flags, SHUTDOWN_BOTH);

    let (ports, mut stream) = guest.open(2);
    stream.write_all(b"last").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(guest.expect(ports, op::RW).1, b"last");
    assert_eq!(guest.expect(ports, op::SHUTDOWN).0.flags, SHUTDOWN_SEND);
    guest.send(rw(ports, 10, 4), b"still here");
    let mut heard = [0; 10];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");
    guest.send(shutdown(ports, SHUTDOWN_BOTH), &[]);
    assert!(is_over(&mut stream));
    guest.expect(ports, op::RST);
    guest.expect_silence();
}

#[test]
fn a_guest_that_receives_no_more_is_sent_no_more_and_the_program_learns_it() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    guest.send(shutdown(ports, SHUTDOWN_RECEIVE), &[]);
    assert_eq!(stream.write_all(b"?").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.send(rw(ports, 4, 0), b"last");
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"last");
    drop(stream);
    guest.expect(ports, op::RST);
}

#[test]
fn when_both_ends_shut_down_at_once_the_connection_ends_once() {
    let mut guest = Guest::new();
    let (ports, stream) = guest.open(1);
    drop(stream);
    guest.send(shutdown(ports, SHUTDOWN_BOTH), &[]);
    let packets = guest.settle();
    let ops: Vec<u16> = packets.iter().map(|(header, _)| header.op.get()).collect();
    assert!(ops == [op::RST] || ops == [op::SHUTDOWN, op::RST], "{ops:?}");
    let (_, mut again) = guest.open(1);
    again.write_all(b"x").unwrap();
    guest.expect(ports, op::RW);
}

#[test]
fn data_that_a_stalled_program_has_not_read_survives_the_guests_shutdown() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    let data = pattern(fill(&mut guest, ports));
    guest.send(shutdown(ports, SHUTDOWN_BOTH), &[]);
    assert!(guest.settle().iter().all(|(header, _)| header.op == op::CREDIT_UPDATE));
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    assert!(heard == data, "{} of {}", heard.len(), data.len());
    while guest.receive().0.op != op::RST {}
}

/// Sends a [`pattern`] until the guest has no credit; how much that was.
pub(super) fn fill(guest: &mut Guest, ports: Ports) -> usize {
    let data = pattern(4 << 20);
    let (mut sent, mut forwarded) = (0, 0);
    loop {
        let room = BUF_ALLOC as usize - (sent - forwarded);
        if room == 0 {
            // Asks, to be sure.
            guest.send(header(ports, op::CREDIT_REQUEST), &[]);
            forwarded = guest.expect(ports, op::CREDIT_UPDATE).0.fwd_cnt.get() as usize;
            if sent - forwarded == BUF_ALLOC as usize {
                return sent;
            }
            continue;
        }
        let size = room.min(10_000);
        guest.send(rw(ports, size, 0), &data[sent..sent + size]);
        sent += size;
        for (header, _) in guest.settle() {
            assert_eq!(header.op, op::CREDIT_UPDATE);
            forwarded = header.fwd_cnt.get() as usize;
        }
    }
}

#[test]
fn a_stalled_program_costs_a_bounded_buffer_and_the_guest_goes_on_when_it_reads() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    let sent = fill(&mut guest, ports);
    assert!(sent >= BUF_ALLOC as usize);
    let mut heard = vec![0; sent];
    stream.read_exact(&mut heard).unwrap();
    assert!(heard == pattern(sent));
    // Told without asking.
    let mut forwarded = 0;
    while sent - forwarded > BUF_ALLOC as usize / 2 {
        forwarded = guest.expect(ports, op::CREDIT_UPDATE).0.fwd_cnt.get() as usize;
    }
    guest.send(rw(ports, 2, 0), b"on");
    stream.read_exact(&mut heard[..2]).unwrap();
    assert_eq!(&heard[..2], b"on");
}

#[test]
fn a_stalled_guest_is_sent_no_more_than_its_buffer_holds_and_loses_nothing() {
    let mut guest = Guest::new();
    let ports = Ports { host: OPEN, guest: 1 };
    let small = |op, taken: u32| Header {
        buf_alloc: 1000.into(),
        fwd_cnt: taken.into(),
        ..header(ports, op)
    };
    guest.send(small(op::REQUEST, 0), &[]);
    guest.expect(ports, op::RESPONSE);
    let mut stream = guest.open.recv_timeout(LIMIT).unwrap();
    let data = pattern(1 << 20);
    let sends = data.clone();
    let program = thread::spawn(move || stream.write_all(&sends));
    let mut taken = Vec::new();
    while taken.len() < data.len() {
        let before = taken.len();
        loop {
            let (header, payload) = guest.receive();
            taken.extend(payload);
            if header.op == op::CREDIT_REQUEST {
                break;
            }
            assert_eq!(header.op, op::RW);
            if taken.len() == data.len() {
                break;
            }
        }
        assert!(taken.len() - before <= 1000);
        guest.send(small(op::CREDIT_UPDATE, taken.len() as u32), &[]);
    }
    assert!(taken == data);
    program.join().unwrap().unwrap();
}

#[test]
fn a_busy_connection_does_not_starve_another() {
    let mut guest = Guest::new();
    let (busy, mut floods) = guest.open(1);
    let (idle, mut speaks) = guest.open(2);
    let flood = thread::spawn(move || while floods.write_all(&[0; 4096]).is_ok() {});
    let mut taken = 0;
    for round in 0..2000_usize {
        if round == 50 {
            speaks.write_all(b"me too").unwrap();
        }
        let (from, payload) = guest.receive();
        if from.dst_port == idle.guest {
            assert_eq!(payload, b"me too");
            guest.send(header(busy, op::RST), &[]);
            flood.join().unwrap();
            return;
        }
        taken += payload.len();
        let fwd_cnt = (taken as u32).into();
        guest.send(Header { fwd_cnt, ..header(busy, op::CREDIT_UPDATE) }, &[]);
    }
    panic!("the other connection was never served");
}

#[test]
fn a_reset_ends_all_connections_and_the_host_can_still_reach_the_guest() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    let (_, mut program) = guest.accept(2);
    // In flight: packets both ways that nobody has waited for.
    stream.write_all(&pattern(100_000)).unwrap();
    guest.send_later(rw(ports, 3, 0), b"abc");
    guest.restart();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(b"abc".starts_with(&rest), "the end, or a broken connection");
    assert!(is_over(&mut program));
    guest.expect_silence();
    let (ports, mut program) = guest.accept(2);
    program.write_all(b"x").unwrap();
    guest.expect(ports, op::RW);
    let (ports, mut stream) = guest.open(1);
    stream.write_all(b"y").unwrap();
    guest.expect(ports, op::RW);
}
