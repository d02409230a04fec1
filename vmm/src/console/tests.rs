//! A console on pipes, served by a real thread.

use super::*;
use crate::bus::BusDevice;
use crate::devices::serial::Serial;
use crate::io::IoThread;
use crate::irq::IrqLine;
use crossbeam_channel::Receiver;
use rustix::pipe::pipe;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

const LIMIT: Duration = Duration::from_secs(10);

/// A console, and the other ends of what it is connected to.
struct Bench {
    console: HostConsole,
    serial: Arc<Mutex<Serial>>,
    outcome: Receiver<Outcome>,
    calls: Arc<AtomicU32>,
    io: IoThread,
    reader: Option<File>,
    keyboard: File,
}

/// Counts how often the console is called.
struct Counted(Box<dyn Source>, Arc<AtomicU32>);

impl Source for Counted {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        self.0.start(registry)
    }

    fn ready(&mut self, token: u32, events: EventSet, registry: &mut Registry<'_>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.ready(token, events, registry);
    }
}

impl Bench {
    fn new(terminal: bool) -> Self {
        Self::with_hub(terminal, None)
    }

    fn with_hub(terminal: bool, hub: Option<ConsoleHub>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
        let reader = rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK, mode).unwrap();
        let (keys, keyboard) = pipe().unwrap();
        rustix::io::ioctl_fionbio(&keys, true).unwrap();
        let output = ConsoleOutput::new().unwrap();
        let console = HostConsole {
            output: output.clone(),
            sink: Some(Arc::new(Sink::file(&path).unwrap())),
            keys: Some(Arc::new(File::from(keys))),
            terminal,
            hub,
        };
        let serial = Serial::new(IrqLine::new().unwrap(), output).unwrap();
        let serial = Arc::new(Mutex::new(serial));
        let (slot, outcome) = OutcomeSlot::new();
        let io = IoThread::spawn("io").unwrap();
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Counted(console.connect(serial.clone(), slot), calls.clone());
        io.handle().add(Box::new(counted)).unwrap();
        let (reader, keyboard) = (Some(File::from(reader)), File::from(keyboard));
        Self { console, serial, outcome, calls, io, reader, keyboard }
    }

    fn print(&self, bytes: &[u8]) {
        self.console.output().clone().write_all(bytes).unwrap();
    }

    /// What the guest reads, once it is there.
    fn read(&self, count: usize) -> Vec<u8> {
        let deadline = Instant::now() + LIMIT;
        let mut read = Vec::new();
        while read.len() < count {
            assert!(Instant::now() < deadline, "only {read:?} was typed");
            let mut serial = self.serial.lock().unwrap();
            let (mut status, mut key) = ([0], [0]);
            serial.read(5, &mut status);
            if status[0] & 1 == 1 {
                serial.read(0, &mut key);
                read.push(key[0]);
            } else {
                drop(serial);
                thread::yield_now();
            }
        }
        read
    }

    fn wait_until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_reader_that_goes_while_it_is_waited_for_costs_no_processor_time() {
    let mut bench = Bench::new(false);
    let flood = vec![b'x'; 200_000];
    bench.print(&flood);
    // More than the pipe holds: the rest waits for the reader, who takes some and goes.
    bench.wait_until("the pipe is full", || bench.calls.load(Ordering::SeqCst) > 0);
    let mut reader = bench.reader.take().unwrap();
    reader.read_exact(&mut [0; 8192]).unwrap();
    drop(reader);
    let sink = bench.console.sink.clone().unwrap();
    bench.wait_until("the loss is noticed", || sink.is_lost());
    thread::sleep(Duration::from_millis(20));
    let before = bench.calls.load(Ordering::SeqCst);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(bench.calls.load(Ordering::SeqCst), before, "it is called again and again");
    bench.print(b"into the void");
    bench.wait_until("output is still taken", || bench.console.output().is_empty());
}

#[test]
fn the_keys_that_turn_the_machine_off_get_past_a_guest_that_does_not_read() {
    let mut bench = Bench::new(true);
    bench.keyboard.write_all(&[b'k'; 10_000]).unwrap();
    bench.keyboard.write_all(b"\x01x").unwrap();
    assert_eq!(bench.outcome.recv_timeout(LIMIT), Ok(Outcome::Stopped));
    assert_eq!(bench.read(WAITING_KEYS), [b'k'; WAITING_KEYS], "so much was kept for it");
}

#[test]
fn what_is_typed_reaches_the_guest_whole_and_in_order() {
    for terminal in [false, true] {
        let mut bench = Bench::new(terminal);
        let text: Vec<u8> = (0..3000).map(|at| b'a' + (at % 26) as u8).collect();
        bench.keyboard.write_all(&text).unwrap();
        assert_eq!(bench.read(text.len()), text);
        bench.keyboard.write_all(b"\x01\x01").unwrap();
        assert_eq!(bench.read(1), b"\x01");
        assert!(bench.outcome.is_empty());
    }
}

#[test]
fn the_last_words_are_written_before_the_console_is_gone_and_a_reader_who_stalls_is_not_awaited() {
    let mut bench = Bench::new(false);
    bench.print(b"last words");
    drop(bench.io);
    let mut read = [0; 10];
    bench.reader.take().unwrap().read_exact(&mut read).unwrap();
    assert_eq!(&read, b"last words");

    let bench = Bench::new(false);
    bench.print(&vec![b'x'; 200_000]);
    let start = Instant::now();
    drop(bench.io);
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn who_has_typed_more_than_the_guest_reads_is_still_shown_everything_and_typed_for_later() {
    let hub = ConsoleHub::new().unwrap();
    let bench = Bench::with_hub(false, Some(hub.clone()));
    let (mut person, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let typed: Vec<u8> = (0..500).map(|at| b'a' + (at % 26) as u8).collect();
    let (before, after) = typed.split_at(200);
    hub.attach(theirs, before.to_vec()).unwrap();
    person.write_all(after).unwrap();
    // More than a socket holds.
    let printed = vec![b'p'; OUTPUT];
    for piece in printed.chunks(OUTPUT / 4) {
        bench.print(piece);
        bench.wait_until("the output is taken", || bench.console.output().is_empty());
    }
    let mut shown = vec![0; OUTPUT];
    person.set_read_timeout(Some(LIMIT)).unwrap();
    person.read_exact(&mut shown).unwrap();
    assert!(shown == printed);
    assert_eq!(bench.read(typed.len()), typed);
}

/// Bytes of output that a person may be behind with.
const OUTPUT: usize = 250_000;
