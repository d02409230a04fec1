//! How quick a disk is, a raw image or a qcow2 one in the host's memory: in a guest under a monitor, or, of
//! the raw one, in a process of the host, which is the floor. Prints a document.
//!
//! Runs in the lab only.

use serde_json::{Value, json};
use std::env;
use std::io::{self, BufReader};
use std::process::{Child, Command, Stdio};
use tests::disk_load::{DISK, Order, PIECE, Work};
use tests::meter::{MIB, counted};
use tests::monitor::{Guest, Monitor, wait_for_userspace};

/// The image: in a file system in memory.
const IMAGE: &str = "/run/bench-block";
/// The floor's program.
const FLOOR: &str = "/bin/bench-block-guest";

/// How often each kind of work is done, and how often that is measured. Few: where instructions are
/// counted they take the same time again and again, and the lab hangs after some number of interrupts.
const WORKS: [(Work, u64); 6] = [
    (Work::Read, 50),
    (Work::Write, 50),
    (Work::WriteSafely, 50),
    (Work::ReadMany, 1000),
    (Work::ReadThrough, 64),
    (Work::WriteThrough, 64),
];
const TIMES: usize = 3;

fn main() -> io::Result<()> {
    let mut words = env::args().skip(1);
    let [who, format] = [words.next(), words.next()].map(Option::unwrap_or_default);
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", &format, IMAGE, &DISK.to_string()]);
    if !create.status()?.success() {
        return Err(io::Error::other("qemu-img has made no image"));
    }
    let mut command = match Monitor::ALL.into_iter().find(|monitor| monitor.name() == who) {
        Some(monitor) => under(monitor, &format),
        None => {
            let mut floor = Command::new(FLOOR);
            floor.arg(IMAGE);
            floor
        }
    };
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let document = wait_for_userspace(&mut process).and_then(|()| measure(&mut process));
    process.kill()?;
    process.wait()?;
    println!("{}", document?);
    Ok(())
}

/// The command of `monitor` with the disk.
fn under(monitor: Monitor, format: &str) -> Command {
    let mut command = monitor.command(&Guest::of_lab("quiet"));
    let device = match monitor {
        Monitor::Vmm => {
            command.args(["--disk", &format!("path={IMAGE},format={format}")]);
            return command;
        }
        Monitor::Microvm => "virtio-blk-device",
        Monitor::Q35 => "virtio-blk-pci",
    };
    let drive = format!("id=disk,if=none,file={IMAGE},format={format},cache=writeback");
    command.args(["-drive", &format!("{drive},aio=threads,discard=unmap")]);
    command.args(["-global", "virtio-mmio.force-legacy=false"]);
    command.args(["-device", &format!("{device},drive=disk")]);
    command
}

/// Measures what `process` brings about, or does.
fn measure(process: &mut Child) -> io::Result<Value> {
    let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
    let mut orders = process.stdin.take().ok_or_else(missing)?;
    let mut answers = BufReader::new(process.stdout.take().ok_or_else(missing)?);
    let process = process.id();
    let mut order = |work, times| Order { work, times }.give(&mut orders, &mut answers);
    // Afterwards the image has all that is read, and space for what is written.
    order(Work::WriteThrough, DISK / PIECE as u64)?;
    let (calls_of_order, exits_of_order) = counted(process, || order(Work::Nothing, 1).map(drop))?;
    let mut document = json!({});
    for (work, times) in WORKS {
        let mut seconds =
            (0..TIMES).map(|_| order(work, times)).collect::<io::Result<Vec<f64>>>()?;
        seconds.sort_by(f64::total_cmp);
        let seconds = seconds[TIMES / 2];
        let name = work.name();
        let bytes = times as f64 * work.size() as f64;
        // Counts are of a call, or of a MiB where pieces are moved.
        let (figure, parts) = match work {
            Work::ReadThrough | Work::WriteThrough => (bytes / seconds / 1e6, bytes / MIB),
            Work::ReadMany => (times as f64 / seconds / 1e3, times as f64),
            _ => (seconds * 1e6, times as f64),
        };
        document[name] = figure.into();
        let (calls, exits) = counted(process, || order(work, times).map(drop))?;
        document[format!("calls_{name}")] = ((calls - calls_of_order) / parts).into();
        document[format!("exits_{name}")] = ((exits - exits_of_order) / parts).into();
    }
    Ok(document)
}
