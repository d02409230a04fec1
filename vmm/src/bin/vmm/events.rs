//! `vmm events`: what happens to machines, as it happens.
//!
//! If whoever reads is slow, so is this process, and then the machines drop events and tell how many:
//! nothing piles up here.

use crate::args::Format;
use crate::machines::connect;
use crate::output::{Outcome, line_of, reader_has_gone, write_line};
use protocol::HResult;
use serde_json::json;
use std::time::Duration;
use vmm::control::all_events::{AllEvents, Heard};
use vmm::control::client::Events;
use vmm::events::{Event, EventKind, Notice};
use vmm::runtime::Runtime;

/// How often is looked whether anybody still reads.
const LOOK: Duration = Duration::from_millis(250);

pub(crate) fn events(name: Option<&str>, format: Format) -> Outcome {
    match name {
        Some(name) => {
            let client = connect(name)?;
            let name = client.name().to_owned();
            one(&name, client.events()?, format)
        }
        None => all(format),
    }
}

/// Prints a machine's events until it ends or nobody reads them any more.
fn one(machine: &str, mut events: Events, format: Format) -> Outcome {
    while !reader_has_gone() {
        match events.next(Some(LOOK)) {
            Ok(Some(notice)) if !tell(machine, &notice, format) => break,
            Ok(_) => {}
            Err(error) if error.code == HResult::VM_E_VM_NOT_RUNNING => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(0)
}

/// Prints what a machine has told; false if nobody reads it.
fn tell(machine: &str, notice: &Notice, format: Format) -> bool {
    write_line(&match (notice, format) {
        (Notice::Event(event), Format::Json) => line_of(event),
        (Notice::Lost(count), Format::Json) => {
            line_of(&json!({ "machine": machine, "lost": count }))
        }
        (Notice::Event(event), Format::Human) => words(event),
        (Notice::Lost(count), Format::Human) => format!("{machine}: {count} events were lost"),
    })
}

/// An event for people.
fn words(event: &Event) -> String {
    let Event { machine, sequence, kind, .. } = event;
    let what = match kind {
        EventKind::OnStateChange { state } => format!("OnStateChange: {}", state.words()),
        EventKind::OnGuestLogoff { logoff_type, user, session } => {
            format!("OnGuestLogoff: {user}, session {session} ({logoff_type:?})")
        }
        plain => format!("{plain:?}"),
    };
    format!("{machine} {sequence}: {what}")
}

/// Prints the events of all machines, also of those that are started later.
fn all(format: Format) -> Outcome {
    let mut events = AllEvents::of(Runtime::of_user());
    while !reader_has_gone() {
        if let Some((machine, Heard::Notice(notice))) = events.next(Some(LOOK))?
            && !tell(&machine, &notice, format)
        {
            break;
        }
    }
    Ok(0)
}
