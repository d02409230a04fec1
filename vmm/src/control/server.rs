//! The machine's side of its control socket.
//!
//! A thread named `control` takes connections; each one that is admitted gets a seat and a thread of
//! its own, up to [`MAX_CLIENTS`]. A client may be silent for as long as it likes, but when somebody
//! else needs a seat, whoever has asked nothing for the longest time loses it. A client that is slow,
//! silent or gone holds up nobody but itself, and never cancels a task.

use crate::control::access::Access;
use crate::control::wire::{self, Call, MachineInfo, Request, Response, TaskDocument, VERSION};
use crate::error::CallError;
use crate::integration::guest::{GuestOs, milliseconds};
use crate::state::StateCell;
use crate::task::{Task, Tasks};
use crate::vm::Vm;
use protocol::HResult;
use protocol::frame::{Decoder, FrameError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, send};
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Clients at once.
pub const MAX_CLIENTS: usize = 64;
/// How long a client may not read what it asked for.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 10_000 });
/// How often a client that follows a task hears of it at least.
const NEWS: Duration = Duration::from_secs(1);
/// How long answers may take when the machine has ended.
const FAREWELL: Duration = Duration::from_millis(500);

/// What is served.
#[derive(Clone)]
struct Served {
    name: String,
    state: StateCell,
    guest: GuestOs,
    tasks: Tasks,
    cpus: u8,
    memory: u64,
    since: Instant,
}

/// The clients that are there.
#[derive(Default)]
struct Clients {
    next: u64,
    seats: HashMap<u64, Seat>,
}

struct Seat {
    /// The client's stream once more, to end it.
    stream: UnixStream,
    /// Since when it has asked nothing; none while it is being answered.
    idle: Option<Instant>,
}

impl Clients {
    /// Makes room for one more by sending away who has been idle the longest; false if all seats
    /// are taken by clients that are being answered.
    fn make_room(&mut self) -> bool {
        if self.seats.len() < MAX_CLIENTS {
            return true;
        }
        let idle = self.seats.iter().filter_map(|(number, seat)| Some((seat.idle?, *number)));
        let Some(seat) = idle.min().and_then(|(_, number)| self.seats.remove(&number)) else {
            return false;
        };
        turn_away(&seat.stream, &crowded());
        // Its thread sees the end. Closed already is as good.
        let _ = seat.stream.shutdown(Shutdown::Both);
        true
    }

    fn set_idle(&mut self, number: u64, idle: Option<Instant>) {
        if let Some(seat) = self.seats.get_mut(&number) {
            seat.idle = idle;
        }
    }

    fn are_answered(&self) -> bool {
        self.seats.values().all(|seat| seat.idle.is_some())
    }
}

type SharedClients = Arc<Mutex<Clients>>;

fn lock(clients: &SharedClients) -> MutexGuard<'_, Clients> {
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server. Dropping it gives clients a moment for their answers, and ends it.
pub struct Server {
    /// Closing it ends the thread.
    stop: Option<UnixStream>,
    clients: SharedClients,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `vm` to whoever `access` admits of those who connect to `listener`.
    ///
    /// # Errors
    /// No descriptor or thread is left.
    pub fn start(listener: UnixListener, vm: &Vm, access: Access) -> io::Result<Self> {
        let served = Served {
            name: vm.name().to_owned(),
            state: vm.state_cell().clone(),
            guest: vm.guest_os(),
            tasks: vm.tasks().clone(),
            cpus: vm.config().cpus,
            memory: vm.config().memory,
            since: Instant::now(),
        };
        Self::serve(listener, served, access)
    }

    fn serve(listener: UnixListener, served: Served, access: Access) -> io::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let clients = SharedClients::default();
        listener.set_nonblocking(true)?;
        let thread = {
            let clients = clients.clone();
            let accept = move || accept(&listener, &stopped, &served, access, &clients);
            thread::Builder::new().name("control".into()).spawn(accept)?
        };
        Ok(Self { stop: Some(stop), clients, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported where it happened.
            let _ = thread.join();
        }
        let deadline = Instant::now() + FAREWELL;
        while !lock(&self.clients).are_answered() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        for seat in lock(&self.clients).seats.values() {
            // Closed already is as good.
            let _ = seat.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Takes connections until the other end of `stop` is closed.
fn accept(
    listener: &UnixListener,
    stop: &UnixStream,
    served: &Served,
    access: Access,
    clients: &SharedClients,
) {
    let mut failing = false;
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "the control socket is not served any more");
                return;
            }
        }
        match listener.accept() {
            Ok((stream, _)) => {
                failing = false;
                if access.admits(&stream) {
                    welcome(stream, served, clients);
                } else {
                    // It learns nothing, not even that the machine is there.
                    let text = format!("no machine named {:?} is running", served.name);
                    turn_away(&stream, &CallError::new(HResult::VM_E_VM_UNKNOWN, text));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Out of descriptors, as a rule: the connection is still there, so this comes again.
                if !failing {
                    tracing::warn!(%error, "connection to the control socket not taken");
                }
                failing = true;
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Gives an admitted client a seat and a thread, if there is room for it.
fn welcome(mut stream: UnixStream, served: &Served, clients: &SharedClients) {
    let prepared = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .and_then(|()| stream.try_clone());
    let Ok(clone) = prepared else { return };
    let number = {
        let mut clients = lock(clients);
        if !clients.make_room() {
            drop(clients);
            turn_away(&stream, &crowded());
            return;
        }
        clients.next += 1;
        let number = clients.next;
        clients.seats.insert(number, Seat { stream: clone, idle: Some(Instant::now()) });
        number
    };
    let seated = Seated { clients: clients.clone(), number };
    let served = served.clone();
    let spawned = thread::Builder::new()
        .name("client".into())
        .spawn(move || converse(&mut stream, &served, &seated));
    if let Err(error) = spawned {
        tracing::warn!(%error, "client not served");
    }
}

/// Why somebody got no seat, or lost it.
fn crowded() -> CallError {
    let text = format!("{MAX_CLIENTS} other clients are connected to the machine; try again");
    CallError::new(HResult::VM_E_OUT_OF_RESOURCE, text)
}

/// Says why a client is not served, without waiting for it.
fn turn_away(stream: &UnixStream, error: &CallError) {
    let mut bytes = Vec::new();
    // Whoever has gone or does not read need not know.
    if refuse(&mut bytes, error).is_ok() {
        let _ = send(stream, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// A client's hold on its seat.
struct Seated {
    clients: SharedClients,
    number: u64,
}

impl Drop for Seated {
    fn drop(&mut self) {
        lock(&self.clients).seats.remove(&self.number);
    }
}

/// Answers a client's requests, one after the other, until it ends, errs or does not read.
fn converse(stream: &mut UnixStream, served: &Served, seated: &Seated) {
    let mut decoder = Decoder::default();
    loop {
        let call = match decoder.read::<Call>(stream) {
            Ok(Some(call)) => Ok(call),
            Err(FrameError::Json(error)) => Err(error),
            Ok(None) | Err(_) => return,
        };
        lock(&seated.clients).set_idle(seated.number, None);
        let answered = match call {
            Ok(Call { version: VERSION, request }) => served.answer(stream, request),
            Ok(Call { version, .. }) => {
                let text =
                    format!("this machine's process speaks version {VERSION}, not {version}");
                refuse(stream, &CallError::new(HResult::DISP_E_EXCEPTION, text))
            }
            Err(error) => {
                let text = format!("request not understood: {error}");
                refuse(stream, &CallError::new(HResult::E_INVALIDARG, text))
            }
        };
        lock(&seated.clients).set_idle(seated.number, Some(Instant::now()));
        if answered.is_err() {
            return;
        }
    }
}

fn refuse(stream: &mut impl Write, error: &CallError) -> Result<(), FrameError> {
    let response = Response::Refused { code: error.code, text: error.text.clone() };
    wire::answer(stream, &response)
}

impl Served {
    fn answer(&self, stream: &mut UnixStream, request: Request) -> Result<(), FrameError> {
        let outcome = match request {
            Request::Machine => Ok(Response::Machine(self.machine())),
            Request::Sessions => self.guest.sessions().map(Response::Sessions),
            Request::Logoff { options } => self.guest.logoff(options).map(|task| document(&task)),
            Request::Tasks => {
                Ok(Response::Tasks { tasks: self.tasks.list().iter().map(Task::info).collect() })
            }
            Request::Task { id } => self.task(id).map(|task| document(&task)),
            Request::Cancel { id } => self.task(id).and_then(|task| {
                task.cancel()?;
                // The caller is to see it complete, whichever of the two it hears of first.
                task.wait(Some(NEWS));
                Ok(document(&task))
            }),
            Request::Wait { id } => match self.task(id) {
                Ok(task) => return follow(stream, &task),
                Err(error) => Err(error),
            },
        };
        match outcome {
            Ok(response) => wire::answer(stream, &response),
            Err(error) => refuse(stream, &error),
        }
    }

    fn machine(&self) -> MachineInfo {
        MachineInfo {
            name: self.name.clone(),
            state: self.state.get(),
            pid: std::process::id(),
            uptime_ms: milliseconds(self.since.elapsed()),
            cpus: self.cpus,
            memory: self.memory,
            agent: self.guest.agent(),
        }
    }

    fn task(&self, id: u32) -> Result<Task, CallError> {
        self.tasks.get(id).ok_or_else(|| {
            let text = format!("the machine has no task {id}; `vmm task ls` lists those it has");
            CallError::new(HResult::DISP_E_BADINDEX, text)
        })
    }
}

fn document(task: &Task) -> Response {
    Response::Task(Box::new(TaskDocument { task: task.info(), report: task.report() }))
}

/// Tells the client of `task` until it is complete. A client that has gone is noticed by the next
/// word to it.
fn follow(stream: &mut UnixStream, task: &Task) -> Result<(), FrameError> {
    let mut version = 0;
    loop {
        let (now, info) = task.wait_change(version, Some(NEWS));
        version = now;
        if info.is_complete {
            return wire::answer(stream, &document(task));
        }
        wire::answer(stream, &Response::Changed { task: info })?;
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
