//! What a machine is made of, on the command line.

use super::values::parse_console;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use vmm::config::{Console, KernelEntry, parse_size};

#[derive(Args)]
#[command(after_help = "\
Examples:
  vmm run web --kernel /boot/vmlinuz-6.1.0-amd64 --initrd initrd.img --memory 1G --cpus 2
  vmm run --kernel vmlinux --append 'root=/dev/vda ro' --console file=console.log

On a terminal, Ctrl-A x turns the machine off. With --console attach, `vmm console` shows it.")]
pub(crate) struct RunArgs {
    /// The machine's name; one is chosen if none is given.
    pub(crate) name: Option<String>,
    /// The kernel: a bzImage as distributions pack it, or an ELF vmlinux.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: PathBuf,
    /// The initial RAM disk.
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Words for the kernel command line.
    #[arg(long, value_name = "WORDS", default_value = "", allow_hyphen_values = true)]
    pub(crate) append: String,
    /// RAM, such as 512M or 2G.
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = parse_size)]
    pub(crate) memory: u64,
    /// Virtual processors.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) cpus: u8,
    /// The serial console: stdio, none, attach or file=PATH.
    #[arg(long, value_name = "WHERE", default_value = "stdio", value_parser = parse_console)]
    pub(crate) console: Console,
    /// Who unpacks a bzImage: the monitor, or the guest, which then chooses its own address.
    #[arg(long, value_enum, default_value_t = EntryArg::Unpacked)]
    pub(crate) kernel_entry: EntryArg,
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
