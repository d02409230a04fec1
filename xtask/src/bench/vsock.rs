//! Round trips, connections and bytes between a program of the host and one of a guest, by vsock.

use super::lab;
use super::report::{Column, Report, Row, Target};
use crate::build::{self, Programs};
use crate::debian::Suite;
use crate::job::Job;
use crate::kernel::Kernel;
use crate::userspace::QEMU;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;
use tests::monitor::Monitor;

/// How long a lab may take, of which each measures one: one or two minutes are usual.
const LIMIT: Duration = Duration::from_secs(240);
/// The program that is run in the lab.
const PROGRAM: &str = "bench-vsock";
/// The first program of the guest.
const INIT: &str = "bench-vsock-guest";
/// What QEMU's vsock needs of the lab's kernel.
const LAB_MODULES: [&str; 5] =
    ["vsock", "vmw_vsock_virtio_transport_common", "vhost_iotlb", "vhost", "vhost_vsock"];
/// What vsock needs of the guest's kernel besides virtio.
const GUEST_MODULES: [&str; 3] =
    ["vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"];

/// What is measured: its key, which is the program's, its title, the digits shown.
const COLUMNS: [(&str, &str, usize); 14] = [
    ("round_trip", "round trip us", 1),
    ("connect", "connect us", 1),
    ("to_guest", "to guest MB/s", 0),
    ("from_guest", "from guest MB/s", 0),
    ("many_1", "ms/MiB by 1", 2),
    ("many_10", "by 10", 2),
    ("many_100", "by 100", 2),
    ("many_1000", "by 1000", 2),
    ("calls_round_trip", "calls/trip", 1),
    ("calls_to_guest", "calls/MiB to", 0),
    ("calls_from_guest", "from", 0),
    ("exits_round_trip", "exits/trip", 1),
    ("exits_to_guest", "exits/MiB to", 0),
    ("exits_from_guest", "from", 0),
];
const FLOOR: &str = "floor";

/// A row for each monitor, and the floor.
pub(super) fn measure() -> Result<Report> {
    let programs = build::tools()?;
    let kernel = Kernel::get(Suite::Bookworm, "linux-image-cloud-amd64")?;
    let (_folder, initrd) = lab::initrd(&programs, &kernel, INIT, &GUEST_MODULES, |_| Ok(()))?;
    let subjects: Vec<&str> = Monitor::ALL.map(Monitor::name).into_iter().chain([FLOOR]).collect();
    let mut documents = Vec::new();
    for who in &subjects {
        documents.extend(lab::documents(PROGRAM, || job(who, &programs, &kernel, &initrd))?);
    }
    let figure = |who: &str, key: &str| -> Result<f64> {
        let document = documents.iter().find(|document| document["monitor"] == who);
        let figure = document.and_then(|document| document[key].as_f64());
        figure.with_context(|| format!("{who} has no {key}"))
    };
    let mut rows = Vec::new();
    for who in subjects {
        let figures = COLUMNS.iter().map(|(key, ..)| figure(who, key).map(Some));
        rows.push(Row { subject: who.into(), figures: figures.collect::<Result<_>>()? });
    }
    Ok(Report {
        name: "vsock",
        what: "Between a program of the host and one of a guest with one processor, Debian 12's cloud \
               kernel, by vsock, in the lab, where an instruction takes a nanosecond: a byte there \
               and back; a connection until its first byte; bytes one way in pieces of 64 KiB; and \
               16 MB both ways by 1 to 1,000 connections at once, in pieces of 16 KiB. System calls \
               are those of the monitor, exits those of its guest. QEMU has vhost-vsock. The \
               floor is the same between two processes of the host by a Unix socket, which a guest \
               cannot be quicker than."
            .into(),
        subject: "monitor",
        columns: COLUMNS.map(|(key, title, digits)| Column { key, title, digits }).into(),
        rows,
        targets: targets(figure)?,
    })
}

fn targets(figure: impl Fn(&str, &str) -> Result<f64>) -> Result<Vec<Target>> {
    let [vmm, microvm, q35] = Monitor::ALL.map(Monitor::name);
    let mut targets = Vec::new();
    for (what, key, qemu) in [
        ("round trip of QEMU microvm", "round_trip", microvm),
        ("round trip of QEMU q35", "round_trip", q35),
        ("connect of QEMU microvm", "connect", microvm),
        ("connect of QEMU q35", "connect", q35),
    ] {
        let found = figure(vmm, key)? / figure(qemu, key)?;
        targets.push(Target { what, found, at_most: 0.6 });
    }
    for (what, key, qemu) in [
        ("time to send to the guest of QEMU microvm", "to_guest", microvm),
        ("time to send to the guest of QEMU q35", "to_guest", q35),
        ("time to send from the guest of QEMU microvm", "from_guest", microvm),
        ("time to send from the guest of QEMU q35", "from_guest", q35),
    ] {
        let found = figure(qemu, key)? / figure(vmm, key)?;
        targets.push(Target { what, found, at_most: 0.667 });
    }
    let found = figure(vmm, "many_1000")? / figure(vmm, "many_1")?;
    targets.push(Target { what: "cost by 1,000 connections of that by 1", found, at_most: 1.25 });
    Ok(targets)
}

fn job(who: &str, programs: &Programs, kernel: &Kernel, initrd: &Path) -> Result<Job> {
    let mut job = lab::job();
    job.limit = LIMIT;
    job.debian.push(&QEMU);
    job.modules.extend(LAB_MODULES);
    lab::give_boot(&mut job, programs, kernel, initrd)?;
    job.command = vec![job.give_program(programs, PROGRAM)?, who.to_owned()];
    Ok(job)
}
