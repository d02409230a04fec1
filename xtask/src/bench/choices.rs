//! What a user's choices change of a boot.

use super::lab::{self, Lab};
use super::memory::KIB_PER_MB;
use super::report::{Column, Report, Row};
use crate::debian::Suite;
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;

/// The program that is run in the lab.
const PROGRAM: &str = "bench-choices";
/// The labs: for thirteen boots, a quarter of a minute to a minute each.
const LAB: Lab = Lab { counted: true, limit: Duration::from_secs(600) };
/// AMD's code of the exits for pages of RAM that are touched first, and for registers in memory.
const PAGES: &str = "1024";

/// A row for each choice.
pub(super) fn measure() -> Result<Report> {
    let timed = lab::boots(Suite::Bookworm, &[PROGRAM, "timed"], LAB)?;
    let counted = lab::boots(Suite::Bookworm, &[PROGRAM, "counted"], LAB)?;
    let usual = figure(timed.first().context("nothing was timed")?, "seconds")?;
    let mut rows = Vec::new();
    for choice in &timed {
        let name = choice["choice"].as_str().context("a choice has no name")?;
        let boot = counted.iter().find(|boot| boot["choice"] == name);
        let boot = boot.with_context(|| format!("{name} was not counted"))?;
        let seconds = figure(choice, "seconds")?;
        let figures = [
            seconds,
            seconds / usual,
            super::boot::sum(&boot["exits"]),
            boot["exits"][PAGES].as_f64().unwrap_or(0.0),
            figure(boot, "private_kib")? / KIB_PER_MB,
            figure(boot, "resident_kib")? / KIB_PER_MB,
        ];
        rows.push(Row { subject: name.into(), figures: figures.map(Some).into() });
    }
    Ok(Report {
        name: "choices",
        what: "A boot of Debian 12's cloud kernel with 256 MiB, with one thing at a time chosen \
               otherwise: seconds of the lab from exec until the guest's first program has switched the \
               machine off and the monitor has ended; exits, and of these the ones for memory that is \
               touched first or has a device's registers; MB that the monitor has for itself apart from \
               the guest's RAM; and MB in memory or reserved, RAM among it, when that was most."
            .into(),
        subject: "choice",
        columns: vec![
            Column { key: "seconds", title: "s", digits: 3 },
            Column { key: "of_usual", title: "of the first", digits: 3 },
            Column { key: "exits", title: "exits", digits: 0 },
            Column { key: "page_exits", title: "pages and mmio", digits: 0 },
            Column { key: "private_mb", title: "private MB", digits: 2 },
            Column { key: "resident_mb", title: "all MB", digits: 1 },
        ],
        rows,
        targets: Vec::new(),
    })
}

fn figure(document: &Value, key: &str) -> Result<f64> {
    document[key].as_f64().with_context(|| format!("a choice has no {key}"))
}
