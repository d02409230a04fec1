//! `cargo xtask careful`: the tests of the library where undefined behaviour ends them.
//!
//! Miri interprets those that need nothing of the system that it does not have: the C interface, with
//! whatever pointers C gives it; chains and queues in guest RAM; what is read from the wires. All of
//! them run with a standard library that checks what its unsafe functions are promised
//! (`cargo careful`).

use crate::build::root;
use crate::run::{output, run, say};
use crate::{Outcome, tools};
use anyhow::bail;
use std::process::Command;

/// What Miri can run: the rest waits on epoll, or opens devices.
const INTERPRETED: [&str; 7] = [
    "ffi::",
    "integration::channel",
    "memory::",
    "virtio::chain",
    "virtio::queue",
    "vsock::credit",
    "vsock::packet",
];
/// The host's clock and files are there; addresses may come back as numbers, as KVM gives them. An
/// interpreted property test is slow: a few cases are enough to have its code run.
const MIRI: [(&str, &str); 2] = [
    ("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-permissive-provenance"),
    ("PROPTEST_CASES", "4"),
];

/// `cargo xtask careful`.
pub(crate) fn careful() -> Outcome {
    tools::need_nightly()?;
    for (verb, install) in [
        ("miri", "rustup component add miri rust-src --toolchain nightly"),
        ("careful", "cargo install cargo-careful --locked"),
    ] {
        // Each builds its standard library, if it has not yet.
        if let Err(error) = output(tools::nightly_cargo().args([verb, "setup"])) {
            bail!("cargo {verb} does not work ({error:#}); `{install}` installs it");
        }
    }
    say("Miri");
    let mut miri = library_tests("miri");
    run(miri.arg("--").args(INTERPRETED).envs(MIRI))?;
    say("the library's tests with a standard library that checks");
    run(&mut library_tests("careful"))?;
    Ok(0)
}

fn library_tests(verb: &str) -> Command {
    let mut command = tools::nightly_cargo();
    command.args([verb, "test", "-p", "vmm", "--lib"]).current_dir(root());
    command
}
