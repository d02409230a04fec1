//! `cargo xtask bench`: measurements that hold on every machine. They are taken in the lab with its
//! processor counting instructions: a nanosecond each, whatever else this machine does meanwhile.

use crate::build::{self, Programs};
use crate::emulator::TIMED_OUT;
use crate::guest::{self, Guests};
use crate::job::Job;
use crate::path::Path;
use crate::run::say;
use crate::{Outcome, image};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a lab may take: one to three minutes are usual.
const LIMIT: Duration = Duration::from_secs(480);
/// Labs that are tried for a row: with the [emulator](crate::emulator) some hang, more of them where it
/// counts. What the program says in a lab that comes to an end is true.
const LABS: usize = 6;
/// Sessions at once, a lab for each.
const SESSIONS: [&str; 3] = ["1", "10", "100"];
/// The program that is run in the lab.
const PROGRAM: &str = "bench-logoff";

/// Which measurements.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to measure; everything if nothing is named.
    names: Vec<Name>,
    /// Print a table, or one JSON document.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
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
    let every = [Name::Logoff];
    let names = if args.names.is_empty() { &every[..] } else { &args.names };
    for name in names {
        let Name::Logoff = name;
        let rows = logoff()?;
        match args.format {
            Format::Json => println!("{}", json!({"logoff": rows})),
            Format::Human => print(&rows),
        }
    }
    Ok(0)
}

/// A row for each number of sessions.
fn logoff() -> Result<Vec<Value>> {
    let programs = build::tools()?;
    let guests = guest::make(&programs, &[])?;
    SESSIONS.iter().map(|sessions| row(sessions, &programs, &guests)).collect()
}

/// The row for `sessions` at once.
fn row(sessions: &str, programs: &Programs, guests: &Guests) -> Result<Value> {
    for lab in 1..=LABS {
        let job = logoff_in_a_lab(sessions, programs, guests)?;
        match job.run() {
            Ok(0) => {
                let heard = job.heard();
                let row = heard.lines().find_map(|line| serde_json::from_str(line.trim()).ok());
                return row.with_context(|| format!("{PROGRAM} {sessions} printed:\n{heard}"));
            }
            Ok(TIMED_OUT) => say(&format!("lab {lab} of {LABS} did not come to an end")),
            Ok(code) => bail!("{PROGRAM} {sessions} ended with {code} in the lab"),
            Err(error) => say(&format!("lab {lab} of {LABS}: {error:#}")),
        }
    }
    bail!("no lab came to an end with {sessions} sessions")
}

fn logoff_in_a_lab(sessions: &str, programs: &Programs, guests: &Guests) -> Result<Job> {
    let mut job = Job::new(Path::Lab, LIMIT);
    job.counted = true;
    job.aside = true;
    job.give_machines(programs, guests)?;
    job.give_images(guests, &[image::find("debian12")?])?;
    job.command = vec![job.give_program(programs, PROGRAM)?, sessions.to_owned()];
    Ok(job)
}

fn print(rows: &[Value]) {
    println!("\nlogoff: from the call to its end, in seconds of the lab (Debian 12, logind)");
    println!("{:>8}  {:>8}  {:>12}", "sessions", "seconds", "each session");
    let mut one = None;
    for row in rows {
        let sessions = row["sessions"].as_f64().unwrap_or_default();
        let seconds = row["seconds"].as_f64().unwrap_or_default();
        let each = seconds / sessions;
        let growth = each / *one.get_or_insert(each);
        let judged = if growth > 1.0 { "  more than linear" } else { "" };
        println!("{sessions:>8}  {seconds:>8.3}  {each:>12.4}{judged}");
    }
}
