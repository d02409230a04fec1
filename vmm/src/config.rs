//! What a machine is made of: the configuration, and the checks it must pass.

use std::path::PathBuf;

/// How the guest's serial port is connected to the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Console {
    /// Output is thrown away; there is no input.
    #[default]
    None,
    /// Standard input and output of this process.
    Stdio,
    /// Output goes to this file, which is created or truncated; there is no input.
    File(PathBuf),
}

/// Which entry of a bzImage is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelEntry {
    /// The kernel is unpacked by the monitor and entered where it was linked to run.
    #[default]
    Unpacked,
    /// The guest unpacks itself, and chooses its own address.
    Bzimage,
}

/// A machine that can be started.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The machine's name: 1 to 80 characters, none of `* ? : < > / \ | "`, no control character.
    pub name: String,
    /// The kernel: an ELF `vmlinux` or a `bzImage`.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Words put after the monitor's own on the kernel command line.
    pub append: String,
    /// RAM in bytes: a multiple of 4,096.
    pub memory: u64,
    /// Virtual CPUs: 1 to 255.
    pub cpus: u8,
    /// The serial console.
    pub console: Console,
    /// The entry of a bzImage.
    pub kernel_entry: KernelEntry,
}
