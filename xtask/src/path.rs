//! Where stock kernels can be booted: on this machine, or only in the lab.

use crate::build::{self, Programs};
use crate::run::say;
use anyhow::{Context, Result};
use serde_json::Value;
use std::process::Command;

/// The two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// This machine's KVM runs stock kernels.
    Native,
    /// It does not, or there is none.
    Lab,
}

impl Path {
    /// As it is printed and given to programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Lab => "lab",
        }
    }
}

/// Asks `vmm doctor`, and says what it found.
pub(crate) fn probe(programs: &Programs) -> Result<Path> {
    let vmm = build::take(programs, "vmm")?;
    let output = Command::new(vmm).args(["doctor", "--format", "json"]).output()?;
    let report: Value =
        serde_json::from_slice(&output.stdout).context("vmm doctor printed no JSON document")?;
    let failed = report["checks"].as_array().into_iter().flatten().find(|c| c["holds"] == false);
    let path = if report["stock_kernels"] == true { Path::Native } else { Path::Lab };
    let why = match failed {
        Some(check) => check["found"].as_str().unwrap_or("a check failed").to_owned(),
        None => "this machine's KVM runs stock kernels".to_owned(),
    };
    say(&format!("path: {} ({why})", path.name()));
    Ok(path)
}
