//! The command line.

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use vmm::config::{Console, KernelEntry, parse_size};

const EXIT_CODES: &str = "\
Exit codes:
  0  done                       6  not completed in time
  1  another error              7  cancelled
  2  wrong usage                8  nobody is logged on
  3  no such machine            9  access denied
  4  the machine is not running
  5  no agent in the guest, or it cannot do this
  of `run`: 0 the guest powered off or was turned off, 10 its kernel panicked,
            11 a processor triple-faulted, 12 KVM or the monitor failed";

/// Starts virtual machines, and works with their guests.
#[derive(Parser)]
#[command(name = "vmm", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Args {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// How results are printed on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Human,
    /// One JSON document.
    Json,
}

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Run a machine in the foreground.
    Run(RunArgs),
    /// List the machines that are running.
    #[command(after_help = "Example: vmm ls --format json")]
    Ls,
    /// List who is logged on to a guest.
    #[command(after_help = "Example: vmm users web")]
    Users {
        /// The machine.
        name: String,
    },
    /// Log everyone off a guest.
    Logoff(LogoffArgs),
    /// Look at the tasks of a machine, wait for them, cancel them.
    Task {
        #[command(subcommand)]
        verb: TaskVerb,
    },
    /// Say whether this host can run machines, and if not, why.
    #[command(after_help = "Example: vmm doctor")]
    Doctor,
}

#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  vmm run web --kernel /boot/vmlinuz-6.1.0-amd64 --initrd initrd.img --memory 1G --cpus 2
  vmm run --kernel vmlinux --append 'root=/dev/vda ro' --console file=console.log

On a terminal, Ctrl-A x turns the machine off.")]
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
    /// The serial console: stdio, none or file=PATH.
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

#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  vmm logoff web
  vmm logoff web --notice 1m --grace 30s --ok-if-none
  vmm logoff web --no-wait --format json

Ctrl-C cancels the logoff as long as nothing has been done; later it goes on without the caller.")]
pub(crate) struct LogoffArgs {
    /// The machine.
    pub(crate) name: String,
    /// Time between asking programs to end and killing them.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(crate) grace: Duration,
    /// Time between a notice on the users' terminals and the logoff; 0s: no notice.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub(crate) notice: Duration,
    /// Time after which a logoff that is not complete has failed.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub(crate) deadline: Duration,
    /// Print the task's id and wait for nothing.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// It is no failure if nobody is logged on.
    #[arg(long)]
    pub(crate) ok_if_none: bool,
    #[command(flatten)]
    pub(crate) waiting: WaitArgs,
}

#[derive(ClapArgs)]
pub(crate) struct WaitArgs {
    /// How long to wait; the work goes on after it.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// How progress is shown on standard error.
    #[arg(long, value_enum, default_value_t = ProgressArg::Auto)]
    pub(crate) progress: ProgressArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressArg {
    /// A bar on a terminal, lines elsewhere.
    Auto,
    /// A bar.
    Bar,
    /// Lines.
    Plain,
    /// Not at all.
    None,
}

#[derive(Subcommand)]
pub(crate) enum TaskVerb {
    /// List the tasks of a machine.
    #[command(after_help = "Example: vmm task ls web")]
    Ls {
        /// The machine.
        name: String,
    },
    /// Show a task and its report.
    #[command(after_help = "Example: vmm task show web 1 --format json")]
    Show(TaskArgs),
    /// Wait until a task is complete, and end as it ended.
    #[command(after_help = "Example: vmm task wait web 1 --timeout 30s")]
    Wait {
        #[command(flatten)]
        task: TaskArgs,
        #[command(flatten)]
        waiting: WaitArgs,
    },
    /// Cancel a task, as long as nothing has been done.
    #[command(after_help = "Example: vmm task cancel web 1")]
    Cancel(TaskArgs),
}

#[derive(ClapArgs)]
pub(crate) struct TaskArgs {
    /// The machine.
    pub(crate) name: String,
    /// The task's number.
    pub(crate) id: u32,
}

fn parse_console(text: &str) -> Result<Console, String> {
    match text {
        "stdio" => Ok(Console::Stdio),
        "none" => Ok(Console::None),
        _ => match text.strip_prefix("file=") {
            Some(path) if !path.is_empty() => Ok(Console::File(path.into())),
            _ => Err("it is stdio, none or file=PATH".into()),
        },
    }
}

/// Reads a time with its unit: `500ms`, `10s`, `2m`, `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let milliseconds = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(format!("{text:?} has no unit: ms, s, m and h are units")),
        unit => return Err(format!("{unit:?} is no unit; ms, s, m and h are")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no time, such as 10s"))?;
    // More than a day is surely a slip, and keeps every sum of times far from overflowing.
    const DAY: u64 = 24 * 3_600_000;
    match number.checked_mul(milliseconds) {
        Some(total) if total <= DAY => Ok(Duration::from_millis(total)),
        _ => Err(format!("{text} is more than a day")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn times_need_units_and_are_bounded() {
        for (text, milliseconds) in [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        for text in ["10", "", "s", "-1s", "1.5s", "1d", "25h", "99999999999999999999s", "1é"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
