//! Building the project's own programs: static ones, that run in guests and in the lab.

use crate::run::{cargo, output, say};
use crate::tools::{self, CC, GLIBC};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The agent may have so many bytes: it goes into every guest.
const AGENT_LIMIT: u64 = 1_500_000;

/// Programs by the name of their target.
pub(crate) type Programs = BTreeMap<String, PathBuf>;

/// The agent, as small as it gets.
pub(crate) fn agent() -> Result<PathBuf> {
    let programs =
        statically(&["build", "-p", "guest-agent", "--bin", "vmm-agent", "--profile", "agent"])?;
    let agent = take(&programs, "vmm-agent")?;
    let size = agent.metadata()?.len();
    say(&format!("the agent has {size} bytes"));
    ensure!(size < AGENT_LIMIT, "the agent has {size} bytes, {AGENT_LIMIT} are allowed");
    Ok(agent)
}

/// `vmm`, and the programs of the tests crate.
pub(crate) fn tools() -> Result<Programs> {
    let mut programs = statically(&["build", "-p", "vmm", "--bin", "vmm", "--release"])?;
    programs.extend(statically(&["build", "-p", "tests", "--bins", "--release"])?);
    Ok(programs)
}

/// The test programs `names` of the tests crate.
pub(crate) fn tests(names: &[&str]) -> Result<Programs> {
    let mut arguments = vec!["test", "-p", "tests", "--profile", "lab", "--no-run"];
    arguments.extend(names.iter().flat_map(|name| ["--test", name]));
    statically(&arguments)
}

/// The program that takes the measurement `name` of the tests crate.
pub(crate) fn bench(name: &str) -> Result<Programs> {
    statically(&["build", "-p", "tests", "--bench", name, "--profile", "lab"])
}

/// The program `name` of `programs`.
pub(crate) fn take(programs: &Programs, name: &str) -> Result<PathBuf> {
    programs.get(name).cloned().with_context(|| format!("cargo built no {name}"))
}

/// Runs `cargo` with `arguments` for the static target, and gives the programs that come out.
fn statically(arguments: &[&str]) -> Result<Programs> {
    tools::need(&[CC])?;
    let target = tools::static_target()?;
    let mut command = cargo();
    command.args(arguments).args(["--target", target, "--message-format=json-render-diagnostics"]);
    if target == GLIBC {
        command
            .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    }
    programs(command.current_dir(root()).stderr(Stdio::inherit()))
}

/// Runs `command`, a cargo that builds and says what in JSON, and gives the programs that come out.
pub(crate) fn programs(command: &mut Command) -> Result<Programs> {
    let output = command.stdin(Stdio::null()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    let mut programs = Programs::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages are JSON")?;
        let name = message["target"]["name"].as_str();
        if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
            programs.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(programs)
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> Result<PathBuf> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1"];
    let metadata: Value =
        serde_json::from_str(&output(cargo().args(arguments).current_dir(root()))?)?;
    let folder = metadata["target_directory"].as_str();
    Ok(folder.context("cargo does not say where its target folder is")?.into())
}

/// The workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
