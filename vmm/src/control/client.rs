//! The other side of a machine's control socket: for the command line and for host tools.

use crate::control::access::unknown;
use crate::control::wire::{
    Answers, Call, MachineInfo, Property, Request, Response, TaskDocument, VERSION,
};
use crate::error::CallError;
use crate::events::Notice;
use crate::integration::guest::SessionList;
use crate::runtime::Runtime;
use protocol::HResult;
use protocol::frame::{self, FrameError};
use protocol::task::{LogoffOptions, TaskInfo};
use rustix::net::{RecvFlags, recv};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a machine may take over an answer: longer than the guest may take to accept.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether there is no machine that this user may see where `error` came from.
fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, InvalidInput, NotADirectory, NotFound, PermissionDenied,
    };
    // Invalid is a path that is too long for a socket.
    matches!(
        error.kind(),
        ConnectionRefused | InvalidInput | NotADirectory | NotFound | PermissionDenied
    )
}

/// A connection to a machine.
pub struct Client {
    stream: UnixStream,
    answers: Answers,
    name: String,
    patience: Duration,
}

impl Client {
    /// Connects to the machine `name`.
    ///
    /// # Errors
    /// `VM_E_VM_UNKNOWN` if there is no such machine, or it is not this user's;
    /// `VM_E_VM_NOT_RUNNING` if it is just starting or ending.
    pub fn connect(runtime: &Runtime, name: &str) -> Result<Self, CallError> {
        let Some(name) = runtime.find(name) else {
            // Whether another user's machine is alive can be seen only by connecting.
            for path in runtime.others(name) {
                match UnixStream::connect(path) {
                    Ok(stream) => return Self::over(stream, name.to_owned()),
                    Err(error) if is_nobody(&error) => {}
                    Err(error) => {
                        let text =
                            format!("whether there is a machine {name} cannot be seen: {error}");
                        return Err(CallError::new(HResult::DISP_E_EXCEPTION, text));
                    }
                }
            }
            return Err(unknown(name));
        };
        let stream = UnixStream::connect(runtime.control(&name)).map_err(|error| {
            if error.kind() == io::ErrorKind::PermissionDenied {
                return unknown(&name);
            }
            let text = format!("{name} is just starting or ending ({error}); try again");
            CallError::new(HResult::VM_E_VM_NOT_RUNNING, text)
        })?;
        Self::over(stream, name)
    }

    fn over(stream: UnixStream, name: String) -> Result<Self, CallError> {
        let mut client = Self { stream, answers: Answers::default(), name, patience: PATIENCE };
        client.set_patience(PATIENCE)?;
        Ok(client)
    }

    /// Sets how long the machine's process may take over an answer; 30 s if nobody does. Then the
    /// call is `VM_E_TIMED_OUT`, and the connection of no more use.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_patience(&mut self, patience: Duration) -> Result<(), CallError> {
        self.patience = at_least_some(patience);
        let limited = self.stream.set_read_timeout(Some(self.patience));
        limited.map_err(|error| CallError::new(HResult::DISP_E_EXCEPTION, error.to_string()))
    }

    /// The machine's name, as it was written when it was started.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the machine is doing.
    ///
    /// # Errors
    /// Its process has ended.
    pub fn machine(&mut self) -> Result<MachineInfo, CallError> {
        match self.call(Request::Machine)? {
            Response::Machine(machine) => Ok(*machine),
            other => Err(unexpected(&other)),
        }
    }

    /// Who is logged on.
    ///
    /// # Errors
    /// As [`GuestOs::sessions`](crate::integration::guest::GuestOs::sessions).
    pub fn sessions(&mut self) -> Result<SessionList, CallError> {
        match self.call(Request::Sessions)? {
            Response::Sessions(sessions) => Ok(sessions),
            other => Err(unexpected(&other)),
        }
    }

    /// A property of the guest's system; null where the API has `S_FALSE`.
    ///
    /// # Errors
    /// As the member of [`GuestOs`](crate::integration::guest::GuestOs) of that name.
    pub fn property(&mut self, property: Property) -> Result<serde_json::Value, CallError> {
        self.value(Request::Property { property })
    }

    /// Asks for something that has a value.
    ///
    /// # Errors
    /// As the member of [`GuestOs`](crate::integration::guest::GuestOs) that it stands for.
    pub fn value(&mut self, request: Request) -> Result<serde_json::Value, CallError> {
        match self.call(request)? {
            Response::Value { value } => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for something that is done at once.
    ///
    /// # Errors
    /// As the member of [`Vm`](crate::Vm) or [`GuestOs`](crate::integration::guest::GuestOs) that it
    /// stands for.
    pub fn act(&mut self, request: Request) -> Result<(), CallError> {
        match self.call(request)? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for something that takes time.
    ///
    /// # Errors
    /// As the member of [`Vm`](crate::Vm) or [`GuestOs`](crate::integration::guest::GuestOs) that it
    /// stands for.
    pub fn work(&mut self, request: Request) -> Result<TaskDocument, CallError> {
        match self.call(request)? {
            Response::Task(document) => Ok(*document),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for something that takes time, tells `accepted` of the task, and waits for its end as
    /// [`wait`](Self::wait) does. Unlike waiting afterwards, this is never too late for the end of a
    /// task that ends the machine's process.
    ///
    /// # Errors
    /// As [`work`](Self::work) and [`wait`](Self::wait).
    pub fn work_watching(
        &mut self,
        request: Request,
        timeout: Option<Duration>,
        accepted: impl FnOnce(&TaskInfo),
        watch: impl FnMut(&TaskInfo),
    ) -> Result<TaskDocument, CallError> {
        let document = match self.ask(Call { version: VERSION, request, follow: true })? {
            Response::Task(document) => *document,
            other => return Err(unexpected(&other)),
        };
        accepted(&document.task);
        if document.task.is_complete {
            return Ok(document);
        }
        self.see_out(Response::Changed { task: document.task }, timeout, watch)
    }

    /// Attaches to the machine's console: the connection, and what the guest printed meanwhile.
    ///
    /// # Errors
    /// As [`Vm::console`](crate::Vm::console).
    pub fn console(mut self) -> Result<(UnixStream, Vec<u8>), CallError> {
        self.act(Request::Console)?;
        let unlimited = self.stream.set_read_timeout(None);
        unlimited.map_err(|error| self.lost(&error))?;
        Ok((self.stream, self.answers.into_rest()))
    }

    /// Hears of the machine's events from now on, on this connection.
    ///
    /// # Errors
    /// The machine's process has ended.
    pub fn events(self) -> Result<Events, CallError> {
        let mut events = self.ask_for_events()?;
        match events.client.read()? {
            Response::Done => events.begun = true,
            other => return Err(unexpected(&other)),
        }
        Ok(events)
    }

    /// Asks for events and does not wait for the answer, which a process that hangs never gives.
    pub(super) fn ask_for_events(mut self) -> Result<Events, CallError> {
        self.send(&Call { version: VERSION, request: Request::Events, follow: false })?;
        Ok(Events { client: self, begun: false })
    }

    /// Logs everyone off.
    ///
    /// # Errors
    /// As [`GuestOs::logoff`](crate::integration::guest::GuestOs::logoff).
    pub fn logoff(&mut self, options: LogoffOptions) -> Result<TaskDocument, CallError> {
        self.work(Request::Logoff { options })
    }

    /// All tasks, the oldest first.
    ///
    /// # Errors
    /// The machine's process has ended.
    pub fn tasks(&mut self) -> Result<Vec<TaskInfo>, CallError> {
        match self.call(Request::Tasks)? {
            Response::Tasks { tasks } => Ok(tasks),
            other => Err(unexpected(&other)),
        }
    }

    /// One task.
    ///
    /// # Errors
    /// `DISP_E_BADINDEX` if there is none with this id.
    pub fn task(&mut self, id: u32) -> Result<TaskDocument, CallError> {
        self.work(Request::Task { id })
    }

    /// Cancels a task.
    ///
    /// # Errors
    /// `E_FAIL` if it can no longer be cancelled.
    pub fn cancel(&mut self, id: u32) -> Result<TaskDocument, CallError> {
        self.work(Request::Cancel { id })
    }

    /// Waits until a task is complete or the time is over, and tells `watch` of it in between. The
    /// connection is of no use afterwards if the task was not complete.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING` if the machine's process ends before.
    pub fn wait(
        &mut self,
        id: u32,
        timeout: Option<Duration>,
        watch: impl FnMut(&TaskInfo),
    ) -> Result<TaskDocument, CallError> {
        let answer = self.call(Request::Wait { id })?;
        self.see_out(answer, timeout, watch)
    }

    /// Hears of a task, of which the machine has just said this, until it is complete.
    fn see_out(
        &mut self,
        mut answer: Response,
        timeout: Option<Duration>,
        mut watch: impl FnMut(&TaskInfo),
    ) -> Result<TaskDocument, CallError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let task = match answer {
                Response::Task(document) => return Ok(*document),
                Response::Changed { task } => task,
                other => return Err(unexpected(&other)),
            };
            watch(&task);
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            answer = match left {
                Some(left) if left < self.patience => match self.read_within(left)? {
                    Some(answer) => answer,
                    None => return Ok(TaskDocument { task, report: None }),
                },
                _ => self.read()?,
            };
        }
    }

    /// Asks for something that takes time, and hears of its task from then on, on this connection:
    /// also of the end of one that ends the machine's process.
    ///
    /// # Errors
    /// As [`work`](Self::work).
    pub fn work_followed(mut self, request: Request) -> Result<(TaskInfo, Followed), CallError> {
        match self.ask(Call { version: VERSION, request, follow: true })? {
            Response::Task(document) => {
                let task = document.task;
                Ok((task.clone(), Followed { client: self, last: Some(task) }))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Hears of a task from now on, on this connection, without waiting.
    ///
    /// # Errors
    /// The machine's process has ended.
    pub fn follow(mut self, id: u32) -> Result<Followed, CallError> {
        self.send(&Call { version: VERSION, request: Request::Wait { id }, follow: false })?;
        Ok(Followed { client: self, last: None })
    }

    fn call(&mut self, request: Request) -> Result<Response, CallError> {
        self.ask(Call { version: VERSION, request, follow: false })
    }

    fn ask(&mut self, call: Call) -> Result<Response, CallError> {
        self.send(&call)?;
        self.read()
    }

    fn send(&mut self, call: &Call) -> Result<(), CallError> {
        let Err(error) = frame::write(&mut self.stream, call) else { return Ok(()) };
        // Whoever is turned away is told why, perhaps before having asked anything.
        match self.answers.read(&mut self.stream) {
            Ok(Some(Response::Refused { code, text })) => Err(CallError::new(code, text)),
            _ => Err(self.lost(&error)),
        }
    }

    fn read(&mut self) -> Result<Response, CallError> {
        let answer = self.answers.read(&mut self.stream);
        self.judge(answer)
    }

    /// Reads an answer, if one comes within `time`.
    fn read_within(&mut self, time: Duration) -> Result<Option<Response>, CallError> {
        let limited = self.stream.set_read_timeout(Some(at_least_some(time)));
        limited.map_err(|error| self.lost(&error))?;
        let answer = self.answers.read(&mut self.stream);
        let limited = self.stream.set_read_timeout(Some(self.patience));
        limited.map_err(|error| self.lost(&error))?;
        match answer {
            Err(FrameError::Io(error)) if is_late(&error) => Ok(None),
            answer => self.judge(answer).map(Some),
        }
    }

    /// Takes an answer, if it is there.
    fn take(&mut self) -> Result<Option<Response>, CallError> {
        match self.answers.read(&mut AtOnce(&self.stream)) {
            Err(FrameError::Io(error)) if is_late(&error) => Ok(None),
            answer => self.judge(answer).map(Some),
        }
    }

    fn judge(&self, answer: Result<Option<Response>, FrameError>) -> Result<Response, CallError> {
        match answer {
            Ok(Some(Response::Refused { code, text })) => Err(CallError::new(code, text)),
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(self.lost(&io::Error::from(io::ErrorKind::UnexpectedEof))),
            Err(FrameError::Io(error)) if is_late(&error) => {
                let text = format!(
                    "the process of {} has not answered for {} s; is it stopped?",
                    self.name,
                    self.patience.as_secs_f32()
                );
                Err(CallError::new(HResult::VM_E_TIMED_OUT, text))
            }
            Err(error) => Err(self.lost(&error)),
        }
    }

    fn lost(&self, error: &dyn std::error::Error) -> CallError {
        let text = format!("the process of {} ended ({})", self.name, crate::error::chain(error));
        CallError::new(HResult::VM_E_VM_NOT_RUNNING, text)
    }
}

/// A time-out of a socket, for which zero would be none.
fn at_least_some(time: Duration) -> Duration {
    time.max(Duration::from_millis(1))
}

/// Whether nothing came in time.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Reads what is there, and waits for nothing.
struct AtOnce<'a>(&'a UnixStream);

impl Read for AtOnce<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = recv(self.0, buffer, RecvFlags::DONTWAIT)?;
        Ok(count)
    }
}

/// The events of a machine, from a [`Client`].
///
/// Its descriptor is readable when there may be something to [take](Self::take).
pub struct Events {
    client: Client,
    /// Whether the machine has begun to tell.
    begun: bool,
}

impl Events {
    /// Waits for what happens next; none if nothing does within `timeout`.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING` when the machine's process has ended.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Notice>, CallError> {
        let limited = self.client.stream.set_read_timeout(timeout.map(at_least_some));
        limited.map_err(|error| self.client.lost(&error))?;
        match self.client.answers.read(&mut self.client.stream) {
            Err(FrameError::Io(error)) if is_late(&error) => Ok(None),
            answer => notice(self.client.judge(answer)?).map(Some),
        }
    }

    /// Whether the machine has begun to tell; does not wait for that.
    pub(super) fn has_begun(&mut self) -> Result<bool, CallError> {
        if !self.begun {
            match self.client.take()? {
                Some(Response::Done) => self.begun = true,
                Some(other) => return Err(unexpected(&other)),
                None => {}
            }
        }
        Ok(self.begun)
    }

    /// Takes what has happened, without waiting; none once all of it is taken, and only then the
    /// descriptor says whether there is more.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn take(&mut self) -> Result<Option<Notice>, CallError> {
        self.client.take()?.map(notice).transpose()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.stream.as_fd()
    }
}

fn notice(response: Response) -> Result<Notice, CallError> {
    match response {
        Response::Event { event } => Ok(Notice::Event(event)),
        Response::Lost { count } => Ok(Notice::Lost(count)),
        other => Err(unexpected(&other)),
    }
}

/// A task that a [`Client`] follows.
///
/// Its descriptor is readable when there may be something to [take](Self::take), which is so at
/// least once a second until the task is complete.
pub struct Followed {
    client: Client,
    last: Option<TaskInfo>,
}

impl Followed {
    /// Takes the next change, without waiting; none once all of them are taken, and only then the
    /// descriptor says whether there is more. The first is the task as it was; nothing comes after
    /// that it is complete.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING` when the machine's process has ended; `DISP_E_BADINDEX` if there is no
    /// such task.
    pub fn take(&mut self) -> Result<Option<TaskInfo>, CallError> {
        while !self.last.as_ref().is_some_and(|last| last.is_complete) {
            let task = match self.client.take()? {
                Some(Response::Changed { task }) => task,
                Some(Response::Task(document)) => document.task,
                Some(other) => return Err(unexpected(&other)),
                None => return Ok(None),
            };
            if self.last.as_ref() != Some(&task) {
                self.last = Some(task.clone());
                return Ok(Some(task));
            }
        }
        Ok(None)
    }

    /// The end of the task, if it has been told, without waiting.
    pub fn end(&mut self) -> Option<TaskInfo> {
        while let Ok(Some(_)) = self.take() {}
        self.last.clone().filter(|task| task.is_complete)
    }
}

impl AsFd for Followed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.stream.as_fd()
    }
}

fn unexpected(response: &Response) -> CallError {
    let text = format!("the machine's process gave an answer to another question: {response:?}");
    CallError::new(HResult::DISP_E_EXCEPTION, text)
}

#[cfg(test)]
mod tests {
    use super::is_nobody;
    use std::io::Error;

    #[test]
    fn who_cannot_look_is_not_told_that_there_is_no_machine() {
        for errno in [libc::ENOENT, libc::ENOTDIR, libc::EACCES, libc::ECONNREFUSED] {
            assert!(is_nobody(&Error::from_raw_os_error(errno)), "{errno}");
        }
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN] {
            assert!(!is_nobody(&Error::from_raw_os_error(errno)), "{errno}");
        }
    }
}
