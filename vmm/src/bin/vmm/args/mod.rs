//! The command line: its verbs, and what several of them take.

mod machine;
mod values;
mod work;

pub(crate) use machine::{
    Awaited, CreateArgs, RegisterArgs, RunArgs, Sandbox, SandboxArgs, StartArgs, Wanted,
};
pub(crate) use work::{
    IntegrationVerb, LogoffArgs, ParamVerb, PowerArgs, StopArgs, TaskArgs, TaskVerb,
};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use values::parse_duration;
use vmm::config::parse_size;

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
#[command(name = "vmm", version, after_help = EXIT_CODES)]
#[command(arg_required_else_help = true, max_term_width = 80)]
pub(crate) struct CommandLine<V: Subcommand> {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    #[command(subcommand)]
    pub(crate) verb: V,
}

/// The command line with all verbs.
pub(crate) type Args = CommandLine<Verb>;

/// The verb that is read alone.
#[derive(Subcommand)]
enum RunOnly {
    Run(RunArgs),
}

/// The command line `words` if it is one of `vmm run`, and can be read. The command that reads it has no
/// other verb: making all of them, with their help, took half of what a machine's start computes. What
/// is wrong with other lines, or help, comes from [`Args`].
pub(crate) fn read_run(words: &[OsString]) -> Option<Args> {
    if words.get(1)? != "run" {
        return None;
    }
    let CommandLine { format, verb: RunOnly::Run(run) } =
        CommandLine::<RunOnly>::try_parse_from(words).ok()?;
    Some(Args { format, verb: Verb::Run(run) })
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
    /// Start a machine in the background.
    Start(StartArgs),
    /// Turn a machine off, or have its guest shut down.
    Stop(StopArgs),
    /// Boot a machine anew, whatever its guest is doing.
    #[command(after_help = "Example: vmm reset web")]
    Reset(NamedWork),
    /// Let a machine's processors stand still.
    #[command(after_help = "Example: vmm pause web")]
    Pause(Named),
    /// Let a paused machine's processors go on.
    #[command(after_help = "Example: vmm resume web")]
    Resume(Named),
    /// Show or set how much memory a guest leaves to the host.
    #[command(after_help = "\
Examples:
  vmm balloon web
  vmm balloon web 256M
  vmm balloon web 0
  vmm balloon web --format json | jq .stats.available

The guest's driver follows a new size as fast as it finds memory to give.")]
    Balloon(BalloonArgs),
    /// Attach to a machine's serial console.
    #[command(after_help = "\
Examples:
  vmm console web
  echo uptime | vmm console web

On a terminal, Ctrl-A d detaches, and Ctrl-A Ctrl-A types one Ctrl-A.")]
    Console(Named),
    /// Make a machine and keep its definition.
    Create(CreateArgs),
    /// Make a definition that is elsewhere a machine.
    Register(RegisterArgs),
    /// Forget a machine, but keep its definition.
    #[command(after_help = "Example: vmm unregister web")]
    Unregister(Named),
    /// Delete a machine and its definition.
    #[command(aliases = ["delete", "remove"], after_help = "\
Example: vmm rm web

Kernel, initial RAM disk and console file stay.")]
    Rm(Named),
    /// List the machines, whether they run or not.
    #[command(
        alias = "list",
        after_help = "\
Examples:
  vmm ls
  vmm ls --format json | jq '.machines[] | select(.state == \"Running\")'"
    )]
    Ls,
    /// Show what a machine is made of, and what it is doing.
    #[command(after_help = "\
Examples:
  vmm show web
  vmm show web --format json | jq -r .definition.kernel")]
    Show(Named),
    /// Show what a guest and its agent say of themselves.
    #[command(after_help = "\
Examples:
  vmm info web
  vmm info web --format json | jq -r .guest.os_name.value")]
    Info(Named),
    /// Print what happens to machines, as it happens.
    #[command(after_help = "\
Examples:
  vmm events
  vmm events web --format json | jq -r .name

It ends with the machine that it was given, and else goes on for ever.")]
    Events {
        /// The machine; all of them, also those to come, if none is given.
        name: Option<String>,
    },
    /// List who is logged on to a guest.
    #[command(after_help = "Example: vmm users web")]
    Users(Named),
    /// Log everyone off a guest.
    Logoff(LogoffArgs),
    /// Have a guest shut down.
    #[command(after_help = "\
Examples:
  vmm shutdown web
  vmm shutdown web --forced --timeout 2m")]
    Shutdown(PowerArgs),
    /// Have a guest restart.
    #[command(after_help = "\
Examples:
  vmm restart web
  vmm restart web --forced --no-wait")]
    Restart(PowerArgs),
    /// Show and install what a machine brings along for its guest.
    Integration {
        #[command(subcommand)]
        verb: IntegrationVerb,
    },
    /// Read and set parameters, which the guest's programs see as files.
    Param {
        #[command(subcommand)]
        verb: ParamVerb,
    },
    /// Look at tasks, wait for them, cancel them.
    Task {
        #[command(subcommand)]
        verb: TaskVerb,
    },
    /// Say whether this host can run machines, and if not, why.
    #[command(after_help = "Example: vmm doctor")]
    Doctor,
    /// Print completions for a shell.
    #[command(after_help = "\
Example: vmm completions bash >~/.local/share/bash-completion/completions/vmm")]
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write manual pages, one a verb.
    #[command(after_help = "Example: vmm man ~/.local/share/man/man1")]
    Man {
        /// Where they are written; it is made if it is not there.
        directory: PathBuf,
    },
}

#[derive(ClapArgs)]
pub(crate) struct Named {
    /// The machine.
    pub(crate) name: String,
}

#[derive(ClapArgs)]
pub(crate) struct BalloonArgs {
    /// The machine.
    pub(crate) name: String,
    /// What the balloon is to take from the guest, such as 256M.
    #[arg(value_parser = parse_size)]
    pub(crate) size: Option<u64>,
}

#[derive(ClapArgs)]
pub(crate) struct NamedWork {
    /// The machine.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

/// What is the same for all verbs that take time.
#[derive(ClapArgs)]
pub(crate) struct WorkArgs {
    /// Print the task's id and wait for nothing.
    #[arg(long)]
    pub(crate) no_wait: bool,
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
