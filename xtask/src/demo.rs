//! `cargo xtask demo`: the main job, from nothing.

use crate::job::Job;
use crate::path::Path;
use crate::run::say;
use crate::{Outcome, build, guest, path};
use std::time::Duration;

/// How long it may take; a minute is usual.
const LIMIT: Duration = Duration::from_secs(600);

/// How the demo's result is printed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// human: what happens, as it happens; json: and one document in the last line.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Human,
    Json,
}

/// `cargo xtask demo`.
pub(crate) fn demo(args: &Args) -> Outcome {
    let programs = build::tools()?;
    let path = path::probe(&programs)?;
    let guests = guest::make(&programs, &["bookworm-cloud"])?;
    let mut job = Job::new(path, LIMIT);
    job.give_machines(&programs, &guests)?;
    job.command = vec![job.give_program(&programs, "demo")?];
    if args.format == Format::Json {
        job.command.extend(["--format", "json"].map(str::to_owned));
    }
    match job.run() {
        Ok(0) => Ok(0),
        // The emulator is not to be trusted.
        first if path == Path::Lab => {
            match first {
                Ok(code) => say(&format!("the demo ended with {code}; once more in a new lab")),
                Err(error) => say(&format!("{error:#}; once more in a new lab")),
            }
            job.run()
        }
        first => first,
    }
}
