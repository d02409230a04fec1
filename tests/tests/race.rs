//! Two controllers of one machine's process, who ask it for any two things at the same time.

#[path = "../../vmm/src/control/every_verb.rs"]
mod every_verb;

use every_verb::every_verb;
use protocol::task::TaskResult;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};
use tests::agent::{self, Manner};
use tests::micro::{SPIN, elf};
use tests::relay;
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
const DOCUMENTED: [HResult; 9] = [
    HResult::S_OK,
    HResult::E_FAIL,
    HResult::E_INVALIDARG,
    HResult::DISP_E_BADINDEX,
    HResult::VM_E_VM_RUNNING,
    HResult::VM_E_VM_NOT_RUNNING,
    HResult::VM_E_VM_PAUSED,
    HResult::VM_E_APP_SHUTTING_DOWN,
    HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL,
];

/// A machine's process, and where it is found.
struct Machine {
    process: Child,
    runtime: Runtime,
}

impl Machine {
    /// One that runs.
    fn start(folder: &Path) -> Self {
        let machine = Self::begin(folder);
        let limit = Instant::now() + LIMIT;
        while machine.state() != VmState::Running {
            assert!(Instant::now() < limit, "it never runs");
            thread::sleep(Duration::from_millis(1));
        }
        machine
    }

    /// One whose process has just been started.
    fn begin(folder: &Path) -> Self {
        let process = Command::new(env!("CARGO_BIN_EXE_vmm"))
            .args(["run", "raced", "--memory", "32M", "--console", "none", "--kernel"])
            .arg(folder.join("kernel"))
            .env("VMM_RUNTIME_DIR", folder.join("run"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, runtime: Runtime::at(folder.join("run")) }
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

    /// Asks for both at the same moment, and looks that they are answered with one of `codes`.
    fn ask_both(&self, first: &Request, second: &Request, codes: &[HResult]) -> Duration {
        let start = Barrier::new(2);
        let ask = |verb: &Request| {
            let mut client = self.client().unwrap();
            start.wait();
            let begun = Instant::now();
            let code = answer(&mut client, verb.clone());
            (code, begun.elapsed())
        };
        let answers = thread::scope(|scope| {
            let other = scope.spawn(|| ask(second));
            [ask(first), other.join().unwrap()]
        });
        for (code, time) in answers {
            assert!(codes.contains(&code), "{first:?} and {second:?}: {code}");
            assert!(time < LIMIT, "{first:?} and {second:?}: {time:?}");
        }
        answers.map(|(_, time)| time).into_iter().max().unwrap_or_default()
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
    fs::write(folder.path().join("kernel"), elf(SPIN)).unwrap();
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
                slowest = slowest.max(machine.ask_both(&first, &second, &DOCUMENTED));
                pairs += 1;
            }
        }
    }
    println!("{pairs} pairs, the slowest answer took {slowest:?}");
    assert!(pairs >= 500);
}

#[test]
fn case_40_work_for_the_guest_and_any_verb_at_once_come_to_a_documented_end() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("kernel"), elf(relay::code())).unwrap();
    let mut machine = Machine::start(folder.path());
    let of_work = [HResult::VM_E_TIMED_OUT, HResult::ERROR_CANCELLED, HResult::DISP_E_EXCEPTION];
    let codes = [&DOCUMENTED[..], &of_work].concat();
    let options = LogoffOptions { grace_ms: 0, notice_ms: 0, deadline_ms: 200 };
    let work = [
        Request::Sessions,
        Request::Logoff { options },
        Request::Shutdown { forced: true },
        Request::Restart { forced: true },
    ];
    let mut with_an_agent = 0;
    for first in &work {
        for second in every_verb() {
            // The test's agent has no such service.
            if matches!(
                second,
                Request::Property { .. }
                    | Request::IsUserLoggedOn { .. }
                    | Request::GetParameter { .. }
                    | Request::SetParameter { .. }
            ) {
                continue;
            }
            if !machine.is_alive() {
                machine = Machine::start(folder.path());
            }
            // It may run.
            let _ = machine.client().unwrap().act(Request::Resume);
            if !machine.client().unwrap().machine().unwrap().agent.connected {
                let everybody = Manner::Ends(TaskResult::Success, HResult::S_OK);
                agent::connect(&folder.path().join("run/raced/vsock.sock"), everybody);
                with_an_agent += 1;
            }
            machine.ask_both(first, &second, &codes);
        }
    }
    assert!(with_an_agent > 0, "there never was an agent");
    // A guest that has promised to shut down may take its time; of an earlier boot nothing is left.
    if machine.is_alive() {
        machine.client().unwrap().work(Request::Reset).unwrap();
        let limit = Instant::now() + LIMIT;
        loop {
            let tasks = machine.client().unwrap().tasks().unwrap();
            if tasks.iter().all(|task| task.is_complete) {
                break;
            }
            assert!(Instant::now() < limit, "they never end: {tasks:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn case_40_a_machine_that_has_hardly_begun_or_is_about_to_end_answers_every_verb() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("kernel"), elf(SPIN)).unwrap();
    for verb in every_verb() {
        let mut machine = Machine::begin(folder.path());
        let limit = Instant::now() + LIMIT;
        let mut client = loop {
            assert!(Instant::now() < limit, "there is never a socket");
            if let Ok(client) = machine.client() {
                break client;
            }
        };
        let code = answer(&mut client, verb.clone());
        assert!(DOCUMENTED.contains(&code), "{verb:?} at the beginning: {code}");
        if !machine.is_alive() {
            continue;
        }
        let (mut other, mut ending) = (machine.client().unwrap(), machine.client().unwrap());
        thread::scope(|scope| {
            scope.spawn(move || answer(&mut ending, Request::TurnOff));
            let code = answer(&mut other, verb.clone());
            assert!(DOCUMENTED.contains(&code), "{verb:?} at the end: {code}");
        });
        assert!(!machine.is_alive(), "{verb:?} keeps it");
    }
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
