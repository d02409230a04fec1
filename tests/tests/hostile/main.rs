//! Whoever is hostile, against the monitor's own process on whatever KVM there is: the guest from its
//! first instruction on, played by a [puppet](tests::puppet) in a machine under `vmm run`; files and
//! clients from outside; an agent of a test's own.
//!
//! The cases are numbered; a test is named after its case and says what is held. All that may happen is
//! that what the guest asked for is refused, that its device needs a reset, or that the machine ends as
//! it is documented to. The monitor touches nothing outside of the guest's RAM, does not panic, hang,
//! spin or grow, and answers everybody else.
//!
//! ```text
//! chains     1 to 5, 9     chains that make no sense    \
//! rings      6 to 8, 14    rings that make no sense      }  bench: a machine, driven honestly and not
//! transport  10 to 13, 15  registers                    /   subject: the queues, and what is honest there
//! exits      25            ports and addresses          \
//! ends       26 to 28      what ends a machine           }  ports: which there are
//! processor  29, 30        what a processor is asked    /
//! vsock      16 to 24      what vsock packets say
//! images     31 to 38      files that come from anywhere
//! control    39 to 41, 43  clients of the control socket, and its place
//! faults     42            a host without signals' mercy, room, descriptors or memory
//! agent      44 to 51      what an agent says
//! ```

mod agent;
mod bench;
mod chains;
mod control;
mod ends;
mod exits;
mod faults;
mod images;
mod ports;
mod processor;
mod rings;
mod subject;
mod transport;
mod vsock;
#[path = "../cli/world.rs"]
#[allow(dead_code, reason = "the tests of the command need more of it")]
mod world;

use std::rc::Rc;
use tests::level::KEPT;
use tests::puppet::{NAME, Puppet, Setting, Usage};
use vmm::control::client::Client;
use vmm::runtime::Runtime;
use vmm::state::VmState;

/// The command that runs the machines.
const VMM: &str = env!("CARGO_BIN_EXE_vmm");

/// Exit codes of `vmm run`.
const POWERED_OFF: i32 = 0;
const PANICKED: i32 = 10;
const TRIPLE_FAULT: i32 = 11;
const FAILED: i32 = 12;

/// A machine with nothing that not every machine has.
fn start() -> Rc<Puppet> {
    start_with(&[])
}

/// A machine with more words for `vmm run`.
fn start_with(options: &[&str]) -> Rc<Puppet> {
    Rc::new(Puppet::start(&Setting::new(VMM).with(options)))
}

/// A client of the puppet's machine.
fn client(puppet: &Puppet) -> Client {
    Client::connect(&Runtime::at(puppet.runtime()), NAME).unwrap()
}

/// The machine runs, as soon as its start is complete, and its monitor answers.
fn answers(puppet: &Puppet) {
    let mut client = client(puppet);
    puppet.wait_for("the machine", || client.machine().unwrap().state == VmState::Running);
}

/// The monitor has, as soon as what is under way has ended, no more of the host than `before`, but for
/// what an allocator keeps.
fn is_flat(puppet: &Puppet, before: &Usage, what: &str) {
    let flat = || {
        let after = puppet.usage();
        after.threads <= before.threads
            && after.descriptors <= before.descriptors
            && after.memory < before.memory + KEPT
    };
    puppet.wait_for(&format!("{what}: no more than {before:?}"), flat);
}

/// The machine has ended with this exit code and these words, and has left nothing behind.
fn ended_with(puppet: &Puppet, code: i32, words: &str) {
    let end = puppet.end();
    assert_eq!(end.status.code(), Some(code), "{end:?}");
    assert!(end.stderr.contains(words), "{end:?}");
    assert!(!end.stderr.contains("panicked at"), "{end:?}");
    let socket = Runtime::at(puppet.runtime()).control(NAME);
    assert!(!socket.exists(), "{} is still there", socket.display());
}
