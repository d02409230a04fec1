//! `cargo xtask demo`: the main job, from nothing.

use crate::build;
use crate::lab::{self, Job};
use crate::{Outcome, guest, path};
use anyhow::{Result, bail};
use std::path::Path;
use std::time::Duration;

/// How long it may take; a minute is usual.
const LIMIT: Duration = Duration::from_secs(600);
/// Where things are in the lab.
pub(crate) const VMM: &str = "/bin/vmm";
pub(crate) const GUESTS: &str = "/guests";

/// How the demo's result is printed.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// human: what happens, as it happens; json: and one document in the last line.
    #[arg(long, default_value = "human")]
    format: String,
}

/// `cargo xtask demo`.
pub(crate) fn demo(args: &Args) -> Outcome {
    let mut arguments = Vec::new();
    match args.format.as_str() {
        "human" => {}
        "json" => arguments.extend(["--format".to_owned(), "json".to_owned()]),
        other => bail!("no format {other:?}: there are human and json"),
    }
    let programs = build::tools()?;
    let path = path::probe(&programs)?;
    let guests = guest::make()?;
    let demo = build::take(&programs, "demo")?;
    let vmm = build::take(&programs, "vmm")?;
    let mut job = job(path, &vmm, &guests, &["bookworm-cloud"], LIMIT)?;
    job.command = match path {
        path::Path::Native => vec![demo.display().to_string()],
        path::Path::Lab => {
            job.files.push((demo, "/bin/demo".into()));
            vec!["/bin/demo".into()]
        }
    };
    job.command.extend(arguments);
    lab::run_where_kernels_run(&job, path)
}

/// A job that finds `vmm` and the guests `flavours` where the tests look for them.
pub(crate) fn job(
    path: path::Path,
    vmm: &Path,
    guests: &Path,
    flavours: &[&str],
    limit: Duration,
) -> Result<Job> {
    let mut job = Job { limit, ..Job::default() };
    let (vmm_at, guests_at) = match path {
        path::Path::Native => (vmm.display().to_string(), guests.display().to_string()),
        path::Path::Lab => {
            job.files.push((vmm.to_owned(), VMM.into()));
            for flavour in flavours {
                for file in std::fs::read_dir(guests.join(flavour))? {
                    let file = file?;
                    let name = file.file_name().to_string_lossy().into_owned();
                    job.files.push((file.path(), format!("{GUESTS}/{flavour}/{name}")));
                }
            }
            (VMM.into(), GUESTS.into())
        }
    };
    for (name, value) in [
        ("VMM_BIN", vmm_at),
        ("VMM_GUESTS", guests_at),
        ("VMM_PATH", path.name().into()),
        ("RUST_BACKTRACE", "0".into()),
    ] {
        job.environment.push((name.into(), value));
    }
    Ok(job)
}
