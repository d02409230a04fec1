//! Reads and writes of a guest's disks, and what they cost the host.

use super::lab;
use super::report::{Column, Report, Row};
use crate::build::{self, Programs};
use crate::debian::Suite;
use crate::job::Job;
use crate::kernel::Kernel;
use crate::run::say;
use crate::userspace::{QEMU, QEMU_IMG};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tests::monitor::Monitor;

/// How long a lab may take, of which each measures one: half a minute is usual.
const LIMIT: Duration = Duration::from_secs(120);
/// The program that is run in the lab.
const PROGRAM: &str = "bench-block";
/// The first program of the guest, and the floor.
const INIT: &str = "bench-block-guest";
/// What disks need of the guest's kernel besides virtio.
const GUEST_MODULES: [&str; 1] = ["virtio_blk"];
const FLOOR: &str = "floor";

/// What is measured: its key, which is the program's, and its title.
const ROWS: [(&str, &str); 18] = [
    ("read", "a read of 4 KiB, us"),
    ("write", "a write of 4 KiB, us"),
    ("write_safely", "the same and a flush, us"),
    ("read_many", "reads of 4 KiB, 32 at once, 1000/s"),
    ("read_through", "reads of 128 KiB, 4 at once, MB/s"),
    ("write_through", "writes of 128 KiB, 4 at once, MB/s"),
    ("calls_read", "system calls for a read"),
    ("calls_write", "for a write"),
    ("calls_write_safely", "for a write and a flush"),
    ("calls_read_many", "for a read of 32 at once"),
    ("calls_read_through", "for a MiB read"),
    ("calls_write_through", "for a MiB written"),
    ("exits_read", "exits for a read"),
    ("exits_write", "for a write"),
    ("exits_write_safely", "for a write and a flush"),
    ("exits_read_many", "for a read of 32 at once"),
    ("exits_read_through", "for a MiB read"),
    ("exits_write_through", "for a MiB written"),
];

/// A column: its key and title, and whose figures are in it, or are divided by another one's.
type Figures = (&'static str, &'static str, (Of, Option<Of>));
/// A monitor, or the floor, and the format of the image.
type Of = (&'static str, &'static str);

/// A row for each figure, a column for each monitor.
pub(super) fn measure() -> Result<Report> {
    let programs = build::tools()?;
    let kernel = Kernel::get(Suite::Bookworm, "linux-image-cloud-amd64")?;
    let (_folder, initrd) = lab::initrd(&programs, &kernel, INIT, &GUEST_MODULES, |_| Ok(()))?;
    let [vmm, microvm, q35] = Monitor::ALL.map(Monitor::name);
    let [raw, qcow2] = ["raw", "qcow2"];
    let mut documents: Vec<(Of, Value)> = Vec::new();
    for of in [(FLOOR, raw), (vmm, raw), (microvm, raw), (q35, raw), (vmm, qcow2), (microvm, qcow2)]
    {
        match lab::documents(PROGRAM, || job(of, &programs, &kernel, &initrd)) {
            Ok(found) => documents.extend(found.into_iter().map(|document| (of, document))),
            // The others are worth having.
            Err(error) => say(&format!("{of:?} was not measured: {error:#}")),
        }
    }
    let ours = documents.iter().any(|(of, _)| *of == (vmm, raw));
    ensure!(ours, "vmm was not measured, and it is what the others are for");
    let columns: [Figures; 9] = [
        (FLOOR, "floor", ((FLOOR, raw), None)),
        ("vmm", vmm, ((vmm, raw), None)),
        ("microvm", microvm, ((microvm, raw), None)),
        ("q35", q35, ((q35, raw), None)),
        ("of_microvm", "vmm of microvm", ((vmm, raw), Some((microvm, raw)))),
        ("of_q35", "of q35", ((vmm, raw), Some((q35, raw)))),
        ("vmm_qcow2", "qcow2: vmm", ((vmm, qcow2), None)),
        ("microvm_qcow2", "microvm", ((microvm, qcow2), None)),
        ("qcow2_of_microvm", "vmm of microvm", ((vmm, qcow2), Some((microvm, qcow2)))),
    ];
    let figure = |of: Of, key: &str| -> Result<Option<f64>> {
        // Its calls are the reads and writes, and what its threads need.
        if of.0 == FLOOR && !key.starts_with(['r', 'w']) {
            return Ok(None);
        }
        let document = documents.iter().find(|(found, _)| *found == of);
        let Some((_, document)) = document else { return Ok(None) };
        document[key].as_f64().with_context(|| format!("{of:?} has no {key}")).map(Some)
    };
    let mut rows = Vec::new();
    for (key, title) in ROWS {
        let cell = |(_, _, (of, by)): &Figures| -> Result<Option<f64>> {
            let by = match by {
                Some(by) => figure(*by, key)?,
                None => Some(1.0),
            };
            Ok(figure(*of, key)?.zip(by).map(|(figure, by)| figure / by))
        };
        let figures = columns.iter().map(cell).collect::<Result<_>>()?;
        rows.push(Row { subject: title.into(), figures });
    }
    let digits = |by: Option<Of>| if by.is_some() { 2 } else { 1 };
    Ok(Report {
        name: "block",
        what: "What a program of a guest with one processor and 256 MiB, Debian 12's cloud kernel, \
               does with a virtio disk of 32 MiB around its page cache (`O_DIRECT`), in the lab, where \
               an instruction takes a nanosecond: reads and writes of 4 KiB here and there, one after \
               the other (medians) and by 32 threads, and of 128 KiB, 8 MiB from the disk's beginning \
               on, by 4 threads. The image is a file in the host's memory (tmpfs): no time is a disk's. \
               QEMU has `cache=writeback,aio=threads`, so both monitors use the host's page \
               cache, and a flush is an `fdatasync` with both. System calls are those of the \
               monitor, exits those of its guest. The floor is the same program as a process of the \
               host, on the raw file itself."
            .into(),
        subject: "",
        columns: columns
            .map(|(key, title, (_, by))| Column { key, title, digits: digits(by) })
            .into(),
        rows,
        targets: Vec::new(),
    })
}

fn job((who, format): Of, programs: &Programs, kernel: &Kernel, initrd: &Path) -> Result<Job> {
    let mut job = lab::job();
    job.limit = LIMIT;
    job.debian.extend([&QEMU, &QEMU_IMG]);
    lab::give_boot(&mut job, programs, kernel, initrd)?;
    job.give_program(programs, INIT)?;
    job.command = vec![job.give_program(programs, PROGRAM)?, who.to_owned(), format.to_owned()];
    Ok(job)
}
