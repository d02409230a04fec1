//! Machines by their names, in the catalog and running: connecting to one, asking all that run.

use crate::output::time;
use std::thread;
use std::time::{Duration, Instant};
use vmm::control::client::Client;
use vmm::control::wire::MachineInfo;
use vmm::error::CallError;
use vmm::runtime::Runtime;
use vmm::state::VmState;
use vmm::{HResult, VirtualPc};

/// How long a machine's process may take to end when the machine is off.
const ENDING: Duration = Duration::from_secs(10);
/// How often one that ends is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// A connection to the process of the machine `name`.
pub(crate) fn connect(name: &str) -> Result<Client, CallError> {
    VirtualPc::of_user().connect(name)
}

/// Tries again what is possible with a machine that is off, as long as the machine `name` is only
/// ending: to whoever turned it off, it is off.
pub(crate) fn once_off<T>(
    name: &str,
    mut attempt: impl FnMut() -> Result<T, CallError>,
) -> Result<T, CallError> {
    let deadline = Instant::now() + ENDING;
    loop {
        match attempt() {
            Err(error) if is_ending(name, &error) && Instant::now() < deadline => {
                thread::sleep(LOOK);
            }
            done => return done,
        }
    }
}

/// Whether a machine that refuses like this will soon be no more.
fn is_ending(name: &str, refusal: &CallError) -> bool {
    match refusal.code {
        HResult::VM_E_APP_SHUTTING_DOWN | HResult::VM_E_VM_NOT_RUNNING => true,
        HResult::VM_E_VM_RUNNING => match connect(name).and_then(|mut client| client.machine()) {
            Ok(machine) => matches!(machine.state, VmState::TurningOff | VmState::TurnedOff),
            Err(error) => error.code == HResult::VM_E_VM_NOT_RUNNING,
        },
        _ => false,
    }
}

/// How long a machine that is asked with all others may take over an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What each running machine answers to `ask`, in the order of their names. One that is slow keeps
/// no other waiting.
pub(crate) fn ask_all<T: Send>(
    runtime: &Runtime,
    ask: impl Fn(&mut Client) -> Result<T, CallError> + Sync,
) -> Vec<(String, Result<T, CallError>)> {
    let names = runtime.list();
    let asked = |name: &str| {
        let mut client = Client::connect(runtime, name)?;
        client.set_patience(PATIENCE)?;
        ask(&mut client)
    };
    thread::scope(|scope| {
        let asked = &asked;
        let start = |name| thread::Builder::new().spawn_scoped(scope, move || asked(name));
        let threads: Vec<_> = names.iter().map(|name| (name, start(name))).collect();
        let answers = threads.into_iter().filter_map(|(name, thread)| {
            let answer = match thread {
                // A panic has been reported where it happened.
                Ok(thread) => thread.join().ok()?,
                // The host is short of threads, and this one is free.
                Err(_) => asked(name),
            };
            Some((name.clone(), answer))
        });
        answers.collect()
    })
}

/// The agent of a machine's guest: its version, or when it was last heard.
pub(crate) fn agent(machine: &MachineInfo) -> String {
    match (&machine.agent.version, machine.agent.heard_ms) {
        (Some(version), _) if machine.agent.connected => version.clone(),
        (Some(version), _) if machine.agent.refused.is_some() => format!("{version}, refused"),
        (_, Some(heard)) => format!("last heard {} ago", time(heard)),
        _ => "-".into(),
    }
}
