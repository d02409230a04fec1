//! `vmm-agent`: the guest's end of the integration channel, as a plain service.
//!
//! It needs no configuration and no init in particular: it stays in the foreground, logs short
//! lines to standard error, and dials the host until it is told to go.

use guest_agent::dial::serve_forever;
use guest_agent::process::read_at_most;
use guest_agent::serve::Agent;
use guest_agent::services::Services;
use guest_agent::sessions::clean;
use guest_agent::sessions::guest::Guest;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

const HELP: &str = "\
Usage: vmm-agent [--help | --version]

Serves the host of this virtual machine: who is logged on, logging everybody off, shutting down,
what system this is, parameters, and the time.
Runs in the foreground as root, and logs to standard error.
";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let argument = arguments.first().map(|argument| argument.to_string_lossy());
    match argument.as_deref() {
        None => serve_forever(agent, log),
        Some("--version" | "-V") => print(concat!("vmm-agent ", env!("CARGO_PKG_VERSION"), "\n")),
        Some("--help" | "-h") => print(HELP),
        Some(other) => {
            log(&format!("no such argument: {other}; try --help"));
            ExitCode::from(2)
        }
    }
}

/// The agent of this guest and this boot.
fn agent() -> io::Result<Agent> {
    let boot_id = read_at_most(Path::new("/proc/sys/kernel/random/boot_id"), 64)?;
    let agent = Agent::choosing(Arc::new(Guest::here(log)), clean(boot_id.trim_ascii()));
    Ok(agent.with_services(Services::of_guest()).with_log(log))
}

fn log(line: &str) {
    // Nobody is left to tell where standard error does not work.
    let _ = writeln!(io::stderr(), "vmm-agent: {line}");
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
