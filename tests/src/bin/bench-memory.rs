//! What machines cost their host: boots a stock kernel in several machines, one after the other, under
//! each monitor. All of them stay. Prints a document for each machine, and one for the floor.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use tests::memory::{self, Memory};
use tests::monitor::{Guest, Monitor, SHARED, wait_for_userspace};

/// Machines of each monitor.
const MACHINES: usize = 4;

fn main() {
    let guest = Guest::of_lab("quiet");
    println!("{}", floor(&guest).expect("the floor's guest begins"));
    // It keeps the unpacked kernel.
    drop(Running::boot(Monitor::Vmm, &[], &guest).expect("the guest boots"));
    let usual = Monitor::ALL.map(|monitor| (monitor.name(), monitor, &[][..]));
    for (name, monitor, words) in
        usual.into_iter().chain([(SHARED, Monitor::Vmm, &["--share-kernel"][..])])
    {
        let mut machines: Vec<Running> = Vec::new();
        for number in 1..=MACHINES {
            let before = proportional(&machines).expect("the machines run");
            machines.push(Running::boot(monitor, words, &guest).expect("the guest boots"));
            let after = proportional(&machines).expect("the machines run");
            let memory = machines.last().expect("it was pushed").memory();
            let mut document = document(name, &memory.expect("it runs"));
            document["number"] = number.into();
            document["added_kib"] = after.saturating_sub(before).into();
            println!("{document}");
        }
    }
}

/// What KVM takes for a machine with as much RAM, of which next to nothing is touched.
fn floor(guest: &Guest<'_>) -> io::Result<Value> {
    let mut command = Command::new("bench-floor");
    let mut process = Running::start(command.arg(guest.memory.to_string()))?;
    let mut first = [0];
    process.0.stdout.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.read_exact(&mut first)?;
    Ok(document("floor", &process.memory()?))
}

fn document(name: &str, memory: &Memory) -> Value {
    json!({
        "monitor": name,
        "private_kib": memory.private,
        "resident_kib": memory.resident,
        "proportional_kib": memory.proportional,
    })
}

/// What all `machines` have together, what they share counted once.
fn proportional(machines: &[Running]) -> io::Result<u64> {
    machines.iter().map(|machine| Ok(machine.memory()?.proportional)).sum()
}

/// A monitor that runs. Dropping it ends it.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> io::Result<Self> {
        Ok(Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?))
    }

    /// Boots `guest` up to its first program, under `monitor` with these words.
    fn boot(monitor: Monitor, words: &[&str], guest: &Guest<'_>) -> io::Result<Self> {
        let mut running = Self::start(monitor.command(guest).args(words))?;
        wait_for_userspace(&mut running.0)?;
        Ok(running)
    }

    fn memory(&self) -> io::Result<Memory> {
        memory::of(self.0.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}
