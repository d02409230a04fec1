//! `cargo xtask bench`: how fast the monitor is, measured beside what it is compared with: the least
//! that the job can cost, its *floor*, and QEMU from the distribution's package.
//!
//! Wall-clock times of different runs are not comparable on a machine that does other things as well.
//! So all that is compared is measured in one run, in turns, and what counts is the ratio; and what
//! needs a stock kernel is measured in the lab with its processor counting instructions: a nanosecond
//! each, whatever else this machine does meanwhile.

mod block;
mod boot;
mod choices;
mod fleet;
mod lab;
mod logoff;
mod memory;
mod net;
mod report;
mod start;
mod vsock;

use crate::Outcome;
use crate::run::{output, say};
use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Map, Value};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Which measurements.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure; everything if nothing is named.
    names: Vec<Name>,
    /// Print tables, or one JSON document.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Put the tables also into this page, each between the comments that bear its name.
    #[arg(long, value_name = "PAGE")]
    write: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// From exec to the first byte that a minimal guest writes, on this machine's KVM.
    Start,
    /// From exec to the first program of a stock kernel, in the lab.
    Boot,
    /// The exits of such a boot, by reason.
    Exits,
    /// What such a machine costs its host, and what each further one does.
    Memory,
    /// Such a boot with each thing that a user can choose.
    Choices,
    /// A hundred machines with minimal guests, in turn and at once, on this machine's KVM.
    Fleet,
    /// Round trips, connections and bytes between host and guest by vsock, in the lab.
    Vsock,
    /// The same by a network interface on a tap.
    Net,
    /// Reads and writes of a guest's disks, in the lab.
    Block,
    /// From the call of a logoff to its end, on Debian 12, with 1, 10 and 100 sessions.
    Logoff,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

/// `cargo xtask bench`.
pub(crate) fn bench(args: &Args) -> Outcome {
    let names = if args.names.is_empty() { Name::value_variants() } else { &args.names };
    let mut document = Map::new();
    for name in names {
        let report = match name {
            Name::Start => start::measure(),
            Name::Boot => boot::time(),
            Name::Exits => boot::exits(),
            Name::Memory => memory::measure(),
            Name::Choices => choices::measure(),
            Name::Fleet => fleet::measure(),
            Name::Vsock => vsock::measure(),
            Name::Net => net::measure(),
            Name::Block => block::measure(),
            Name::Logoff => logoff::measure(),
        }?;
        if args.format == Format::Human {
            println!("\n{report}");
        }
        if let Some(page) = &args.write {
            let text = fs::read_to_string(page)?;
            fs::write(page, report.written_into(&text, &machine()?)?)?;
            say(&format!("{} has the table of {}", page.display(), report.name));
        }
        document.insert(report.name.to_owned(), report.document());
    }
    if args.format == Format::Json {
        println!("{}", Value::Object(document));
    }
    Ok(0)
}

/// What was measured on: the processor and the kernel.
fn machine() -> Result<String> {
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let model = processor.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let kernel = output(Command::new("uname").arg("-r"))?;
    let day = output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let count = std::thread::available_parallelism()?;
    let model = model.unwrap_or("a processor without a name");
    Ok(format!("{}, {model}, {count} processors, Linux {}", day.trim(), kernel.trim()))
}
