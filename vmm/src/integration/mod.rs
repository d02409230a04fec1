//! The integration channel: the host's half of what monitor and guest do together.
//!
//! A thread named `integration` owns the connections of the guest's agent and the operation that
//! is going on. It knows nothing of virtio: a connection is a `UnixStream`, so everything here is
//! tested against scripted peers and the real agent over socket pairs.
//!
//! `channel` is one connection, from hello to silence. `logoff` is the operation. `worker` is
//! the thread, [`guest`] what callers hold.

mod channel;
pub mod guest;
mod logoff;
mod worker;

use crate::state::StateCell;
use crate::task::Tasks;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use guest::{GuestOs, StatusCell};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
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
    /// From the guest's own deadline to the host's.
    margin: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            answer: Duration::from_secs(5),
            silence: Duration::from_millis(3 * protocol::HEARTBEAT_MS),
            margin: Duration::from_secs(2),
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
        Self::spawn_with(state, tasks, incoming, Timing::default())
    }

    fn spawn_with(
        state: StateCell,
        tasks: Tasks,
        incoming: Receiver<UnixStream>,
        timing: Timing,
    ) -> io::Result<Self> {
        let (commands, receiver) = unbounded();
        let status = Arc::new(StatusCell::default());
        let guest = GuestOs::new(state.clone(), commands.clone(), Arc::clone(&status));
        let worker = Worker::new(state, tasks, commands.clone(), status, timing);
        let thread = thread::Builder::new()
            .name("integration".into())
            .spawn(move || worker.run(&receiver, &incoming))?;
        Ok(Self { commands, guest, thread: Some(thread) })
    }

    /// The guest's operating system, as callers hold it.
    #[must_use]
    pub fn guest_os(&self) -> GuestOs {
        self.guest.clone()
    }

    /// The guest begins to boot: whatever connected before belongs to another boot.
    pub fn boot_started(&self) {
        self.tell(Command::BootStarted);
    }

    /// The machine has ended: when this returns, every call and task is complete.
    pub fn machine_ended(&self) {
        self.tell(Command::MachineEnded);
    }

    /// Sends what `command` makes, and waits until it is done.
    fn tell(&self, command: impl FnOnce(Sender<()>) -> Command) {
        let (done, answer) = bounded(1);
        if self.commands.send(command(done)).is_ok() {
            // No answer means that the thread has ended, and with it all that it did.
            let _ = answer.recv();
        }
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
mod tests;
