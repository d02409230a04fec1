//! What must be installed, and the installing of it.

use crate::run::{output, run_aside, say};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// The target of static programs.
pub(crate) const MUSL: &str = "x86_64-unknown-linux-musl";
/// The target where that one is not to be had.
pub(crate) const GLIBC: &str = "x86_64-unknown-linux-gnu";

/// The compiler that has what is not stable.
pub(crate) const NIGHTLY: &str = "nightly";

/// The lab's emulator.
pub(crate) const QEMU: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
/// Makes the guests that have a whole Debian.
pub(crate) const MMDEBSTRAP: (&str, &str) = ("mmdebstrap", "mmdebstrap uidmap");
/// Makes their file systems.
pub(crate) const MKE2FS: (&str, &str) = ("mke2fs", "e2fsprogs");
/// The judge of disk images.
pub(crate) const QEMU_IMG: (&str, &str) = ("qemu-img", "qemu-utils");
/// The judge of the ACPI tables.
pub(crate) const IASL: (&str, &str) = ("iasl", "acpica-tools");
/// The judge of the SMBIOS tables.
pub(crate) const DMIDECODE: (&str, &str) = ("dmidecode", "dmidecode");
/// The linker's driver.
pub(crate) const CC: (&str, &str) = ("cc", "gcc libc6-dev");
/// The compiler of the other language that includes `vmm.h`.
pub(crate) const CXX: (&str, &str) = ("c++", "g++");
/// The judge of what C programs do with memory.
pub(crate) const VALGRIND: (&str, &str) = ("valgrind", "valgrind");
/// Lets system calls fail.
pub(crate) const STRACE: (&str, &str) = ("strace", "strace");
/// The bus over which the agent asks logind.
pub(crate) const DBUS: (&str, &str) = ("dbus-daemon", "dbus-daemon");
/// Unpacks kernels and modules.
pub(crate) const LZ4: (&str, &str) = ("lz4", "lz4");
/// Likewise.
pub(crate) const XZ: (&str, &str) = ("xz", "xz-utils");
/// Likewise.
pub(crate) const ZSTD: (&str, &str) = ("zstd", "zstd");

/// Says how to get the [`NIGHTLY`] compiler where it is missing: it is of use for little here, so it is
/// not installed unasked.
pub(crate) fn need_nightly() -> Result<()> {
    let toolchains = output(Command::new("rustup").args(["toolchain", "list"]))
        .context("rustup is missing; https://rustup.rs says how to install it")?;
    ensure!(
        toolchains.lines().any(|line| line.starts_with(NIGHTLY)),
        "the {NIGHTLY} compiler is missing; `rustup toolchain install {NIGHTLY} --profile minimal` \
         installs it"
    );
    Ok(())
}

/// cargo of the [`NIGHTLY`] compiler.
pub(crate) fn nightly_cargo() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", NIGHTLY, "cargo"]);
    // They are about the cargo that runs this program.
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// Sees to it that each of `tools`, a program and the packages that bring it, is there.
pub(crate) fn need(tools: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = tools
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .flat_map(|(_, packages)| packages.split(' '))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {} with apt-get", missing.join(", ")));
    // Another program that installs something at this moment is waited for.
    let install =
        ["-o", "DPkg::Lock::Timeout=600", "install", "-q", "-y", "--no-install-recommends"];
    let install = [&install[..], &missing].concat();
    // A machine that was just made has no lists of packages, another's may be old.
    apt(&install)
        .or_else(|_| apt(&["update", "-q"]).and_then(|()| apt(&install)))
        .with_context(|| format!("cannot install {}", missing.join(", ")))
}

/// Whether the search path has `program`.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

/// Runs `apt-get` on the machine itself, as root.
fn apt(arguments: &[&str]) -> Result<()> {
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
    if !root {
        command.arg("apt-get");
    }
    run_aside(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// The target for static programs: musl if rustup has it or can add it, else glibc.
pub(crate) fn static_target() -> Result<&'static str> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let installed = Path::new(sysroot.trim()).join("lib/rustlib").join(MUSL).is_dir();
    if installed {
        return Ok(MUSL);
    }
    say(&format!("adding the target {MUSL} with rustup"));
    match run_aside(Command::new("rustup").args(["target", "add", MUSL])) {
        Ok(()) => Ok(MUSL),
        Err(error) => {
            say(&format!("{error:#}; static programs are linked with glibc instead"));
            Ok(GLIBC)
        }
    }
}
