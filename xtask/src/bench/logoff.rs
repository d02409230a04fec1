//! From the call of a logoff to its end.

use super::lab;
use super::report::{Column, Report, Row};
use crate::build::{self, Programs};
use crate::guest::{self, Guests};
use crate::image;
use crate::job::Job;
use anyhow::{Context, Result};
use serde_json::Value;

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
    let mut documents = lab::documents(PROGRAM, || logoff_in_a_lab(sessions, programs, guests))?;
    documents.pop().context("there is a document")
}

fn logoff_in_a_lab(sessions: &str, programs: &Programs, guests: &Guests) -> Result<Job> {
    let mut job = lab::job();
    job.give_machines(programs, guests)?;
    job.give_images(guests, &[image::find("debian12")?])?;
    job.command = vec![job.give_program(programs, PROGRAM)?, sessions.to_owned()];
    Ok(job)
}
