//! Where the cases are played: a machine that is attacked, one that is not, and in each of them a
//! connection that has no part in it.

use super::guest::Guest;
use super::packet::{CREDIT_REQUEST, CREDIT_UPDATE, Packet, Ports};
use crate::client;
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use vmm::control::wire::Request;

/// The host's port of connections that nothing is done to.
const QUIET: u32 = 700;
/// The host's port of the others.
pub(crate) const OPEN: u32 = 800;
/// Running, as a driver that has done all steps left it.
const RUNNING: u32 = 15;

/// A connection that nothing is done to.
struct Bystander {
    ports: Ports,
    stream: RefCell<UnixStream>,
    /// How often it has been looked at.
    looks: Cell<u32>,
}

impl Bystander {
    fn of(guest: &Guest) -> Self {
        let (ports, stream) = guest.dial(&guest.listen(QUIET));
        Self { ports, stream: RefCell::new(stream), looks: Cell::new(0) }
    }

    fn is_unharmed(&self, guest: &Guest, when: &str) {
        let look = self.looks.replace(self.looks.get() + 1);
        let (to_guest, to_host) =
            (format!("to the guest {look:6}"), format!("to the host {look:6}"));
        let mut stream = self.stream.borrow_mut();
        stream.write_all(to_guest.as_bytes()).unwrap();
        let heard = guest.data(self.ports, to_guest.len());
        assert_eq!(String::from_utf8_lossy(&heard), to_guest, "{when}");
        let taken = (look + 1) * to_guest.len() as u32;
        guest.send(&Packet::data(self.ports, to_host.as_bytes()).credit(1 << 20, taken));
        let mut heard = vec![0; to_host.len()];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), to_host, "{when}");
    }
}

/// The two machines.
pub(crate) struct Scene {
    /// The one that is attacked.
    pub(crate) guest: Guest,
    /// A program of its host that takes whoever dials [`OPEN`].
    pub(crate) listener: UnixListener,
    bystander: Bystander,
    other: (Guest, Bystander),
}

impl Scene {
    pub(crate) fn new() -> Self {
        let (guest, other) = (Guest::new(), Guest::new());
        let listener = guest.listen(OPEN);
        let (bystander, others) = (Bystander::of(&guest), Bystander::of(&other));
        // Its processor would only be in the way until it is looked at.
        crate::answers(&other.puppet);
        client(&other.puppet).act(Request::Pause).unwrap();
        Self { guest, listener, bystander, other: (other, others) }
    }

    /// Opens a connection.
    pub(crate) fn open(&self) -> (Ports, UnixStream) {
        self.guest.dial(&self.listener)
    }

    /// Whether nobody has dialled [`OPEN`] of whom the test does not know.
    pub(crate) fn nobody_came(&self, when: &str) {
        self.listener.set_nonblocking(true).unwrap();
        assert!(self.listener.accept().is_err(), "{when}: somebody was let through");
        self.listener.set_nonblocking(false).unwrap();
    }

    /// The connections that have no part in it serve, here and in the other machine, and so do both
    /// monitors.
    pub(crate) fn others_are_unharmed(&self, when: &str) {
        self.bystander.is_unharmed(&self.guest, when);
        let (other, bystander) = &self.other;
        client(&other.puppet).act(Request::Resume).unwrap();
        bystander.is_unharmed(other, when);
        client(&other.puppet).act(Request::Pause).unwrap();
        assert_eq!(self.guest.driver.status(), RUNNING, "{when}: the device");
        // What became of the others' credit is nobody's concern.
        let left = self.guest.settle();
        let credit = |it: &Packet| [CREDIT_UPDATE, CREDIT_REQUEST].contains(&it.op);
        assert!(left.iter().all(credit), "{when}: {left:?}");
    }

    /// The end of every case: nothing is left to be said or done, and nobody was harmed.
    pub(crate) fn ends_well(&self, when: &str) {
        self.others_are_unharmed(when);
        crate::answers(&self.guest.puppet);
        self.guest.is_idle(when);
        self.other.0.is_idle(when);
    }
}
