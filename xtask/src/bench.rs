//! `cargo xtask bench`: measurements that hold on every machine. They are taken in the lab with its
//! processor counting instructions: a nanosecond each, whatever else this machine does meanwhile.

use crate::build::{self, Programs};
use crate::guest::{self, Guests};
use crate::job::Job;
use crate::path::Path;
use crate::run::say;
use crate::{Outcome, image};
use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a lab may take: ten minutes are usual.
const LIMIT: Duration = Duration::from_secs(1800);
/// Labs that are tried: the [emulator](crate::emulator) is not to be trusted to come to an end. What
/// the program says in one is true.
const LABS: usize = 2;
/// Sessions at once.
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
    let mut lab = 1;
    let (code, heard) = loop {
        let job = logoff_in_a_lab(&programs, &guests)?;
        match job.run() {
            Ok(code) => break (code, job.heard()),
            Err(error) if lab < LABS => say(&format!("lab {lab} of {LABS}: {error:#}")),
            Err(error) => return Err(error.context("no lab came to an end")),
        }
        lab += 1;
    };
    ensure!(code == 0, "{PROGRAM} ended with {code} in the lab");
    let documents = heard.lines().filter_map(|line| serde_json::from_str(line.trim()).ok());
    let rows: Vec<Value> = documents.collect();
    ensure!(rows.len() == SESSIONS.len(), "{PROGRAM} printed:\n{heard}");
    Ok(rows)
}

fn logoff_in_a_lab(programs: &Programs, guests: &Guests) -> Result<Job> {
    let mut job = Job::new(Path::Lab, LIMIT);
    job.counted = true;
    job.aside = true;
    job.give_machines(programs, guests)?;
    job.give_images(guests, &[image::find("debian12")?])?;
    job.command = vec![job.give_program(programs, PROGRAM)?];
    job.command.extend(SESSIONS.map(str::to_owned));
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
