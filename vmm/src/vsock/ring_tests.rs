//! Rings and chains that are nonsense, and queues that are never empty.

use super::{DEVICE_TYPE, KEEP, QUEUE_SIZES, Queues, Taken, VsockConfig};
use crate::io::{Registry, Source};
use crate::virtio::queue::TURN;
use crate::virtio::test_driver::{Descriptor, Driver, INDIRECT, LIMIT, Manner, NEXT, WRITE};
use crate::virtio::{Activation, VirtioDevice};
use crate::vsock::connection::Ports;
use crate::vsock::mux::Mux;
use crate::vsock::packet::op;
use crate::vsock::test_guest::*;
use crossbeam_channel::{Sender, bounded};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::Instant;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;
use zerocopy::IntoBytes;

const UNKNOWN: Ports = Ports { host: 40, guest: 41 };
const NEEDS_RESET: u32 = 64;

#[test]
fn nonsense_in_the_transmit_queue_costs_that_packet_only() {
    let mut guest = Guest::new();
    let (ports, mut stream) = guest.open(1);
    let table = 0x10_0000;
    let nonsense = |address, length, flags, next| Descriptor { address, length, flags, next };
    let ram = 128 << 20;
    for (what, descriptor) in [
        ("self-next", nonsense(0x5000, 44, NEXT, u16::MAX)),
        ("next past the table", nonsense(0x5000, 44, NEXT, 0x7fff)),
        ("zero length", nonsense(0x5000, 0, 0, 0)),
        ("4 GiB", nonsense(0, u32::MAX, 0, 0)),
        ("outside RAM", nonsense(ram, 44, 0, 0)),
        ("over the end of RAM", nonsense(ram - 10, 44, 0, 0)),
        ("in the hole", nonsense(0xd000_0000, 44, 0, 0)),
        ("wrapping", nonsense(u64::MAX - 10, 44, 0, 0)),
        ("writable", nonsense(0x5000, 44, WRITE, 0)),
        ("on the ring itself", nonsense(0x2_0000, 44, 0, 0)),
        ("table of nothing", nonsense(table, 0, INDIRECT, 0)),
        ("table of a part", nonsense(table, 17, INDIRECT, 0)),
        ("table over 4 GiB", nonsense(table, !15, INDIRECT, 0)),
        ("table outside RAM", nonsense(ram, 32, INDIRECT, 0)),
        ("table and next", nonsense(table, 32, INDIRECT | NEXT, u16::MAX)),
        ("table in a table", nonsense(0x2_0000, 16 * 256, INDIRECT, 0)),
    ] {
        let index = guest.driver.reserve(TRANSMIT);
        let next = if descriptor.next == u16::MAX { index } else { descriptor.next };
        guest.driver.set_descriptor(TRANSMIT, index, Descriptor { next, ..descriptor });
        guest.driver.make_available(TRANSMIT, index);
        guest.driver.kick(TRANSMIT);
        assert_eq!(guest.driver.wait(TRANSMIT).0, index, "{what}");
        assert_eq!(guest.driver.status() & NEEDS_RESET, 0, "{what}");
        guest.settle();
    }
    stream.write_all(b"unharmed").unwrap();
    assert_eq!(guest.expect(ports, op::RW).1, b"unharmed");
}

#[test]
fn receive_buffers_that_hold_nothing_go_back_empty() {
    let mut guest = Guest::without_buffers();
    for (address, length, flags) in [
        (0x5000, 4096, 0),
        (0x5000, 0, WRITE),
        (0x5000, 1, WRITE),
        (0x5000, 44, WRITE),
        (128 << 20, 4096, WRITE),
        (u64::MAX - 100, 4096, WRITE),
        (0, u32::MAX, WRITE),
    ] {
        let index = guest.driver.reserve(RECEIVE);
        let descriptor = Descriptor { address, length, flags, next: 0 };
        guest.driver.set_descriptor(RECEIVE, index, descriptor);
        guest.driver.make_available(RECEIVE, index);
    }
    guest.driver.kick(RECEIVE);
    guest.post(&[45]);
    let (ports, mut stream) = guest.open(1);
    stream.write_all(b"abc").unwrap();
    let bytes: Vec<u8> = (0..3).flat_map(|_| guest.expect(ports, op::RW).1).collect();
    assert_eq!(bytes, b"abc", "in packets of one byte");
}

#[test]
fn a_ring_that_is_nonsense_stops_the_device_until_it_is_reset() {
    for queue in [RECEIVE, TRANSMIT] {
        for nonsense in ["index ahead", "index back", "head past the table"] {
            let mut guest = Guest::new();
            let (_, mut stream) = guest.open(1);
            let (_, mut program) = guest.accept(2);
            match nonsense {
                "index ahead" => guest.driver.set_available_index(queue, 10_000),
                "index back" => guest.driver.set_available_index(queue, u16::MAX),
                _ => (0..256).for_each(|_| guest.driver.make_available(queue, 256)),
            }
            guest.driver.ring(queue);
            if queue == RECEIVE {
                stream.write_all(b"x").unwrap();
            }
            let deadline = Instant::now() + LIMIT;
            while guest.driver.status() & NEEDS_RESET == 0 {
                assert!(guest.driver.wait_interrupt(deadline), "{nonsense} in {queue}");
            }
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert!(is_over(&mut program), "{nonsense} in {queue}");
            guest.restart();
            let _stream = guest.open(1);
            guest.accept(2);
        }
    }
}

/// Chains that go round in a circle, that are longer than the queue, and that are in no order, each of
/// `descriptor`.
fn no_chains(driver: &mut Driver, queue: usize, descriptor: Descriptor) {
    let own = driver.reserve(queue);
    let circle = Descriptor { flags: descriptor.flags | NEXT, next: own, ..descriptor };
    driver.set_descriptor(queue, own, circle);
    driver.make_available(queue, own);

    let table = 0x20_0000;
    for index in 0..=QUEUE_SIZES[queue] {
        let goes_on = index < QUEUE_SIZES[queue];
        let flags = descriptor.flags | if goes_on { NEXT } else { 0 };
        let link = Descriptor { flags, next: index + 1, ..descriptor };
        driver.store(table + u64::from(index) * 16, link);
    }
    let long = driver.reserve(queue);
    let length = 16 * (u32::from(QUEUE_SIZES[queue]) + 1);
    let descriptors = Descriptor { address: table, length, flags: INDIRECT, next: 0 };
    driver.set_descriptor(queue, long, descriptors);
    driver.make_available(queue, long);

    let [written, read] = [(); 2].map(|()| driver.reserve(queue));
    let behind = Descriptor { flags: WRITE | NEXT, next: read, ..descriptor };
    driver.set_descriptor(queue, written, behind);
    driver.set_descriptor(queue, read, Descriptor { flags: 0, ..descriptor });
    driver.make_available(queue, written);
}

#[test]
fn what_is_no_chain_is_no_packet_and_no_buffer() {
    let mut guest = Guest::new();
    let packet = header(UNKNOWN, op::REQUEST);
    guest.driver.ram.write_slice(packet.as_bytes(), GuestAddress(0x10_0000)).unwrap();
    let descriptor = Descriptor { address: 0x10_0000, length: 44, flags: 0, next: 0 };
    no_chains(&mut guest.driver, TRANSMIT, descriptor);
    guest.driver.kick(TRANSMIT);
    guest.expect_silence();

    let mut guest = Guest::without_buffers();
    let descriptor = Descriptor { address: 0x10_0000, length: 4096, flags: WRITE, next: 0 };
    no_chains(&mut guest.driver, RECEIVE, descriptor);
    guest.driver.kick(RECEIVE);
    guest.post(&[4096]);
    guest.send(packet, &[]);
    for _ in 0..3 {
        assert_eq!(guest.driver.wait_whole(RECEIVE).1, 0);
    }
    guest.expect(UNKNOWN, op::RST);
}

/// What a device is given when its driver is ready.
struct Capture(Sender<Activation>);

impl VirtioDevice for Capture {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }
    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }
    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        self.0.send(activation).unwrap();
        Ok(())
    }
    fn reset(&mut self) {}
}

/// Plays `test` with a device that nobody else serves, and with up to 200 receive buffers for it.
fn by_hand(
    manner: Manner,
    test: impl FnOnce(&mut Queues, &mut Driver, &mut Registry<'_>) + Send + 'static,
) {
    let buffers = usize::from(manner.size).min(200);
    let (tell, hear) = bounded(1);
    let mut driver = Driver::start_as(Box::new(Capture(tell)), manner);
    for _ in 0..buffers {
        driver.add(RECEIVE, &[], &[100]);
    }
    let activation = hear.recv().unwrap();
    with_registry(move |registry| {
        let config = VsockConfig {
            guest_cid: GUEST_CID,
            listener: None,
            guest_sockets: None,
            services: Vec::new(),
        };
        let mut queues = activation.queues.into_iter();
        let mut device = Queues {
            ram: Arc::new(activation.ram),
            receive: queues.next().unwrap(),
            transmit: queues.next().unwrap(),
            taken: Taken::default(),
            mux: Mux::new(config, Arc::default()),
        };
        test(&mut device, &mut driver, registry);
    });
}

/// Sends `count` packets that are never answered, and has the device take them.
fn send_unanswered(
    device: &mut Queues,
    driver: &mut Driver,
    count: usize,
    registry: &mut Registry<'_>,
) {
    for _ in 0..count {
        driver.add(TRANSMIT, &[header(UNKNOWN, op::RST).as_bytes()], &[]);
    }
    device.ready(super::TRANSMIT, EventSet::IN, registry);
}

/// Has something come for the guest.
fn give_packet(device: &mut Queues, registry: &mut Registry<'_>) {
    device.mux.receive(&header(UNKNOWN, op::REQUEST), &[], registry);
    device.ready(super::RECEIVE, EventSet::IN, registry);
}

#[test]
fn what_was_taken_goes_back_with_the_next_packet_and_one_interrupt() {
    by_hand(Manner::default(), |device, driver, registry| {
        for round in 0..3 {
            send_unanswered(device, driver, 3, registry);
            assert_eq!((driver.given_back(TRANSMIT), driver.interrupts()), (3 * round, 0));
            give_packet(device, registry);
            assert_eq!(driver.given_back(TRANSMIT), 3 * round + 3);
            assert_eq!(driver.given_back(RECEIVE), round + 1);
            let deadline = device.deadline();
            assert_eq!((driver.interrupts(), deadline), (1, None), "nothing is left");
            // It wants to hear of what comes next.
            while driver.take(TRANSMIT).is_some() || driver.take(RECEIVE).is_some() {}
            driver.ask_for_interrupts();
        }
    });
}

#[test]
fn what_was_taken_goes_back_in_time_though_nothing_follows() {
    by_hand(Manner::default(), |device, driver, registry| {
        let before = Instant::now();
        send_unanswered(device, driver, 1, registry);
        let deadline = device.deadline().expect("it is kept for a while");
        assert!(deadline <= Instant::now() + KEEP && deadline >= before + KEEP);
        send_unanswered(device, driver, 1, registry);
        assert_eq!(device.deadline(), Some(deadline), "who sends on does not put it off");
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        device.expired(registry);
        assert_eq!((driver.given_back(TRANSMIT), driver.interrupts()), (2, 1));
        assert_eq!(device.deadline(), None);

        send_unanswered(device, driver, 1, registry);
        assert_eq!(driver.given_back(TRANSMIT), 3, "nothing is kept in vain twice");
        give_packet(device, registry);
        send_unanswered(device, driver, 1, registry);
        assert_eq!(driver.given_back(TRANSMIT), 3, "until something comes");
        device.taken.until = Some(Instant::now() + LIMIT);
        device.expired(registry);
        assert_eq!(driver.given_back(TRANSMIT), 3, "nothing goes back before it is time");
    });
}

#[test]
fn a_guest_gets_descriptors_back_long_before_it_has_none_left() {
    for size in [1, 2, 4, 8, 256] {
        by_hand(Manner { size, ..Manner::default() }, move |device, driver, registry| {
            let quarter = usize::from(size / 4);
            send_unanswered(device, driver, quarter, registry);
            assert_eq!(driver.given_back(TRANSMIT), 0);
            send_unanswered(device, driver, 1, registry);
            assert_eq!(usize::from(driver.given_back(TRANSMIT)), quarter + 1);
        });
    }
}

#[test]
fn a_packet_of_many_descriptors_goes_back_at_once_and_so_does_what_is_none() {
    by_hand(Manner::default(), |device, driver, registry| {
        let many = usize::from(QUEUE_SIZES[TRANSMIT]) / 4 + 1;
        driver.add(TRANSMIT, &vec![[0].as_slice(); many], &[]);
        device.ready(super::TRANSMIT, EventSet::IN, registry);
        assert_eq!(driver.given_back(TRANSMIT), 1);
        // It may have any number of them: this one leads back to itself.
        let own = driver.reserve(TRANSMIT);
        let circle = Descriptor { address: 0x10_0000, length: 1, flags: NEXT, next: own };
        driver.set_descriptor(TRANSMIT, own, circle);
        driver.make_available(TRANSMIT, own);
        device.ready(super::TRANSMIT, EventSet::IN, registry);
        assert_eq!(driver.given_back(TRANSMIT), 2);
    });
}

#[test]
fn what_was_taken_goes_back_though_a_queue_is_nonsense_and_nothing_is_left() {
    for queue in [RECEIVE, TRANSMIT] {
        by_hand(Manner::default(), move |device, driver, registry| {
            send_unanswered(device, driver, 1, registry);
            driver.set_available_index(queue, 40_000);
            give_packet(device, registry);
            device.ready(super::TRANSMIT, EventSet::IN, registry);
            assert_eq!((driver.given_back(TRANSMIT), device.deadline()), (1, None));
            assert!(driver.interrupts() > 0);
            assert_eq!(driver.status() & NEEDS_RESET, NEEDS_RESET);
        });
    }
}

#[test]
fn however_much_the_guest_sends_and_takes_a_turn_is_bounded_and_asks_for_the_next() {
    by_hand(Manner::default(), |device, driver, registry| {
        for _ in 0..200 {
            driver.add(TRANSMIT, &[header(UNKNOWN, op::REQUEST).as_bytes()], &[]);
        }
        let mut taken = |queue| std::iter::from_fn(|| driver.take(queue)).count();
        // More is due to the guest than one turn gives.
        for guest in 0..TURN as u32 {
            let packet = header(Ports { host: 9, guest }, op::REQUEST);
            device.mux.receive(&packet, &[], registry);
        }
        for _ in 0..3 {
            device.ready(super::TRANSMIT, EventSet::IN, registry);
            assert_eq!([taken(TRANSMIT), taken(RECEIVE)], [TURN, TURN]);
            assert_eq!(device.transmit.doorbell().read().ok(), Some(1), "it comes back");
            assert_eq!(device.receive.doorbell().read().ok(), Some(1), "it comes back");
        }
        device.ready(super::TRANSMIT, EventSet::IN, registry);
        assert_eq!([taken(TRANSMIT), taken(RECEIVE)], [200 - 3 * TURN, 200 - 3 * TURN]);
        assert!(device.transmit.doorbell().read().is_err(), "nothing is left to come back to");
    });
}
