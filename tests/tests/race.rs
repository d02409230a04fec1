//! Two controllers of one machine's process, who ask it for any two things at the same time.

#[path = "../../vmm/src/control/every_verb.rs"]
mod every_verb;

use every_verb::every_verb;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};
use tests::micro::{SPIN, elf};
use vmm::HResult;
use vmm::LogoffOptions;
use vmm::control::client::Client;
use vmm::control::wire::{Property, Request};
use vmm::error::CallError;
use vmm::runtime::Runtime;
use vmm::state::VmState;

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(60);
/// What a machine without an agent may answer to anything.
const DOCUMENTED: [HResult; 8] = [
    HResult::S_OK,
    HResult::E_FAIL,
    HResult::E_INVALIDARG,
    HResult::DISP_E_BADINDEX,
    HResult::VM_E_VM_RUNNING,
    HResult::VM_E_VM_NOT_RUNNING,
    HResult::VM_E_VM_PAUSED,
    HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL,
];

/// A machine's process, and where it is found.
struct Machine {
    process: Child,
    runtime: Runtime,
}

impl Machine {
    fn start(folder: &Path) -> Self {
        let process = Command::new(env!("CARGO_BIN_EXE_vmm"))
            .args(["run", "raced", "--memory", "32M", "--console", "none", "--kernel"])
            .arg(folder.join("kernel"))
            .env("VMM_RUNTIME_DIR", folder.join("run"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let machine = Self { process, runtime: Runtime::at(folder.join("run")) };
        let limit = Instant::now() + LIMIT;
        while machine.state() != VmState::Running {
            assert!(Instant::now() < limit, "it never runs");
            thread::sleep(Duration::from_millis(1));
        }
        machine
    }

    fn client(&self) -> Result<Client, CallError> {
        Client::connect(&self.runtime, "raced")
    }

    /// Its state; turned off if its process has ended, or is about to.
    fn state(&self) -> VmState {
        let asked = self.client().and_then(|mut client| client.machine());
        asked.map_or(VmState::TurnedOff, |info| info.state)
    }

    /// Whether its process goes on; waits for the end of one that is turned off.
    fn is_alive(&mut self) -> bool {
        let limit = Instant::now() + LIMIT;
        loop {
            match self.state() {
                VmState::Running | VmState::Paused => return true,
                VmState::TurnedOff if self.process.try_wait().unwrap().is_some() => return false,
                state => assert!(Instant::now() < limit, "it remains {state:?}"),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn case_40_every_two_verbs_at_once_are_answered_with_documented_codes_and_leave_a_settled_machine()
{
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kernel"), elf(SPIN)).unwrap();
    let mut machine = Machine::start(folder.path());
    let (mut pairs, mut slowest) = (0, Duration::ZERO);
    for state in [VmState::Running, VmState::Paused] {
        for first in every_verb() {
            for second in every_verb() {
                if !machine.is_alive() {
                    machine = Machine::start(folder.path());
                }
                let wanted =
                    if state == VmState::Paused { Request::Pause } else { Request::Resume };
                // It may be in that state.
                let _ = machine.client().unwrap().act(wanted);
                assert_eq!(machine.state(), state);
                let what = format!("{first:?} and {second:?} when {state:?}");
                let start = Barrier::new(2);
                let ask = |verb: &Request| {
                    let mut client = machine.client().unwrap();
                    start.wait();
                    let begun = Instant::now();
                    let code = answer(&mut client, verb.clone());
                    (code, begun.elapsed())
                };
                let answers = thread::scope(|scope| {
                    let other = scope.spawn(|| ask(&second));
                    [ask(&first), other.join().unwrap()]
                });
                for (code, time) in answers {
                    assert!(DOCUMENTED.contains(&code), "{what}: {code}");
                    assert!(time < LIMIT, "{what}: {time:?}");
                    slowest = slowest.max(time);
                }
                pairs += 1;
            }
        }
    }
    println!("{pairs} pairs, the slowest answer took {slowest:?}");
    assert!(pairs >= 500);
}

/// What the machine answers to `verb`.
fn answer(client: &mut Client, verb: Request) -> HResult {
    let answer = match verb {
        Request::Machine => client.machine().map(drop),
        Request::Sessions => client.sessions().map(drop),
        Request::Tasks => client.tasks().map(drop),
        Request::Task { id } => client.task(id).map(drop),
        Request::Wait { id } => client.wait(id, Some(LIMIT), |_| ()).map(drop),
        Request::Cancel { id } => client.cancel(id).map(drop),
        Request::Property { property } => client.property(property).map(drop),
        verb @ (Request::GetParameter { .. }
        | Request::IsUserLoggedOn { .. }
        | Request::Balloon) => client.value(verb).map(drop),
        verb @ (Request::Pause
        | Request::Resume
        | Request::PressPowerButton
        | Request::SetParameter { .. }
        | Request::SetBalloon { .. }) => client.act(verb),
        verb => client.work(verb).map(drop),
    };
    answer.map_or_else(|refusal| refusal.code, |()| HResult::S_OK)
}
