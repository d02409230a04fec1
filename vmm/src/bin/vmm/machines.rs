//! Machines that run: asking all of them at once, and what is known of their agents.

use crate::output::time;
use std::thread;
use vmm::control::client::Client;
use vmm::control::wire::MachineInfo;
use vmm::error::CallError;
use vmm::runtime::Runtime;

/// What each running machine answers to `ask`, in the order of their names. One that ends meanwhile
/// is left out, and so is one that refuses. One that is slow keeps no other waiting.
pub(crate) fn ask_all<T: Send>(
    runtime: &Runtime,
    ask: impl Fn(&mut Client) -> Result<T, CallError> + Sync,
) -> Vec<T> {
    let names = runtime.list();
    let asked = |name: &str| Client::connect(runtime, name).and_then(|mut client| ask(&mut client));
    thread::scope(|scope| {
        let asked = &asked;
        let start = |name| thread::Builder::new().spawn_scoped(scope, move || asked(name));
        let threads: Vec<_> = names.iter().map(|name| (name, start(name))).collect();
        let answers = threads.into_iter().filter_map(|(name, thread)| match thread {
            // A panic has been reported where it happened.
            Ok(thread) => thread.join().ok(),
            // The host is short of threads, and this one is free.
            Err(_) => Some(asked(name)),
        });
        answers.filter_map(Result::ok).collect()
    })
}

/// The agent of a machine's guest: its version, or when it was last heard.
pub(crate) fn agent(machine: &MachineInfo) -> String {
    match (&machine.agent.version, machine.agent.heard_ms) {
        (Some(version), _) if machine.agent.connected => version.clone(),
        (_, Some(heard)) => format!("last heard {} ago", time(heard)),
        _ => "-".into(),
    }
}
