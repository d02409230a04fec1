//! `cargo xtask ci`: everything that must hold before a change lands.

use crate::build::root;
use crate::run::{cargo, run};
use crate::test::BOOTING;
use crate::tools::{self, CC};
use crate::{Outcome, dependencies, test};

/// `cargo xtask ci`.
pub(crate) fn ci() -> Outcome {
    tools::need(&[CC])?;
    run(cargo().args(["fmt", "--all", "--check"]).current_dir(root()))?;
    // The fuzz targets are a workspace of their own.
    let fuzz = ["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"];
    run(cargo().args(fuzz).current_dir(root()))?;
    dependencies::check()?;
    let strict = ["--", "-D", "warnings"];
    let clippy = ["clippy", "--workspace", "--all-targets"];
    run(cargo().args(clippy).args(strict).current_dir(root()))?;
    let embedded = ["clippy", "-p", "vmm", "--lib", "--no-default-features"];
    run(cargo().args(embedded).args(strict).current_dir(root()))?;
    // These are no tests of `cargo test`, and so no targets of all.
    let booting = BOOTING.iter().flat_map(|name| ["--test", name]);
    run(cargo().args(["clippy", "-p", "tests"]).args(booting).args(strict).current_dir(root()))?;
    run(cargo()
        .args(["doc", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .current_dir(root()))?;
    test::test(&test::Args::default())
}
