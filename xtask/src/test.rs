//! `cargo xtask test`: the workspace's tests, then those that boot stock kernels.

use crate::build::{self, root};
use crate::demo::job;
use crate::run::{cargo, run, say};
use crate::tools::{self, CC, IASL};
use crate::{Outcome, guest, lab, path};
use anyhow::bail;
use std::time::Duration;

/// The test programs that boot stock kernels.
const BOOTING: [&str; 2] = ["lab_boot", "lab_logoff"];
/// How long one of them may take.
const LIMIT: Duration = Duration::from_secs(1500);
/// Boots at the same time: each has one or two busy processors, and so has the lab.
const THREADS: &str = "2";

/// Which tests.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only those tests that boot stock kernels, and of these only those with this in their name.
    #[arg(long)]
    only: Option<String>,
}

/// `cargo xtask test`.
pub(crate) fn test(args: &Args) -> Outcome {
    tools::need(&[CC, IASL])?;
    if args.only.is_none() {
        run(cargo().args(["test", "--workspace"]).current_dir(root()))?;
    }
    let programs = build::tools()?;
    let path = path::probe(&programs)?;
    let guests = guest::make()?;
    let vmm = build::take(&programs, "vmm")?;
    let tests = build::tests(&BOOTING)?;
    for name in BOOTING {
        say(&format!("{name} ({})", path.name()));
        let flavours: &[&str] = match name {
            "lab_boot" => &["bookworm-cloud", "bookworm", "trixie-cloud"],
            _ => &["bookworm-cloud"],
        };
        let mut job = job(path, &vmm, &guests, flavours, LIMIT)?;
        let program = build::take(&tests, name)?;
        let at = match path {
            path::Path::Native => program.display().to_string(),
            path::Path::Lab => {
                let at = format!("/bin/{name}");
                job.files.push((program, at.clone()));
                at
            }
        };
        job.command = vec![at, "--test-threads".into(), THREADS.into()];
        job.command.extend(args.only.clone());
        let code = lab::run_where_kernels_run(&job, path)?;
        if code != 0 {
            bail!("{name} ended with {code} ({})", path.name());
        }
    }
    Ok(0)
}
