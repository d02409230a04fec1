//! `cargo xtask`: dispatches to one file a verb.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::process::Command;

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run all tests.
    Test,
    /// Check format, lints and documentation, then run all tests.
    Ci,
}

fn main() -> Result<()> {
    match Args::parse().verb {
        Verb::Test => test(),
        Verb::Ci => ci(),
    }
}

fn test() -> Result<()> {
    cargo(&["test", "--workspace"])
}

fn ci() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    run(Command::new("cargo")
        .args(["doc", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings"))?;
    test()
}

fn cargo(args: &[&str]) -> Result<()> {
    run(Command::new("cargo").args(args))
}

/// Runs `command`, its output going where ours goes, and fails where it fails.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}
