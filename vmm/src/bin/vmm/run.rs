//! `vmm run`: a machine in the foreground.

use crate::args::RunArgs;
use crate::output::{Failure, Outcome};
use crate::signals;
use protocol::HResult;
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use vmm::boot::BootError;
use vmm::config::{Console, MachineConfig};
use vmm::control::access::Access;
use vmm::control::server::Server;
use vmm::error::chain;
use vmm::kvm::KvmError;
use vmm::machine::MachineError;
use vmm::runtime::Runtime;
use vmm::vm::{End, StartError, Vm};

/// Exit codes of the ways in which a machine ends badly.
const EXIT_PANIC: u8 = 10;
const EXIT_TRIPLE_FAULT: u8 = 11;
const EXIT_FAILED: u8 = 12;
/// The exit code of a process that was told to end twice.
const EXIT_FORCED: i32 = 130;

pub(crate) fn run(args: RunArgs) -> Outcome {
    let terminal = Arc::new(Terminal::default());
    let running: Arc<Mutex<Option<Vm>>> = Arc::default();
    {
        let (terminal, running) = (Arc::clone(&terminal), Arc::clone(&running));
        signals::watch(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP], move |_, count| {
            if count > 0 {
                terminal.restore();
                std::process::exit(EXIT_FORCED);
            }
            if let Some(vm) = &*running.lock().unwrap_or_else(PoisonError::into_inner) {
                vm.turn_off();
            }
        })
        .map_err(|error| failure(&error))?;
    }
    let name = args.name.unwrap_or_else(|| format!("vm-{}", std::process::id()));
    let place = Runtime::of_user().claim(&name).map_err(|error| {
        let exit = if matches!(error, vmm::runtime::RuntimeError::Name(_)) { 2 } else { 1 };
        Failure { code: error.code(), exit, text: chain(&error) }
    })?;
    let interactive = args.console == Console::Stdio && io::stdin().is_terminal();
    let config = MachineConfig {
        name: name.clone(),
        kernel: args.kernel,
        initrd: args.initrd,
        append: args.append,
        memory: args.memory,
        cpus: args.cpus,
        console: args.console,
        kernel_entry: args.kernel_entry.into(),
    };
    let vm = Vm::start(config, Some(&place.vsock())).map_err(|error| start_failure(&error))?;
    let listener = UnixListener::bind(place.control()).map_err(|error| failure(&error))?;
    let server =
        Server::start(listener, &vm, Access::of_process()).map_err(|error| failure(&error))?;
    if interactive {
        eprintln!("{name} is starting; Ctrl-A x turns it off\r");
        terminal.make_raw();
    }
    let end = vm.end_waiter();
    *running.lock().unwrap_or_else(PoisonError::into_inner) = Some(vm);
    let end = end.wait();
    drop(server);
    drop(running.lock().unwrap_or_else(PoisonError::into_inner).take());
    drop(place);
    terminal.restore();
    Ok(tell(&name, &end))
}

/// Says how the machine ended.
fn tell(name: &str, end: &End) -> u8 {
    let (text, exit) = match end {
        End::PowerOff => ("the guest powered off".to_owned(), 0),
        End::TurnedOff => ("turned off".to_owned(), 0),
        End::Panic(Some(line)) => (format!("the guest's kernel panicked: {line}"), EXIT_PANIC),
        End::Panic(None) => ("the guest's kernel panicked".to_owned(), EXIT_PANIC),
        End::TripleFault => {
            let text = "a triple fault: a processor of the guest could not deliver an exception, \
                        or its kernel reset itself that way";
            (text.to_owned(), EXIT_TRIPLE_FAULT)
        }
        End::Failed(text) => (format!("cannot go on: {text}"), EXIT_FAILED),
    };
    eprintln!("{name}: {text}");
    exit
}

fn failure(error: &dyn std::error::Error) -> Failure {
    Failure { code: HResult::DISP_E_EXCEPTION, exit: 1, text: chain(error) }
}

/// Why the machine did not start, with the code that fits best.
fn start_failure(error: &StartError) -> Failure {
    let (code, exit) = match error {
        StartError::Machine(MachineError::Config(error)) => (error.code(), 2),
        StartError::Machine(MachineError::Cpus { .. }) => (HResult::E_INVALIDARG, 2),
        StartError::Machine(MachineError::Kvm(error)) => (kvm_code(error), 1),
        StartError::Machine(MachineError::Boot(BootError::Read { source, .. }))
            if source.kind() == io::ErrorKind::NotFound =>
        {
            (HResult::ERROR_FILE_NOT_FOUND, 1)
        }
        StartError::Machine(MachineError::Memory(_)) => (HResult::VM_E_OUT_OF_RESOURCE, 1),
        _ => (HResult::DISP_E_EXCEPTION, 1),
    };
    Failure { code, exit, text: chain(error) }
}

fn kvm_code(error: &KvmError) -> HResult {
    match error {
        KvmError::Missing => HResult::VM_E_HARDWARE_VIRTUALIZATION_DISABLED,
        KvmError::Permission => HResult::ERROR_ACCESS_DENIED,
        KvmError::Version(_) | KvmError::Capability(_) => HResult::VM_E_UNSUPPORTED_HARDWARE,
        _ => HResult::DISP_E_EXCEPTION,
    }
}

/// The terminal, and how it was before the guest's keys came through it.
#[derive(Default)]
struct Terminal {
    before: Mutex<Option<Termios>>,
}

impl Terminal {
    /// Gives every key to the guest. Output is still processed, so that our own lines look right.
    fn make_raw(&self) {
        let Ok(before) = tcgetattr(io::stdin()) else { return };
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        // A terminal that stays as it is still works, line by line.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &raw);
    }

    fn restore(&self) {
        if let Some(before) = self.before.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // There is nobody to tell if it does not work.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.restore();
    }
}
