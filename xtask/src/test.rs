//! `cargo xtask test`: the workspace's tests, then those that boot stock kernels.

use crate::build::{self, Programs, root};
use crate::guest::Guests;
use crate::job::Job;
use crate::path::Path;
use crate::run::{cargo, output, run, say};
use crate::tools::{self, CC, CXX, DBUS, DMIDECODE, IASL, QEMU_IMG, VALGRIND};
use crate::{Outcome, c, guest, path};
use anyhow::{Result, bail};
use std::process::Command;
use std::time::Duration;

/// The test programs that boot stock kernels.
pub(crate) const BOOTING: [&str; 10] = [
    "lab_balloon",
    "lab_boot",
    "lab_console",
    "lab_disk",
    "lab_kit",
    "lab_logoff",
    "lab_net",
    "lab_objects",
    "lab_pause",
    "lab_services",
];
/// How long they may take together.
const LIMIT: Duration = Duration::from_secs(1500);
/// Boots at the same time: one may work while the other waits.
const THREADS: &str = "2";
/// Labs that a test may be tried in: the [emulator](crate::emulator) is not to be trusted. A host
/// whose own KVM runs stock kernels is, so there every test has one try.
const LABS: usize = 3;

/// Which tests.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only those tests that boot stock kernels, and of these only those with this in their name.
    #[arg(long)]
    only: Option<String>,
}

/// `cargo xtask test`.
pub(crate) fn test(args: &Args) -> Outcome {
    tools::need(&[CC, CXX, DBUS, DMIDECODE, IASL, QEMU_IMG, VALGRIND])?;
    if args.only.is_none() {
        run(cargo().args(["test", "--workspace"]).current_dir(root()))?;
    }
    let mut programs = build::tools()?;
    programs.extend(c::programs()?);
    let booting = build::tests(&BOOTING)?;
    let path = path::probe(&programs)?;
    let guests = guest::make(&programs, &[])?;
    let mut pending = all(&booting, args.only.as_deref().unwrap_or_default())?;
    say(&format!("{} tests that boot stock kernels ({})", pending.len(), path.name()));
    if path == Path::Native {
        return job(path, &programs, &booting, &guests, &pending)?.run();
    }
    let mut again = Vec::new();
    for _ in 0..LABS {
        let job = job(path, &programs, &booting, &guests, &pending)?;
        match job.run() {
            Ok(code) => say(&format!("the tests in the lab ended with {code}")),
            // The next one may do better.
            Err(error) => say(&format!("{error:#}")),
        }
        let passed = passed(&job.heard());
        pending.retain(|test| !passed.contains(&test.name));
        if pending.is_empty() {
            if !again.is_empty() {
                say(&format!("passed in another lab than the first: {}", names(&again)));
            }
            return Ok(0);
        }
        say(&format!("not passed in this lab: {}", names(&pending)));
        again.clone_from(&pending);
    }
    bail!("failed in each of {LABS} labs: {}", names(&pending))
}

/// A test that boots a stock kernel.
#[derive(Clone)]
struct Test {
    program: &'static str,
    name: String,
}

fn names(tests: &[Test]) -> String {
    tests.iter().map(|test| test.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The tests of `booting` with `filter` in their name, as the programs list them.
fn all(booting: &Programs, filter: &str) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for program in BOOTING {
        let mut list = Command::new(build::take(booting, program)?);
        let listed = output(list.args(["--list", "--format", "terse"]))?;
        let named = listed.lines().filter_map(|line| line.strip_suffix(": test"));
        let wanted = named.filter(|name| name.contains(filter));
        tests.extend(wanted.map(|name| Test { program, name: name.to_owned() }));
    }
    if tests.is_empty() {
        bail!("no test that boots a stock kernel has {filter:?} in its name");
    }
    Ok(tests)
}

/// What runs `tests`, all of them even if one fails, and ends as the last that failed.
fn job(
    path: Path,
    programs: &Programs,
    booting: &Programs,
    guests: &Guests,
    tests: &[Test],
) -> Result<Job> {
    let mut job = Job::new(path, LIMIT);
    job.give_machines(programs, guests)?;
    for (name, _, variable) in c::PROGRAMS {
        let place = job.give_program(programs, name)?;
        job.environment.push((variable.into(), place));
    }
    let mut script = String::from("code=0\n");
    for name in BOOTING {
        let wanted: Vec<&str> = tests
            .iter()
            .filter(|test| test.program == name)
            .map(|test| test.name.as_str())
            .collect();
        if wanted.is_empty() {
            continue;
        }
        // Names of functions are words to a shell, and of programs here, too.
        let program = job.give_program(booting, name)?;
        let wanted = wanted.join(" ");
        script += &format!(
            "echo '=== {name}'\n\
             \"{program}\" --test-threads {THREADS} --exact {wanted} || code=$?\n"
        );
    }
    script += "exit $code\n";
    job.command = vec!["sh".into(), "-c".into(), script];
    Ok(job)
}

/// The tests that `output` says have passed.
fn passed(output: &str) -> Vec<String> {
    let named = output.lines().filter_map(|line| line.trim_end().strip_prefix("test "));
    named.filter_map(|line| line.strip_suffix(" ... ok")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::passed;

    #[test]
    fn only_what_is_said_to_be_ok_has_passed() {
        let output = "running 4 tests\r\ntest one ... ok\r\ntest two ... FAILED\r\n\
                      test three has been running for over 60 seconds\ntest three ... ok\n\
                      test four ... o";
        assert_eq!(passed(output), ["one", "three"]);
    }
}
