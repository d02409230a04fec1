//! How quick vsock is: round trips, connections, bytes both ways, under a monitor, or between two
//! processes of the host, which is the floor. Prints a document.
//!
//! Runs in the lab only: it takes a context id of the host's AF_VSOCK for QEMU's guests.

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use serde_json::{Value, json};
use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;
use tests::load::{self, GREET, Order, SERVE};
use tests::meter::{MIB, counted, median};
use tests::monitor::{Guest, Monitor, wait_for_userspace};
use vsock::VsockStream;

const FILES: &str = "/boot-files";
const RUNTIME: &str = "/run/bench-vsock";
/// QEMU's guests have it, one after the other.
const CID: u32 = 5;
/// The floor's socket, and the word that makes this program its other end.
const FLOOR: &str = "/run/bench-vsock-floor";
const FLOOR_WORD: &str = "serve";

/// Round trips and connections that are timed, and before these, some that are not.
const ROUND_TRIPS: usize = 100;
const CONNECTIONS: usize = 50;
const WARM_UP: usize = 10;
/// Bytes that are sent one way, and how often.
const BYTES: u64 = 4 << 20;
const TIMES: usize = 3;
/// Connections at once, the bytes that all of them together send each way, and those that one sends
/// before it is the next one's turn.
const MANY: [usize; 4] = [1, 10, 100, 1000];
const BYTES_OF_MANY: usize = 16_000 << 10;
const TURN: usize = 16 << 10;

/// A connection to a guest.
trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// How a guest is reached.
#[derive(Clone)]
enum Way {
    /// By this monitor's socket.
    Hybrid(PathBuf),
    /// By the host's own vsock.
    Vsock,
    /// It is a process of the host, and there is no guest.
    Floor,
}

impl Way {
    /// A connection to `port`, and what has come from there already.
    fn dial(&self, port: u32) -> io::Result<(Box<dyn Connection>, usize)> {
        match self {
            Self::Vsock => Ok((Box::new(VsockStream::connect_with_cid_port(CID, port)?), 0)),
            Self::Floor => Ok((Box::new(UnixStream::connect(format!("{FLOOR}_{port}"))?), 0)),
            Self::Hybrid(socket) => {
                let mut stream = UnixStream::connect(socket)?;
                stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
                let mut answer = [0; 32];
                let count = stream.read(&mut answer)?;
                let end = answer[..count].iter().position(|byte| *byte == b'\n');
                let end = end.ok_or(io::ErrorKind::ConnectionRefused)?;
                Ok((Box::new(stream), count - end - 1))
            }
        }
    }

    /// A connection on which the guest obeys orders.
    fn served(&self) -> io::Result<Box<dyn Connection>> {
        let mut stream = self.dial(SERVE)?.0;
        // It has accepted then: no more wait for that than may.
        load::wait_for_service(&mut stream)?;
        Ok(stream)
    }
}

fn main() -> io::Result<()> {
    let most = Some(4096);
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let word = env::args().nth(1).unwrap_or_default();
    if word == FLOOR_WORD {
        return serve_floor();
    }
    let document = match Monitor::ALL.into_iter().find(|monitor| monitor.name() == word) {
        Some(monitor) => under(monitor)?,
        None => floor()?,
    };
    println!("{document}");
    Ok(())
}

/// Measures between two processes of the host.
fn floor() -> io::Result<Value> {
    let mut process = Command::new(env::current_exe()?).arg(FLOOR_WORD).spawn()?;
    while UnixStream::connect(format!("{FLOOR}_{SERVE}")).is_err() {
        thread::sleep(Duration::from_millis(1));
    }
    let document = measure(&Way::Floor, "floor", process.id());
    process.kill()?;
    process.wait()?;
    document
}

/// Measures with `monitor`.
fn under(monitor: Monitor) -> io::Result<Value> {
    let folder = Path::new(FILES);
    let [packed, unpacked, initrd] = ["vmlinuz", "vmlinux", "initrd"].map(|name| folder.join(name));
    let (packed, unpacked, initrd) = (&packed, &unpacked, &initrd);
    let guest = Guest { packed, unpacked, initrd, memory: 512, append: "quiet" };
    let mut command = monitor.command(&guest);
    let device = match monitor {
        Monitor::Vmm => None,
        Monitor::Microvm => Some("vhost-vsock-device"),
        Monitor::Q35 => Some("vhost-vsock-pci"),
    };
    if let Some(device) = device {
        command.args(["-global", "virtio-mmio.force-legacy=false"]);
        command.args(["-device", &format!("{device},guest-cid={CID}")]);
    }
    command.env("VMM_RUNTIME_DIR", RUNTIME).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = command.spawn()?;
    let document = measure_machine(&mut process, monitor);
    kill_process(Pid::from_child(&process), Signal::TERM)?;
    process.wait()?;
    document
}

fn measure_machine(process: &mut Child, monitor: Monitor) -> io::Result<Value> {
    wait_for_userspace(process)?;
    let way = match monitor {
        Monitor::Vmm => {
            let mut machines = fs::read_dir(RUNTIME)?.flatten();
            let machine = machines.find(|entry| entry.path().join("vsock.sock").exists());
            let machine = machine.ok_or(io::ErrorKind::NotFound)?;
            Way::Hybrid(machine.path().join("vsock.sock"))
        }
        Monitor::Microvm | Monitor::Q35 => Way::Vsock,
    };
    measure(&way, monitor.name(), process.id())
}

/// Measures what is reached by `way`, which the process `process` brings about.
fn measure(way: &Way, name: &str, process: u32) -> io::Result<Value> {
    let mut stream = way.served()?;
    Order::Echo.send(&mut stream)?;
    let mut trip = || load::round_trip(&mut stream);
    let mut document = json!({
        "monitor": name,
        "round_trip": median(ROUND_TRIPS, WARM_UP, &mut trip)? * 1e6,
        "connect": median(CONNECTIONS, WARM_UP, || connect(way))? * 1e6,
    });
    let (calls, exits) = counted(process, || (0..ROUND_TRIPS).try_for_each(|_| trip()))?;
    document["calls_round_trip"] = (calls / ROUND_TRIPS as f64).into();
    document["exits_round_trip"] = (exits / ROUND_TRIPS as f64).into();
    let mut stream = way.served()?;
    let mut send = |order| load::send(&mut stream, order);
    for (key, order) in [("to_guest", Order::Take(BYTES)), ("from_guest", Order::Give(BYTES))] {
        let seconds = median(TIMES, 1, || send(order))?;
        document[key] = (BYTES as f64 / seconds / 1e6).into();
        let (calls, exits) = counted(process, || send(order))?;
        document[format!("calls_{key}")] = (calls / (BYTES as f64 / MIB)).into();
        document[format!("exits_{key}")] = (exits / (BYTES as f64 / MIB)).into();
    }
    for count in MANY {
        let mut streams = (0..count).map(|_| way.served()).collect::<io::Result<Vec<_>>>()?;
        let seconds = median(1, 1, || many(&mut streams))?;
        // All bytes go both ways.
        let mib = 2.0 * BYTES_OF_MANY as f64 / MIB;
        document[format!("many_{count}")] = (seconds * 1e3 / mib).into();
    }
    Ok(document)
}

/// Connects, until the first byte has come.
fn connect(way: &Way) -> io::Result<()> {
    let (mut stream, come) = way.dial(GREET)?;
    if come == 0 {
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}

/// Sends bytes by all of `streams`, each in its turn, and has as many sent back.
fn many(streams: &mut [Box<dyn Connection>]) -> io::Result<()> {
    let mut bytes = vec![0; TURN];
    let turns = BYTES_OF_MANY / TURN / streams.len();
    let each = (turns * TURN) as u64;
    for stream in &mut *streams {
        Order::Take(each).send(stream)?;
    }
    for _ in 0..turns {
        for stream in &mut *streams {
            stream.write_all(&bytes)?;
        }
    }
    for stream in &mut *streams {
        stream.read_exact(&mut [0])?;
        Order::Give(each).send(stream)?;
    }
    for _ in 0..turns {
        for stream in &mut *streams {
            stream.read_exact(&mut bytes)?;
        }
    }
    Ok(())
}

/// Does what the guest does, on sockets of the host.
fn serve_floor() -> io::Result<()> {
    let listen = |port| UnixListener::bind(format!("{FLOOR}_{port}"));
    let (greet, serve) = (listen(GREET)?, listen(SERVE)?);
    load::serve_all(move || serve.accept(), || greet.accept())
}
