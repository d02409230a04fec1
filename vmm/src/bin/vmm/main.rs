//! The `vmm` command: starts machines, and works with their guests.

mod args;
mod output;
mod progress;
mod run;
mod show;
mod signals;
mod work;

use args::{Args, Format, Verb};
use clap::Parser;
use output::Failure;
use protocol::HResult;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// The exit code of wrong usage.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let filter = EnvFilter::try_from_env("VMM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .init();
    let format = args.format;
    let outcome = match args.verb {
        Verb::Run(run) => run::run(run, format),
        Verb::Ls => show::machines(format),
        Verb::Users { name } => show::users(&name, format),
        Verb::Logoff(logoff) => work::logoff(&logoff, format),
        Verb::Task { verb } => work::task(&verb, format),
        Verb::Doctor => show::doctor(format),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(Failure { code, exit, text }) => {
            output::print_failure(code, &text, format);
            ExitCode::from(exit)
        }
    }
}

/// Help that was asked for, or a refusal of the command line: a document where one is wanted.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A reader that has gone wants no more.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if wants_json() {
        let text = error.to_string();
        let what = text.split("\n\n").next().unwrap_or_default();
        let what = what.strip_prefix("error: ").unwrap_or(what);
        output::print_failure(HResult::E_INVALIDARG, what, Format::Json);
    } else {
        let _ = error.print();
    }
    ExitCode::from(EXIT_USAGE)
}

/// Whether `--format json` is on a command line that could not be read.
fn wants_json() -> bool {
    let words: Vec<_> = std::env::args_os().collect();
    words.iter().any(|word| word == "--format=json")
        || words.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}
