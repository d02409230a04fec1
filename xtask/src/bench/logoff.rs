//! From the call of a logoff to its end.

use super::report::{Column, Report, Row};
use crate::build::{self, Programs};
use crate::emulator::TIMED_OUT;
use crate::guest::{self, Guests};
use crate::image;
use crate::job::Job;
use crate::path::Path;
use crate::run::say;
use anyhow::{Context, Result, bail};
use serde_json::Value;
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

/// A row for each number of sessions.
pub(super) fn measure() -> Result<Report> {
    let programs = build::tools()?;
    let guests = guest::make(&programs, &[])?;
    let rows = SESSIONS.iter().map(|sessions| row(sessions, &programs, &guests));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let figures = |row: &Value| {
        let (sessions, seconds) = (row["sessions"].as_f64()?, row["seconds"].as_f64()?);
        let subject = format!("{sessions}");
        Some(Row { subject, figures: vec![Some(seconds), Some(seconds / sessions)] })
    };
    let rows = rows.iter().map(figures).collect::<Option<Vec<_>>>();
    Ok(Report {
        name: "logoff",
        what:
            "From the call of a logoff to its end, in seconds of the lab, on Debian 12 with logind."
                .into(),
        subject: "sessions",
        columns: vec![
            Column { key: "seconds", title: "s", digits: 3 },
            Column { key: "each", title: "s each session", digits: 4 },
        ],
        rows: rows.context("a row lacks figures")?,
        targets: Vec::new(),
    })
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
