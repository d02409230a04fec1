//! What a machine with a stock kernel costs its host, and what each further one does.

use super::lab::{self, Lab};
use super::report::{Column, Report, Row, Target};
use crate::debian::Suite;
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;
use tests::monitor::{Monitor, SHARED};

/// The program that is run in the lab, and the machines that it starts under each monitor.
const PROGRAM: &str = "bench-memory";
const MACHINES: [u64; 4] = [1, 2, 3, 4];
/// The lab: for 17 boots, a quarter of a minute to a minute each.
const LAB: Lab = Lab { counted: false, limit: Duration::from_secs(1200) };
/// KiB of a megabyte.
pub(super) const KIB_PER_MB: f64 = 1e6 / 1024.0;

/// A row for the floor and each monitor.
pub(super) fn measure() -> Result<Report> {
    let documents = lab::boots(Suite::Bookworm, &[PROGRAM], LAB)?;
    let floor = documents.iter().find(|document| document["monitor"] == "floor");
    let floor = floor.context("there is no floor")?;
    let private = |document: &Value| megabytes(document, "private_kib");
    let mut rows = vec![Row { subject: "floor".into(), figures: vec![Some(private(floor)?)] }];
    let mut targets = Vec::new();
    let mut added = 0.0;
    let [vmm, others @ ..] = Monitor::ALL.map(Monitor::name);
    for name in [vmm, SHARED].into_iter().chain(others) {
        let machines: Vec<&Value> = MACHINES
            .iter()
            .map(|number| {
                let is_it = |document: &&Value| {
                    document["monitor"] == name && document["number"] == *number
                };
                documents.iter().find(is_it).context("a machine is missing")
            })
            .collect::<Result<_>>()?;
        let [first, .., last] = machines.as_slice() else { continue };
        let mut figures = vec![private(first)?, megabytes(first, "resident_kib")?];
        for machine in &machines {
            figures.push(megabytes(machine, "proportional_kib")?);
        }
        let adds = megabytes(last, "added_kib")?;
        figures.push(adds);
        rows.push(Row { subject: name.into(), figures: figures.into_iter().map(Some).collect() });
        if name == vmm {
            added = adds;
            let found = private(first)?;
            targets.push(Target { what: "private MB of vmm", found, at_most: 2.0 });
        } else if name == SHARED {
            let what = "what the 4th machine adds with --share-kernel, of what it adds without";
            targets.push(Target { what, found: adds / added, at_most: 0.85 });
        }
    }
    // The floor's guest is none that touches its RAM.
    let width = rows.iter().map(|row| row.figures.len()).max().unwrap_or(0);
    rows.iter_mut().for_each(|row| row.figures.resize(width, None));
    Ok(Report {
        name: "memory",
        what: "What machines with 256 MiB cost their host, in MB, each of them with Debian 12's cloud \
               kernel up to its first program, and all on the same files: what the monitor has for \
               itself apart from the guest's RAM; of the first machine all that is in memory, RAM \
               among it; the proportional share (PSS) of the first, and of the second, third and \
               fourth when they had come up beside the others; and what all four have more than three. \
               The floor is the static program of `start`."
            .into(),
        subject: "monitor",
        columns: vec![
            Column { key: "private_mb", title: "private", digits: 2 },
            Column { key: "resident_mb", title: "resident", digits: 1 },
            Column { key: "pss_1_mb", title: "PSS 1st", digits: 1 },
            Column { key: "pss_2_mb", title: "2nd", digits: 1 },
            Column { key: "pss_3_mb", title: "3rd", digits: 1 },
            Column { key: "pss_4_mb", title: "4th", digits: 1 },
            Column { key: "added_mb", title: "4th adds", digits: 1 },
        ],
        rows,
        targets,
    })
}

/// A figure of a machine, in MB.
fn megabytes(document: &Value, key: &str) -> Result<f64> {
    let kib = document[key].as_f64().with_context(|| format!("a machine has no {key}"))?;
    Ok(kib / KIB_PER_MB)
}
