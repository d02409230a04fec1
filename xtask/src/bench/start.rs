//! From exec to the first byte of a minimal guest, on this machine's own KVM.

use super::report::{Column, Report, Row, Sorted, Target};
use crate::build::{self, Programs};
use crate::tools::{self, QEMU};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tests::micro::{DOTS, elf_with_pvh};

/// Starts of each that are measured, and before these, some that are not.
const ROUNDS: usize = 100;
const WARM_UP: usize = 3;
/// What is between two starts: what has ended is still being taken apart by the kernel, which would hold up
/// whoever comes next.
const PAUSE: Duration = Duration::from_millis(20);
/// Where machines have their sockets: on a file system in memory, as the folders of `/run` are.
pub(super) const RUNTIME: &str = "/dev/shm";
/// RAM of the machines, in MiB.
const MEMORY: &str = "128";

/// One of those that start.
struct Subject {
    name: &'static str,
    command: Command,
    /// Milliseconds of each start.
    times: Vec<f64>,
}

/// A row for each of those that start.
pub(super) fn measure() -> Result<Report> {
    tools::need(&[QEMU])?;
    ensure!(
        Path::new("/dev/kvm").exists(),
        "starts are measured on this machine's KVM, and there is none"
    );
    let programs = Installed::new(&build::tools()?)?;
    let folder = tempfile::tempdir_in(RUNTIME)?;
    let kernel = folder.path().join("kernel");
    fs::write(&kernel, elf_with_pvh(DOTS))?;
    let vmm = programs.program("vmm");
    let machine = |name: &'static str, more: &[&str]| {
        let mut command = Command::new(&vmm);
        command.args(["run", name, "--memory", &format!("{MEMORY}M"), "--kernel"]).arg(&kernel);
        command.args(more).env("VMM_RUNTIME_DIR", folder.path());
        command
    };
    let mut floor = Command::new(programs.program("bench-floor"));
    floor.arg(MEMORY);
    let mut qemu = Command::new(QEMU.0);
    // KVM here may lack what QEMU asks for unasked.
    qemu.args(["-M", "microvm", "-accel", "kvm", "-cpu", "host,-arch-capabilities", "-m", MEMORY])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-kernel"])
        .arg(&kernel);
    let subjects = [
        ("floor", floor),
        ("vmm", machine("a", &[])),
        ("vmm --sandbox off", machine("b", &["--sandbox", "off"])),
        ("QEMU microvm", qemu),
    ];
    let mut subjects = subjects.map(|(name, command)| Subject {
        name,
        command,
        times: Vec::with_capacity(ROUNDS),
    });
    for round in 0..WARM_UP + ROUNDS {
        for subject in &mut subjects {
            thread::sleep(PAUSE);
            let started = Started::new(&mut subject.command).with_context(|| subject.name)?;
            if round >= WARM_UP {
                subject.times.push(started.time);
            }
        }
    }
    Ok(report(subjects))
}

/// The programs as they are when they have been installed: copies. What had just been linked took up to
/// a tenth longer to start here, probably since it lies in the page cache in smaller pieces.
pub(super) struct Installed(TempDir);

impl Installed {
    pub(super) fn new(programs: &Programs) -> Result<Self> {
        // Where there is room for programs, and they may be run.
        let folder = tempfile::tempdir_in(build::target()?)?;
        for name in ["vmm", "bench-floor"] {
            fs::copy(build::take(programs, name)?, folder.path().join(name))?;
        }
        Ok(Self(folder))
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// A monitor whose guest has written its first byte. Dropping it ends it, and nothing is left for the
/// next one to clear away.
pub(super) struct Started {
    pub(super) process: Child,
    /// Milliseconds from before its exec to that byte.
    pub(super) time: f64,
}

impl Started {
    /// Starts it, and waits for the first byte.
    pub(super) fn new(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let before = Instant::now();
        let process = command.spawn()?;
        let mut started = Self { process, time: 0.0 };
        let stdout = started.process.stdout.as_mut().context("there is a pipe")?;
        let read = stdout.read_exact(&mut [0]);
        started.time = before.elapsed().as_secs_f64() * 1000.0;
        read.context("it ended before its guest had written anything")?;
        Ok(started)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // One that has ended by itself is as good; what it still writes has nowhere to go.
        let _ = rustix::process::kill_process(Pid::from_child(&self.process), Signal::TERM);
        drop(self.process.stdout.take());
        let _ = self.process.wait();
    }
}

fn report(subjects: [Subject; 4]) -> Report {
    let subjects = subjects.map(|subject| (subject.name, Sorted::new(subject.times)));
    let [floor, vmm, _, qemu] = subjects.each_ref().map(|(_, times)| times.at(50));
    let row = |(name, times): &(&str, Sorted)| {
        let time = times.at(50);
        let figures = [time, times.at(10), times.at(90), time / floor, time / qemu];
        Row { subject: (*name).into(), figures: figures.map(Some).into() }
    };
    Report {
        name: "start",
        what: format!(
            "From exec to the first byte that a minimal 64-bit guest with {MEMORY} MiB writes on its \
             serial port, on this machine's KVM: medians of {ROUNDS} starts, in turns. The floor is a \
             static program that makes the same calls of KVM and nothing else."
        ),
        subject: "monitor",
        columns: vec![
            Column { key: "ms", title: "ms", digits: 2 },
            Column { key: "p10", title: "p10", digits: 2 },
            Column { key: "p90", title: "p90", digits: 2 },
            Column { key: "of_floor", title: "of floor", digits: 2 },
            Column { key: "of_qemu", title: "of QEMU", digits: 3 },
        ],
        rows: subjects.iter().map(row).collect(),
        targets: vec![
            Target { what: "vmm of floor", found: vmm / floor, at_most: 2.0 },
            Target { what: "vmm of QEMU microvm", found: vmm / qemu, at_most: 0.07 },
        ],
    }
}
