//! The monitors that benchmarks compare, each started on the same kernel, initrd and memory.

use crate::machine::vmm_bin;
use std::path::Path;
use std::process::Command;

/// What the first program of a measured guest says on the console.
pub const USERSPACE: &[u8] = b"userspace\n";

/// A monitor and the machine that it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// This one.
    Vmm,
    /// QEMU's machine with virtio-mmio and little else.
    Microvm,
    /// QEMU's machine with PCI Express, which it has by default.
    Q35,
}

/// What a machine boots.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// The kernel as the distribution packs it.
    pub packed: &'a Path,
    /// The same, unpacked.
    pub unpacked: &'a Path,
    /// The initrd.
    pub initrd: &'a Path,
    /// Its RAM, in MiB.
    pub memory: u32,
    /// The kernel's command line, besides what the monitor needs.
    pub append: &'a str,
}

impl Monitor {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Vmm, Self::Microvm, Self::Q35];

    /// As tables have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmm => "vmm",
            Self::Microvm => "QEMU microvm",
            Self::Q35 => "QEMU q35",
        }
    }

    /// The command that boots `guest`, its serial console on standard output.
    ///
    /// QEMU gets the unpacked kernel: unpacking in the guest would cost it about a second.
    #[must_use]
    pub fn command(self, guest: &Guest<'_>) -> Command {
        let Guest { packed, unpacked, initrd, memory, append } = guest;
        if self == Self::Vmm {
            let mut command = Command::new(vmm_bin());
            command.args(["run", "--memory", &format!("{memory}M"), "--append", append]);
            command.arg("--kernel").arg(packed).arg("--initrd").arg(initrd);
            return command;
        }
        let machine = if self == Self::Microvm { "microvm" } else { "q35" };
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-M", machine, "-accel", "kvm", "-cpu", "host", "-m", &memory.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-append", &format!("console=ttyS0 panic=-1 {append}")])
            .arg("-kernel")
            .arg(unpacked)
            .arg("-initrd")
            .arg(initrd);
        command
    }
}
