//! A hundred machines on this machine's own KVM.

use super::report::{Column, Report, Row, Sorted, Target};
use super::start::{Installed, RUNTIME, Started};
use crate::build;
use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};
use tests::memory;
use tests::micro::{DOT, elf};

/// Machines at once.
const MACHINES: usize = 100;
/// Machines that are started and ended one after the other, for comparison.
const ALONE: usize = 40;

/// A row for each way of starting them.
pub(super) fn measure() -> Result<Report> {
    ensure!(
        Path::new("/dev/kvm").exists(),
        "a fleet runs on this machine's KVM, and there is none"
    );
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limits.maximum, ..limits })?;
    let programs = Installed::new(&build::tools()?)?;
    let [vmm, floor] = ["vmm", "bench-floor"].map(|name| programs.program(name));
    let folder = tempfile::tempdir_in(RUNTIME)?;
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, elf(DOT))?;
    let start = |number: usize| {
        let mut command = Command::new(&vmm);
        command.args(["run", &format!("m{number}"), "--memory", "128M", "--kernel"]).arg(&kernel);
        Started::new(command.env("VMM_RUNTIME_DIR", folder.path()))
    };
    let start_floor = |_: usize| Started::new(Command::new(&floor).args(["128", "once"]));
    let (mut alone, mut private) = (Vec::new(), Vec::new());
    for _ in 0..ALONE {
        let machine = start(0)?;
        alone.push(machine.time);
        private.push(memory::of(machine.process.id())?.private as f64);
    }
    let alone = Sorted::new(alone);
    let floor_alone = (0..ALONE).map(|number| Ok(start_floor(number)?.time));
    let floor_alone = Sorted::new(floor_alone.collect::<Result<_>>()?);
    let private_alone = Sorted::new(private).at(50);

    // Those before go on running.
    let mut machines = Vec::new();
    let before = Instant::now();
    for number in 0..MACHINES {
        machines.push(start(number)?);
    }
    let (in_turn, in_turn_whole) = (times(&machines), before.elapsed());
    let private = private_of(&machines)?;
    drop(machines);

    let (machines, whole) = at_once(&start)?;
    let (together, private_together) = (times(&machines), private_of(&machines)?);
    drop(machines);
    let (floors, whole_floors) = at_once(&start_floor)?;
    let floors = times(&floors);

    let row = |subject: &str, times: &Sorted, whole: Option<f64>, private: Option<f64>| Row {
        subject: subject.into(),
        figures: vec![Some(times.at(50)), Some(times.at(99)), whole, private],
    };
    let milliseconds = |time: Duration| Some(time.as_secs_f64() * 1000.0);
    Ok(Report {
        name: "fleet",
        what: format!(
            "Starts of machines with a minimal guest of 128 MiB that then stands still: one alone, \
             {ALONE} times; {MACHINES} in turn, while those before run; {MACHINES} at once, which then \
             share this machine's processors. The floor is the program of `start`."
        ),
        subject: "machines",
        columns: vec![
            Column { key: "p50", title: "p50 ms", digits: 2 },
            Column { key: "p99", title: "p99 ms", digits: 2 },
            Column { key: "whole", title: "all ms", digits: 1 },
            Column { key: "private_kib", title: "private KiB each", digits: 0 },
        ],
        rows: vec![
            row("one", &alone, None, Some(private_alone)),
            row("100 in turn", &in_turn, milliseconds(in_turn_whole), Some(private)),
            row("100 at once", &together, milliseconds(whole), Some(private_together)),
            row("floor, one", &floor_alone, None, None),
            row("floor, 100 at once", &floors, milliseconds(whole_floors), None),
        ],
        targets: vec![
            Target {
                what: "p99 of 100 in turn, of p50 of one",
                found: in_turn.at(99) / alone.at(50),
                at_most: 3.0,
            },
            Target {
                what: "p99 of 100 at once, of p50 of one",
                found: together.at(99) / alone.at(50),
                at_most: 3.0,
            },
            Target {
                what: "private memory of one of 100, of one alone",
                found: private_together / private_alone,
                at_most: 1.05,
            },
        ],
    })
}

/// Starts all of them at once, and says how long that took.
fn at_once(start: &(impl Fn(usize) -> Result<Started> + Sync)) -> Result<(Vec<Started>, Duration)> {
    let barrier = Barrier::new(MACHINES + 1);
    thread::scope(|scope| {
        let starter = |number| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                start(number)
            })
        };
        let threads: Vec<_> = (0..MACHINES).map(starter).collect();
        barrier.wait();
        let begun = Instant::now();
        let machines = threads.into_iter().map(|thread| thread.join().ok().context("a panic")?);
        Ok((machines.collect::<Result<_>>()?, begun.elapsed()))
    })
}

fn times(machines: &[Started]) -> Sorted {
    Sorted::new(machines.iter().map(|machine| machine.time).collect())
}

/// The median.
fn private_of(machines: &[Started]) -> Result<f64> {
    let each = machines.iter().map(|machine| Ok(memory::of(machine.process.id())?.private as f64));
    Ok(Sorted::new(each.collect::<Result<_>>()?).at(50))
}
