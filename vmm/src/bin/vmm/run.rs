//! `vmm run`: a machine in the foreground.

use crate::EXIT_USAGE;
use crate::args::{Format, RunArgs};
use crate::output::{Failure, Outcome, print_json, say};
use crate::readiness::Readiness;
use crate::sandbox;
use crate::signals::{self, Blocked};
use crate::terminal::{Restore, Terminal};
use protocol::HResult;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmm::Task;
use vmm::catalog::Catalog;
use vmm::config::{ConfigError, Console, MachineConfig};
use vmm::confine::{Role, narrow};
use vmm::control::access::Access;
use vmm::error::CallError;
use vmm::error::{chain, code_of_causes};
use vmm::host::Host;
use vmm::runtime::Place;
use vmm::vm::{End, Vm};

/// Exit codes of the ways in which a machine ends badly.
const EXIT_PANIC: u8 = 10;
const EXIT_TRIPLE_FAULT: u8 = 11;
const EXIT_FAILED: u8 = 12;
/// The exit code of a process that was told to end twice.
const EXIT_FORCED: i32 = 130;

/// How long after the first signal another program's belongs to it.
const TOGETHER: Duration = Duration::from_secs(1);

/// A machine, as the signals that end it find it.
#[derive(Default)]
struct Running {
    /// None while it is being put together, and when it has ended.
    vm: Option<Arc<Vm>>,
    /// It is to end as soon as it is there.
    unwanted: bool,
}

type SharedRunning = Arc<Mutex<Running>>;

fn lock(running: &SharedRunning) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns the machine off at the first request to end; a second one ends this process at once.
fn heed(signals: Blocked, running: SharedRunning, terminal: Arc<Terminal>) -> io::Result<()> {
    let mut first: Option<Instant> = None;
    signals.watch(move |signal| {
        if let Some(first) = first {
            // Whoever ends all of a service sends a signal to each process of it, and who is jailed
            // gets it passed on as well: what programs send together is one request.
            if signal.is_typed || first.elapsed() > TOGETHER {
                terminal.restore();
                std::process::exit(EXIT_FORCED);
            }
            return;
        }
        first = Some(Instant::now());
        let mut running = lock(&running);
        running.unwanted = true;
        if let Some(vm) = &running.vm {
            turn_off(vm);
        }
    })
}

fn turn_off(vm: &Vm) {
    // Off already is as good.
    let _ = vm.turn_off();
}

/// Lets this process have as many descriptors as it may: a thousand, as is usual, are few for all
/// the connections of a guest.
fn allow_descriptors() {
    let limits = getrlimit(Resource::Nofile);
    // It works with fewer.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
}

/// Closes what whoever started this process has left open beside the standard streams: a machine's
/// process has nothing but what it opens itself. This must come first.
pub(crate) fn close_inherited() -> io::Result<()> {
    let (first, last) = (3 as libc::c_uint, libc::c_uint::MAX);
    // Not every C library that this is built with has a function for it.
    // SAFETY: nothing of this process has opened a descriptor yet.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(crate) fn run(args: RunArgs, format: Format) -> Outcome {
    let readiness = Readiness::new(args.detached);
    let outcome = run_telling(args, &readiness, format);
    match outcome {
        Err(failure) => readiness.refused(failure),
        outcome => outcome,
    }
}

fn run_telling(args: RunArgs, readiness: &Readiness, format: Format) -> Outcome {
    allow_descriptors();
    let terminal = Arc::new(Terminal::default());
    // The thread of the signals holds the terminal too, so a panic here would not drop it.
    let _restore = Restore(&terminal);
    let running = SharedRunning::default();
    let signals = signals::block(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]);
    let sandbox = args.sandbox;
    let confine = |config: &MachineConfig, place: &mut Place| {
        sandbox::enter(sandbox, config, place, &signals)
    };
    let (host, startup) = launch(args, readiness, confine)?;
    heed(signals, Arc::clone(&running), Arc::clone(&terminal)).map_err(|error| {
        CallError::new(code_of_causes(&error), format!("cannot watch signals: {error}"))
    })?;
    let vm = host.vm();
    readiness.accepted(&startup.info());
    let startup = startup.wait(None);
    readiness.complete(&startup);
    if startup.error != HResult::S_OK {
        return Err(CallError::new(startup.error, startup.error_description).into());
    }
    if vm.config().console == Console::Stdio && io::stdin().is_terminal() {
        say(&format!("{} is starting; Ctrl-A x turns it off", vm.name()));
        terminal.make_raw();
    }
    let name = vm.name().to_owned();
    let end = vm.end_waiter();
    {
        let mut running = lock(&running);
        if running.unwanted {
            turn_off(vm);
        }
        running.vm = Some(Arc::clone(vm));
    }
    narrow(Role::Main);
    let end = end.wait();
    let exit_status = vm.told().exit_status;
    lock(&running).vm = None;
    // As soon as the name is free, its log is the next one's. Others may be held up where they write.
    let host = readiness.has_log().then_some(host);
    terminal.restore();
    let exit = tell(&name, &end, exit_status, format);
    drop(host);
    Ok(exit)
}

/// The machine that the command line names or describes, and the task of its start.
fn launch(
    args: RunArgs,
    readiness: &Readiness,
    confine: impl FnOnce(&MachineConfig, &mut Place) -> Result<(), CallError>,
) -> Result<(Host, Task), Failure> {
    let catalog = Catalog::of_user();
    let (kernel, name) = match (args.kernel, args.name) {
        (None, name) => {
            let name = name.unwrap_or_default();
            let claimed = || readiness.claimed();
            return Ok(Host::launch_registered(&catalog, &name, args.console, claimed, confine)?);
        }
        (Some(kernel), Some(name)) => (kernel, name),
        (Some(kernel), None) => (kernel, format!("vm-{}", std::process::id())),
    };
    let hardware = args.hardware;
    let config = MachineConfig {
        initrd: hardware.initrd,
        append: hardware.append,
        memory: hardware.memory,
        hugepages: hardware.hugepages,
        share_kernel: hardware.share_kernel,
        cpus: hardware.cpus,
        disks: hardware.disks,
        nets: hardware.nets,
        console: args.console,
        oem_strings: hardware.oem_strings,
        console_device: hardware.console_device,
        kernel_entry: hardware.kernel_entry.into(),
        integration: hardware.integration.into(),
        ..MachineConfig::new(name, kernel)
    };
    config.validate().map_err(|error| unusable(&error))?;
    if let Some(machine) = catalog.find(&config.name).map_err(CallError::from)? {
        let text = format!(
            "{0} is a machine of the catalog; `vmm run {0}` runs it, or choose another name",
            machine.name
        );
        return Err(CallError::new(HResult::VM_E_CONFIG_DUPLICATE_NAME, text).into());
    }
    Ok(Host::launch(catalog.runtime(), config, Access::of_process(), confine)?)
}

/// The refusal of a machine that cannot be.
pub(crate) fn unusable(error: &ConfigError) -> Failure {
    Failure { code: error.code(), exit: EXIT_USAGE, text: chain(error) }
}

/// Says how the machine ended, and with what its guest's init did, if it has told.
fn tell(name: &str, end: &End, exit_status: Option<u8>, format: Format) -> u8 {
    let (word, text, exit) = match end {
        End::PowerOff => ("power_off", "the guest powered off".to_owned(), 0),
        End::TurnedOff => ("turned_off", "turned off".to_owned(), 0),
        End::Panic(line) => {
            let words = line.as_ref().map(|line| format!(": {line}")).unwrap_or_default();
            ("panic", format!("the guest's kernel panicked{words}"), EXIT_PANIC)
        }
        End::TripleFault => {
            let text = "a triple fault: a processor of the guest could not deliver an exception, \
                        or its kernel reset itself that way";
            ("triple_fault", text.to_owned(), EXIT_TRIPLE_FAULT)
        }
        End::NotStarted(error) => ("not_started", error.text.clone(), 1),
        End::Failed(text) => ("failed", format!("cannot go on: {text}"), EXIT_FAILED),
    };
    say(&format!("{name}: {text}"));
    if let Some(status) = exit_status {
        say(&format!("{name}: the guest's init ended with exit status {status}"));
    }
    if format == Format::Json {
        print_json(&json!({
            "name": name, "end": word, "description": text, "exit_status": exit_status,
        }));
    }
    exit
}
