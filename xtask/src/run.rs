//! Running other programs.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Runs `command`, its output going where ours goes, and fails where it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
}

/// Runs `command`, shows what it prints while it does, and gives that; fails where it fails.
pub(crate) fn run_heard(command: &mut Command) -> Result<String> {
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("cannot start {}", name(command)))?;
    let mut heard = Vec::new();
    if let Some(mut from) = child.stdout.take() {
        let mut bytes = [0; 4096];
        loop {
            let count = from.read(&mut bytes).context("what it prints cannot be read")?;
            if count == 0 {
                break;
            }
            std::io::stdout().write_all(&bytes[..count])?;
            std::io::stdout().flush()?;
            heard.extend(&bytes[..count]);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

/// Runs `command` with its standard output going to our standard error, which is for progress.
pub(crate) fn run_aside(command: &mut Command) -> Result<()> {
    run(command.stdin(Stdio::null()).stdout(std::io::stderr()))
}

/// Runs `command` and gives what it prints; fails where it fails, with what it said.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        bail!("{} ended with {status}: {}", line(command), said.trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// `cargo` as it runs us.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where what takes long to get is kept: `vmm-xtask` in the user's cache.
pub(crate) fn cache() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let cache = cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("vmm-xtask");
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    Ok(cache)
}

/// Tells a person what goes on.
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    let words: Vec<_> =
        std::iter::once(command.get_program().to_string_lossy()).chain(arguments).collect();
    words.join(" ")
}
