//! How quick a network is: round trips, connections, bytes both ways, between the host and a guest
//! under a monitor by a tap, or between two processes by a pair of Ethernet interfaces, which is the
//! floor. Prints a document.
//!
//! Runs in the lab only: it changes the host's network.

use serde_json::{Value, json};
use std::env;
use std::fs;
use std::io::{self, Read};
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;
use tests::init::say_userspace;
use tests::load::{self, GREET, Order, SERVE};
use tests::meter::{MIB, counted, median};
use tests::monitor::{Guest, Monitor, wait_for_userspace};
use tests::net::{self, ECHO, GUEST, HOST, at, ip};

/// The word that has QEMU's device be in QEMU, not in the host's kernel.
const NO_VHOST: &str = "no-vhost";
/// The tap.
const TAP: &str = "tap0";
/// The floor's near interface, its far one as the kernel calls it, and the word that makes this program
/// the process there.
const NEAR: &str = "near";
const FAR: &str = "veth0";
const FAR_WORD: &str = "far";

/// Round trips and connections that are timed, and before these, some that are not.
const ROUND_TRIPS: usize = 100;
const CONNECTIONS: usize = 50;
const WARM_UP: usize = 10;
/// Bytes that are sent one way, and how often.
const BYTES: u64 = 16 << 20;
const TIMES: usize = 3;
/// A datagram that has not come back by then never will.
const LOST: Duration = Duration::from_secs(5);

fn main() -> io::Result<()> {
    let mut words = env::args().skip(1);
    let name = words.next().unwrap_or_default();
    if name == FAR_WORD {
        return far_end();
    }
    // No packets but those that are measured.
    fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
    let document = match Monitor::ALL.into_iter().find(|monitor| monitor.name() == name) {
        Some(monitor) => under(monitor, words.next().is_none_or(|word| word != NO_VHOST))?,
        None => floor()?,
    };
    println!("{document}");
    Ok(())
}

/// Measures between two processes of the host.
fn floor() -> io::Result<Value> {
    let program = env::current_exe()?;
    let mut command = Command::new("unshare");
    command.arg("-n").arg(program).arg(FAR_WORD).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn()?;
    wait_for_userspace(&mut process)?;
    ip(&["link", "add", NEAR, "type", "veth"])?;
    ip(&["link", "set", FAR, "netns", &process.id().to_string()])?;
    net::set_up(NEAR, HOST)?;
    drop(process.stdin.take());
    let document = wait_for_userspace(&mut process).and_then(|()| measure(process.id()));
    process.kill()?;
    process.wait()?;
    document
}

/// Is the process at the far end: says that it is there, in its own network, and serves when it hears
/// that it has an interface.
fn far_end() -> io::Result<()> {
    say_userspace()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    net::set_up(FAR, GUEST)?;
    net::serve(say_userspace)
}

/// Measures with `monitor`, whose device is in the host's kernel if that can be, and if it may with
/// `vhost`.
fn under(monitor: Monitor, vhost: bool) -> io::Result<Value> {
    let mut command = monitor.command(&Guest::of_lab("quiet ipv6.disable=1"));
    let device = match monitor {
        Monitor::Vmm => {
            command.args(["--net", &format!("tap={TAP}")]);
            None
        }
        Monitor::Microvm => Some("virtio-net-device,netdev=net"),
        // It has nothing to boot from there.
        Monitor::Q35 => Some("virtio-net-pci,netdev=net,romfile="),
    };
    if let Some(device) = device {
        let vhost = if vhost { "on" } else { "off" };
        let tap = format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost={vhost}");
        command.args(["-global", "virtio-mmio.force-legacy=false"]);
        command.args(["-netdev", &tap, "-device", device]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn()?;
    let document = wait_for_userspace(&mut process)
        .and_then(|()| net::set_up(TAP, HOST))
        .and_then(|()| measure(process.id()));
    process.kill()?;
    process.wait()?;
    document
}

/// Measures the network whose far end is there; `process` brings it about.
fn measure(process: u32) -> io::Result<Value> {
    let mut stream = served()?;
    Order::Echo.send(&mut stream)?;
    let mut trip = || load::round_trip(&mut stream);
    let datagrams = UdpSocket::bind(at(HOST, 0))?;
    datagrams.connect(at(GUEST, ECHO))?;
    datagrams.set_read_timeout(Some(LOST))?;
    let datagram = || {
        datagrams.send(&[1])?;
        datagrams.recv(&mut [0]).map(drop)
    };
    let mut document = json!({
        "round_trip": median(ROUND_TRIPS, WARM_UP, &mut trip)? * 1e6,
        "datagram": median(ROUND_TRIPS, WARM_UP, datagram)? * 1e6,
        "connect": median(CONNECTIONS, WARM_UP, connect)? * 1e6,
    });
    let (calls, exits) = counted(process, || (0..ROUND_TRIPS).try_for_each(|_| trip()))?;
    document["calls_round_trip"] = (calls / ROUND_TRIPS as f64).into();
    document["exits_round_trip"] = (exits / ROUND_TRIPS as f64).into();
    let mut stream = served()?;
    let mut send = |order| load::send(&mut stream, order);
    for (key, order) in [("to_guest", Order::Take(BYTES)), ("from_guest", Order::Give(BYTES))] {
        let seconds = median(TIMES, 1, || send(order))?;
        document[key] = (BYTES as f64 / seconds / 1e6).into();
        let (calls, exits) = counted(process, || send(order))?;
        document[format!("calls_{key}")] = (calls / (BYTES as f64 / MIB)).into();
        document[format!("exits_{key}")] = (exits / (BYTES as f64 / MIB)).into();
    }
    Ok(document)
}

/// A connection on which the far end obeys orders.
fn served() -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(at(GUEST, SERVE))?;
    stream.set_nodelay(true)?;
    load::wait_for_service(&mut stream)?;
    Ok(stream)
}

/// Connects, until the first byte has come.
fn connect() -> io::Result<()> {
    TcpStream::connect(at(GUEST, GREET))?.read_exact(&mut [0])
}
