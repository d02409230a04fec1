//! From exec to the first program of a stock kernel: time and exits.

use super::lab;
use super::report::{Column, Report, Row, Sorted, Target};
use crate::debian::Suite;
use anyhow::{Context, Result};
use serde_json::Value;
use tests::monitor::{Monitor, TESTED};

/// The program that is run in the lab.
const PROGRAM: &str = "bench-boot";
/// The kernels: those that Debian has for virtual machines.
const KERNELS: [(&str, Suite); 2] = [("Debian 12", Suite::Bookworm), ("Debian 13", Suite::Trixie)];
/// Boots that are timed, each in a lab of its own.
const ROUNDS: usize = 3;

/// A row for each kernel and monitor.
pub(super) fn time() -> Result<Report> {
    let mut rows = Vec::new();
    let mut targets = Vec::new();
    for (name, suite) in KERNELS {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(boots("time", suite)?);
        }
        let median = |monitor: &str, key: &str| -> Result<f64> {
            let figures = rounds.iter().map(|boots| figure(boots, monitor, key));
            Ok(Sorted::new(figures.collect::<Result<_>>()?).at(50))
        };
        let [vmm, microvm, q35] = Monitor::ALL.map(|monitor| median(monitor.name(), "seconds"));
        let (vmm, microvm, q35) = (vmm?, microvm?, q35?);
        for monitor in Monitor::ALL.map(Monitor::name).into_iter().chain([TESTED]) {
            let time = median(monitor, "seconds")?;
            let figures = [time, time / microvm, time / q35];
            let subject = format!("{name}: {monitor}");
            rows.push(Row { subject, figures: figures.map(Some).into() });
        }
        targets.push(Target { what: "vmm of QEMU microvm", found: vmm / microvm, at_most: 0.5 });
        targets.push(Target { what: "vmm of QEMU q35", found: vmm / q35, at_most: 0.7 });
    }
    Ok(Report {
        name: "boot",
        what: format!(
            "From exec of the monitor to the first program of the guest, in seconds of the lab, \
             where an instruction takes a nanosecond: medians of {ROUNDS} boots of Debian's cloud \
             kernels with 256 MiB and one processor. vmm gets the bzImage as it is packed, its cache \
             warm; QEMU the same kernel unpacked. vmm asks the guest not to test its ciphers, which \
             Debian's kernels do at each boot; the last row is with these tests."
        ),
        subject: "guest, monitor",
        columns: vec![
            Column { key: "seconds", title: "s", digits: 3 },
            Column { key: "of_microvm", title: "of microvm", digits: 3 },
            Column { key: "of_q35", title: "of q35", digits: 3 },
        ],
        rows,
        targets,
    })
}

/// The names of the exits that are told apart: AMD's codes, of its manual's volume 2, appendix C.
const REASONS: [(&str, &[u64]); 7] = [
    ("interrupts", &[0x60, 0x64]),
    ("cpuid", &[0x72]),
    ("halt", &[0x78]),
    ("ports", &[0x7b]),
    ("msr", &[0x7c]),
    ("pages and mmio", &[0x400]),
    ("hypercalls", &[0x81]),
];

/// A row for each monitor, on Debian 12.
pub(super) fn exits() -> Result<Report> {
    let boots = boots("exits", Suite::Bookworm)?;
    let mut rows = Vec::new();
    let mut targets = Vec::new();
    for monitor in Monitor::ALL {
        let boot = boot(&boots, monitor.name())?;
        let all = sum(&boot["exits"]);
        let userspace = sum(&boot["userspace"]);
        let console = boot["console"].as_f64().context("a boot has a count")?;
        let besides = userspace - console;
        let of = |codes: &[u64]| -> f64 {
            codes.iter().map(|code| boot["exits"][code.to_string()].as_f64().unwrap_or(0.0)).sum()
        };
        let named: Vec<f64> = REASONS.iter().map(|(_, codes)| of(codes)).collect();
        let others = all - named.iter().sum::<f64>();
        let figures = [all, besides, console].into_iter().chain(named).chain([others]);
        let figures = figures.map(Some).collect();
        rows.push(Row { subject: monitor.name().into(), figures });
        if monitor == Monitor::Vmm {
            targets.push(Target { what: "exits of vmm", found: all, at_most: 2500.0 });
            let what = "exits of vmm to userspace besides the console's";
            targets.push(Target { what, found: besides, at_most: 300.0 });
        }
    }
    let mut columns = vec![
        Column { key: "all", title: "all", digits: 0 },
        Column { key: "to_userspace", title: "to userspace", digits: 0 },
        Column { key: "console", title: "console", digits: 0 },
    ];
    let named = REASONS.iter().map(|(name, _)| Column { key: name, title: name, digits: 0 });
    columns.extend(named);
    columns.push(Column { key: "others", title: "others", digits: 0 });
    Ok(Report {
        name: "exits",
        what: "Exits of one such boot of Debian 12, counted by KVM's tracepoints: all, those that the \
               monitor's own code answers without the serial console's, the console's, and all by \
               reason."
            .into(),
        subject: "monitor",
        columns,
        rows,
        targets,
    })
}

/// What all of `counts` are together.
pub(super) fn sum(counts: &Value) -> f64 {
    counts.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_f64()).sum()
}

fn boot<'a>(boots: &'a [Value], monitor: &str) -> Result<&'a Value> {
    let found = boots.iter().find(|boot| boot["monitor"] == monitor);
    found.with_context(|| format!("{monitor} did not boot"))
}

fn figure(boots: &[Value], monitor: &str, key: &str) -> Result<f64> {
    boot(boots, monitor)?[key].as_f64().with_context(|| format!("a boot has no {key}"))
}

/// The boots of one lab, one for each monitor.
fn boots(mode: &str, suite: Suite) -> Result<Vec<Value>> {
    lab::boots(suite, &[PROGRAM, mode], lab::COUNTING)
}
