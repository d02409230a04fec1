//! `vmm start`: a machine in the background, in a process of its own.
//!
//! This command runs itself again, as `vmm run`, in a session of its own, without a terminal and with
//! none of its descriptors but a log and a pipe, over which it hears how the start goes: see
//! `readiness.rs`.

use crate::args::{Awaited, Format, ProgressArg, SandboxArgs, StartArgs};
use crate::follow;
use crate::log::said;
use crate::machines::{connect, once_off};
use crate::output::{Outcome, exit_code, print, print_json, say};
use crate::readiness::Line;
use crate::report::print_document;
use crate::signals;
use protocol::HResult;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use vmm::catalog::{Catalog, Registered};
use vmm::control::client::Client;
use vmm::control::wire::{MachineInfo, Request, TaskDocument};
use vmm::error::CallError;
use vmm::notify::Phase;
use vmm::runtime::Runtime;

/// The exit code of a caller that left while the machine started.
const EXIT_DETACHED: i32 = 1;
/// The exit code of a caller that was interrupted before anything was done.
const EXIT_INTERRUPTED: i32 = 130;
/// How often a machine whose agent is awaited is asked, if no event tells.
const LOOK: Duration = Duration::from_secs(1);
/// How long a process may take to end when its machine has.
const ENDING: Duration = Duration::from_secs(5);

pub(crate) fn start(args: &StartArgs, format: Format) -> Outcome {
    let begun = heed_interrupt(&args.name);
    let timeout = args.work.waiting.timeout;
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let started = once_off(&args.name, || match connect(&args.name) {
        // A process holds it already: it runs, or a host tool has turned it off.
        Ok(mut client) => {
            let document = client.work(Request::Startup).map_err(|error| {
                CallError::new(error.code, format!("{}: {}", client.name(), error.text))
            })?;
            Ok(Started::Elsewhere(client, document.task.id))
        }
        Err(error) if error.code == HResult::VM_E_VM_NOT_RUNNING => {
            let catalog = Catalog::of_user();
            if catalog.runtime().find(&args.name).is_some() {
                // Its process is not there yet, or not gone yet.
                return Err(error);
            }
            let machine = catalog.get(&args.name)?;
            begun.store(true, Ordering::Release);
            Process::spawn(machine, args.sandbox, deadline).map(Started::Here)
        }
        Err(error) => Err(error),
    })?;
    let mut process = match started {
        Started::Here(process) => process,
        Started::Elsewhere(mut client, id) if args.work.no_wait => {
            print_id(&client.task(id)?, format);
            return Ok(0);
        }
        Started::Elsewhere(mut client, id) => {
            let code = follow::finish(&mut client, id, &args.work.waiting, format)?;
            if code == HResult::S_OK {
                await_guest(client.name(), args.wait, deadline)?;
            }
            return Ok(exit_code(code));
        }
    };
    if args.work.no_wait {
        print_id(&process.document, format);
        return Ok(0);
    }
    process.complete(deadline)?;
    let (name, document) = (&process.machine.name, &process.document);
    let code = follow::code(document);
    if code == HResult::S_OK {
        let (awaited, event) = match args.wait {
            Awaited::Running => ("", ""),
            Awaited::Ready => ("its guest to be ready", "its guest was ready"),
            Awaited::Agent => ("its agent", "its agent came"),
        };
        if args.wait != Awaited::Running && args.work.waiting.progress != ProgressArg::None {
            say(&format!("{name} is running; waiting for {awaited}"));
        }
        await_guest(name, args.wait, deadline).map_err(|error| match error.code {
            HResult::VM_E_VM_NOT_RUNNING => {
                // Its last words come with its end.
                await_end(&mut process.child);
                let text = format!("{name} ended before {event}{}", said(name, 0));
                CallError::new(error.code, text)
            }
            _ => error,
        })?;
    }
    match format {
        Format::Human if code == HResult::S_OK => print(&format!("{name} is running\n")),
        Format::Human if document.task.is_complete => {
            return Err(CallError::new(code, &*document.task.error_description).into());
        }
        _ => print_document(document, format),
    }
    Ok(exit_code(code))
}

fn print_id(document: &TaskDocument, format: Format) {
    match format {
        Format::Json => print_json(document),
        Format::Human => print(&format!("{}\n", document.task.id)),
    }
}

/// Ctrl-C ends this command and leaves the machine. Says whether there is one once that is set.
fn heed_interrupt(name: &str) -> Arc<AtomicBool> {
    let begun = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&begun);
    let name = name.to_owned();
    let watched = signals::watch(&[libc::SIGINT], move |_| {
        if !shared.load(Ordering::Acquire) {
            std::process::exit(EXIT_INTERRUPTED);
        }
        say(&format!(
            "\n{name} goes on without you; `vmm ls` shows it, `vmm stop {name}` turns it off"
        ));
        std::process::exit(EXIT_DETACHED);
    });
    if let Err(error) = watched {
        tracing::warn!(%error, "Ctrl-C ends this command without a word");
    }
    begun
}

/// A machine whose start has been accepted.
enum Started {
    /// By a process that was there already.
    Elsewhere(Client, u32),
    /// By one of its own.
    Here(Process),
}

/// The process of a machine, and what it says of the start.
struct Process {
    machine: Registered,
    child: Child,
    lines: Receiver<Line>,
    /// Bytes that were in the log when the process was started.
    before: u64,
    /// The task of the start.
    document: Box<TaskDocument>,
}

impl Process {
    /// Starts the process of `machine`, and waits until it has accepted.
    fn spawn(
        machine: Registered,
        sandbox: SandboxArgs,
        deadline: Option<Instant>,
    ) -> Result<Self, CallError> {
        let failed = |error: io::Error| {
            let text = format!("cannot start a process for {}: {error}", machine.name);
            CallError::new(HResult::DISP_E_EXCEPTION, text)
        };
        let log = Runtime::of_user().open_log(&machine.name)?;
        let before = log.metadata().map_or(0, |log| log.len());
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command
            .args(["run", "--detached", "--console", "attach"])
            .args(sandbox.words())
            .args(["--", &machine.name])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        // SAFETY: between fork and exec `detach` does nothing but two system calls.
        unsafe { command.pre_exec(detach) };
        let mut child = command.spawn().map_err(failed)?;
        let lines = listen(&mut child).map_err(failed)?;
        match next(&lines, deadline) {
            Ok(Line::Task(document)) => Ok(Self { machine, child, lines, before, document }),
            Ok(Line::Refused { error }) => {
                // It has nothing left to do but end, and is not left behind as a zombie.
                let _ = child.wait();
                Err(CallError::new(error.code, error.description))
            }
            Err(silence) => Err(silent(silence, &machine.name, before, &mut child)),
        }
    }

    /// Waits until the start is complete, or `deadline`.
    fn complete(&mut self, deadline: Option<Instant>) -> Result<(), CallError> {
        match next(&self.lines, deadline) {
            Ok(Line::Task(document)) => self.document = document,
            Ok(Line::Refused { error }) => {
                return Err(CallError::new(error.code, error.description));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(silence) => {
                return Err(silent(silence, &self.machine.name, self.before, &mut self.child));
            }
        }
        Ok(())
    }
}

/// Waits for the end of a process whose machine has ended, or seems to have.
fn await_end(child: &mut Child) {
    let deadline = Instant::now() + ENDING;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Makes this process, which is about to become a machine's, independent of whoever started it.
fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    let (first, last) = (3 as libc::c_uint, libc::c_uint::MAX);
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // Not every C library that this is built with has a function for it.
    // SAFETY: it only marks the descriptors to be closed when the program is replaced.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What the process says, until it lets go of its standard output.
fn listen(child: &mut Child) -> io::Result<Receiver<Line>> {
    let (sender, lines) = channel();
    let Some(stdout) = child.stdout.take() else { return Ok(lines) };
    thread::Builder::new().name("readiness".into()).spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // What is no such line does not come from this program.
            if let Ok(line) = serde_json::from_str(&line)
                && sender.send(line).is_err()
            {
                return;
            }
        }
    })?;
    Ok(lines)
}

fn next(lines: &Receiver<Line>, deadline: Option<Instant>) -> Result<Line, RecvTimeoutError> {
    match deadline {
        Some(deadline) => lines.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        None => Ok(lines.recv()?),
    }
}

/// The process did not say what was expected of it.
fn silent(silence: RecvTimeoutError, name: &str, before: u64, child: &mut Child) -> CallError {
    if silence == RecvTimeoutError::Timeout {
        let text =
            format!("the process of {name} has not begun in time; `vmm ls` shows if it does");
        return CallError::new(HResult::VM_E_TIMED_OUT, text);
    }
    let end = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    let text =
        format!("the process of {name} ended ({end}) before the machine ran{}", said(name, before));
    CallError::new(HResult::DISP_E_EXCEPTION, text)
}

/// Waits until the guest is as far as `wait` says.
fn await_guest(name: &str, wait: Awaited, deadline: Option<Instant>) -> Result<(), CallError> {
    if wait == Awaited::Running {
        return Ok(());
    }
    let begun = Instant::now();
    let mut client = connect(name)?;
    let mut events = connect(name).and_then(Client::events)?;
    loop {
        let machine = client.machine()?;
        let there = match wait {
            Awaited::Running => true,
            Awaited::Ready => machine.readiness.phase == Phase::Ready,
            Awaited::Agent => machine.agent.connected,
        };
        if there {
            return Ok(());
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            let text = late(&machine, wait, begun.elapsed());
            return Err(CallError::new(HResult::VM_E_TIMED_OUT, text));
        }
        events.next(Some(left.unwrap_or(LOOK).min(LOOK)))?;
    }
}

/// What was and what was not heard of a guest that takes too long.
fn late(machine: &MachineInfo, wait: Awaited, waited: Duration) -> String {
    let (name, waited) = (&machine.name, waited.as_secs());
    if wait == Awaited::Agent
        && let Some(refused) = &machine.agent.refused
    {
        return format!("no agent: {name} is running, but {refused}");
    }
    if wait == Awaited::Agent {
        return format!(
            "no agent: {name} is running, but none has connected in {waited} s; does vmm-agent run in \
             the guest?"
        );
    }
    let heard = match machine.readiness.messages {
        0 => "its init has said nothing at all; is it systemd 254 or newer, with vsock in its \
              kernel?"
            .to_owned(),
        1 => "its init has only said something else once; it may still be booting".to_owned(),
        count => format!("its init has said {count} other things; it may still be booting"),
    };
    let agent = if machine.agent.connected { "; its agent is connected" } else { "" };
    format!("not ready: {name} is running, but in {waited} s {heard}{agent}")
}
