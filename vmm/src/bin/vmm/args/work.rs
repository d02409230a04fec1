//! What the verbs take that have a machine or its guest do something, and those for tasks.

use super::values::parse_duration;
use super::{Named, NamedWork, WaitArgs, WorkArgs};
use clap::{Args, Subcommand};
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "\
Examples:
  vmm stop web
  vmm stop web --guest --timeout 2m

Without --guest it is as if the machine's plug was pulled.")]
pub(crate) struct StopArgs {
    /// The machine.
    pub(crate) name: String,
    /// Have the guest shut down.
    #[arg(long)]
    pub(crate) guest: bool,
    /// Locked screens and the like are no reason not to.
    #[arg(long, requires = "guest")]
    pub(crate) forced: bool,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Args)]
pub(crate) struct PowerArgs {
    /// The machine.
    pub(crate) name: String,
    /// Locked screens and the like are no reason not to.
    #[arg(long)]
    pub(crate) forced: bool,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  vmm logoff web
  vmm logoff web --notice 1m --grace 30s --ok-if-none
  vmm logoff web --no-wait --format json

Ctrl-C cancels the logoff as long as nothing has been done; later it goes on
without the caller.")]
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
    /// It is no failure if nobody is logged on.
    #[arg(long)]
    pub(crate) ok_if_none: bool,
    #[command(flatten)]
    pub(crate) work: WorkArgs,
}

#[derive(Subcommand)]
pub(crate) enum IntegrationVerb {
    /// Show the agent, the disk that the machine has for its guest, and whether that has a newer
    /// one.
    #[command(after_help = "\
Examples:
  vmm integration show web
  vmm integration show web --format json | jq .newer")]
    Show(Named),
    /// Have the guest's agent install the one on the disk, and wait until that has connected.
    #[command(after_help = "\
Example: vmm integration install web

In a guest without an agent root does it:
  mount -r LABEL=VMM-IC /mnt && /mnt/install")]
    Install(NamedWork),
}

#[derive(Subcommand)]
pub(crate) enum ParamVerb {
    /// Print a parameter's value.
    #[command(after_help = "Example: vmm param get web PhysicalHostName")]
    Get {
        /// The machine.
        name: String,
        /// The parameter.
        key: String,
    },
    /// Give a parameter a value.
    #[command(after_help = "\
Example: vmm param set web Role database

In the guest it is the file /run/vmm/parameters/Role, until the guest boots
again.")]
    Set {
        /// The machine.
        name: String,
        /// The parameter.
        key: String,
        /// What it is to be.
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum TaskVerb {
    /// List the tasks of a machine, or of all.
    #[command(after_help = "\
Examples:
  vmm task ls
  vmm task ls web")]
    Ls {
        /// The machine; all of them if none is given.
        name: Option<String>,
    },
    /// Show a task and its report.
    #[command(after_help = "Example: vmm task show 7 --format json")]
    Show(TaskArgs),
    /// Wait until a task is complete, and end as it ended.
    #[command(after_help = "Example: vmm task wait 7 --timeout 30s")]
    Wait {
        #[command(flatten)]
        task: TaskArgs,
        #[command(flatten)]
        waiting: WaitArgs,
    },
    /// Cancel a task, as long as nothing has been done.
    #[command(after_help = "Example: vmm task cancel web 7")]
    Cancel(TaskArgs),
}

#[derive(Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct TaskArgs {
    /// The machine; it is looked for if none is given.
    #[arg(required = false)]
    pub(crate) name: Option<String>,
    /// The task's number.
    #[arg(required = true)]
    pub(crate) id: u32,
}
