//! `vmm info`: what a guest and its agent say of themselves.

use crate::args::Format;
use crate::machines::{agent, connect};
use crate::output::{Outcome, error_json, print_json, print_table, time, words};
use protocol::HResult;
use serde_json::{Map, Value, json};
use vmm::control::client::Client;
use vmm::control::wire::{MachineInfo, Property};
use vmm::error::CallError;

/// All properties: those that the host answers come first.
const PROPERTIES: &[Property] = &[
    Property::CanShutdown,
    Property::IsHeartbeating,
    Property::HeartbeatPercentage,
    Property::IsHostTimeSyncEnabled,
    Property::IntegrationComponentsVersion,
    Property::CsdVersion,
    Property::ServicePackMajor,
    Property::ServicePackMinor,
    Property::SuiteMask,
    Property::MultipleUserSessionsAllowed,
    Property::OsPlatformId,
    Property::TerminalServicesInitialized,
    Property::TerminalServerPort,
    Property::ComputerName,
    Property::OsName,
    Property::OsVersion,
    Property::OsMajorVersion,
    Property::OsMinorVersion,
    Property::OsBuildNumber,
    Property::ProductType,
    Property::ScreenLocked,
    Property::OsInfo,
    Property::OsVersionInfo,
];

/// A property's name, and what it is or why it cannot be said.
type Answered = (String, Result<Value, CallError>);

pub(crate) fn info(name: &str, format: Format) -> Outcome {
    let mut client = connect(name)?;
    let machine = client.machine()?;
    let guest = ask(&mut client)?;
    match format {
        Format::Json => {
            let guest: Map<String, Value> = guest.into_iter().map(document).collect();
            print_json(&json!({ "machine": machine, "guest": guest }));
        }
        Format::Human => print_table(&["PROPERTY", "VALUE"], &rows(&machine, &guest)),
    }
    Ok(0)
}

/// Asks for all properties.
fn ask(client: &mut Client) -> Result<Vec<Answered>, CallError> {
    let mut answers = Vec::new();
    // A guest that has once not answered in time is not asked again and again: each time takes long.
    let mut late: Option<CallError> = None;
    for property in PROPERTIES {
        let answer = match &late {
            Some(error) => Err(error.clone()),
            None => client.property(*property),
        };
        match &answer {
            Err(error) if error.code == HResult::VM_E_TIMED_OUT => late = Some(error.clone()),
            // If it is the process that has ended, there is nothing more to say.
            Err(error) if error.code == HResult::VM_E_VM_NOT_RUNNING => drop(client.machine()?),
            _ => {}
        }
        answers.push((key(*property), answer));
    }
    Ok(answers)
}

/// A property's name in documents.
fn key(property: Property) -> String {
    match serde_json::to_value(property) {
        Ok(Value::String(name)) => name,
        _ => format!("{property:?}"),
    }
}

fn document((name, answer): Answered) -> (String, Value) {
    let value = match answer {
        Ok(value) => json!({ "value": value }),
        Err(error) => error_json(error.code, &error.text),
    };
    (name, value)
}

fn rows(machine: &MachineInfo, guest: &[Answered]) -> Vec<Vec<String>> {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("name", machine.name.clone()),
        row("state", machine.state.words().to_owned()),
        row("up", time(machine.uptime_ms)),
        row("agent", agent(machine)),
    ];
    for (name, answer) in guest {
        match answer {
            Ok(Value::Object(members)) => {
                let members = members.iter();
                rows.extend(
                    members.map(|(key, value)| row(&format!("{name}.{key}"), words(value))),
                );
            }
            Ok(value) => rows.push(row(name, words(value))),
            // What this guest has not, or no guest without an agent: documents have them all.
            Err(error)
                if matches!(
                    error.code,
                    HResult::VM_E_ADDITIONS_NOT_AVAIL | HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL
                ) => {}
            Err(error) => {
                let symbol = error.code.symbol().unwrap_or_default();
                rows.push(row(name, format!("{} {symbol}", error.code)));
            }
        }
    }
    rows
}
