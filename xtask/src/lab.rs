//! The lab: an AMD host emulated by QEMU, whose KVM runs stock kernels.
//!
//! A CPU with AMD-V is emulated in software, a stock Debian kernel boots on it, and its kvm-amd
//! gives a real `/dev/kvm`. The command runs there as root in a busybox user space, with the files
//! that it needs. Its output goes where ours goes, and its exit code is ours. Nothing of this needs
//! KVM on this machine.

use crate::archive::Archive;
use crate::debian::Suite;
use crate::emulator::Lab;
use crate::job::Job;
use crate::kernel::Kernel;
use crate::path::Path;
use crate::run::say;
use crate::tools::{self, QEMU};
use crate::userspace::{self, Userspace};
use crate::{Outcome, build, guest, image};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Modules of the lab's kernel, in the order in which they are loaded.
const MODULES: [&str; 11] = [
    "ccp",
    "irqbypass",
    "kvm",
    "kvm-amd",
    "tun",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
];
/// The kernel: the one for clouds has fewer drivers to start, but no ccp, which kvm-amd needs.
const KERNEL: &str = "linux-image-amd64";
const INIT: &str = include_str!("../lab/init");

/// Runs a command in the lab.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long the command may take, in seconds; then it is ended, and the exit code is 124.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// A file or folder that the command needs; it has the same path in the lab.
    #[arg(long, visible_alias = "share")]
    file: Vec<PathBuf>,
    /// A guest with a whole Debian (debian12, debian13, sysvinit), to be put into the lab's /guests.
    #[arg(long, requires = "vmm")]
    image: Vec<String>,
    /// Let the lab's time be a count of instructions, a nanosecond each; it runs slower then.
    #[arg(long)]
    counted: bool,
    /// Build vmm, the tests' programs and the guests, and put them into the lab: the programs in
    /// /bin, the guests in /guests, VMM_BIN and VMM_GUESTS set.
    #[arg(long)]
    vmm: bool,
    /// The command and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// `cargo xtask lab`.
pub(crate) fn run_command(args: &Args) -> Outcome {
    let mut job = Job::new(Path::Lab, Duration::from_secs(args.timeout));
    job.counted = args.counted;
    if args.vmm {
        let mut programs = build::tools()?;
        let guests = guest::make(&programs, &[])?;
        job.give_machines(&programs, &guests)?;
        let images = args.image.iter().map(|name| image::find(name));
        job.give_images(&guests, &images.collect::<Result<Vec<_>>>()?)?;
        programs.extend(build::tests(crate::test::BOOTING)?);
        for name in programs.keys().filter(|name| *name != "vmm") {
            job.give_program(&programs, name)?;
        }
    }
    for file in &args.file {
        let file = fs::canonicalize(file).with_context(|| format!("no {}", file.display()))?;
        job.files.push((file.clone(), file.display().to_string()));
    }
    let words = args.command.iter().map(|word| word.to_str().map(str::to_owned));
    job.command = words.collect::<Option<_>>().context("a word of the command is no UTF-8")?;
    run(&job)
}

/// Does `job`, and gives its exit code. A lab that does not come up gets a second try.
pub(crate) fn run(job: &Job) -> Outcome {
    tools::need(&[QEMU])?;
    let kernel = Kernel::get(Suite::Bookworm, KERNEL)?;
    let vmlinux = kernel.vmlinux()?;
    let folder = tempfile::tempdir()?;
    let initrd = folder.path().join("initrd");
    fs::write(&initrd, archive(job, &kernel)?)?;
    let start = || Lab::start(folder.path(), &vmlinux, &initrd, job);
    let attempt = || start()?.follow(job.limit);
    if let Some(code) = attempt()? {
        return Ok(code);
    }
    say("the lab did not come up; trying once more");
    attempt()?.with_context(|| {
        let said = fs::read(folder.path().join("console")).unwrap_or_default();
        format!("the lab did not come up:\n{}", String::from_utf8_lossy(&said))
    })
}

/// The lab's user space.
fn archive(job: &Job, kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "run", "tmp", "root"] {
        archive.folder(folder, 0o755, 0)?;
    }
    userspace::busybox(&mut archive, &Userspace::get()?.static_busybox()?, &[])?;
    let modules: Vec<&str> = MODULES.iter().chain(&job.modules).copied().collect();
    archive.modules("modules", &kernel.modules(&modules)?)?;
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)?;
    archive.file("etc/group", b"root:x:0:\n", 0o644)?;
    archive.file("init", INIT.as_bytes(), 0o755)?;
    archive.file("command", script(job).as_bytes(), 0o644)?;
    for program in &job.debian {
        Userspace::add_program_to(&mut archive, program)?;
    }
    for (file, path) in &job.files {
        archive.copy_all(file, path)?;
    }
    for (path, target) in &job.links {
        archive.link(path, target)?;
    }
    archive.finish()
}

/// The job as a shell script.
fn script(job: &Job) -> String {
    let variables = job.environment.iter();
    let mut script: String =
        variables.map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect();
    let words: Vec<String> = job.command.iter().map(|word| quoted(word)).collect();
    script += &format!("exec {}\n", words.join(" "));
    script
}

/// `word` as a shell takes it literally.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::{Job, Path, script};
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn a_shell_takes_every_word_of_a_job_literally() {
        let mut job = Job::new(Path::Lab, Duration::ZERO);
        job.environment = vec![("WORD".into(), "it's $HOME".into())];
        job.command = ["printf", "%s|", "a b", "$WORD", "'", "\\"].map(str::to_owned).into();
        let output = Command::new("sh").args(["-c", &script(&job)]).output().expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a b|$WORD|'|\\|");
        job.command = ["sh", "-c", "printf %s \"$WORD\""].map(str::to_owned).into();
        let output = Command::new("sh").args(["-c", &script(&job)]).output().expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "it's $HOME");
    }
}
