//! Where stock kernels can be booted: on this machine, or only in the lab.

use crate::build::{self, Programs};
use crate::run::say;
use anyhow::{Context, Result};
use serde_json::Value;
use std::process::{Command, Stdio};

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

/// Asks `vmm doctor`, and says which way it is and why. Without an answer it is the lab, which
/// works everywhere.
pub(crate) fn probe(programs: &Programs) -> Result<Path> {
    let vmm = build::take(programs, "vmm")?;
    let report = ask(Command::new(vmm).args(["doctor", "--format", "json"]));
    let (path, why) = match report {
        Ok(report) => judge(&report),
        Err(error) => (Path::Lab, format!("vmm doctor gives no answer: {error:#}")),
    };
    say(&format!("path: {} ({why})", path.name()));
    Ok(path)
}

fn ask(doctor: &mut Command) -> Result<Value> {
    let output = doctor.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!("it ended with {} and printed no JSON document; {}", output.status, said.trim())
    })
}

/// The way that `report` shows, and its reason.
fn judge(report: &Value) -> (Path, String) {
    if report["stock_kernels"] == true {
        return (Path::Native, "this machine's KVM runs stock kernels".into());
    }
    let failed = report["checks"].as_array().into_iter().flatten().find(|c| c["holds"] == false);
    let why = failed.and_then(|check| check["found"].as_str());
    (Path::Lab, why.unwrap_or("this machine's KVM does not run stock kernels").to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Path, ask, judge};
    use serde_json::json;
    use std::process::Command;

    #[test]
    fn only_a_plain_yes_is_native_and_a_no_comes_with_its_reason() {
        assert_eq!(judge(&json!({"stock_kernels": true})).0, Path::Native);
        let checks = json!([{"holds": true, "found": "x"}, {"holds": false, "found": "no svm"}]);
        let report = json!({"stock_kernels": false, "checks": checks});
        assert_eq!(judge(&report), (Path::Lab, "no svm".into()));
        assert_eq!(judge(&json!({})).0, Path::Lab);
        assert_eq!(judge(&json!({"stock_kernels": "true"})).0, Path::Lab);
    }

    #[test]
    fn a_doctor_who_prints_nothing_has_his_words_in_the_error() {
        let error = ask(Command::new("sh").args(["-c", "echo ill >&2; exit 3"]));
        let text = format!("{:#}", error.expect_err("that is no document"));
        assert!(text.contains("ill") && text.contains('3'), "{text}");
    }
}
