//! Each kind of thread does what it may not, under the filter that the crate has for it, and its
//! process is killed by that. It runs again for each: the process is confined for good.

use libtest_mimic::{Arguments, Failed, Trial};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tests::micro::{SPIN, elf};
use vmm::confine::{Confinement, Role, narrow};
use vmm::control::access::Access;
use vmm::control::client::Client;
use vmm::control::server::Server;
use vmm::control::wire::Request;
use vmm::runtime::Runtime;
use vmm::{HResult, MachineConfig, Vm};

/// Who is confined, and what it does.
const ROLE: &str = "VMM_TEST_ROLE";
const DEED: &str = "VMM_TEST_DEED";
/// What it may read.
const KERNEL: &str = "VMM_TEST_KERNEL";
/// The runtime directory of a tool that keeps a machine.
const RUNTIME: &str = "VMM_TEST_RUNTIME";
/// A user that no other program here is.
const NOBODY_ELSE: u32 = 61_236;
/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(30);
/// How it ends if what is looked at is not so.
const NOT_SO: i32 = 3;

/// What some or all may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Nothing,
    Execute,
    Fork,
    Trace,
    Internet,
    ExecutableMemory,
    ExecutableStack,
    KillAnother,
    KillByThread,
    OtherIoctl,
    BeSeen,
    TakeTap,
    Open,
    Socket,
    Connect,
    Listen,
    Thread,
    Widen,
    MakeVm,
    RunVcpu,
    Panic,
    Abort,
    ReadPasswords,
    IsHidden,
    ShareMuch,
}

const DEEDS: [Deed; 25] = [
    Deed::Nothing,
    Deed::Execute,
    Deed::Fork,
    Deed::Trace,
    Deed::Internet,
    Deed::ExecutableMemory,
    Deed::ExecutableStack,
    Deed::KillAnother,
    Deed::KillByThread,
    Deed::OtherIoctl,
    Deed::BeSeen,
    Deed::TakeTap,
    Deed::Open,
    Deed::Socket,
    Deed::Connect,
    Deed::Listen,
    Deed::Thread,
    Deed::Widen,
    Deed::MakeVm,
    Deed::RunVcpu,
    Deed::Panic,
    Deed::Abort,
    Deed::ReadPasswords,
    Deed::IsHidden,
    Deed::ShareMuch,
];

/// What nobody may.
const NOBODY: [Deed; 9] = [
    Deed::Execute,
    Deed::Fork,
    Deed::Trace,
    Deed::Internet,
    Deed::ExecutableMemory,
    Deed::ExecutableStack,
    Deed::KillAnother,
    Deed::OtherIoctl,
    Deed::BeSeen,
];

/// What a role may not besides.
fn forbidden(role: Role) -> &'static [Deed] {
    match role {
        Role::Start => &[],
        Role::Vm => &[],
        Role::Main | Role::Signals | Role::Agent | Role::Call | Role::Disk | Role::Net => &[
            Deed::Open,
            Deed::Socket,
            Deed::Connect,
            Deed::Listen,
            Deed::Thread,
            Deed::Widen,
            Deed::MakeVm,
            Deed::RunVcpu,
            Deed::TakeTap,
        ],
        Role::Vcpu => &[
            Deed::Open,
            Deed::Socket,
            Deed::Connect,
            Deed::Listen,
            Deed::Thread,
            Deed::Widen,
            Deed::MakeVm,
            Deed::TakeTap,
        ],
        Role::Io => {
            &[Deed::Open, Deed::Listen, Deed::Thread, Deed::Widen, Deed::MakeVm, Deed::RunVcpu]
        }
        Role::Integration | Role::Control => {
            &[Deed::Open, Deed::Socket, Deed::Connect, Deed::Listen, Deed::MakeVm, Deed::RunVcpu]
        }
    }
}

/// Does `deed`; what it would take that it was let through is not said.
fn act(deed: Deed) {
    let raw = |number, one: u64, two: u64, three: u64| {
        // SAFETY: no call here that goes through reads or writes memory: whatever is no number is null.
        unsafe { libc::syscall(number, one, two, three, 0, 0, 0) };
    };
    let number = |value: i32| u64::from(value.unsigned_abs());
    let stream = number(libc::SOCK_STREAM);
    match deed {
        Deed::Nothing => println!("here"),
        Deed::Execute => raw(libc::SYS_execve, 0, 0, 0),
        // SIGCHLD, as fork(3) has it, and nothing that makes it a thread.
        Deed::Fork => raw(libc::SYS_clone, number(libc::SIGCHLD), 0, 0),
        Deed::Trace => raw(libc::SYS_ptrace, u64::MAX, 0, 0),
        Deed::Internet => raw(libc::SYS_socket, number(libc::AF_INET), stream, 0),
        Deed::ExecutableMemory => raw(libc::SYS_mmap, 0, 4096, number(libc::PROT_EXEC)),
        Deed::ExecutableStack => raw(libc::SYS_mprotect, 0, 4096, number(libc::PROT_EXEC)),
        Deed::KillAnother => raw(libc::SYS_tgkill, 1, 1, number(libc::SIGABRT)),
        Deed::KillByThread => raw(libc::SYS_tkill, 1, number(libc::SIGABRT), 0),
        Deed::BeSeen => raw(libc::SYS_prctl, number(libc::PR_SET_DUMPABLE), 1, 0),
        // TUNSETIFF, of nothing that has it.
        Deed::TakeTap => raw(libc::SYS_ioctl, u64::MAX, 0x4004_54ca, 0),
        // TIOCSTI types for others on a terminal.
        Deed::OtherIoctl => raw(libc::SYS_ioctl, 0, libc::TIOCSTI, 0),
        Deed::Open => raw(libc::SYS_openat, u64::MAX, 0, 0),
        Deed::Socket => raw(libc::SYS_socket, number(libc::AF_UNIX), stream, 0),
        Deed::Connect => raw(libc::SYS_connect, u64::MAX, 0, 0),
        Deed::Listen => raw(libc::SYS_listen, u64::MAX, 0, 0),
        Deed::Thread => drop(thread::Builder::new().spawn(|| ())),
        Deed::Widen => raw(libc::SYS_seccomp, number(libc::SECCOMP_SET_MODE_FILTER as i32), 0, 0),
        // KVM_CREATE_VM and KVM_RUN, of nothing that has them.
        Deed::MakeVm => raw(libc::SYS_ioctl, u64::MAX, 0xae01, 0),
        Deed::RunVcpu => raw(libc::SYS_ioctl, u64::MAX, 0xae80, 0),
        Deed::Panic => panic!("these words are read"),
        Deed::Abort => std::process::abort(),
        Deed::ReadPasswords => {
            let refused = File::open("/etc/passwd").err().map(|error| error.kind());
            let kernel = std::env::var_os(KERNEL).unwrap();
            if refused != Some(std::io::ErrorKind::PermissionDenied) || File::open(kernel).is_err()
            {
                std::process::exit(NOT_SO);
            }
        }
        Deed::ShareMuch => {
            // What the limit of a process' own data does not count.
            let is_shared = |bytes: usize| {
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
                let anywhere = std::ptr::null_mut();
                // SAFETY: a new mapping, where the kernel likes.
                let place = unsafe { libc::mmap(anywhere, bytes, protection, kind, -1, 0) };
                place != libc::MAP_FAILED
            };
            if !is_shared(1 << 30) || is_shared(2 << 30) {
                std::process::exit(NOT_SO);
            }
        }
        Deed::IsHidden => {
            // The kernel gives root what nobody else may look at.
            let owner = fs::metadata("/proc/self/environ").unwrap().uid();
            if owner != 0 || rustix::process::geteuid().is_root() {
                std::process::exit(NOT_SO);
            }
        }
    }
}

/// Who starts threads of this role.
fn starter(role: Role) -> Option<Role> {
    match role {
        Role::Start => None,
        Role::Vcpu | Role::Io | Role::Disk | Role::Net => Some(Role::Vm),
        Role::Agent => Some(Role::Integration),
        Role::Call => Some(Role::Control),
        _ => Some(Role::Start),
    }
}

/// Does `deed` on a thread of this role, which is started as in a machine's process.
fn play(role: Role, deed: Deed) -> thread::Result<()> {
    let there = move || {
        if role != Role::Start {
            narrow(role);
        }
        act(deed);
    };
    match starter(role) {
        None => {
            there();
            Ok(())
        }
        Some(Role::Start) => spawn(role, there).join(),
        Some(between) => {
            let between_and_there = move || {
                narrow(between);
                spawn(role, there).join()
            };
            spawn(between, between_and_there).join()?
        }
    }
}

fn spawn<T: Send + 'static>(
    role: Role,
    work: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::Builder::new().name(role.name().into()).spawn(work).unwrap()
}

/// The process that is confined.
fn child(role: &str, deed: &str) -> ! {
    let role = Role::ALL.into_iter().find(|one| one.name() == role).unwrap();
    let deed = DEEDS.into_iter().find(|one| format!("{one:?}") == deed).unwrap();
    let mut config = MachineConfig::new("web", std::env::var_os(KERNEL).unwrap());
    config.memory = 32 << 20;
    Confinement::new().machine(&config).enter().unwrap();
    let played = play(role, deed);
    std::process::exit(if played.is_ok() { 0 } else { 1 });
}

/// What becomes of a process in which a thread of this role does `deed`.
fn outcome(role: Role, deed: Deed) -> Output {
    let kernel = std::env::current_exe().unwrap();
    Command::new(&kernel)
        .env(ROLE, role.name())
        .env(DEED, format!("{deed:?}"))
        .env(KERNEL, &kernel)
        .env("RUST_BACKTRACE", "full")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The tool, which has a machine that is off, lets clients start it, and first does so itself.
fn tool(runtime: &Path) -> ! {
    let mut config = MachineConfig::new("web", std::env::var_os(KERNEL).unwrap());
    config.memory = 32 << 20;
    let place = Runtime::at(runtime).claim("web").unwrap();
    let listener = UnixListener::bind(place.control()).unwrap();
    Confinement::new().machine(&config).place(place.directory()).enter().unwrap();
    let vm = Arc::new(Vm::new(config, None).unwrap());
    narrow_beside(&vm);
    let _server = Server::start(listener, vm, Access::of_process()).unwrap();
    narrow(Role::Main);
    loop {
        thread::park();
    }
}

/// Starts the machine and turns it off, twice, where no thread can be started any more.
fn narrow_beside(vm: &Arc<Vm>) {
    let vm = vm.clone();
    let narrowed = thread::spawn(move || {
        narrow(Role::Main);
        for _ in 0..2 {
            assert_eq!(vm.startup().unwrap().wait(None).error, HResult::S_OK);
            assert_eq!(vm.turn_off().unwrap().wait(None).error, HResult::S_OK);
        }
    });
    narrowed.join().unwrap();
}

fn a_machine_that_is_off_can_be_started_by_a_client_of_a_confined_tool() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, elf(SPIN))?;
    let runtime = folder.path().join("run");
    let mut tool = Command::new(std::env::current_exe()?)
        .env(RUNTIME, &runtime)
        .env(KERNEL, &kernel)
        .stdin(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + LIMIT;
    let mut work = |request: Request| -> Result<(), Failed> {
        let mut client = loop {
            match Client::connect(&Runtime::at(&runtime), "web") {
                Ok(client) => break client,
                Err(error) if Instant::now() > deadline => return Err(error.text.into()),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        };
        let begun = client.work(request).map_err(|error| error.text)?;
        let end = client.wait(begun.task.id, Some(LIMIT), |_| ()).map_err(|error| error.text)?;
        match end.task.error {
            HResult::S_OK => Ok(()),
            _ => Err(end.task.error_description.into()),
        }
    };
    let verbs = [Request::Startup, Request::TurnOff, Request::Startup, Request::TurnOff];
    let worked = verbs.into_iter().try_for_each(&mut work);
    let ended = tool.try_wait()?;
    tool.kill()?;
    tool.wait()?;
    worked.map_err(|error| format!("{error:?}; the tool has ended with {ended:?}"))?;
    match ended {
        None => Ok(()),
        Some(status) => Err(format!("the tool ends with {status}").into()),
    }
}

fn nobody_but_root_may_look_into_a_confined_process() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    let program = folder.path().join("program");
    fs::copy(std::env::current_exe()?, &program)?;
    let mut command = Command::new(&program);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY_ELSE).gid(NOBODY_ELSE);
    }
    command.env(ROLE, Role::Start.name()).env(DEED, "IsHidden").env(KERNEL, &program);
    let ended = command.stdin(Stdio::null()).output()?;
    if ended.status.success() { Ok(()) } else { Err(format!("{ended:?}").into()) }
}

fn where_its_threads_cannot_be_counted_a_process_is_not_confined() -> Result<(), Failed> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT TESTED: only root can take /proc away");
        return Ok(());
    }
    let program = std::env::current_exe()?;
    let script = "mount -t tmpfs none /proc && exec \"$0\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(&program);
    command.env(ROLE, Role::Start.name()).env(DEED, "Nothing").env(KERNEL, &program);
    let ended = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    if !ended.status.success() && said.contains("NoProc") {
        return Ok(());
    }
    Err(format!("{ended:?}").into())
}

fn each_dies(role: Role) -> Result<(), Failed> {
    let well = outcome(role, Deed::Nothing);
    if !well.status.success() || well.stdout != b"here\n" {
        return Err(format!("a thread that does nothing ends with {well:?}").into());
    }
    // musl has no other way to signal a thread.
    let by_thread: &[Deed] = if cfg!(target_env = "musl") { &[] } else { &[Deed::KillByThread] };
    for deed in NOBODY.iter().chain(by_thread).chain(forbidden(role)) {
        let ended = outcome(role, *deed);
        if ended.status.signal() != Some(libc::SIGSYS) {
            return Err(format!("{deed:?} ends with {ended:?}").into());
        }
    }
    Ok(())
}

fn a_panic_says_what_it_is_and_goes_no_further_than_without_a_filter() -> Result<(), Failed> {
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Start) {
        let ended = outcome(role, Deed::Panic);
        let said = String::from_utf8_lossy(&ended.stderr);
        if ended.status.code() != Some(1) || !said.contains("these words are read") {
            return Err(format!("{role:?}: {ended:?}").into());
        }
    }
    Ok(())
}

fn an_abort_is_one_and_not_a_forbidden_call() -> Result<(), Failed> {
    for role in Role::ALL {
        let ended = outcome(role, Deed::Abort);
        if ended.status.signal() != Some(libc::SIGABRT) || ended.status.core_dumped() {
            return Err(format!("{role:?}: {ended:?}").into());
        }
    }
    Ok(())
}

fn of_all_files_only_those_of_the_machine_can_be_opened() -> Result<(), Failed> {
    if !vmm::confine::offer().landlock {
        eprintln!("NOT TESTED: this kernel has no Landlock");
        return Ok(());
    }
    if fs::read("/etc/passwd").is_err() {
        return Err("/etc/passwd cannot be read in any case".into());
    }
    for role in [Role::Start, Role::Vm] {
        let ended = outcome(role, Deed::ReadPasswords);
        if !ended.status.success() {
            return Err(format!("{role:?}: {ended:?}").into());
        }
    }
    Ok(())
}

fn memory_is_bounded_also_if_it_is_shared() -> Result<(), Failed> {
    let ended = outcome(Role::Start, Deed::ShareMuch);
    if ended.status.success() { Ok(()) } else { Err(format!("{ended:?}").into()) }
}

fn a_process_that_has_threads_is_not_confined() -> Result<(), Failed> {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = thread::spawn(move || ended.recv());
    let refused = Confinement::new().enter();
    drop(end);
    let _ = thread.join();
    match refused {
        Err(vmm::confine::ConfineError::Threads(2..)) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn main() {
    if let (Ok(role), Ok(deed)) = (std::env::var(ROLE), std::env::var(DEED)) {
        child(&role, &deed);
    }
    if let Some(runtime) = std::env::var_os(RUNTIME) {
        tool(Path::new(&runtime));
    }
    let roles = Role::ALL.into_iter().map(|role| {
        let name = format!("a_{}_thread_is_killed_by_what_it_may_not_do", role.name());
        Trial::test(name, move || each_dies(role))
    });
    let others = [
        Trial::test(
            "a_panic_says_what_it_is_and_goes_no_further_than_without_a_filter",
            a_panic_says_what_it_is_and_goes_no_further_than_without_a_filter,
        ),
        Trial::test(
            "an_abort_is_one_and_not_a_forbidden_call",
            an_abort_is_one_and_not_a_forbidden_call,
        ),
        Trial::test(
            "of_all_files_only_those_of_the_machine_can_be_opened",
            of_all_files_only_those_of_the_machine_can_be_opened,
        ),
        Trial::test(
            "memory_is_bounded_also_if_it_is_shared",
            memory_is_bounded_also_if_it_is_shared,
        ),
        Trial::test(
            "a_process_that_has_threads_is_not_confined",
            a_process_that_has_threads_is_not_confined,
        ),
        Trial::test(
            "a_machine_that_is_off_can_be_started_by_a_client_of_a_confined_tool",
            a_machine_that_is_off_can_be_started_by_a_client_of_a_confined_tool,
        ),
        Trial::test(
            "nobody_but_root_may_look_into_a_confined_process",
            nobody_but_root_may_look_into_a_confined_process,
        ),
        Trial::test(
            "where_its_threads_cannot_be_counted_a_process_is_not_confined",
            where_its_threads_cannot_be_counted_a_process_is_not_confined,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), roles.chain(others).collect()).exit();
}
