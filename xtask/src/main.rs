//! `cargo xtask`: dispatches to one file a verb.

mod archive;
mod bench;
mod bounded;
mod build;
mod c;
mod careful;
mod ci;
mod debian;
mod demo;
mod dependencies;
mod emulator;
mod fuzz;
mod guest;
mod image;
mod job;
mod kernel;
mod lab;
mod mutants;
mod path;
mod run;
mod test;
mod tools;
mod userspace;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The project's chores. Each installs what it needs and says so.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show the main job: a stock Debian kernel boots, three users are logged off.
    Demo(demo::Args),
    /// Run all tests: those of the workspace, then those that boot stock kernels.
    Test(test::Args),
    /// Check format, lints, documentation and dependencies, then run all tests.
    Ci,
    /// Make what C programs need: vmm.h, libvmm.so and libvmm.a.
    C(c::Args),
    /// Make the guests that the tests boot, and say where they are.
    Guest(guest::Args),
    /// Run the fuzz targets, and print how far each has come.
    Fuzz(fuzz::Args),
    /// Run the library's tests where undefined behaviour ends them.
    Careful,
    /// Take the monitor's guards away, one at a time, and see that a test of each fails.
    Mutants(mutants::Args),
    /// Measure, and print a table.
    Bench(bench::Args),
    /// Run a command in the lab: an emulated AMD host with a KVM that runs stock kernels.
    Lab(lab::Args),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().verb {
        Verb::Demo(args) => demo::demo(&args),
        Verb::Test(args) => test::test(&args),
        Verb::Ci => ci::ci(),
        Verb::C(args) => c::make(&args),
        Verb::Guest(args) => guest::print(&args),
        Verb::Fuzz(args) => fuzz::fuzz(&args),
        Verb::Careful => careful::careful(),
        Verb::Mutants(args) => mutants::mutants(&args),
        Verb::Bench(args) => bench::bench(&args),
        Verb::Lab(args) => lab::run_command(&args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a verb ends with: its exit code.
type Outcome = Result<u8>;
