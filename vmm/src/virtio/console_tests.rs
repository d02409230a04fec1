//! Drivers that print, read what is typed, and do neither as they should.

use super::*;
use crate::io::IoThread;
use crate::io::by_hand::ByHand;
use crate::virtio::mmio::register;
use crate::virtio::test_driver::{Descriptor, Driver, LIMIT, NEXT, WRITE, readable, writable};
use crate::virtio::test_turns::{hold, turns};
use std::cell::Cell;
use std::thread;
use std::time::Instant;

const RECEIVE_QUEUE: usize = 0;
const TRANSMIT_QUEUE: usize = 1;
const MEMORY: u64 = 128 << 20;

struct Bench {
    driver: Driver,
    input: Arc<Mutex<Input>>,
    output: ConsoleOutput,
    _io: IoThread,
}

impl Bench {
    fn new() -> Self {
        Self::with(b"", None)
    }

    /// A driver that comes when something has been typed already.
    fn with(typed: &[u8], size: Option<TerminalSize>) -> Self {
        let io = IoThread::spawn("io").unwrap();
        let input = Arc::new(Mutex::new(Input::new().unwrap()));
        assert_eq!(lock(&input).receive(typed), typed.len());
        let output = ConsoleOutput::new().unwrap();
        let device = VirtioConsole::new(input.clone(), output.clone(), size, io.handle());
        Self { driver: Driver::start(Box::new(device)), input, output, _io: io }
    }

    fn types(&self, bytes: &[u8]) -> usize {
        lock(&self.input).receive(bytes)
    }

    /// Offers room for `shape` to be read into.
    fn offer(&mut self, shape: &[usize]) {
        self.driver.add(RECEIVE_QUEUE, &[], shape);
        self.driver.kick(RECEIVE_QUEUE);
    }

    fn read(&mut self) -> Vec<u8> {
        self.driver.wait(RECEIVE_QUEUE).1
    }

    fn print(&mut self, text: &[&[u8]]) {
        self.driver.add(TRANSMIT_QUEUE, text, &[]);
        self.driver.kick(TRANSMIT_QUEUE);
        assert_eq!(self.driver.wait(TRANSMIT_QUEUE).1, b"");
    }

    /// Makes a descriptor available in the queue for output.
    fn print_descriptor(&mut self, address: u64, length: u32, flags: u16) -> u16 {
        let index = self.driver.reserve(TRANSMIT_QUEUE);
        let descriptor = Descriptor { address, length, flags, next: index };
        self.driver.set_descriptor(TRANSMIT_QUEUE, index, descriptor);
        self.driver.make_available(TRANSMIT_QUEUE, index);
        self.driver.kick(TRANSMIT_QUEUE);
        index
    }
}

#[test]
fn what_the_guest_prints_is_printed_in_order_whatever_its_shape() {
    let mut bench = Bench::new();
    bench.print(&[b"boot"]);
    bench.print(&[b"", b"ing ", b"now"]);
    bench.print(&[b""]);
    for _ in 0..100 {
        bench.print(&[b"."]);
    }
    assert_eq!(bench.output.take(), [&b"booting now"[..], &[b'.'; 100]].concat());
}

#[test]
fn only_what_is_memory_and_meant_to_be_read_is_printed() {
    let mut bench = Bench::new();
    let end = MEMORY - 4;
    for (address, length) in [(end, 8), (MEMORY, 1), (u64::MAX, 2), (0, u32::MAX), (1 << 63, 0)] {
        let head = bench.print_descriptor(address, length, 0);
        assert_eq!(bench.driver.wait_whole(TRANSMIT_QUEUE).0, head);
    }
    bench.driver.add(TRANSMIT_QUEUE, &[], &[64]);
    bench.driver.add(TRANSMIT_QUEUE, &[b"ok"], &[64]);
    bench.driver.kick(TRANSMIT_QUEUE);
    for _ in 0..2 {
        assert_eq!(bench.driver.wait(TRANSMIT_QUEUE).1, b"");
    }
    assert_eq!(bench.output.take(), b"ok");
    assert_eq!(bench.driver.status() & 64, 0);
}

#[test]
fn a_chain_that_loops_goes_back_and_prints_nothing() {
    let mut bench = Bench::new();
    let head = bench.print_descriptor(0x10_0000, 1, NEXT);
    assert_eq!(bench.driver.wait_whole(TRANSMIT_QUEUE).0, head);
    assert!(bench.output.take().is_empty());
    let head = bench.print_descriptor(0x10_0000, 1, NEXT | WRITE);
    assert_eq!(bench.driver.wait_whole(TRANSMIT_QUEUE).0, head);
    bench.print(&[b"on"]);
    assert_eq!(bench.output.take(), b"on");
}

#[test]
fn a_chain_as_long_as_memory_keeps_nobody_waiting_and_nobody_keeps_it_waiting() {
    let mut bench = Bench::new();
    // Nobody reads what is printed, and there is more than may wait.
    let head = bench.print_descriptor(0x10_0000, 4 << 20, 0);
    bench.offer(&[16]);
    bench.types(b"keys");
    assert_eq!(bench.read(), b"keys");
    assert_eq!(bench.driver.wait_whole(TRANSMIT_QUEUE).0, head);
    let printed = bench.output.take();
    assert!(String::from_utf8_lossy(&printed).contains("bytes dropped here"));
    // One that is under way is forgotten at a reset.
    for _ in 0..10 {
        bench.print_descriptor(0, 127 << 20, 0);
        bench.driver.restart();
        drop(bench.output.take());
        bench.print(&[b"on"]);
        assert_eq!(bench.output.take(), b"on");
    }
}

#[test]
fn one_turn_takes_so_many_chains_and_so_much_text_and_leaves_the_rest_for_the_next() {
    let io = IoThread::spawn("io").unwrap();
    let input = Arc::new(Mutex::new(Input::new().unwrap()));
    let output = ConsoleOutput::new().unwrap();
    let device = VirtioConsole::new(input.clone(), output.clone(), None, io.handle());
    let (mut driver, held) = hold(&device);
    let mut service = ByHand::start(device.service(held.take()).unwrap());
    let (transmit, receive) = ((TRANSMIT_QUEUE, TRANSMIT), (RECEIVE_QUEUE, RECEIVE));

    // A chain is begun in one step of a turn and given back in another.
    driver.repeat(TRANSMIT_QUEUE, readable(0x10_0000, 1), 2 * TURN);
    let chains = |driver: &Driver| driver.given_back(TRANSMIT_QUEUE).into();
    let half = TURN as u64 / 2;
    assert_eq!(turns(&driver, &mut service, transmit, chains), [half, half, half, half, 0]);
    drop(output.take());

    // Long text: the first turns give nothing back, since all of it is in one chain.
    let turn = OUTPUT_TURN as u32;
    driver.repeat(TRANSMIT_QUEUE, readable(0x10_0000, 2 * turn + 1), 1);
    let length = Cell::new(0);
    let printed = |_: &Driver| {
        length.set(length.get() + output.take().len() as u64);
        length.get()
    };
    assert_eq!(turns(&driver, &mut service, transmit, printed), [turn.into(), turn.into(), 1]);

    // Room for a key each, and then for none.
    lock(&input).receive(&[b'k'; INPUT_LIMIT]);
    driver.repeat(RECEIVE_QUEUE, writable(0x10_0000, 1), TURN + 10);
    driver.repeat(RECEIVE_QUEUE, readable(0x10_0000, 1), TURN);
    let chains = |driver: &Driver| driver.given_back(RECEIVE_QUEUE).into();
    let turn = TURN as u64;
    assert_eq!(turns(&driver, &mut service, receive, chains), [turn, turn, 10]);
    assert_eq!(lock(&input).room(), TURN + 10);
}

#[test]
fn keys_typed_before_there_is_a_driver_wait_for_it() {
    let mut bench = Bench::with(b"early", None);
    assert_eq!(bench.types(b", late"), 6);
    bench.offer(&[3]);
    assert_eq!(bench.read(), b"ear");
    bench.offer(&[1, 4, 100]);
    assert_eq!(bench.read(), b"ly, late");
    bench.driver.restart();
    bench.types(b"again");
    bench.offer(&[8]);
    assert_eq!(bench.read(), b"again");
}

#[test]
fn keys_that_the_guest_does_not_read_are_held_and_bounded_and_room_is_told_when_wanted() {
    let mut bench = Bench::new();
    let keys = [b'k'; INPUT_LIMIT + 10];
    assert_eq!(bench.types(&keys), INPUT_LIMIT);
    assert_eq!((bench.types(b"x"), lock(&bench.input).room()), (0, 0));
    let room = lock(&bench.input).input_room();
    room.want();
    bench.offer(&[INPUT_LIMIT - 1]);
    assert_eq!(bench.read().len(), INPUT_LIMIT - 1);
    assert!(room.event().read().is_err(), "it is not empty yet");
    bench.offer(&[INPUT_LIMIT]);
    assert_eq!(bench.read(), b"k");
    assert!(room.event().read().is_ok());
    assert_eq!(bench.types(&keys), INPUT_LIMIT);
}

#[test]
fn buffers_without_room_go_back_and_keys_wait_for_those_that_have_some() {
    let mut bench = Bench::new();
    bench.offer(&[0]);
    bench.driver.add(RECEIVE_QUEUE, &[b"not to be written"], &[]);
    let outside = bench.driver.reserve(RECEIVE_QUEUE);
    let descriptor = Descriptor { address: MEMORY - 1, length: 9, flags: WRITE, next: 0 };
    bench.driver.set_descriptor(RECEIVE_QUEUE, outside, descriptor);
    bench.driver.make_available(RECEIVE_QUEUE, outside);
    bench.offer(&[0, 4]);
    bench.types(b"keys");
    for _ in 0..3 {
        assert_eq!(bench.driver.wait_whole(RECEIVE_QUEUE).1, 0);
    }
    assert_eq!(bench.read(), b"keys");
    assert_eq!(bench.driver.status() & 64, 0);
}

#[test]
fn the_driver_finds_the_terminal_s_size_where_there_is_one() {
    let size = TerminalSize { columns: 132, rows: 43 };
    let mut bench = Bench::with(b"", Some(size));
    assert_eq!(bench.driver.read(register::CONFIG), 43 << 16 | 132);
    assert_eq!(bench.driver.read(register::CONFIG + 4), 0);
    bench.driver.write(register::DEVICE_FEATURES_SELECT, 0);
    assert_eq!(u64::from(bench.driver.read(register::DEVICE_FEATURES)) & SIZE, SIZE);
    let mut bench = Bench::new();
    bench.driver.write(register::DEVICE_FEATURES_SELECT, 0);
    assert_eq!(u64::from(bench.driver.read(register::DEVICE_FEATURES)) & SIZE, 0);
}

#[test]
fn a_driver_whose_ring_is_nonsense_is_told_to_reset_and_can() {
    let mut bench = Bench::new();
    bench.driver.set_available_index(TRANSMIT_QUEUE, 1000);
    bench.driver.ring(TRANSMIT_QUEUE);
    let deadline = Instant::now() + LIMIT;
    while bench.driver.status() & 64 == 0 {
        assert!(Instant::now() < deadline, "the driver was not told");
        thread::yield_now();
    }
    bench.types(b"typed meanwhile");
    bench.driver.restart();
    bench.print(&[b"on"]);
    bench.offer(&[64]);
    assert_eq!(bench.read(), b"typed meanwhile");
}
