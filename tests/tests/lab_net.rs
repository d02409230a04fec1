//! A stock kernel's network interface on a tap: both ways, much data, long packets, a reboot.
//!
//! The host's end is in a network of the test's own, so that nothing of the host changes.

use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;
use tests::{Flavour, Machine, vmm_bin};
use vmm::VirtualPc;
use vmm::catalog::{Catalog, Definition};
use vmm::config::Net;
use vmm::runtime::Runtime;

const FLAVOUR: Flavour = Flavour::BookwormCloud;
const MIB: u64 = 1 << 20;
/// What is sent each way.
const SIZE: u64 = 16 * MIB;
const TAP: &str = "tap0";
const PORT: u16 = 5001;
/// The features that a stock driver accepts here, by their bits (section 5.1.3 of the specification):
/// checksums and uncut TCP both ways, an address, merged buffers, a status.
const FEATURES: [usize; 11] = [0, 1, 5, 7, 8, 9, 11, 12, 13, 15, 16];

/// Runs `words` on the host and gives what it printed.
fn host(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Bytes that are the same for a seed, and have no pattern that a network would hide.
fn noise(length: u64, mut state: u64) -> Vec<u8> {
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| word()).collect()
}

/// The guest's count of packets and bytes, received and sent.
fn counted(machine: &mut Machine) -> [u64; 4] {
    let names = ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"];
    names.map(|name| {
        let said = machine.console.run(&format!("cat /sys/class/net/eth0/statistics/{name}"));
        said.parse().unwrap_or_else(|error| panic!("{name}: {error}: {said:?}"))
    })
}

/// Gives both ends their addresses.
fn connect(machine: &mut Machine) -> String {
    machine.console.run("use-net eth0");
    machine.console.run("ip address add 10.0.0.2/24 dev eth0; ip link set eth0 up");
    machine.console.run("cat /sys/class/net/eth0/address")
}

/// Each end hears the other.
fn ping_both_ways(machine: &mut Machine) {
    let said = machine.console.run("ping -c 3 -W 20 10.0.0.1 && echo heard");
    assert!(said.ends_with("heard"), "{said}");
    host(&["ping", "-c", "3", "-W", "20", "10.0.0.2"]);
}

#[test]
fn a_guest_on_a_tap_is_heard_and_hears_and_keeps_its_address_over_a_reboot() {
    if !rustix::process::geteuid().is_root() {
        tests::not_tested("only root can make taps and networks");
        return;
    }
    // SAFETY: of what threads share, this takes only the network. Children are in the new one.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("root can have a network of its own");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let parts = [FLAVOUR.initrd(), FLAVOUR.net_tools()].map(|part| fs::read(part).unwrap());
    fs::write(at("initrd"), parts.concat()).unwrap();
    let pc = VirtualPc::at(Catalog::at(at("data"), Runtime::at(at("run"))));
    let definition = Definition {
        initrd: Some(at("initrd")),
        append: "quiet logins=none".into(),
        memory: 256 * MIB,
        nets: vec![Net::new(TAP)],
        ..Definition::new("", FLAVOUR.kernel())
    };
    pc.create_virtual_machine("net", &definition).unwrap();
    let command = |words: &[&str]| {
        let mut command = Command::new(vmm_bin());
        command.args(words).env("VMM_RUNTIME_DIR", at("run")).env("VMM_DATA_DIR", at("data"));
        command
    };
    let show = || -> serde_json::Value {
        let output = command(&["show", "net", "--format", "json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let mut machine = Machine::under("net", command(&["run", "net"]), false);
    machine.wait_for_shell();
    host(&["ip", "address", "add", "10.0.0.1/24", "dev", TAP]);
    host(&["ip", "link", "set", TAP, "up"]);
    let address = connect(&mut machine);
    assert_eq!(show()["definition"]["networks"][0]["mac"], address);
    let features = machine.console.run("cat /sys/class/net/eth0/device/features");
    for feature in FEATURES {
        assert_eq!(features.as_bytes()[feature], b'1', "feature {feature} of {features}");
    }
    ping_both_ways(&mut machine);

    both_ways(&mut machine, &at("sent"));
    let used = show()["running"]["used"].clone();
    for count in ["network_bytes_received", "network_bytes_sent"] {
        assert!(used[count].as_u64().unwrap() > SIZE, "{used}");
    }

    machine.console.type_line("reboot -f");
    machine.wait_for_shell();
    assert_eq!(connect(&mut machine), address, "after a reboot");
    ping_both_ways(&mut machine);
    let (status, stderr) = machine.power_off();
    assert_eq!(status.code(), Some(0), "{stderr}");
    let taps = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert!(!taps.contains(TAP), "the tap was made for the machine, and is gone with it");
}

/// Sends noise to the guest, which says what has come, and gets the same back from a server there.
fn both_ways(machine: &mut Machine, file: &Path) {
    let noise = noise(SIZE, 0x9e37_79b9_7f4a_7c15);
    fs::write(file, &noise).unwrap();
    let expected = host(&["md5sum", file.to_str().unwrap()]);
    let expected = expected.split(' ').next().unwrap();
    let listener = TcpListener::bind(("10.0.0.1", PORT)).unwrap();
    let before = counted(machine);
    let begun = Instant::now();
    let got = thread::scope(|scope| {
        scope.spawn(|| listener.accept().unwrap().0.write_all(&noise).unwrap());
        machine.console.run(&format!("nc 10.0.0.1 {PORT} < /dev/null > /tmp/got; md5sum /tmp/got"))
    });
    let there = begun.elapsed();
    assert!(got.starts_with(expected), "{got} is not {expected}");
    machine.console.run(&format!("httpd -p {PORT} -h /tmp"));
    let begun = Instant::now();
    let mut stream = TcpStream::connect(("10.0.0.2", PORT)).unwrap();
    stream.write_all(b"GET /got HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    eprintln!("16 MiB: to the guest in {there:?}, back in {:?}", begun.elapsed());
    assert!(answer.ends_with(&noise), "other bytes came back: {}", answer.len());
    let after = counted(machine);
    let [received, received_bytes, sent, sent_bytes] =
        std::array::from_fn(|index| after[index] - before[index]);
    assert!(received_bytes > SIZE && sent_bytes > SIZE);
    // Each way has the other's acknowledgements besides, short and many; cut packets would be
    // 11,600 of 1,514 bytes.
    eprintln!("{received} packets were received and {sent} were sent");
    let cut = SIZE / 1448;
    assert!(received < cut && sent < cut, "{received} and {sent} packets, {cut} if they were cut");
}
