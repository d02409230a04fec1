//! From the call of a logoff to its end.

use super::lab;
use super::report::{Column, Report, Row, Target};
use crate::build::{self, Programs};
use crate::guest::{self, Guests};
use crate::job::Job;
use crate::{image, userspace};
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;

/// Sessions at once, a lab for each, and whether its processor counts instructions: where it does, ten
/// logins at once hardly ever come to an end.
const SESSIONS: [(&str, bool); 3] = [("1", true), ("10", false), ("100", false)];
/// How long a lab may take that does not count: a hundred logins take some ten minutes.
const LIMIT: Duration = Duration::from_secs(1800);
/// The program that is run in the lab.
const PROGRAM: &str = "bench-logoff";
const WHAT: &str = "Idle logins on Debian 12 with logind, ended by a program that is connected to the \
    machine, in milliseconds of the lab from the call to its end; and by `ssh root@guest loginctl \
    terminate-user alice` until the agent lists no session of hers. The guest's own part is what its \
    agent says; what is left is the host's and the channel's, told also in round trips of a byte \
    between programs of the host and the guest, and in those of a call that the agent answers at once. \
    With one session an instruction takes a nanosecond; the others are timed by the clock, on an emulated \
    processor that others of this machine may keep waiting.";
/// What is measured: a key, a title, and digits after the point.
const COLUMNS: [(&str, &str, usize); 5] = [
    ("ms", "ms", 1),
    ("guest_ms", "in the guest", 1),
    ("rest_ms", "host and channel", 2),
    ("vsock_trips", "in vsock round trips", 1),
    ("api_trips", "in calls", 1),
];

/// A row for each number of sessions.
pub(super) fn measure() -> Result<Report> {
    let mut programs = build::tools()?;
    programs.extend(build::bench(PROGRAM)?);
    let guests = guest::make(&programs, &[])?;
    let found = SESSIONS.iter().map(|sessions| row(*sessions, &programs, &guests));
    let found = found.collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    let mut targets = Vec::new();
    for one in &found {
        let figure = |key: &str| {
            one[key].as_f64().with_context(|| format!("{PROGRAM} printed no {key}: {one}"))
        };
        let (logoff, guest) = (figure("logoff")?, figure("guest")?);
        let rest = logoff - guest;
        let [vsock, api] = ["vsock_round_trip", "api_round_trip"].map(figure);
        let (vsock, api) = (vsock?, api?);
        rows.push(Row {
            subject: format!("{}", figure("sessions")?),
            figures: [logoff, guest, rest]
                .map(|us| Some(us / 1000.0))
                .into_iter()
                .chain([vsock, api].map(|trip| Some(rest / trip)))
                .collect(),
        });
        if let Some(ssh) = one["ssh"].as_f64() {
            let mut figures = vec![Some(ssh / 1000.0)];
            figures.resize(COLUMNS.len(), None);
            rows.push(Row { subject: "1, by ssh".into(), figures });
            targets.extend([
                Target {
                    what: "host and channel for 1 session, in vsock round trips",
                    found: rest / vsock,
                    at_most: 2.0,
                },
                Target { what: "1 session, of ssh's time", found: logoff / ssh, at_most: 0.05 },
            ]);
        }
    }
    let columns = COLUMNS.map(|(key, title, digits)| Column { key, title, digits });
    Ok(Report {
        name: "logoff",
        what: WHAT.into(),
        subject: "sessions",
        columns: columns.into(),
        rows,
        targets,
    })
}

/// The row for `sessions` at once.
fn row(sessions: (&str, bool), programs: &Programs, guests: &Guests) -> Result<Value> {
    let mut documents = lab::documents(PROGRAM, || logoff_in_a_lab(sessions, programs, guests))?;
    documents.pop().context("there is a document")
}

fn logoff_in_a_lab(
    (sessions, counted): (&str, bool),
    programs: &Programs,
    guests: &Guests,
) -> Result<Job> {
    let mut job = lab::job();
    if !counted {
        job.counted = false;
        job.limit = LIMIT;
    }
    job.debian.push(&userspace::SSH);
    job.give_machines(programs, guests)?;
    job.give_images(guests, &[image::find("debian12")?])?;
    job.command = vec![job.give_program(programs, PROGRAM)?, sessions.to_owned()];
    Ok(job)
}
