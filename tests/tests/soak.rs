//! What soaks in one process: machines that come and go, and guests' users who are logged off, again
//! and again. Nothing of it stays behind.
//!
//! A part of it is played unless `VMM_SOAK` is set. What the process has of its host is counted, so the
//! tests are played one after the other, on the process's first thread.

use libtest_mimic::{Arguments, Failed, Trial};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tests::agent::{self, Manner};
use tests::level::{Level, whole};
use tests::micro::{FAULT, POWER_OFF, SPIN, elf};
use tests::relay;
use vmm::catalog::{Catalog, Definition};
use vmm::config::{Console, Disk};
use vmm::host::Host;
use vmm::runtime::Runtime;
use vmm::state::VmState;
use vmm::vm::End;
use vmm::{HResult, LogoffOptions, LogoffReport, MachineConfig, TaskInfo, TaskResult};
use vmm::{VirtualPc, Vm, task};

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(30);
/// The same in milliseconds.
const LIMIT_MS: i32 = 30_000;

/// A folder with kernels, a disk and a catalog.
struct World {
    folder: tempfile::TempDir,
    pc: VirtualPc,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::at(folder.path().join("run"));
        let pc = VirtualPc::at(Catalog::at(folder.path().join("data"), runtime));
        for (name, code) in
            [("off", POWER_OFF), ("fault", FAULT), ("spin", SPIN), ("relay", relay::code())]
        {
            fs::write(folder.path().join(name), elf(code)).unwrap();
        }
        fs::write(folder.path().join("disk"), [0; 1 << 20]).unwrap();
        Self { folder, pc }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn definition(&self, kernel: &str) -> Definition {
        Definition { memory: 32 << 20, ..Definition::new("", self.path(kernel)) }
    }

    /// A machine that nobody else can find, with a disk and a console.
    fn start(&self, kernel: &str) -> Vm {
        let mut config = MachineConfig::new("brief", self.path(kernel));
        config.memory = 32 << 20;
        config.disks = vec![Disk::new(self.path("disk"))];
        config.console = Console::Attach;
        Vm::start(config, Some(&self.path("vsock.sock"))).unwrap()
    }

    /// Makes a machine and lets it end in one of the ways that there are.
    fn come_and_go(&self, way: u64) {
        match way % 5 {
            0 => assert_eq!(self.start("off").wait(), End::PowerOff),
            1 => assert_eq!(self.start("fault").wait(), End::TripleFault),
            2 => {
                let vm = self.start("spin");
                succeeded(&vm.reset().unwrap().wait(Some(LIMIT)));
                succeeded(&vm.turn_off().unwrap().wait(Some(LIMIT)));
                assert_eq!(vm.wait(), End::TurnedOff);
            }
            3 => {
                let vm = self.start("spin");
                vm.pause().unwrap();
                assert_eq!(vm.state(), VmState::Paused);
            }
            _ => {
                let machine =
                    self.pc.create_virtual_machine("found", &self.definition("spin")).unwrap();
                let startup = machine.startup().unwrap();
                succeeded(&startup.wait_for_completion(LIMIT_MS).unwrap());
                assert_eq!(machine.state().unwrap(), VmState::Running);
                let turn_off = machine.turn_off().unwrap();
                succeeded(&turn_off.wait_for_completion(LIMIT_MS).unwrap());
                assert!(self.pc.delete_virtual_machine(&machine).unwrap());
            }
        }
    }
}

fn succeeded(task: &TaskInfo) {
    assert_eq!((task.result, task.error), (Some(TaskResult::Success), HResult::S_OK), "{task:?}");
}

/// Looks at this process while it does `thing` so often, after some times that do not count.
fn soak(things: &'static str, warm: u64, count: u64, looks: u64, mut thing: impl FnMut(u64)) {
    (0..warm).for_each(&mut thing);
    let mut level = Level::of(std::process::id(), things);
    for done in 1..=count {
        thing(done);
        if done % (count / looks) == 0 {
            level.sample(done);
        }
    }
    level.is_flat();
}

fn a_thousand_machines_come_and_go_and_nothing_of_them_stays() -> Result<(), Failed> {
    let world = World::new();
    let count = if whole() { 1000 } else { 60 };
    soak("machines", 40, count, 20, |done| world.come_and_go(done));
    Ok(())
}

fn ten_thousand_logoffs_leave_nothing_but_the_tasks_that_are_kept() -> Result<(), Failed> {
    let world = World::new();
    world.pc.create_virtual_machine("soaked", &world.definition("relay")).unwrap();
    let host = Host::registered(world.pc.catalog(), "soaked").unwrap();
    let vm = host.vm();
    succeeded(&vm.startup().unwrap().wait(Some(LIMIT)));
    let success = Manner::Ends(TaskResult::Success, HResult::S_OK);
    agent::connect(&world.path("run/soaked/vsock.sock"), success);
    assert!(vm.guest_os().wait_for_agent(LIMIT));
    let machine = world.pc.find_virtual_machine("soaked").unwrap().unwrap();

    let count = if whole() { 10_000 } else { 300 };
    // From then on the oldest task is forgotten for each that begins.
    let warm = task::KEPT as u64 + 100;
    soak("logoffs", warm, count, 20, |done| {
        let options = LogoffOptions::default();
        let (info, report) = if done % 2 == 0 {
            let task = vm.guest_os().logoff(options).unwrap();
            (task.wait(Some(LIMIT)), task.report())
        } else {
            // As a program does it that need not be in the machine's process.
            let task = machine.guest_os().logoff(options).unwrap();
            (task.wait_for_completion(LIMIT_MS).unwrap(), task.report().unwrap())
        };
        succeeded(&info);
        alice_was_logged_off(&report.expect("there is a report"));
        let kept = vm.tasks().list().len();
        assert!(kept <= task::KEPT + 1, "{kept} tasks");
    });
    assert_eq!(vm.tasks().list().len(), task::KEPT + 1, "those that are kept, and the last");
    assert!(vm.guest_os().agent().connected, "it was the same one all the time");
    Ok(())
}

fn alice_was_logged_off(report: &LogoffReport) {
    let users: Vec<&str> = report.sessions.iter().map(|it| it.session.user.as_str()).collect();
    assert_eq!(users, ["alice"]);
    assert!(report.sessions[0].outcome.is_some(), "{report:?}");
}

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = vec![
        Trial::test(
            "a_thousand_machines_come_and_go_and_nothing_of_them_stays",
            a_thousand_machines_come_and_go_and_nothing_of_them_stays,
        ),
        Trial::test(
            "ten_thousand_logoffs_leave_nothing_but_the_tasks_that_are_kept",
            ten_thousand_logoffs_leave_nothing_but_the_tasks_that_are_kept,
        ),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
