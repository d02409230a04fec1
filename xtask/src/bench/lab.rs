//! Measuring in the lab, with its processor counting instructions.

use crate::archive::Archive;
use crate::build::{self, Programs};
use crate::debian::Suite;
use crate::emulator::TIMED_OUT;
use crate::job::Job;
use crate::kernel::Kernel;
use crate::path::Path;
use crate::run::say;
use crate::userspace::QEMU;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// How long a lab may take: one to three minutes are usual.
const LIMIT: Duration = Duration::from_secs(480);
/// Labs that are tried: with the [emulator](crate::emulator) some hang, more of them where it counts.
/// What the program says in a lab that comes to an end is true.
const LABS: usize = 8;
/// A variable that is longer in each of them: where instructions are counted, a lab that hangs would hang
/// at the same place again if nothing was different.
const TRY: &str = "LAB";

/// The kernel: that which Debian has for virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";
/// The first program of a guest that has nothing to do but to be there.
const INIT: &str = "bench-init";
/// The floor of what a monitor is.
const FLOOR: &str = "bench-floor";

/// What any virtio device needs of the guest's kernel, under any of the monitors.
const VIRTIO_MODULES: [&str; 6] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
];

/// What a lab is to be like.
#[derive(Clone, Copy)]
pub(super) struct Lab {
    /// Whether its processor counts instructions. It is slower then, and hangs more often: where neither
    /// time nor interrupts of timers matter it need not.
    pub(super) counted: bool,
    /// How long it may take.
    pub(super) limit: Duration,
}

/// The usual one.
pub(super) const COUNTING: Lab = Lab { counted: true, limit: LIMIT };

/// A job for a lab that counts; what it prints is not for people.
pub(super) fn job() -> Job {
    let mut job = Job::new(Path::Lab, LIMIT);
    job.counted = true;
    job.aside = true;
    job
}

/// An initrd whose first program is `init`, with the modules that virtio and `modules` are of, and what
/// `more` adds; it is gone with the folder.
pub(super) fn initrd(
    programs: &Programs,
    kernel: &Kernel,
    init: &str,
    modules: &[&str],
    more: impl FnOnce(&mut Archive) -> Result<()>,
) -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let initrd = folder.path().join("initrd");
    let mut archive = Archive::default();
    archive.copy(&build::take(programs, init)?, "init")?;
    more(&mut archive)?;
    let modules: Vec<&str> = VIRTIO_MODULES.iter().chain(modules).copied().collect();
    archive.modules("modules", &kernel.modules(&modules)?)?;
    fs::write(&initrd, archive.finish()?)?;
    Ok((folder, initrd))
}

/// Gives `job` the monitor, and what it and others boot where the programs look for it.
pub(super) fn give_boot(
    job: &mut Job,
    programs: &Programs,
    kernel: &Kernel,
    initrd: &std::path::Path,
) -> Result<()> {
    let place = job.give_program(programs, "vmm")?;
    job.environment.push(("VMM_BIN".into(), place));
    let files = [(kernel.vmlinuz.clone(), "vmlinuz"), (kernel.vmlinux()?, "vmlinux")];
    for (file, name) in files.into_iter().chain([(initrd.to_owned(), "initrd")]) {
        job.files.push((file, format!("/boot-files/{name}")));
    }
    Ok(())
}

/// The documents, one a line, that `program` prints in the first lab that comes to an end.
pub(super) fn documents(program: &str, make: impl Fn() -> Result<Job>) -> Result<Vec<Value>> {
    for lab in 1..=LABS {
        let mut job = make()?;
        job.environment.push((TRY.into(), "x".repeat(lab)));
        match job.run() {
            Ok(0) => {
                let heard = job.heard();
                let lines = heard.lines().filter_map(|line| serde_json::from_str(line.trim()).ok());
                let documents: Vec<Value> = lines.collect();
                // A lab that switches itself off may take the end of what it said along.
                if !documents.is_empty() && heard.ends_with('\n') {
                    return Ok(documents);
                }
                say(&format!("lab {lab} of {LABS}: {program} printed no more than:\n{heard}"));
            }
            Ok(TIMED_OUT) => say(&format!("lab {lab} of {LABS} did not come to an end")),
            // A guest that the emulator has led astray may have ended it.
            Ok(code) => say(&format!("lab {lab} of {LABS}: {program} ended with {code}")),
            Err(error) => say(&format!("lab {lab} of {LABS}: {error:#}")),
        }
    }
    bail!("no lab in which {program} ran came to a good end")
}

/// The documents that `command`, a program and its arguments, prints in a lab that has what boots: the
/// kernel of `suite`, and an initrd with [`INIT`]. Besides the monitor there are QEMU and the floor. The
/// lab is as `lab` says.
pub(super) fn boots(suite: Suite, command: &[&str], lab: Lab) -> Result<Vec<Value>> {
    let (program, arguments) = command.split_first().context("there is no command")?;
    let programs = build::tools()?;
    let kernel = Kernel::get(suite, KERNEL)?;
    let folder = tempfile::tempdir()?;
    let initrd = folder.path().join("initrd");
    let mut archive = Archive::default();
    archive.copy(&build::take(&programs, INIT)?, "init")?;
    fs::write(&initrd, archive.finish()?)?;
    documents(program, || {
        let mut job = job();
        job.counted = lab.counted;
        job.limit = lab.limit;
        job.debian.push(&QEMU);
        give_boot(&mut job, &programs, &kernel, &initrd)?;
        job.give_program(&programs, FLOOR)?;
        job.command = vec![job.give_program(&programs, program)?];
        job.command.extend(arguments.iter().map(|&argument| argument.to_owned()));
        Ok(job)
    })
}
