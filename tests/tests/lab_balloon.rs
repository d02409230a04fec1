//! A stock kernel's memory: what it has no use for goes back to the host, and what the host wants.
//!
//! The judges are the guest's own count of its memory, and the host's of the machine's process.

use serde_json::Value;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tests::{Flavour, Machine, vmm_bin};

const MIB: u64 = 1 << 20;
/// Longer than a guest takes to report pages, or to fill a balloon; only a bound against hanging.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// A machine with 512 MiB whose guest is up.
fn machine(name: &str, flavour: Flavour) -> Machine {
    let mut command = Command::new(vmm_bin());
    command.args(["run", name, "--memory", "512M", "--append", "quiet logins=none"]);
    command.arg("--kernel").arg(flavour.kernel()).arg("--initrd").arg(flavour.initrd());
    let mut machine = Machine::under(name, command, false);
    machine.wait_for_shell();
    machine
}

/// Bytes of the host's memory that the machine's process has for itself.
fn resident(machine: &Machine) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", machine.pid())).unwrap();
    field(&status, "RssAnon:")
}

/// Bytes of memory that the guest says are free.
fn free(machine: &mut Machine) -> u64 {
    field(&machine.console.run("cat /proc/meminfo"), "MemFree:")
}

/// The number of bytes in the line of `text` that begins with `name`.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
    let kib: Option<u64> = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or_else(|| panic!("no {name} in {text}")) * 1024
}

fn balloon(machine: &Machine, size: &[&str]) -> Value {
    let answer = machine.vmm(&["balloon"], size);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    answer.json()
}

/// Waits until `value` is as it should be.
fn until(what: &str, mut value: impl FnMut() -> u64, holds: impl Fn(u64) -> bool) -> u64 {
    let limit = Instant::now() + PATIENCE;
    loop {
        let now = value();
        if holds(now) {
            return now;
        }
        assert!(Instant::now() < limit, "{what}, not {} MiB", now / MIB);
        thread::sleep(PAUSE);
    }
}

/// Has the balloon of `size`, and waits until it is.
fn inflate(machine: &Machine, size: u64) {
    balloon(machine, &[&size.to_string()]);
    let actual = || balloon(machine, &[])["actual"].as_u64().unwrap();
    until(&format!("the balloon has {} MiB", size / MIB), actual, |actual| actual == size);
}

/// Has 150 MiB of memory used, with something in it.
const FILL: &str = "yes 01234567890123456789012345678901234567890123456789012345678901 | \
                    dd of=/fill/file bs=1M count=150 iflag=fullblock 2> /dev/null && echo filled";

#[test]
fn a_guest_gives_back_memory_that_it_does_not_need_and_memory_that_the_host_wants() {
    let mut machine = machine("balloon", Flavour::TrixieCloud);
    let kept = machine.console.run(
        "mkdir -p /fill; mount -t tmpfs -o size=200m fill /fill; \
         head -c 8000000 /dev/urandom > /fill/kept; md5sum < /fill/kept",
    );
    assert_eq!(machine.console.run(FILL), "filled");
    let full = resident(&machine);
    assert!(full > 150 * MIB, "{} MiB", full / MIB);
    let before = balloon(&machine, &[])["given_back"].as_u64().unwrap();
    machine.console.run("rm /fill/file");
    let low = until("free pages are reported", || resident(&machine), |now| now + 100 * MIB < full);
    println!("resident: {} MiB full, {} MiB after it was freed", full / MIB, low / MIB);

    let info = balloon(&machine, &[]);
    assert!(info["given_back"].as_u64().unwrap() > before + 100 * MIB, "{info}");
    let (total, stats_free) = (&info["stats"]["total"], &info["stats"]["free"]);
    assert!((400 * MIB..512 * MIB).contains(&total.as_u64().unwrap()), "{info}");
    assert!((200 * MIB..512 * MIB).contains(&stats_free.as_u64().unwrap()), "{info}");
    assert!(info["stats_age_ms"].as_u64().unwrap() < 60_000, "{info}");

    // Pages are not free for the moment in which they are reported.
    let before = until("memory is free", || free(&mut machine), |now| now > 400 * MIB);
    inflate(&machine, 128 * MIB);
    let small = |now| now + 100 * MIB < before;
    until("the balloon has memory", || free(&mut machine), small);
    let taken = resident(&machine);
    assert!(taken < low + 50 * MIB, "the balloon costs the host nothing: {} MiB", taken / MIB);
    inflate(&machine, 0);
    until("the memory is free again", || free(&mut machine), |now| !small(now));

    // More than would be left: the guest takes back from the balloon what it needs.
    inflate(&machine, 350 * MIB);
    assert_eq!(machine.console.run(FILL), "filled");
    let actual = balloon(&machine, &[])["actual"].as_u64().unwrap();
    assert!(actual < 350 * MIB, "{} MiB", actual / MIB);
    assert_eq!(machine.console.run("md5sum < /fill/kept"), kept, "what was used is as it was");
    let (status, stderr) = machine.power_off();
    assert_eq!(status.code(), Some(0), "{stderr}");
}
