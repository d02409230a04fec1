//! Round trips, connections and bytes between a program of the host and one of a guest, by a network.

use super::lab;
use super::report::{Column, Report, Row};
use crate::build::{self, Programs};
use crate::debian::Suite;
use crate::job::Job;
use crate::kernel::Kernel;
use crate::userspace::{self, QEMU, Userspace};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

/// How long a lab may take, of which each measures one: one or two minutes are usual.
const LIMIT: Duration = Duration::from_secs(240);
/// The program that is run in the lab.
const PROGRAM: &str = "bench-net";
/// The first program of the guest.
const INIT: &str = "bench-net-guest";
/// What QEMU's network and the floor need of the lab's kernel.
const LAB_MODULES: [&str; 5] = ["tap", "vhost_iotlb", "vhost", "vhost_net", "veth"];
/// What a network needs of the guest's kernel besides virtio.
const GUEST_MODULES: [&str; 3] = ["failover", "net_failover", "virtio_net"];

/// Rows: the title, and the words for the program.
const ROWS: [(&str, &[&str]); 5] = [
    ("vmm", &["vmm"]),
    ("QEMU microvm", &["QEMU microvm"]),
    ("QEMU microvm, vhost=off", &["QEMU microvm", "no-vhost"]),
    ("QEMU q35", &["QEMU q35"]),
    ("floor", &["floor"]),
];
/// What is measured: its key, which is the program's, its title, the digits shown.
const COLUMNS: [(&str, &str, usize); 11] = [
    ("round_trip", "round trip us", 1),
    ("datagram", "by UDP us", 1),
    ("connect", "connect us", 1),
    ("to_guest", "to guest MB/s", 0),
    ("from_guest", "from guest MB/s", 0),
    ("calls_round_trip", "calls/trip", 1),
    ("calls_to_guest", "calls/MiB to", 0),
    ("calls_from_guest", "from", 0),
    ("exits_round_trip", "exits/trip", 1),
    ("exits_to_guest", "exits/MiB to", 0),
    ("exits_from_guest", "from", 0),
];

/// A row for each monitor, and the floor.
pub(super) fn measure() -> Result<Report> {
    let programs = build::tools()?;
    let kernel = Kernel::get(Suite::Bookworm, "linux-image-cloud-amd64")?;
    let busybox = Userspace::get()?.static_busybox()?;
    let (_folder, initrd) = lab::initrd(&programs, &kernel, INIT, &GUEST_MODULES, |archive| {
        userspace::busybox(archive, &busybox, &[])
    })?;
    let mut rows = Vec::new();
    for (subject, words) in ROWS {
        let documents = lab::documents(PROGRAM, || job(words, &programs, &kernel, &initrd))?;
        let figure = |(key, ..): &(&str, _, _)| {
            let figure = documents.iter().find_map(|document| document[key].as_f64());
            figure.with_context(|| format!("{subject} has no {key}")).map(Some)
        };
        let figures = COLUMNS.iter().map(figure).collect::<Result<_>>()?;
        rows.push(Row { subject: subject.into(), figures });
    }
    Ok(Report {
        name: "net",
        what: "Between a program of the host and one of a guest with one processor and 256 MiB, \
               Debian 12's cloud kernel, by virtio-net and a tap, in the lab, where an instruction \
               takes a nanosecond: a byte there and back, by TCP and by UDP; a TCP connection until \
               its first byte; and 16 MiB one way in pieces of 64 KiB. System calls are those of the \
               monitor, or of the process at the floor's far end, exits those of the guest. Each monitor offers what it does by default, which \
               is checksums, uncut TCP and merged buffers with all of them. QEMU has vhost-net, but \
               where that is said to be off. The floor is the same between two processes of the \
               host, of which one has a network of its own, by a pair of virtual Ethernet \
               interfaces (`veth`), which a guest cannot be quicker than."
            .into(),
        subject: "monitor",
        columns: COLUMNS.map(|(key, title, digits)| Column { key, title, digits }).into(),
        rows,
        targets: Vec::new(),
    })
}

fn job(words: &[&str], programs: &Programs, kernel: &Kernel, initrd: &Path) -> Result<Job> {
    let mut job = lab::job();
    job.limit = LIMIT;
    job.debian.push(&QEMU);
    job.modules.extend(LAB_MODULES);
    lab::give_boot(&mut job, programs, kernel, initrd)?;
    job.command = vec![job.give_program(programs, PROGRAM)?];
    job.command.extend(words.iter().map(|&word| word.to_owned()));
    Ok(job)
}
