//! The `vmm` command: starts machines, and works with their guests.

mod args;
mod output;
mod progress;
mod run;
mod show;
mod signals;
mod work;

use args::{Args, Verb};
use clap::Parser;
use output::Failure;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("VMM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let format = args.format;
    let outcome = match args.verb {
        Verb::Run(run) => run::run(run),
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
