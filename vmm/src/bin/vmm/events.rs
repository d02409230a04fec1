//! `vmm events`: what happens to machines, as it happens.
//!
//! Each machine that is followed has a thread, which prints what it hears. If whoever reads that is
//! slow, so are the threads, and then the machines drop events and tell how many: nothing piles up
//! here.

use crate::args::Format;
use crate::machines::connect;
use crate::output::{Outcome, line_of, reader_has_gone, write_line};
use protocol::HResult;
use serde_json::json;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use vmm::control::client::{Client, Events};
use vmm::error::CallError;
use vmm::events::{Event, EventKind, Notice};
use vmm::runtime::Runtime;

/// How often new machines are looked for, and whether anybody still reads.
const LOOK: Duration = Duration::from_millis(250);

pub(crate) fn events(name: Option<&str>, format: Format) -> Outcome {
    match name {
        Some(name) => {
            let client = connect(name)?;
            let name = client.name().to_owned();
            tell(&name, client.events()?, format)?;
            Ok(0)
        }
        None => all(format),
    }
}

/// Prints a machine's events until it ends or nobody reads them any more.
fn tell(machine: &str, mut events: Events, format: Format) -> Result<(), CallError> {
    loop {
        let notice = match events.next(Some(LOOK)) {
            Ok(Some(notice)) => notice,
            Ok(None) if reader_has_gone() => return Ok(()),
            Ok(None) => continue,
            Err(error) if error.code == HResult::VM_E_VM_NOT_RUNNING => return Ok(()),
            Err(error) => return Err(error),
        };
        let line = match (&notice, format) {
            (Notice::Event(event), Format::Json) => line_of(event),
            (Notice::Lost(count), Format::Json) => {
                line_of(&json!({ "machine": machine, "lost": count }))
            }
            (Notice::Event(event), Format::Human) => words(event),
            (Notice::Lost(count), Format::Human) => format!("{machine}: {count} events were lost"),
        };
        if !write_line(&line) {
            return Ok(());
        }
    }
}

/// An event for people.
fn words(event: &Event) -> String {
    let Event { machine, sequence, kind, .. } = event;
    let what = match kind {
        EventKind::OnStateChange { state } => format!("OnStateChange: {}", state.words()),
        EventKind::OnConfigurationChanged { key } => format!("OnConfigurationChanged: {key}"),
        EventKind::OnGuestLogoff { logoff_type, user, session } => {
            format!("OnGuestLogoff: {user}, session {session} ({logoff_type:?})")
        }
        plain => format!("{plain:?}"),
    };
    format!("{machine} {sequence}: {what}")
}

/// The machines that are followed.
type Followed = Arc<Mutex<HashSet<String>>>;

fn lock(followed: &Followed) -> MutexGuard<'_, HashSet<String>> {
    followed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints the events of all machines, also of those that are started later.
fn all(format: Format) -> Outcome {
    let runtime = Runtime::of_user();
    let followed = Followed::default();
    while !reader_has_gone() {
        for name in runtime.list() {
            let key = name.to_lowercase();
            if lock(&followed).contains(&key) {
                continue;
            }
            // One that is just starting is tried again.
            let Ok(events) = Client::connect(&runtime, &name).and_then(Client::events) else {
                continue;
            };
            lock(&followed).insert(key.clone());
            let shared = Arc::clone(&followed);
            let follow = move || {
                // It has ended, or cannot be heard any more: in both cases it may be found again.
                let _ = tell(&name, events, format);
                lock(&shared).remove(&key);
            };
            if let Err(error) = thread::Builder::new().name("events".into()).spawn(follow) {
                let text = format!("no thread is left to follow another machine ({error})");
                return Err(CallError::new(HResult::VM_E_OUT_OF_RESOURCE, text).into());
            }
        }
        thread::sleep(LOOK);
    }
    Ok(0)
}
