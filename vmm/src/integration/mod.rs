//! The integration channel: the host's half of what monitor and guest do together.
//!
//! A thread named `integration` owns the connections of the guest's agent and the operation that
//! is going on. It knows nothing of virtio: a connection is a `UnixStream`, so everything here is
//! tested against scripted peers and the real agent over socket pairs.
//!
//! `channel` is one connection, from hello to silence. `worker` is the thread, [`guest`] what
//! callers hold. Each service has a file with its part of both: `logoff`, `power`, [`info`],
//! `parameters`, `heartbeat`, `clock` and [`install`].

pub(crate) mod channel;
mod clock;
pub mod guest;
mod heartbeat;
pub mod info;
pub mod install;
mod logoff;
mod parameters;
mod power;
mod worker;

use crate::confine::{self, Role};
use crate::events::Events;
use crate::kit::KitState;
use crate::state::StateCell;
use crate::task::Tasks;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use guest::{GuestOs, StatusCell};
use protocol::hello::Versions;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use worker::{Command, Worker};

/// How long things may take; tests have shorter times.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// From a connection to the end of its handshake.
    handshake: Duration,
    /// From a request to the guest's acceptance or answer.
    answer: Duration,
    /// From the last word of an agent to the end of its connection.
    silence: Duration,
    /// From the guest's word that everybody is logged off to the end of waiting for what it says to
    /// the host's second look; zero: there is none.
    second_look: Duration,
    /// From the guest's own deadline to the host's.
    margin: Duration,
    /// From the guest's acceptance of a shutdown or restart to its end.
    power: Duration,
    /// From the guest's acceptance of an installation to the agent that comes back.
    install: Duration,
    /// Between two times that the guest is told the time.
    clock: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            answer: Duration::from_secs(5),
            second_look: Duration::from_secs(1),
            silence: Duration::from_millis(3 * protocol::HEARTBEAT_MS),
            margin: Duration::from_secs(2),
            power: Duration::from_secs(300),
            install: Duration::from_secs(120),
            clock: Duration::from_secs(protocol::clock::PERIOD_SECONDS),
        }
    }
}

/// The thread. Dropping it ends all calls and tasks, and waits for its end.
pub struct Integration {
    commands: Sender<Command>,
    guest: GuestOs,
    thread: Option<JoinHandle<()>>,
}

impl Integration {
    /// Starts the thread for a machine whose state is `state` and whose tasks are `tasks`; the
    /// host's ends of the agent's connections come through `incoming`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(
        state: StateCell,
        tasks: Tasks,
        incoming: Receiver<UnixStream>,
    ) -> io::Result<Self> {
        Self::spawn_with(state, tasks, incoming, Timing::default(), protocol::PROTOCOL)
    }

    fn spawn_with(
        state: StateCell,
        tasks: Tasks,
        incoming: Receiver<UnixStream>,
        timing: Timing,
        protocols: Versions,
    ) -> io::Result<Self> {
        let (commands, receiver) = unbounded();
        let status = Arc::new(StatusCell::default());
        let guest = GuestOs::new(state.clone(), commands.clone(), Arc::clone(&status));
        let worker = Worker::new(state, tasks, commands.clone(), status, timing, protocols);
        let thread = thread::Builder::new().name("integration".into()).spawn(move || {
            confine::narrow(Role::Integration);
            worker.run(&receiver, &incoming);
        })?;
        Ok(Self { commands, guest, thread: Some(thread) })
    }

    /// The guest's operating system, as callers hold it.
    #[must_use]
    pub fn guest_os(&self) -> GuestOs {
        self.guest.clone()
    }

    /// The guest begins to boot: whatever connected before belongs to another boot. The guest is not to
    /// run before that has been [waited for](Heard::wait).
    pub fn boot_starts(&self) -> Heard {
        self.tell(Command::BootStarted)
    }

    /// What the machine is called: guests that connect from now on are told.
    pub fn set_machine_name(&self, name: &str) {
        // No thread, no guest to be told.
        let _ = self.commands.send(Command::Name(name.to_owned()));
    }

    /// What is brought along for the guest.
    pub fn set_kit(&self, kit: KitState) {
        self.guest.cell().set_kit(kit);
    }

    /// What happens in the guest is to be told to the subscribers of `events`.
    pub fn tell_events(&self, events: &Events) {
        // No thread, nothing to be told.
        let _ = self.commands.send(Command::Tell(events.clone()));
    }

    /// The machine is paused: its guest has none of the time from now on.
    pub fn paused(&self) {
        // No thread, no time that would be counted.
        let _ = self.commands.send(Command::Paused(Instant::now()));
    }

    /// The machine was paused, and goes on with `run`, which makes its state running: the guest's
    /// silence meanwhile was none of its doing, and its clock is behind.
    pub fn resumed(&self, run: impl FnOnce()) {
        self.tell(Command::Resumed).wait();
        run();
        // What the guest has time for is counted from now on. No thread, nothing to count.
        let _ = self.commands.send(Command::Running);
    }

    /// The guest has powered the machine off: as [`machine_ended`](Self::machine_ended), but a
    /// shutdown that was asked for has succeeded.
    pub fn powered_off(&self) {
        self.tell(|done| Command::MachineEnded { powered_off: true, done }).wait();
    }

    /// The machine has ended: when this returns, every call and task is complete.
    pub fn machine_ended(&self) {
        self.tell(|done| Command::MachineEnded { powered_off: false, done }).wait();
    }

    /// Sends what `command` makes.
    fn tell(&self, command: impl FnOnce(Sender<()>) -> Command) -> Heard {
        let (done, answer) = bounded(1);
        // Without a thread the answer is disconnected.
        let _ = self.commands.send(command(done));
        Heard(answer)
    }
}

/// Something that the thread was told.
#[must_use]
pub struct Heard(Receiver<()>);

impl Heard {
    /// Waits until the thread has done what belongs to it.
    pub fn wait(self) {
        // No answer means that the thread has ended, and with it all that it did.
        let _ = self.0.recv();
    }
}

impl Drop for Integration {
    fn drop(&mut self) {
        self.machine_ended();
        // Ended already is as good.
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod manners_tests;
#[cfg(test)]
mod services_tests;
#[cfg(test)]
mod test_peer;
#[cfg(test)]
mod tests;
