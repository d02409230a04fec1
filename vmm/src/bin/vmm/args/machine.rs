//! What a machine is made of, on the command line, and the verbs for machines in the catalog.

use super::WorkArgs;
use super::values::{parse_console, parse_console_file, parse_prisoner};
use clap::{ArgGroup, Args, ValueEnum};
use std::path::PathBuf;
use vmm::catalog::Principal;
use vmm::config::{Components, Console, ConsoleDevice, Disk, KernelEntry, Net, parse_size};
use vmm::confine::jail::Prisoner;

#[derive(Args)]
#[command(after_help = "\
Examples:
  vmm run web
  vmm run web --kernel /boot/vmlinuz --initrd initrd.img --memory 1G --cpus 2
  vmm run --kernel vmlinux --append 'quiet ro' --console file=console.log
  vmm run --kernel vmlinuz --disk path=root.img --append 'root=/dev/vda ro'

Without --kernel it is a machine that was created. On a terminal, Ctrl-A x
turns the machine off. With --console attach, `vmm console` shows it.")]
#[command(group = ArgGroup::new("machine").args(["name", "kernel"]).required(true).multiple(true))]
pub(crate) struct RunArgs {
    /// The machine's name; one is chosen if none is given.
    pub(crate) name: Option<String>,
    /// The kernel: a bzImage as distributions pack it, or an ELF vmlinux.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) hardware: HardwareArgs,
    /// The console, if no definition has a file for it: stdio, none, attach or file=PATH.
    #[arg(long, value_name = "WHERE", default_value = "stdio", value_parser = parse_console)]
    pub(crate) console: Console,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
    /// As `vmm start` runs it: see `readiness.rs`.
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

/// What a machine's process gives up before its guest runs.
#[derive(Args, Clone, Copy)]
pub(crate) struct SandboxArgs {
    /// Confine the machine's process to the files and the system calls that it needs. What else it
    /// would do kills it, or is logged by the kernel.
    #[arg(long, value_enum, value_name = "WHETHER", default_value_t = Sandbox::On)]
    pub(crate) sandbox: Sandbox,
    /// Run it as this user, in name spaces of its own, with nothing of the host's files but the
    /// machine's, which that user must be able to use; root only.
    #[arg(long, value_name = "UID[:GID]", value_parser = parse_prisoner)]
    pub(crate) jail: Option<Prisoner>,
}

impl SandboxArgs {
    /// The same, for another command line.
    pub(crate) fn words(self) -> Vec<String> {
        let sandbox = match self.sandbox {
            Sandbox::On => "on",
            Sandbox::Log => "log",
            Sandbox::Off => "off",
        };
        let jail = self.jail.map(|Prisoner { user, group }| format!("--jail={user}:{group}"));
        [format!("--sandbox={sandbox}")].into_iter().chain(jail).collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sandbox {
    /// Whatever else it would do kills it.
    On,
    /// What else it does, the kernel's audit log has; files are out of reach all the same.
    Log,
    /// It is not confined.
    Off,
}

/// What is the same for machines of the command line and those of the catalog.
#[derive(Args)]
pub(crate) struct HardwareArgs {
    /// The initial RAM disk.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,
    /// Words for the kernel command line.
    #[arg(long, value_name = "WORDS", default_value = "", allow_hyphen_values = true)]
    #[arg(requires = "kernel")]
    pub(crate) append: String,
    /// RAM, such as 512M or 2G.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    #[arg(requires = "kernel")]
    pub(crate) memory: u64,
    /// Take RAM from the huge pages of 2 MiB that this host has reserved: as much of it as the machine
    /// has, from its start to its end.
    #[arg(long, requires = "kernel")]
    pub(crate) hugepages: bool,
    /// Have pages of the kernel in common with other machines on the same one: each takes less memory then,
    /// and its boot more exits.
    #[arg(long, requires = "kernel")]
    pub(crate) share_kernel: bool,
    /// Virtual processors.
    #[arg(long, value_name = "COUNT", default_value_t = 1, requires = "kernel")]
    pub(crate) cpus: u8,
    /// A disk, of which a machine can have up to 8: /dev/vda and so on in this order. Without a
    /// format it is raw; what is in the file does not matter.
    #[arg(long = "disk", value_name = "path=FILE[,readonly][,format=raw|qcow2]")]
    #[arg(requires = "kernel")]
    pub(crate) disks: Vec<Disk>,
    /// A network interface on a tap of the host's: eth0 and so on in this order. Without an address
    /// it has one of its own, which stays.
    #[arg(long = "net", value_name = "tap=NAME[,mac=ADDRESS]", requires = "kernel")]
    pub(crate) nets: Vec<Net>,
    /// Words for the guest's programs, in its SMBIOS tables of type 11; can be given again.
    #[arg(long = "oem-string", value_name = "STRING", requires = "kernel")]
    pub(crate) oem_strings: Vec<String>,
    /// What the guest has its console on: serial, or virtio, which is faster, but comes only with its
    /// driver.
    #[arg(long, value_name = "DEVICE", default_value = "serial", requires = "kernel")]
    pub(crate) console_device: ConsoleDevice,
    /// Who unpacks a bzImage: the monitor, or the guest, which then chooses its own address.
    #[arg(long, value_enum, default_value_t = EntryArg::Unpacked, requires = "kernel")]
    pub(crate) kernel_entry: EntryArg,
    /// What is brought along for the guest: a small disk with the agent, if there is one on this
    /// host, or nothing.
    #[arg(long, value_enum, default_value_t = Wanted::Auto, requires = "kernel")]
    pub(crate) integration: Wanted,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wanted {
    /// The disk with the agent.
    Auto,
    /// Nothing.
    Off,
}

impl From<Wanted> for Components {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Auto => Self::Auto,
            Wanted::Off => Self::Off,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum EntryArg {
    /// The monitor unpacks the kernel, once, and keeps it.
    Unpacked,
    /// The guest unpacks itself.
    Bzimage,
}

impl From<EntryArg> for KernelEntry {
    fn from(entry: EntryArg) -> Self {
        match entry {
            EntryArg::Unpacked => Self::Unpacked,
            EntryArg::Bzimage => Self::Bzimage,
        }
    }
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  vmm create web --kernel /boot/vmlinuz --initrd initrd.img --memory 1G
  vmm create db --kernel vmlinux --read bob --execute @staff --notes 'for bob'
  vmm create web --kernel vmlinuz --disk path=a.img --disk path=b.img,readonly

The machine is off; `vmm start` turns it on. Its definition is a file that can
be edited.")]
pub(crate) struct CreateArgs {
    /// The machine's name: 1 to 80 characters, none of *?:<>/\|".
    pub(crate) name: String,
    /// The kernel: a bzImage as distributions pack it, or an ELF vmlinux.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: PathBuf,
    #[command(flatten)]
    pub(crate) hardware: HardwareArgs,
    /// The console: attach, for `vmm console`, or file=PATH.
    #[arg(long, value_name = "WHERE", default_value = "attach", value_parser = parse_console_file)]
    pub(crate) console: Console,
    /// Whatever you want to remember.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) notes: String,
    /// A user or @group that may look at the machine; can be given again.
    #[arg(long, value_name = "WHO")]
    pub(crate) read: Vec<Principal>,
    /// A user or @group that may also work with it; can be given again.
    #[arg(long, value_name = "WHO")]
    pub(crate) execute: Vec<Principal>,
    /// Leave the guest's clock alone.
    #[arg(long)]
    pub(crate) no_time_sync: bool,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  vmm register ~/machines/web.toml
  vmm register web.toml --name staging

The definition stays where it is.")]
pub(crate) struct RegisterArgs {
    /// The definition.
    #[arg(value_name = "FILE")]
    pub(crate) path: PathBuf,
    /// The machine's name, if it is to be another one than the definition has.
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  vmm start web
  vmm start web --wait agent --timeout 2m && vmm users web
  vmm start web --wait ready --timeout 2m

The machine has a process of its own and no terminal: `vmm console` attaches to
its console, and what its process says is in a log that `vmm show` names.
Ctrl-C while this waits leaves the machine as it is.")]
pub(crate) struct StartArgs {
    /// The machine.
    pub(crate) name: String,
    /// What to wait for.
    #[arg(long, value_enum, default_value_t = Awaited::Running)]
    pub(crate) wait: Awaited,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Awaited {
    /// The machine runs.
    Running,
    /// The guest's systemd says that the boot is complete; it can since version 254.
    Ready,
    /// The guest's agent has connected.
    Agent,
}
