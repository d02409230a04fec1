//! The other side of a machine's control socket: for the command line and for host tools.

use crate::control::wire::{self, Call, MachineInfo, Request, Response, TaskDocument, VERSION};
use crate::error::CallError;
use crate::integration::guest::SessionList;
use crate::runtime::Runtime;
use protocol::HResult;
use protocol::frame::{self, Decoder, FrameError};
use protocol::task::{LogoffOptions, TaskInfo};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a machine may take over an answer: longer than the guest may take to accept.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a machine.
pub struct Client {
    stream: UnixStream,
    decoder: Decoder,
    name: String,
}

impl Client {
    /// Connects to the machine `name`.
    ///
    /// # Errors
    /// `VM_E_VM_UNKNOWN` if there is no such machine, or it is not this user's;
    /// `VM_E_VM_NOT_RUNNING` if it is just starting or ending.
    pub fn connect(runtime: &Runtime, name: &str) -> Result<Self, CallError> {
        let unknown = || {
            let text =
                format!("no machine named {name:?} is running; `vmm ls` lists those that are");
            CallError::new(HResult::VM_E_VM_UNKNOWN, text)
        };
        let name = runtime.find(name).ok_or_else(unknown)?;
        let stream = UnixStream::connect(runtime.control(&name)).map_err(|error| {
            if error.kind() == io::ErrorKind::PermissionDenied {
                return unknown();
            }
            let text = format!("{name} is just starting or ending ({error}); try again");
            CallError::new(HResult::VM_E_VM_NOT_RUNNING, text)
        })?;
        let limited = stream.set_read_timeout(Some(PATIENCE));
        limited.map_err(|error| CallError::new(HResult::DISP_E_EXCEPTION, error.to_string()))?;
        Ok(Self { stream, decoder: Decoder::default(), name })
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
            Response::Machine(machine) => Ok(machine),
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

    /// Logs everyone off.
    ///
    /// # Errors
    /// As [`GuestOs::logoff`](crate::integration::guest::GuestOs::logoff).
    pub fn logoff(&mut self, options: LogoffOptions) -> Result<TaskDocument, CallError> {
        self.task_call(Request::Logoff { options })
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
        self.task_call(Request::Task { id })
    }

    /// Cancels a task.
    ///
    /// # Errors
    /// `E_FAIL` if it can no longer be cancelled.
    pub fn cancel(&mut self, id: u32) -> Result<TaskDocument, CallError> {
        self.task_call(Request::Cancel { id })
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
        mut watch: impl FnMut(&TaskInfo),
    ) -> Result<TaskDocument, CallError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut answer = self.call(Request::Wait { id })?;
        loop {
            let task = match answer {
                Response::Task(document) => return Ok(*document),
                Response::Changed { task } => task,
                other => return Err(unexpected(&other)),
            };
            watch(&task);
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            answer = match left {
                Some(left) if left < PATIENCE => match self.read_within(left)? {
                    Some(answer) => answer,
                    None => return Ok(TaskDocument { task, report: None }),
                },
                _ => self.read()?,
            };
        }
    }

    fn task_call(&mut self, request: Request) -> Result<TaskDocument, CallError> {
        match self.call(request)? {
            Response::Task(document) => Ok(*document),
            other => Err(unexpected(&other)),
        }
    }

    fn call(&mut self, request: Request) -> Result<Response, CallError> {
        let call = Call { version: VERSION, request };
        let Err(error) = frame::write(&mut self.stream, &call) else { return self.read() };
        // Whoever is turned away is told why, perhaps before having asked anything.
        match wire::read_answer(&mut self.decoder, &mut self.stream) {
            Ok(Some(Response::Refused { code, text })) => Err(CallError::new(code, text)),
            _ => Err(self.lost(&error)),
        }
    }

    fn read(&mut self) -> Result<Response, CallError> {
        let answer = wire::read_answer(&mut self.decoder, &mut self.stream);
        self.judge(answer)
    }

    /// Reads an answer, if one comes within `time`.
    fn read_within(&mut self, time: Duration) -> Result<Option<Response>, CallError> {
        // A time-out of zero would be none.
        let limited = self.stream.set_read_timeout(Some(time.max(Duration::from_millis(1))));
        limited.map_err(|error| self.lost(&error))?;
        let answer = wire::read_answer(&mut self.decoder, &mut self.stream);
        let limited = self.stream.set_read_timeout(Some(PATIENCE));
        limited.map_err(|error| self.lost(&error))?;
        match answer {
            Err(FrameError::Io(error))
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                Ok(None)
            }
            answer => self.judge(answer).map(Some),
        }
    }

    fn judge(&self, answer: Result<Option<Response>, FrameError>) -> Result<Response, CallError> {
        match answer {
            Ok(Some(Response::Refused { code, text })) => Err(CallError::new(code, text)),
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(self.lost(&io::Error::from(io::ErrorKind::UnexpectedEof))),
            Err(error) => Err(self.lost(&error)),
        }
    }

    fn lost(&self, error: &dyn std::error::Error) -> CallError {
        let text = format!(
            "the process of {} ended, or does not answer ({})",
            self.name,
            crate::error::chain(error)
        );
        CallError::new(HResult::VM_E_VM_NOT_RUNNING, text)
    }
}

fn unexpected(response: &Response) -> CallError {
    let text = format!("the machine's process gave an answer to another question: {response:?}");
    CallError::new(HResult::DISP_E_EXCEPTION, text)
}
