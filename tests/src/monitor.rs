//! The monitors that benchmarks compare, each started on the same kernel, initrd and memory.

use crate::machine::vmm_bin;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command};

/// What the first program of a measured guest says on the console.
pub const USERSPACE: &[u8] = b"userspace\n";

/// The word of a kernel's command line, with which that program switches the machine off instead.
pub const POWER_OFF: &str = "power-off";

/// What tables call this monitor with a guest that tests its ciphers, which it usually spares it.
pub const TESTED: &str = "vmm, cryptomgr.notests=0";

/// What they call it with a guest that has pages of its kernel in common with others.
pub const SHARED: &str = "vmm --share-kernel";

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

impl Guest<'static> {
    /// What is booted where benchmarks find it in the lab.
    #[must_use]
    pub fn of_lab(append: &'static str) -> Self {
        let [packed, unpacked, initrd] =
            ["/boot-files/vmlinuz", "/boot-files/vmlinux", "/boot-files/initrd"].map(Path::new);
        Self { packed, unpacked, initrd, memory: 256, append }
    }
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

/// Reads the console of the monitor `process` until its guest's first program has spoken.
///
/// # Errors
/// It ends before, or its standard output is no pipe.
pub fn wait_for_userspace(process: &mut Child) -> io::Result<()> {
    let mut console = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (mut said, mut bytes) = (Vec::new(), [0; 4096]);
    // The terminal puts a carriage return before the line's end.
    let marker = USERSPACE.trim_ascii_end();
    while !said.windows(marker.len()).any(|part| part == marker) {
        let count = console.read(&mut bytes)?;
        if count == 0 {
            return Err(io::Error::other(String::from_utf8_lossy(&said).into_owned()));
        }
        said.extend(&bytes[..count]);
    }
    // Whatever else it says is not waited for, and does not end it.
    process.stdout = Some(console);
    Ok(())
}
