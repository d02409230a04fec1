//! `cargo xtask test`: the workspace's tests, then those that boot stock kernels.

use crate::build::{self, root};
use crate::job::Job;
use crate::run::{cargo, run, say};
use crate::tools::{self, CC, IASL};
use crate::{Outcome, guest, path};
use std::time::Duration;

/// The test programs that boot stock kernels.
pub(crate) const BOOTING: [&str; 3] = ["lab_boot", "lab_logoff", "lab_services"];
/// How long they may take together.
const LIMIT: Duration = Duration::from_secs(1800);
/// Boots at the same time: each keeps a processor or two busy, and the lab has two.
const THREADS: &str = "2";
/// Runs its arguments one after the other, with what is in `OPTIONS`, to the last even if one fails,
/// and ends as the first that failed.
const EACH: &str = r#"code=0
for program in "$@"; do
    echo "=== $program"
    "$program" $OPTIONS || { last=$?; [ $code != 0 ] || code=$last; }
done
exit $code"#;

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
    let booting = build::tests(&BOOTING)?;
    let path = path::probe(&programs)?;
    let guests = guest::make(&programs, &[])?;
    let mut job = Job::new(path, LIMIT);
    job.give_machines(&programs, &guests)?;
    let options = ["--test-threads", THREADS].into_iter().chain(args.only.as_deref());
    job.environment.push(("OPTIONS".into(), options.collect::<Vec<_>>().join(" ")));
    job.command = ["sh", "-c", EACH, "each"].map(str::to_owned).into();
    for name in BOOTING {
        let program = job.give_program(&booting, name)?;
        job.command.push(program);
    }
    say(&format!("{} ({})", BOOTING.join(", "), path.name()));
    job.run()
}
