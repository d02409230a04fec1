//! `vmm ls`, `vmm users`, `vmm doctor`: looking without touching.

use crate::args::Format;
use crate::output::{Outcome, or_dash, print, print_json, print_table, time};
use serde_json::json;
use vmm::control::client::Client;
use vmm::control::wire::MachineInfo;
use vmm::probe;
use vmm::runtime::Runtime;

pub(crate) fn machines(format: Format) -> Outcome {
    let runtime = Runtime::of_user();
    // A machine that ends meanwhile is no longer in the list.
    let look = |name: &String| Client::connect(&runtime, name).ok()?.machine().ok();
    let machines: Vec<MachineInfo> = runtime.list().iter().filter_map(look).collect();
    match format {
        Format::Json => print_json(&json!({ "machines": machines })),
        Format::Human if machines.is_empty() => print("no machines are running\n"),
        Format::Human => {
            let rows: Vec<Vec<String>> = machines.iter().map(machine_row).collect();
            print_table(&["NAME", "STATE", "PID", "UP", "CPUS", "MEMORY", "AGENT"], &rows);
        }
    }
    Ok(0)
}

fn machine_row(machine: &MachineInfo) -> Vec<String> {
    let agent = match (&machine.agent.version, machine.agent.heard_ms) {
        (Some(version), _) if machine.agent.connected => version.clone(),
        (_, Some(heard)) => format!("last heard {} ago", time(heard)),
        _ => "-".into(),
    };
    vec![
        machine.name.clone(),
        format!("{:?}", machine.state),
        machine.pid.to_string(),
        time(machine.uptime_ms),
        machine.cpus.to_string(),
        format!("{} MiB", machine.memory >> 20),
        agent,
    ]
}

pub(crate) fn users(name: &str, format: Format) -> Outcome {
    let sessions = Client::connect(&Runtime::of_user(), name)?.sessions()?;
    match format {
        Format::Json => print_json(&sessions),
        Format::Human if sessions.sessions.is_empty() => print("nobody is logged on\n"),
        Format::Human => {
            let rows: Vec<Vec<String>> = sessions
                .sessions
                .iter()
                .map(|session| {
                    vec![
                        session.user.clone(),
                        or_dash(&session.tty),
                        or_dash(&session.remote_host),
                        session.state.clone(),
                        session.id.clone(),
                    ]
                })
                .collect();
            print_table(&["USER", "TERMINAL", "FROM", "STATE", "SESSION"], &rows);
            if sessions.omitted > 0 {
                print(&format!("and {} more\n", sessions.omitted));
            }
        }
    }
    Ok(0)
}

pub(crate) fn doctor(format: Format) -> Outcome {
    let report = probe::probe();
    match format {
        Format::Json => print_json(&report),
        Format::Human => {
            for check in &report.checks {
                let sign = if check.holds { "yes" } else { "NO " };
                print(&format!("{sign}  {}: {}\n", check.what, check.found));
            }
        }
    }
    Ok(if report.stock_kernels { 0 } else { 1 })
}
