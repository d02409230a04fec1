//! `vmm ls`, `vmm show`, `vmm doctor`: looking without touching.

use crate::args::Format;
use crate::log::last_words;
use crate::machines::{agent, ask_all, connect};
use crate::output::{Outcome, print, print_json, print_properties, print_table, say, time, words};
use protocol::HResult;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::Path;
use vmm::catalog::{Catalog, Definition, Listed, Principal, Registered};
use vmm::config::{Disk, KernelEntry, Mac, Size};
use vmm::confine::{Offer, offer};
use vmm::control::client::Client;
use vmm::control::wire::MachineInfo;
use vmm::error::{CallError, chain};
use vmm::integration::guest::AgentStatus;
use vmm::kit::agent::AgentFile;
use vmm::notify::{Phase, Told};
use vmm::probe;
use vmm::state::VmState;

/// A machine, whether it runs or not. What only a running machine has is null in the others.
#[derive(Serialize)]
struct Row {
    name: String,
    /// None if its process does not answer.
    state: Option<VmState>,
    /// Whether it is in the catalog.
    registered: bool,
    pid: Option<u32>,
    uptime_ms: Option<u64>,
    cpus: Option<u8>,
    memory: Option<u64>,
    agent: Option<AgentStatus>,
    /// What is wrong with its definition, or with its process.
    fault: Option<String>,
    #[serde(skip)]
    agent_words: String,
}

impl Row {
    fn of_running(machine: MachineInfo, registered: bool) -> Self {
        let agent_words = agent(&machine);
        Self {
            name: machine.name,
            state: Some(machine.state),
            registered,
            pid: Some(machine.pid),
            uptime_ms: Some(machine.uptime_ms),
            cpus: Some(machine.cpus),
            memory: Some(machine.memory),
            agent: Some(machine.agent),
            fault: None,
            agent_words,
        }
    }

    fn of_silent(name: String, registered: bool, fault: String) -> Self {
        Self {
            name,
            state: None,
            registered,
            pid: None,
            uptime_ms: None,
            cpus: None,
            memory: None,
            agent: None,
            fault: Some(fault),
            agent_words: "-".into(),
        }
    }

    fn of_listed(listed: Listed) -> Self {
        let definition = listed.definition.as_ref();
        Self {
            name: listed.machine.name,
            state: Some(VmState::TurnedOff),
            registered: true,
            pid: None,
            uptime_ms: None,
            cpus: definition.ok().map(|definition| definition.cpus),
            memory: definition.ok().map(|definition| definition.memory),
            agent: None,
            fault: definition.err().map(|error| chain(error)),
            agent_words: "-".into(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let or_dash = |word: Option<String>| word.unwrap_or_else(|| "-".into());
        vec![
            self.name.clone(),
            self.state.map_or("not answering", VmState::words).to_owned(),
            or_dash(self.pid.map(|pid| pid.to_string())),
            or_dash(self.uptime_ms.map(time)),
            or_dash(self.cpus.map(|cpus| cpus.to_string())),
            or_dash(self.memory.map(|memory| format!("{} MiB", memory >> 20))),
            self.agent_words.clone(),
        ]
    }
}

pub(crate) fn machines(format: Format) -> Outcome {
    let catalog = Catalog::of_user();
    let running = ask_all(catalog.runtime(), Client::machine);
    let mut listed = catalog.list().map_err(CallError::from)?;
    let mut rows = Vec::new();
    for (name, answer) in running {
        let same = |listed: &Listed| listed.machine.name.to_lowercase() == name.to_lowercase();
        let known = listed.iter().position(same);
        match answer {
            Ok(machine) => {
                let known = known.map(|index| listed.remove(index));
                rows.push(Row::of_running(machine, known.is_some()));
            }
            Err(error) if error.code == HResult::VM_E_TIMED_OUT => {
                let known = known.map(|index| listed.remove(index));
                rows.push(Row::of_silent(name, known.is_some(), error.text));
            }
            // It has ended meanwhile.
            Err(_) => {}
        }
    }
    rows.extend(listed.into_iter().map(Row::of_listed));
    rows.sort_by_cached_key(|row| row.name.to_lowercase());
    match format {
        Format::Json => print_json(&json!({ "machines": rows })),
        Format::Human if rows.is_empty() => {
            print(
                "no machines; `vmm create` makes one, and `vmm run` runs one without a definition\n",
            );
        }
        Format::Human => {
            let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
            print_table(&["NAME", "STATE", "PID", "UP", "CPUS", "MEMORY", "AGENT"], &cells);
            for row in &rows {
                if let Some(fault) = &row.fault {
                    say(&format!("{}: {fault}", row.name));
                }
            }
        }
    }
    Ok(0)
}

pub(crate) fn machine(name: &str, format: Format) -> Outcome {
    let catalog = Catalog::of_user();
    let registered = catalog.find(name).ok().flatten();
    let running = match connect(name).and_then(|mut client| client.machine()) {
        Ok(machine) => Some(machine),
        Err(error) if error.code == HResult::VM_E_VM_NOT_RUNNING => None,
        Err(error) => return Err(error.into()),
    };
    let definition = registered.as_ref().map(Registered::load).transpose();
    let definition = definition.map_err(CallError::from)?;
    let name = registered.as_ref().map(|machine| machine.name.clone());
    let name = name.or_else(|| Some(running.as_ref()?.name.clone()));
    let name = name.unwrap_or_default();
    let state = running.as_ref().map_or(VmState::TurnedOff, |machine| machine.state);
    let log = Some(catalog.runtime().log(&name)).filter(|log| log.exists());
    let said = last_words(catalog.runtime(), &name);
    match format {
        Format::Json => {
            let definition = definition.as_ref().map(made_of);
            let definition: Option<Map<String, Value>> = definition
                .map(|keys| keys.into_iter().map(|(key, value)| (key.into(), value)).collect());
            print_json(&json!({
                "name": name,
                "state": state,
                "path": registered.map(|machine| machine.path),
                "log": log,
                "last_words": said,
                "running": running,
                "definition": definition,
            }));
        }
        Format::Human => {
            let mut rows = vec![("name", name), ("state", state.words().to_owned())];
            if let Some(machine) = &running {
                rows.push(("pid", machine.pid.to_string()));
                rows.push(("up", time(machine.uptime_ms)));
                rows.push(("processor time", time(machine.used.cpu_ms)));
                let (read, written) =
                    (machine.used.disk_bytes_read, machine.used.disk_bytes_written);
                rows.push(("disks", format!("{} read, {} written", Size(read), Size(written))));
                let (received, sent) =
                    (machine.used.network_bytes_received, machine.used.network_bytes_sent);
                let network = format!("{} received, {} sent", Size(received), Size(sent));
                rows.push(("networks", network));
                rows.push(("agent", agent(machine)));
                rows.push(("readiness", readiness(&machine.readiness)));
            }
            if let Some(machine) = &registered {
                rows.push(("definition", machine.path.display().to_string()));
            }
            for (key, value) in definition.iter().flat_map(made_of) {
                let value = match key {
                    "memory" => Size(definition.as_ref().map_or(0, |made| made.memory)).to_string(),
                    "disks" => disks_in_words(definition.as_ref()),
                    "networks" => nets_in_words(definition.as_ref()),
                    _ => words(&value),
                };
                rows.push((key, value));
            }
            rows.extend(log.map(|log| ("log", log.display().to_string())));
            rows.extend(said.into_iter().map(|line| ("said", line)));
            print_properties(&rows);
        }
    }
    Ok(0)
}

/// How far the guest is, as it says itself.
fn readiness(told: &Told) -> String {
    match (told.phase, told.ready_ms) {
        (Phase::Ready, Some(after)) => format!("ready, {} after its boot began", time(after)),
        (Phase::Ready, None) => "ready".into(),
        (Phase::Booting, _) if told.messages > 0 => "booting".into(),
        (Phase::Booting | Phase::Off, _) => "-".into(),
    }
}

fn disks_in_words(definition: Option<&Definition>) -> String {
    let disk = |disk: &Disk| {
        let access = if disk.readonly { ", readonly" } else { "" };
        format!("{} ({}{access})", disk.path.display(), disk.format.name())
    };
    let disks = definition.iter().flat_map(|definition| &definition.disks);
    words(&json!(disks.map(disk).collect::<Vec<_>>()))
}

fn nets_in_words(definition: Option<&Definition>) -> String {
    let nets = definition.into_iter().flat_map(nets);
    words(&json!(nets.map(|(tap, mac)| format!("{tap} ({mac})")).collect::<Vec<_>>()))
}

/// Taps and addresses.
fn nets(definition: &Definition) -> impl Iterator<Item = (String, Mac)> {
    let config = definition.config(Path::new("/"));
    let taps = definition.nets.iter().map(|net| net.tap.clone()).enumerate();
    taps.map(move |(index, tap)| (tap, config.mac(index)))
}

/// The keys of a definition that say what the machine is made of.
fn made_of(definition: &Definition) -> Vec<(&'static str, Value)> {
    let entry = match definition.kernel_entry {
        KernelEntry::Unpacked => "unpacked",
        KernelEntry::Bzimage => "bzimage",
    };
    let disk = |disk: &Disk| json!({ "path": disk.path, "readonly": disk.readonly, "format": disk.format.name() });
    let net = |(tap, mac): (String, Mac)| json!({ "tap": tap, "mac": mac.to_string() });
    let who = |list: &[Principal]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    vec![
        ("id", json!(definition.id.map(|id| id.to_string()))),
        ("kernel", json!(definition.kernel)),
        ("initrd", json!(definition.initrd)),
        ("append", json!(definition.append)),
        ("memory", json!(definition.memory)),
        ("hugepages", json!(definition.hugepages)),
        ("share_kernel", json!(definition.share_kernel)),
        ("cpus", json!(definition.cpus)),
        ("kernel_entry", json!(entry)),
        ("disks", json!(definition.disks.iter().map(disk).collect::<Vec<_>>())),
        ("networks", json!(nets(definition).map(net).collect::<Vec<_>>())),
        ("oem_strings", json!(definition.oem_strings)),
        ("console", json!(definition.console)),
        ("console_device", json!(definition.console_device.name())),
        ("notes", json!(definition.notes)),
        ("read", json!(who(&definition.access.read))),
        ("execute", json!(who(&definition.access.execute))),
        ("host_time_sync", json!(definition.integration.host_time_sync)),
        ("components", json!(if definition.integration.components { "auto" } else { "off" })),
    ]
}

/// What `vmm doctor` prints: machines can do without an agent, so that is no check.
#[derive(Serialize)]
struct Checked<'a> {
    #[serde(flatten)]
    report: &'a probe::Report,
    agent: Value,
    confinement: Offer,
}

/// What the processes of machines are confined with: machines can do without, so these are no checks.
fn confinement(offer: &Offer) -> String {
    let sign = |there| if there { "yes" } else { "no " };
    let seccomp = match offer.seccomp {
        true => "calls that are not needed kill the machine's process",
        false => "this kernel has no seccomp filters; `--sandbox off` runs machines without",
    };
    let jail = if offer.jail { "`vmm run --jail`" } else { "only root can make one" };
    format!(
        "{}  seccomp: {seccomp}\n{}  landlock: {}\n{}  jail: {jail}\n",
        sign(offer.seccomp),
        sign(offer.landlock),
        offer.found,
        sign(offer.jail)
    )
}

pub(crate) fn doctor(format: Format) -> Outcome {
    let report = probe::probe();
    let agent = AgentFile::find();
    match format {
        Format::Json => {
            let (path, fault) = match &agent {
                Ok(agent) => (Some(&agent.path), None),
                Err(none) => (None, Some(none.to_string())),
            };
            let agent = json!({ "path": path, "version": agent.as_ref().ok().and_then(AgentFile::version), "fault": fault });
            print_json(&Checked { report: &report, agent, confinement: offer() });
        }
        Format::Human => {
            for check in &report.checks {
                let sign = if check.holds { "yes" } else { "NO " };
                print(&format!("{sign}  {}: {}\n", check.what, check.found));
            }
            match agent {
                Ok(agent) => print(&format!("yes  agent for guests: {}\n", agent.path.display())),
                Err(none) => print(&format!("no   agent for guests: {none}\n")),
            }
            print(&confinement(&offer()));
        }
    }
    Ok(if report.stock_kernels { 0 } else { 1 })
}
