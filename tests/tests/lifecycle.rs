//! Machines in this process: every verb in every state, and who wins when two are called at once.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tests::micro::{DOTS, ECHO, FAULT, POWER_OFF, SPIN, elf};
use vmm::config::Console;
use vmm::error::CallError;
use vmm::events::{Event, EventKind, Notice, Subscription};
use vmm::state::VmState;
use vmm::vm::End;
use vmm::{HResult, MachineConfig, Task, TaskResult, Vm};
use vmm_sys_util::eventfd::EventFd;

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(30);

struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn vm(&self, code: &[u8]) -> Vm {
        self.vm_with(code, Console::File(self.path("console")))
    }

    fn vm_with(&self, code: &[u8], console: Console) -> Vm {
        let kernel = self.path("kernel");
        fs::write(&kernel, elf(code)).unwrap();
        let config =
            MachineConfig { memory: 32 << 20, console, ..MachineConfig::new("web", kernel) };
        Vm::new(config, None).unwrap()
    }
}

fn succeeds(task: Result<Task, CallError>) {
    let info = task.unwrap().wait(Some(LIMIT));
    assert_eq!(info.result, Some(TaskResult::Success), "{info:?}");
    assert!(info.is_complete && info.percent_completed == 100);
}

fn code<T>(answer: Result<T, CallError>) -> HResult {
    answer.err().map_or(HResult::S_OK, |error| error.code)
}

fn subscribe(vm: &Vm) -> Subscription {
    vm.events().subscribe(Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()))
}

fn events(subscription: &Subscription) -> Vec<EventKind> {
    let notices = std::iter::from_fn(|| subscription.take());
    notices
        .map(|notice| match notice {
            Notice::Event(Event { kind, .. }) => kind,
            Notice::Lost(count) => panic!("{count} events were lost"),
        })
        .collect()
}

#[test]
fn every_verb_answers_in_every_state_as_the_table_says() {
    let world = World::new();
    let vm = world.vm(SPIN);
    assert_eq!(vm.state(), VmState::TurnedOff);
    for answer in [code(vm.turn_off()), code(vm.reset()), code(vm.pause()), code(vm.resume())] {
        assert_eq!(answer, HResult::VM_E_VM_NOT_RUNNING);
    }
    for _ in 0..2 {
        succeeds(vm.startup());
        assert_eq!(vm.state(), VmState::Running);
        assert_eq!(code(vm.startup()), HResult::VM_E_VM_RUNNING);
        assert_eq!(code(vm.resume()), HResult::E_FAIL);
        vm.pause().unwrap();
        assert_eq!(vm.state(), VmState::Paused);
        assert_eq!(code(vm.pause()), HResult::E_FAIL);
        assert_eq!(code(vm.startup()), HResult::VM_E_VM_RUNNING);
        assert_eq!(code(vm.guest_os().sessions()), HResult::VM_E_VM_PAUSED);
        assert_eq!(code(vm.guest_os().logoff(Default::default())), HResult::VM_E_VM_NOT_RUNNING);
        succeeds(vm.reset());
        assert_eq!(vm.state(), VmState::Paused, "a reset leaves a paused machine paused");
        vm.resume().unwrap();
        succeeds(vm.reset());
        assert_eq!(vm.state(), VmState::Running);
        succeeds(vm.turn_off());
        assert_eq!(vm.state(), VmState::TurnedOff);
        assert_eq!(vm.wait(), End::TurnedOff);
    }
}

#[test]
fn a_paused_machine_can_be_turned_off() {
    let world = World::new();
    let vm = world.vm(SPIN);
    succeeds(vm.startup());
    vm.pause().unwrap();
    succeeds(vm.turn_off());
    assert_eq!(vm.wait(), End::TurnedOff);
}

#[test]
fn a_paused_guest_prints_nothing_until_it_is_resumed() {
    let world = World::new();
    let vm = world.vm(DOTS);
    let printed = || fs::metadata(world.path("console")).map_or(0, |file| file.len());
    let grows = |from: u64| {
        let deadline = Instant::now() + LIMIT;
        while printed() <= from {
            assert!(Instant::now() < deadline, "nothing is printed");
            thread::yield_now();
        }
    };
    succeeds(vm.startup());
    grows(0);
    for _ in 0..20 {
        vm.pause().unwrap();
        // What it printed before may still be on its way.
        let mut last = printed();
        loop {
            thread::sleep(Duration::from_millis(20));
            let now = printed();
            if now == last {
                break;
            }
            last = now;
        }
        thread::sleep(Duration::from_millis(20));
        assert_eq!(printed(), last);
        vm.resume().unwrap();
        grows(last);
    }
}

/// Reads as much as `expected` is long, and compares.
fn reads(mut stream: &UnixStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), expected);
}

#[test]
fn who_is_attached_types_and_sees_everything_and_who_comes_later_what_was_before() {
    let world = World::new();
    let vm = world.vm_with(ECHO, Console::Attach);
    assert_eq!(code(vm.console()), HResult::VM_E_VM_NOT_RUNNING);
    succeeds(vm.startup());
    let attach = || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        vm.console().unwrap().attach(theirs, Vec::new()).unwrap();
        ours
    };
    let mut first = attach();
    // Longer than the port's buffer.
    let line = "to be seen ".repeat(100);
    first.write_all(line.as_bytes()).unwrap();
    reads(&first, &line);
    let mut second = attach();
    reads(&second, &line);
    second.write_all(b"both").unwrap();
    reads(&first, "both");
    reads(&second, "both");
    succeeds(vm.reset());
    first.write_all(b"again").unwrap();
    reads(&first, "again");
    reads(&second, "again");
    drop(first);
    second.write_all(b"alone").unwrap();
    reads(&second, "alone");
    succeeds(vm.turn_off());
    assert_eq!(second.read(&mut [0]).unwrap(), 0, "the machine has ended");
}

#[test]
fn who_is_attached_and_does_not_read_is_detached_and_the_guest_goes_on() {
    let world = World::new();
    let vm = world.vm_with(DOTS, Console::Attach);
    succeeds(vm.startup());
    let (ours, theirs) = UnixStream::pair().unwrap();
    vm.console().unwrap().attach(theirs, Vec::new()).unwrap();
    let deadline = Instant::now() + LIMIT;
    // Its end shows as a hang-up without reading a byte.
    loop {
        let mut fds = [PollFd::new(&ours, PollFlags::empty())];
        let pause = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        if poll(&mut fds, Some(&pause)).unwrap() > 0 {
            assert!(fds[0].revents().contains(PollFlags::HUP));
            break;
        }
        assert!(Instant::now() < deadline, "it stays attached");
    }
    succeeds(vm.turn_off());
}

#[test]
fn what_happens_is_told_in_order() {
    let world = World::new();
    let vm = world.vm(POWER_OFF);
    let heard = subscribe(&vm);
    succeeds(vm.startup());
    assert_eq!(vm.wait(), End::PowerOff);
    let state = |state| EventKind::OnStateChange { state };
    assert_eq!(
        events(&heard),
        [
            state(VmState::TurningOn),
            state(VmState::Running),
            EventKind::OnGuestShutdown,
            state(VmState::TurningOff),
            state(VmState::TurnedOff),
        ]
    );
    let vm = world.vm(FAULT);
    let heard = subscribe(&vm);
    succeeds(vm.startup());
    assert_eq!(vm.wait(), End::TripleFault);
    assert!(events(&heard).contains(&EventKind::OnTripleFault));
    let vm = world.vm(SPIN);
    succeeds(vm.startup());
    let heard = subscribe(&vm);
    succeeds(vm.reset());
    succeeds(vm.turn_off());
    assert_eq!(
        events(&heard),
        [
            EventKind::OnReset,
            EventKind::OnRequestShutdown,
            state(VmState::TurningOff),
            state(VmState::TurnedOff),
        ]
    );
}

#[test]
fn a_machine_that_cannot_start_says_why_through_the_task_and_can_be_tried_again() {
    let world = World::new();
    let vm = world.vm(SPIN);
    fs::remove_file(world.path("kernel")).unwrap();
    for _ in 0..2 {
        let info = vm.startup().unwrap().wait(Some(LIMIT));
        assert_eq!(info.result, Some(TaskResult::UnexpectedError));
        assert_eq!(info.error, HResult::ERROR_FILE_NOT_FOUND);
        assert!(info.error_description.contains("kernel"), "{info:?}");
        assert_eq!(vm.state(), VmState::TurnedOff);
        assert!(matches!(vm.wait(), End::NotStarted(_)));
    }
    fs::write(world.path("kernel"), elf(SPIN)).unwrap();
    succeeds(vm.startup());
}

#[test]
fn two_callers_who_race_are_both_answered_at_once_and_leave_a_state_of_the_table() {
    type Call = fn(&Vm) -> Result<Option<Task>, CallError>;
    let calls: [(&str, Call); 5] = [
        ("startup", |vm| vm.startup().map(Some)),
        ("turn_off", |vm| vm.turn_off().map(Some)),
        ("reset", |vm| vm.reset().map(Some)),
        ("pause", |vm| vm.pause().map(|()| None)),
        ("resume", |vm| vm.resume().map(|()| None)),
    ];
    let documented =
        [HResult::S_OK, HResult::E_FAIL, HResult::VM_E_VM_NOT_RUNNING, HResult::VM_E_VM_RUNNING];
    let world = World::new();
    let vm = world.vm(SPIN);
    for round in 0..4 {
        for (prepared, prepare) in [(0, 0), (1, 0), (1, 1)] {
            for (first_name, first) in calls {
                for (second_name, second) in calls {
                    let what = format!("round {round}: {first_name} and {second_name}");
                    if prepared == 1 {
                        succeeds(vm.startup());
                    }
                    if prepare == 1 {
                        vm.pause().unwrap();
                    }
                    let start = std::sync::Barrier::new(2);
                    let timed = |call: Call| {
                        start.wait();
                        let begun = Instant::now();
                        let answer = call(&vm);
                        assert!(begun.elapsed() < LIMIT, "{what} takes {:?}", begun.elapsed());
                        answer
                    };
                    let answers = thread::scope(|scope| {
                        let other = scope.spawn(|| timed(second));
                        [timed(first), other.join().unwrap()]
                    });
                    for answer in answers {
                        if let Ok(Some(task)) = &answer {
                            assert!(task.wait(Some(LIMIT)).is_complete, "{what}");
                        }
                        let code = code(answer);
                        assert!(documented.contains(&code), "{what}: {code}");
                    }
                    let state = vm.state();
                    let settled = [VmState::TurnedOff, VmState::Running, VmState::Paused];
                    assert!(settled.contains(&state), "{what}: {state:?}");
                    if state != VmState::TurnedOff {
                        succeeds(vm.turn_off());
                    }
                }
            }
        }
    }
}
