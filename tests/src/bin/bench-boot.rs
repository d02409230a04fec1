//! How a stock kernel boots, up to its first program: seconds, private memory, exits. Boots it once under
//! each monitor, and prints a document for each boot.
//!
//! The exits are counted by KVM's own tracepoints, which takes time: where they are, the time is none.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;
use tests::monitor::{Guest, Monitor, TESTED, USERSPACE, private_kib};

const TRACING: &str = "/sys/kernel/tracing";
/// The eight ports of the serial console.
const CONSOLE: std::ops::Range<u64> = 0x3f8..0x400;

/// What is counted: the name of the count, the tracepoint, the field whose values are told apart.
const COUNTS: [(&str, &str, &str); 3] = [
    ("exits", "kvm_exit", "exit_reason"),
    ("userspace", "kvm_userspace_exit", "reason"),
    ("ports", "kvm_pio", "port"),
];

fn main() {
    let counted = env::args().nth(1).is_some_and(|word| word == "exits");
    let folder = Path::new("/boot-files");
    let [packed, unpacked, initrd] = ["vmlinuz", "vmlinux", "initrd"].map(|name| folder.join(name));
    let (packed, unpacked, initrd) = (&packed, &unpacked, &initrd);
    let guest = Guest { packed, unpacked, initrd, memory: 256, append: "quiet" };
    let tested = Guest { append: "quiet cryptomgr.notests=0", ..guest };
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
        begin_to_count()?;
    }
    let mut command = monitor.command(guest);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let before = Instant::now();
    let mut process = command.spawn()?;
    wait_for_userspace(&mut process)?;
    let seconds = before.elapsed().as_secs_f64();
    let mut document = json!({"monitor": name});
    if counted {
        for (name, event, _) in COUNTS {
            document[name] = Value::Object(counts(event)?);
        }
        let ports = document["ports"].as_object().into_iter().flatten();
        let console =
            ports.filter(|(port, _)| port.parse().is_ok_and(|port| CONSOLE.contains(&port)));
        document["console"] = console.filter_map(|(_, count)| count.as_u64()).sum::<u64>().into();
    } else {
        document["seconds"] = seconds.into();
        document["private_kib"] = private_kib(process.id())?.into();
    }
    kill_process(Pid::from_child(&process), Signal::TERM)?;
    process.wait()?;
    Ok(document)
}

/// Reads the console until the guest's first program has spoken.
fn wait_for_userspace(process: &mut Child) -> io::Result<()> {
    let mut console = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (mut said, mut bytes) = (Vec::new(), [0; 4096]);
    // The terminal puts a carriage return before the line's end.
    let marker = USERSPACE.trim_ascii_end();
    while !said.windows(marker.len()).any(|part| part == marker) {
        let count = console.read(&mut bytes)?;
        if count == 0 {
            return Err(io::Error::other(String::from_utf8_lossy(&said).into_owned()));
        }
        said.extend(&bytes[..count]);
    }
    // Whatever else it says is not waited for, and does not end it.
    process.stdout = Some(console);
    Ok(())
}

/// Lets KVM's tracepoints count from zero.
fn begin_to_count() -> io::Result<()> {
    if !Path::new(TRACING).join("events").exists() {
        rustix::mount::mount(
            "tracefs",
            TRACING,
            "tracefs",
            rustix::mount::MountFlags::empty(),
            None,
        )?;
    }
    for (_, event, field) in COUNTS {
        let trigger = format!("{TRACING}/events/kvm/{event}/trigger");
        let histogram = format!("hist:keys={field}:size=65536");
        // None from before is as good.
        let _ = fs::write(&trigger, format!("!{histogram}"));
        fs::write(&trigger, histogram)?;
    }
    Ok(())
}

/// What the tracepoint `event` has counted, by the value of its field.
fn counts(event: &str) -> io::Result<Map<String, Value>> {
    let text = fs::read_to_string(format!("{TRACING}/events/kvm/{event}/hist"))?;
    let mut counts = BTreeMap::new();
    // { exit_reason:       1024 } hitcount:         17
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let mut words = line.split([' ', ':', '{', '}']).filter(|word| !word.is_empty());
        if let (Some(_), Some(value), Some("hitcount"), Some(count)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            counts.insert(value.to_owned(), count.parse::<u64>().unwrap_or(0));
        }
    }
    Ok(counts.into_iter().map(|(value, count)| (value, count.into())).collect())
}
