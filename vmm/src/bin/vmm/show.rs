//! `vmm ls`, `vmm doctor`: looking without touching.

use crate::args::Format;
use crate::machines::{agent, ask_all};
use crate::output::{Outcome, print, print_json, print_table, time};
use serde_json::json;
use vmm::control::client::Client;
use vmm::control::wire::MachineInfo;
use vmm::probe;
use vmm::runtime::Runtime;

pub(crate) fn machines(format: Format) -> Outcome {
    let machines = ask_all(&Runtime::of_user(), Client::machine);
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
    vec![
        machine.name.clone(),
        format!("{:?}", machine.state),
        machine.pid.to_string(),
        time(machine.uptime_ms),
        machine.cpus.to_string(),
        format!("{} MiB", machine.memory >> 20),
        agent(machine),
    ]
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
