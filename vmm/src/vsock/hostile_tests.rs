//! What guests and host programs try that they must not: the device lives, the others are served.

use super::tests::fill;
use crate::io::{Registry, Source};
use crate::virtio::test_driver::LIMIT;
use crate::vsock::connection::Ports;
use crate::vsock::mux::{MAX_CONNECTIONS, MAX_HANDSHAKES, MAX_RESETS};
use crate::vsock::packet::{HOST_CID, Header, SHUTDOWN_BOTH, op};
use crate::vsock::test_guest::*;
use crossbeam_channel::{Sender, bounded};
use rustix::time::{ClockId, clock_gettime};
use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;
use vmm_sys_util::epoll::EventSet;

const UNKNOWN: Ports = Ports { host: 40, guest: 41 };

#[test]
fn a_packet_to_nobody_is_answered_with_a_reset_and_a_reset_with_nothing() {
    let mut guest = Guest::new();
    for op in [op::INVALID, 2, 4, 5, 6, 7, 8, u16::MAX] {
        guest.send(header(UNKNOWN, op), &[]);
        guest.expect(UNKNOWN, op::RST);
    }
    guest.send(header(UNKNOWN, op::RST), &[]);
    guest.expect_silence();
    for kind in [0, 2, u16::MAX] {
        let ports = Ports { host: OPEN, guest: 1 };
        guest.send(Header { kind: kind.into(), ..header(ports, op::REQUEST) }, &[]);
        let (answer, _) = guest.receive();
        assert_eq!((answer.op.get(), answer.kind.get()), (op::RST, kind));
        guest.send(Header { kind: kind.into(), ..header(ports, op::RST) }, &[]);
        guest.expect_silence();
    }
    assert!(guest.open.is_empty(), "nobody was connected");
}

#[test]
fn a_packet_that_claims_to_come_from_or_go_to_somebody_else_is_dropped() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    let own = [GUEST_CID, HOST_CID];
    let high = 1 << 32;
    for [from, to] in [
        [HOST_CID, own[1]],
        [4, own[1]],
        [GUEST_CID | high, own[1]],
        [own[0], GUEST_CID],
        [own[0], 1],
        [own[0], HOST_CID | high],
        [0, u64::MAX],
    ] {
        for op in [op::REQUEST, op::RW, op::RST] {
            let addressed =
                Header { src_cid: from.into(), dst_cid: to.into(), ..header(ports, op) };
            guest.send(addressed, &[]);
        }
    }
    guest.expect_silence();
    stream.write_all(b"unharmed").unwrap();
    assert_eq!(guest.expect(ports, op::RW).1, b"unharmed");
}

#[test]
fn a_guest_that_breaks_the_rules_loses_that_connection_only() {
    let mut guest = Guest::new();
    let (other, mut unharmed) = guest.open(1);
    for (op, length, payload) in [
        (op::REQUEST, 0, 0),
        (op::RESPONSE, 0, 0),
        (op::INVALID, 0, 0),
        (8, 0, 0),
        (op::RW, 1001, 1000),
        (op::RW, 65_537, 65_537),
        (op::RW, u32::MAX, 10),
        (op::RW, 1, 0),
    ] {
        let (ports, mut stream) = guest.open(2);
        let lies = Header { length: length.into(), ..header(ports, op) };
        guest.send(lies, &pattern(payload));
        assert!(is_over(&mut stream), "after {op} of {length}");
        guest.expect(ports, op::RST);
        guest.expect_silence();
    }
    guest.send(rw(other, 4, 0), b"fine");
    let mut heard = [0; 4];
    unharmed.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"fine");
}

#[test]
fn data_after_the_guests_own_end_breaks_the_connection() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    guest.send(shutdown(ports, 2), &[]);
    guest.send(rw(ports, 1, 0), b"x");
    assert!(is_over(&mut stream));
    guest.expect(ports, op::RST);
}

#[test]
fn a_length_on_a_packet_without_data_means_nothing() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    for op in [op::CREDIT_UPDATE, op::CREDIT_REQUEST, op::SHUTDOWN] {
        let lies = Header { length: u32::MAX.into(), ..header(ports, op) };
        guest.send(lies, &[]);
        guest.send(lies, &pattern(5000));
        let answers = guest.settle();
        assert!(answers.iter().all(|(answer, _)| answer.op == op::CREDIT_UPDATE), "{answers:?}");
        assert_eq!(answers.is_empty(), op != op::CREDIT_REQUEST);
    }
    stream.write_all(b"unharmed").unwrap();
    assert_eq!(guest.expect(ports, op::RW).1, b"unharmed");
}

#[test]
fn a_guest_that_answers_a_dial_with_anything_else_is_reset() {
    let mut guest = Guest::new();
    for op in [op::REQUEST, op::RW, op::SHUTDOWN, op::CREDIT_UPDATE, op::CREDIT_REQUEST] {
        let mut program = guest.program("CONNECT 80\n");
        let (request, _) = guest.receive();
        let ports = Ports { host: request.src_port.get(), guest: 80 };
        guest.send(header(ports, op), &[]);
        assert!(is_over(&mut program), "after {op}");
        guest.expect(ports, op::RST);
    }
}

#[test]
fn a_guest_that_ignores_its_credit_loses_the_connection() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    let sent = fill(&mut guest, ports);
    guest.send(rw(ports, 1, 0), b"x");
    guest.expect(ports, op::RST);
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    assert!(heard.len() <= sent);
    guest.expect_silence();
}

#[test]
fn a_guest_whose_credit_is_a_lie_is_sent_nothing() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    let credit = |buf_alloc: u32, fwd_cnt: u32| Header {
        buf_alloc: buf_alloc.into(),
        fwd_cnt: fwd_cnt.into(),
        ..header(ports, op::CREDIT_UPDATE)
    };
    for (buf_alloc, fwd_cnt) in [(0, 0), (1000, 1), (1000, u32::MAX - 999), (0, u32::MAX)] {
        guest.send(credit(buf_alloc, fwd_cnt), &[]);
        stream.write_all(b"x").unwrap();
        guest.expect_silence();
    }
    guest.send(credit(u32::MAX, 0), &[]);
    assert_eq!(guest.expect(ports, op::RW).1, b"xxxx");
    guest.send(credit(2, 0), &[]);
    stream.write_all(b"y").unwrap();
    guest.expect_silence();
    guest.send(credit(5, 0), &[]);
    assert_eq!(guest.expect(ports, op::RW).1, b"y");
    guest.expect(ports, op::CREDIT_REQUEST);
}

#[test]
fn one_connection_too_many_is_refused_until_another_ends() {
    let mut guest = Guest::new();
    let mut streams = Vec::new();
    for port in 0..MAX_CONNECTIONS as u32 {
        streams.push(guest.open(port));
    }
    let ports = Ports { host: OPEN, guest: MAX_CONNECTIONS as u32 };
    guest.send(header(ports, op::REQUEST), &[]);
    guest.expect(ports, op::RST);
    assert!(is_over(&mut guest.program("CONNECT 80\n")), "nor does a host program get through");
    // Its stream stays open: the end of the connection is to be the guest's.
    let (gone, _stream) = streams.swap_remove(500);
    guest.send(header(gone, op::RST), &[]);
    guest.open(ports.guest);
    let (last, stream) = &mut streams[MAX_CONNECTIONS - 2];
    stream.write_all(b"unharmed").unwrap();
    let last = *last;
    while guest.receive().0.src_port != last.host {}
}

#[test]
fn a_storm_without_receive_buffers_waits_and_every_request_is_answered_once() {
    let mut guest = Guest::without_buffers();
    let count = MAX_RESETS as u32 + 200;
    for port in 0..count {
        guest.send_later(header(Ports { host: 9999, guest: port }, op::REQUEST), &[]);
    }
    for _ in 0..3 {
        guest.post(&[100]);
    }
    for port in 0..count {
        guest.expect(Ports { host: 9999, guest: port }, op::RST);
    }
    guest.expect_silence();
}

#[test]
fn a_storm_of_connections_that_end_at_once_leaves_nothing_behind() {
    let mut guest = Guest::without_buffers();
    let ports = Ports { host: OPEN, guest: 1 };
    for _ in 0..5_000 {
        guest.send_later(header(ports, op::REQUEST), &[]);
        guest.send_later(header(ports, op::RST), &[]);
        assert!(is_over(&mut guest.open.recv_timeout(LIMIT).unwrap()));
    }
    guest.post(&[4096]);
    guest.expect_silence();
}

#[test]
fn a_port_is_used_again_at_once_while_the_program_of_before_leaves() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    for _ in 0..300 {
        guest.send_later(header(ports, op::RST), &[]);
        drop(stream);
        guest.send_later(header(ports, op::REQUEST), &[]);
        // The program's end may have been told before the guest's.
        while guest.receive().0.op != op::RESPONSE {}
        stream = guest.open.recv_timeout(LIMIT).unwrap();
        stream.write_all(b"new").unwrap();
        assert_eq!(guest.expect(ports, op::RW).1, b"new");
    }
}

#[test]
fn a_host_program_that_says_nonsense_is_let_go() {
    let mut guest = Guest::new();
    for line in ["HELLO\n", "CONNECT\n", "CONNECT 1x\n", &"CONNECT 1".repeat(10)] {
        assert!(is_over(&mut guest.program(line)), "{line:?}");
    }
    guest.expect_silence();
}

#[test]
fn idle_host_programs_are_let_go_in_time_for_those_who_wait_behind_them() {
    let mut guest = Guest::new();
    let idle: Vec<_> = (0..MAX_HANDSHAKES).map(|_| guest.program("CONNECT 7")).collect();
    guest.accept(7);
    for mut program in idle {
        assert!(is_over(&mut program));
    }
}

#[test]
fn who_is_stuck_costs_no_cpu() {
    let mut guest = Guest::new();
    // A program that speaks before the guest has said whether it is wanted.
    let _early = guest.program("CONNECT 7\nhello, hello");
    assert_eq!(guest.receive().0.op, op::REQUEST);
    // Host programs that do not read, do not speak, and wait in front of the door.
    let (stuck, _stream) = guest.open(1);
    fill(&mut guest, stuck);
    let _idle: Vec<_> = (0..MAX_HANDSHAKES + 3).map(|_| guest.program("C")).collect();
    // A connection whose program is gone and whose guest does not care.
    let (ports, gone) = guest.open(2);
    drop(gone);
    guest.expect(ports, op::SHUTDOWN);
    // A guest that takes nothing: no credit, then no buffers either.
    let (poor, mut speaks) = guest.open(3);
    guest.send(Header { buf_alloc: 0.into(), ..header(poor, op::CREDIT_UPDATE) }, &[]);
    speaks.write_all(b"x").unwrap();
    while guest.driver.take(RECEIVE).is_some() {}
    let (_, mut flood) = guest.open(4);
    flood.set_nonblocking(true).unwrap();
    while flood.write(&[0; 4096]).is_ok() {}

    thread::sleep(Duration::from_millis(100));
    let before = io_cpu(&guest);
    thread::sleep(Duration::from_millis(500));
    let spent = io_cpu(&guest) - before;
    assert!(spent < Duration::from_millis(100), "{spent:?} in 500 ms");
}

/// How much CPU time the io thread has used.
fn io_cpu(guest: &Guest) -> Duration {
    struct Clock(Sender<Duration>);
    impl Source for Clock {
        fn start(&mut self, _: &mut Registry<'_>) -> io::Result<()> {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            self.0.send(Duration::new(time.tv_sec as u64, time.tv_nsec as u32)).unwrap();
            Ok(())
        }
        fn ready(&mut self, _: u32, _: EventSet, _: &mut Registry<'_>) {}
    }
    let (tell, hear) = bounded(1);
    let handle = guest.io.handle();
    handle.remove(handle.add(Box::new(Clock(tell))).unwrap());
    hear.recv().unwrap()
}

#[test]
fn a_flood_of_resets_and_shutdowns_harms_nobody() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    for port in 0..5_000 {
        guest.send_later(header(Ports { host: OPEN, guest: 10 + port }, op::RST), &[]);
    }
    guest.expect_silence();
    for port in 0..300 {
        let nobody = Ports { host: OPEN, guest: 10 + port };
        guest.send(shutdown(nobody, SHUTDOWN_BOTH), &[]);
        guest.expect(nobody, op::RST);
    }
    stream.write_all(b"unharmed").unwrap();
    assert_eq!(guest.expect(ports, op::RW).1, b"unharmed");
}
