//! How a stock kernel boots, up to its first program: seconds, or exits. Boots it once under
//! each monitor, and prints a document for each boot.
//!
//! The exits are counted by KVM's own tracepoints, which takes time: where they are, the time is none.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::env;
use std::io;
use std::process::Stdio;
use std::time::Instant;
use tests::monitor::{Guest, Monitor, TESTED, wait_for_userspace};
use tests::tracepoints::Tracepoint;

/// The eight ports of the serial console.
const CONSOLE: std::ops::Range<u64> = 0x3f8..0x400;

/// What is counted, with the name of the count.
const COUNTS: [(&str, Tracepoint); 3] = [
    ("exits", Tracepoint { system: "kvm", event: "kvm_exit", field: "exit_reason" }),
    ("userspace", Tracepoint { system: "kvm", event: "kvm_userspace_exit", field: "reason" }),
    ("ports", Tracepoint { system: "kvm", event: "kvm_pio", field: "port" }),
];

fn main() {
    let counted = env::args().nth(1).is_some_and(|word| word == "exits");
    let guest = Guest::of_lab("quiet");
    let tested = Guest::of_lab("quiet cryptomgr.notests=0");
    // It keeps the unpacked kernel, and the page cache gets warm.
    boot("", Monitor::Vmm, &guest, false).expect("the guest boots");
    let boots = Monitor::ALL.map(|monitor| (monitor.name(), monitor, &guest));
    for (name, monitor, guest) in boots.into_iter().chain([(TESTED, Monitor::Vmm, &tested)]) {
        let document = boot(name, monitor, guest, counted).expect("the guest boots");
        println!("{document}");
    }
}

fn boot(name: &str, monitor: Monitor, guest: &Guest<'_>, counted: bool) -> io::Result<Value> {
    if counted {
        COUNTS.iter().try_for_each(|(_, tracepoint)| tracepoint.begin())?;
    }
    let mut command = monitor.command(guest);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let before = Instant::now();
    let mut process = command.spawn()?;
    wait_for_userspace(&mut process)?;
    let seconds = before.elapsed().as_secs_f64();
    let mut document = json!({"monitor": name});
    if counted {
        for (name, tracepoint) in COUNTS {
            let counts = tracepoint.counts()?;
            if name == "ports" {
                let console = counts.range(CONSOLE).map(|(_, count)| count);
                document["console"] = console.sum::<u64>().into();
            }
            let counts = counts.into_iter().map(|(value, count)| (value.to_string(), count.into()));
            document[name] = Value::Object(counts.collect());
        }
    } else {
        document["seconds"] = seconds.into();
    }
    kill_process(Pid::from_child(&process), Signal::TERM)?;
    process.wait()?;
    Ok(document)
}
