//! `cargo xtask ci`: everything that must hold before a change lands.

use crate::build::root;
use crate::run::{cargo, run};
use crate::tools::{self, CC};
use crate::{Outcome, test};

/// `cargo xtask ci`.
pub(crate) fn ci() -> Outcome {
    tools::need(&[CC])?;
    run(cargo().args(["fmt", "--all", "--check"]).current_dir(root()))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run(cargo().args(clippy).current_dir(root()))?;
    run(cargo()
        .args(["doc", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .current_dir(root()))?;
    test::test(&test::Args::default())
}
