//! A machine with a subject: it is driven honestly and otherwise, and looked at.

use crate::subject::Driven::{self, Honestly, Maliciously, Wildly};
use crate::subject::Subject::{
    self, ConsoleIn, ConsoleOut, Deflate, Disk, Inflate, NetIn, NetOut, Reports, Rng, Statistics,
    VsockIn, VsockOut,
};
use crate::subject::{
    ASIDE, DATAGRAM, HEADERS, HONEST_PORT, MALICIOUS_FREE, NET_HEADER, ON_DISK, PRECIOUS, RAM,
    READABLE, SPARE, TAP, WRITABLE, request,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::cell::Cell;
use std::net::UdpSocket;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;
use tests::puppet::{Descriptor, Driver, Puppet, Ring, Setting, linked};
use vmm::control::wire::Request;

/// Running, as a driver that has done all steps left it.
pub(crate) const RUNNING: u32 = 15;
pub(crate) const NEEDS_RESET: u32 = 64;
/// Bytes of [`WRITABLE`].
const WRITABLE_SIZE: usize = 8192;
/// What lies where nothing has been written.
pub(crate) const PATTERN: u8 = 0xa5;
const PAGE: usize = 4096;
/// The host in the tap's network, and the guest.
const HOST: &str = "10.0.0.1";
const NEIGHBOUR: &str = "10.0.0.2";

/// A machine with a subject, whose device is up.
pub(crate) struct Bench {
    pub(crate) subject: Subject,
    pub(crate) puppet: Rc<Puppet>,
    pub(crate) driver: Driver,
    features: u64,
    /// The device has something for the guest, and no buffer.
    stimulated: Cell<bool>,
    /// What an honest driver has said and done.
    honest: Cell<usize>,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new(subject: Subject) -> Self {
        Self::with(subject, RAM, 0)
    }

    /// A machine with so much memory, and ring features besides those of the subject.
    pub(crate) fn with(subject: Subject, memory: u64, features: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let networks = matches!(subject, NetOut | NetIn);
        if networks {
            // SAFETY: of what threads share, this takes only the network. Children are in the new one.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("root can have a network");
            // Where there is IPv6 it would send packets of its own.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
        }
        let setting = Setting { memory, ..subject.setting(folder.path()) };
        let puppet = Rc::new(Puppet::start(&setting));
        if networks {
            let neighbour = format!("neighbour add {NEIGHBOUR} lladdr 02:00:00:00:00:02 dev {TAP}");
            for words in [
                &format!("link set {TAP} up"),
                &format!("address add {HOST}/24 dev {TAP}"),
                // Nobody there would answer who is asked for.
                &neighbour,
            ] {
                let done = Command::new("ip").args(words.split(' ')).status();
                assert!(done.is_ok_and(|status| status.success()), "ip {words}");
            }
        }
        let driver = Driver::of(&puppet, subject.kind());
        let features = features | subject.features();
        let (stimulated, honest) = (Cell::new(false), Cell::new(0));
        let bench = Self { subject, puppet, driver, features, stimulated, honest, _folder: folder };
        bench.driver.bring_up(features);
        bench.serves("at first");
        bench.is_quiet("at first");
        bench
    }

    pub(crate) fn queue(&self) -> usize {
        self.subject.queue()
    }

    /// The numbers of all queues of the device that are used.
    pub(crate) fn queues(&self) -> std::ops::Range<usize> {
        0..self.subject.queues()
    }

    fn prepare(&self, driven: Driven) {
        self.puppet.poke(READABLE, &self.subject.readable(driven));
        for page in [WRITABLE, WRITABLE + PAGE as u64, SPARE, PRECIOUS] {
            self.puppet.poke(page, &[PATTERN; PAGE]);
        }
    }

    /// Gives the device something that it wants to tell the guest.
    fn stimulate(&self) {
        if self.stimulated.replace(true) {
            return;
        }
        match self.subject {
            ConsoleIn => self.puppet.type_in(b"x"),
            NetIn => {
                let socket = UdpSocket::bind((HOST, 9)).expect("it is this thread's network");
                let sent = socket.send_to(DATAGRAM, (NEIGHBOUR, 9)).expect("the tap is up");
                assert_eq!(sent, DATAGRAM.len());
            }
            VsockIn => {
                let driver = &self.driver;
                self.puppet.poke(ASIDE, &request(77));
                driver.describe(1, 9, &[Descriptor::readable(ASIDE, 44)]);
                driver.offer(1, 9);
                driver.notify(1);
                driver.await_used(1, driver.available(1));
            }
            _ => {}
        }
    }

    /// Waits until all that was made available has come back, and gives head and length of the last.
    pub(crate) fn await_all(&self) -> (u32, u32) {
        let (driver, queue) = (&self.driver, self.queue());
        let all = driver.available(queue);
        if self.subject == Statistics {
            // It comes back when the host asks for new ones.
            self.puppet.wait_for("statistics", || {
                let mut client = crate::client(&self.puppet);
                // The answer would wait for the new ones.
                client.set_patience(Duration::from_millis(2)).unwrap();
                let _ = client.value(Request::Balloon);
                driver.used(queue) == all
            });
        }
        driver.await_used(queue, all)
    }

    /// The host asks for statistics until the device says that it needs a reset.
    pub(crate) fn asks_until_it_is_broken(&self, when: &str) {
        self.puppet.wait_for(&format!("{when}: a device that needs a reset"), || {
            let mut client = crate::client(&self.puppet);
            // Nobody will answer.
            client.set_patience(Duration::from_millis(2)).unwrap();
            let _ = client.value(Request::Balloon);
            self.driver.status() & NEEDS_RESET != 0
        });
    }

    /// Puts the chain that begins with descriptor `head` into the queue as an honest driver.
    pub(crate) fn offer(&self, head: u16) {
        self.stimulate();
        let driver = &self.driver;
        driver.offer(self.queue(), head);
        driver.notify(self.queue());
    }

    /// An honest driver is served, with all that belongs to it.
    pub(crate) fn serves(&self, when: &str) {
        let (driver, queue) = (&self.driver, self.queue());
        let said = |text: &str| format!("{:?}, {when}: {text}", self.subject);
        self.prepare(Honestly);
        // Not where a malicious driver has left something.
        let first = (driver.ring(queue).size / 2) as u16;
        driver.describe(queue, first, &linked(&self.subject.chain(), first));
        self.offer(first);
        let (head, length) = self.await_all();
        self.stimulated.set(false);
        assert_eq!(head, u32::from(first), "{}", said("its chain"));
        if self.subject == ConsoleIn {
            // What was typed while the device was broken waits, too.
            assert!((1..=self.subject.writable()).contains(&length), "{}", said("its length"));
        } else {
            assert_eq!(length, self.subject.written(), "{}", said("its length"));
        }
        self.honest.set(self.honest.get() + 1);
        let written = self.puppet.peek(WRITABLE, WRITABLE_SIZE);
        match self.subject {
            Disk => {
                assert!(written[..512] == [ON_DISK; 512], "{}", said("data"));
                assert_eq!(written[512], 0, "{}", said("status"));
            }
            Rng => assert_ne!(written[..32], [PATTERN; 32], "{}", said("bytes")),
            ConsoleIn => {
                let typed = &written[..length as usize];
                assert!(typed.iter().all(|byte| *byte == b'x'), "{}", said("what was typed"));
            }
            NetIn => {
                let packet = &written[NET_HEADER..length as usize];
                assert_eq!(&packet[HEADERS..], DATAGRAM, "{}", said("the packet"));
            }
            VsockIn => assert_eq!(&written[30..32], &3_u16.to_le_bytes(), "{}", said("a reset")),
            Inflate => {
                assert!(self.puppet.peek(SPARE, PAGE) == [0; PAGE], "{}", said("the page"));
            }
            Reports => assert!(written[..PAGE] == [0; PAGE], "{}", said("the page")),
            ConsoleOut => {
                let wanted = self.honest.get();
                self.puppet.wait_for("what was printed", || self.printed("honest!") == wanted);
                assert_eq!(self.printed("malign!"), 0, "{}", said("no other text"));
            }
            VsockOut => {
                driver.describe(0, 9, &[Descriptor::writable(ASIDE, 4096)]);
                driver.offer(0, 9);
                driver.notify(0);
                driver.await_used(0, driver.available(0));
                let port = self.puppet.peek32(ASIDE + 20);
                assert_eq!(port, HONEST_PORT, "{}", said("whose request was refused"));
            }
            NetOut => {
                let wanted = self.honest.get();
                self.puppet.wait_for("the packet", || self.packets() == wanted);
            }
            Deflate | Statistics => {}
        }
        let beyond = self.subject.writable() as usize;
        let rest = if self.subject == Reports { PAGE } else { beyond };
        assert!(written[rest..].iter().all(|byte| *byte == PATTERN), "{}", said("no more"));
        assert_eq!(driver.status(), RUNNING, "{}", said("it runs"));
        // Whatever is done from here on until the next time is not the honest driver's wish.
        self.prepare(Maliciously);
    }

    fn printed(&self, word: &str) -> usize {
        String::from_utf8_lossy(&self.puppet.printed()).matches(word).count()
    }

    /// Packets that have come out of the guest.
    fn packets(&self) -> usize {
        let table = format!("/proc/{}/net/dev", self.puppet.pid());
        let table = std::fs::read_to_string(table).unwrap();
        let line = table.lines().find_map(|line| line.trim().strip_prefix(TAP)).unwrap();
        line.trim_start_matches(':').split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What a malicious driver asked for has not been done.
    fn has_done_nothing(&self, when: &str) {
        let said = |text: &str| format!("{:?}, {when}: {text}", self.subject);
        let mut written = self.puppet.peek(WRITABLE, WRITABLE_SIZE);
        if self.subject == Disk {
            // Where a status may lie.
            written.remove(512);
        }
        assert!(written.iter().all(|byte| *byte == PATTERN), "{}", said("something is written"));
        let precious = self.puppet.peek(PRECIOUS, PAGE);
        assert!(precious == [PATTERN; PAGE], "{}", said("a page is gone"));
        assert_eq!(self.printed("malign!"), 0, "{}", said("it is printed"));
        if self.subject == NetOut {
            assert_eq!(self.packets(), self.honest.get(), "{}", said("it is sent"));
        }
        if self.subject == Statistics {
            // While it stands still nobody waits for new ones.
            let mut client = crate::client(&self.puppet);
            client.act(Request::Pause).unwrap();
            let balloon = client.value(Request::Balloon).unwrap();
            client.act(Request::Resume).unwrap();
            let free = &balloon["stats"]["free"];
            assert_ne!(free, &MALICIOUS_FREE, "{}", said("it is believed"));
        }
    }

    /// `descriptors` at the head of the table as a chain make no sense: it comes back as it was, and
    /// the next one is served.
    pub(crate) fn refuses(&self, descriptors: &[Descriptor], when: &str) {
        let (driver, queue) = (&self.driver, self.queue());
        driver.describe(queue, 0, descriptors);
        self.offer(0);
        let given = self.await_all();
        assert_eq!(given, (0, 0), "{:?}, {when}", self.subject);
        assert_eq!(driver.status(), RUNNING, "{:?}, {when}", self.subject);
        self.has_done_nothing(when);
        self.serves(when);
    }

    /// `descriptors` at the head of the table as a chain may be served or not, but the device is as good
    /// as new after a reset.
    pub(crate) fn survives(&self, descriptors: &[Descriptor], when: &str) {
        self.survives_ring(|driver| driver.describe(self.queue(), 0, descriptors), when);
    }

    /// The same for what `spoil` does to the ring, before a chain is made available whose first
    /// descriptor is 0.
    pub(crate) fn survives_ring(&self, spoil: impl FnOnce(&Driver), when: &str) {
        let (driver, queue) = (&self.driver, self.queue());
        self.prepare(Wildly);
        driver.describe(queue, 0, &self.subject.chain());
        spoil(driver);
        self.offer(0);
        // Whatever it does, it comes to an end.
        self.is_quiet(when);
        self.answers();
        self.comes_back(when);
    }

    /// What `break_it` does to the ring makes no sense: the device says that it needs a reset, does
    /// nothing, costs nothing, and serves after the reset.
    pub(crate) fn breaks(&self, break_it: impl FnOnce(&Driver), when: &str) {
        self.stimulate();
        break_it(&self.driver);
        self.is_broken(when);
        self.comes_back(when);
    }

    /// A driver that has set the queues up with what `spoil` makes of them is told that the device
    /// needs a reset.
    pub(crate) fn never_starts(&self, spoil: impl FnOnce(&mut Vec<Ring>), when: &str) {
        self.reset();
        self.driver.agree(self.features);
        let mut rings = self.driver.empty_rings();
        spoil(&mut rings);
        self.driver.begin(&rings);
        self.is_broken(when);
    }

    /// A ring is not heard: the device does nothing, and costs nothing.
    pub(crate) fn does_nothing(&self, when: &str) {
        self.is_quiet(when);
        self.has_done_nothing(when);
    }

    /// What is made available from here on may be served, or not.
    pub(crate) fn lets_go(&self) {
        self.prepare(Wildly);
    }

    /// The device says that it needs a reset, has done nothing, and costs nothing.
    pub(crate) fn is_broken(&self, when: &str) {
        let driver = &self.driver;
        let what = format!("{:?}, {when}: a device that needs a reset", self.subject);
        self.puppet.wait_for(&what, || driver.status() & NEEDS_RESET != 0);
        self.has_done_nothing(when);
        // However often it happens, the log hears of it once.
        let told = || self.puppet.stderr().matches("a virtio device stops").count();
        self.puppet.wait_for("the log's word", || told() > 0);
        assert_eq!(told(), 1, "{:?}, {when}: {}", self.subject, self.puppet.stderr());
        for queue in 0..4 {
            driver.notify(queue);
        }
        self.is_quiet(when);
        self.has_done_nothing(when);
    }

    /// The monitor does nothing.
    pub(crate) fn is_quiet(&self, when: &str) {
        // What has been begun is finished first.
        let quiet = || {
            let before = self.puppet.usage();
            std::thread::sleep(Duration::from_millis(3));
            self.puppet.usage().idle_since(&before)
        };
        let what = format!("{:?}, {when}: the monitor's rest", self.subject);
        self.puppet.wait_for(&what, quiet);
    }

    /// After a reset the device serves.
    pub(crate) fn comes_back(&self, when: &str) {
        let driver = &self.driver;
        self.reset();
        driver.bring_up(self.features);
        self.serves(when);
        self.answers();
    }

    /// Resets the device, and waits until it is.
    pub(crate) fn reset(&self) {
        let driver = &self.driver;
        driver.reset();
        self.puppet.wait_for("a complete reset", || driver.status() == 0);
        match self.subject {
            // What it had for the guest may be gone, and may not.
            VsockIn | ConsoleIn | NetIn => self.stimulated.set(false),
            // What came from a driver of whom nobody knows what it did.
            NetOut => self.honest.set(self.packets()),
            _ => {}
        }
    }

    /// The monitor answers on its control socket.
    pub(crate) fn answers(&self) {
        crate::answers(&self.puppet);
    }
}
