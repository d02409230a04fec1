//! `cargo xtask test`: the workspace's tests, then those that boot stock kernels.

use crate::build::{self, Programs, root};
use crate::guest::Guests;
use crate::image::{IMAGES, Image};
use crate::job::Job;
use crate::path::Path;
use crate::run::{cargo, output, run_heard, say};
use crate::tools::{self, CC, CXX, DBUS, DMIDECODE, IASL, QEMU_IMG, STRACE, VALGRIND};
use crate::{Outcome, c, guest, path, userspace};
use ::tests::cases::{self, Results};
use ::tests::untested;
use anyhow::{Result, bail, ensure};
use std::process::Command;
use std::time::Duration;

/// The test programs that boot stock kernels.
pub(crate) const BOOTING: &[&str] = &[
    "lab_balloon",
    "lab_boot",
    "lab_console",
    DISKS,
    "lab_kit",
    "lab_logoff",
    "lab_net",
    "lab_objects",
    "lab_pause",
    SCENES,
    "lab_services",
];
/// The one whose tests are the scenes of a logoff, on guests with a whole Debian. Each guest has a lab
/// of its own.
const SCENES: &str = "lab_scenes";
/// The one whose tests have images judged by QEMU's tool.
const DISKS: &str = "lab_disk";
/// How long those that share a lab may take together, and how long if not only the core is played.
const LIMIT: Duration = Duration::from_secs(1500);
const LIMIT_OF_ALL: Duration = Duration::from_secs(5400);
/// Power cuts under one load if not only the core is played.
const POWER_CUTS: &str = "50";
/// Set for the whole of what soaks: not only the core is played.
const SOAK: &str = "VMM_SOAK";
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
    /// Also what is not among the core: every scene of a logoff on every guest, more power cuts, and
    /// every way in which a system call can fail; the whole of what soaks.
    #[arg(long)]
    all: bool,
}

/// `cargo xtask test`.
pub(crate) fn test(args: &Args) -> Outcome {
    tools::need(&[CC, CXX, DBUS, DMIDECODE, IASL, QEMU_IMG, STRACE, VALGRIND])?;
    let mut results = Results::default();
    if args.only.is_none() {
        let mut tests = cargo();
        if args.all {
            tests.env("VMM_FAULTS", "all").env(SOAK, "1");
        }
        let folder = tempfile::tempdir()?;
        let untested = folder.path().join("not-tested");
        tests.env(untested::VARIABLE, &untested);
        let heard = run_heard(tests.args(["test", "--workspace"]).current_dir(root()))?;
        results = Results { passed: passed(&heard), not_tested: untested::heard(&untested) };
    }
    let mut programs = build::tools()?;
    programs.extend(c::programs()?);
    let booting = build::tests(BOOTING)?;
    let path = path::probe(&programs)?;
    let guests = guest::make(&programs, &[])?;
    let tests = find(&booting, args.only.as_deref().unwrap_or_default(), args.all)?;
    say(&format!("{} tests that boot stock kernels ({})", tests.len(), path.name()));
    let batches = batches(&tests);
    let batched: usize = batches.iter().map(|(_, batch)| batch.len()).sum();
    ensure!(batched == tests.len(), "there are scenes for a guest that is not known");
    let tries = if path == Path::Lab { LABS } else { 1 };
    let mut failed = Vec::new();
    for (image, batch) in &batches {
        let images: Vec<&Image> = image.iter().copied().collect();
        let job = |tests: &[Test]| {
            let mut job = job(path, &programs, &booting, &guests, tests)?;
            job.give_images(&guests, &images)?;
            if args.all {
                job.limit = LIMIT_OF_ALL;
                job.environment.push(("VMM_POWER_CUTS".into(), POWER_CUTS.into()));
            }
            Ok(job)
        };
        failed.extend(play(batch, tries, job)?);
    }
    if tests.iter().any(|test| test.program == SCENES) {
        let passed = tests.iter().filter(|test| !failed.contains(test));
        let mut table = Command::new(build::take(&booting, SCENES)?);
        table.arg("--table").args(passed.map(|test| &test.name));
        print!("\n{}\n", output(&mut table)?);
    }
    if args.only.is_none() {
        let labs = tests.iter().filter(|test| !failed.contains(test));
        results.passed.extend(labs.map(|test| test.name.clone()));
        print!("\n{}", cases::table(Some((&cases::find(root()), &results))));
    }
    if !failed.is_empty() {
        bail!("failed in each of {tries} tries: {}", names(&failed));
    }
    Ok(0)
}

/// `tests` by the guest with a whole Debian that they need, if they do.
fn batches(tests: &[Test]) -> Vec<(Option<&'static Image>, Vec<Test>)> {
    let needs = |test: &Test, image: Option<&Image>| {
        let named = test.name.split_once("::").map(|(guest, _)| guest);
        let needed = named.filter(|_| test.program == SCENES);
        needed == image.map(|image| image.name)
    };
    let kinds = std::iter::once(None).chain(IMAGES.iter().map(Some));
    let batch = |image| tests.iter().filter(|test| needs(test, image)).cloned().collect();
    let batches = kinds.map(|image| (image, batch(image)));
    batches.filter(|(_, tests): &(_, Vec<Test>)| !tests.is_empty()).collect()
}

/// Runs `tests`, those that do not pass once more, and gives those that never did.
fn play(tests: &[Test], tries: usize, job: impl Fn(&[Test]) -> Result<Job>) -> Result<Vec<Test>> {
    let mut pending = tests.to_vec();
    let mut again = Vec::new();
    for _ in 0..tries {
        let job = job(&pending)?;
        match job.run() {
            Ok(0) => {
                // What it prints goes by unseen where there is no lab.
                if tries == 1 {
                    pending.clear();
                }
            }
            Ok(code) => say(&format!("these tests ended with {code}")),
            // The next try may do better.
            Err(error) => say(&format!("{error:#}")),
        }
        let passed = passed(&job.heard());
        pending.retain(|test| !passed.contains(&test.name));
        if pending.is_empty() {
            if !again.is_empty() {
                say(&format!("passed in another try than the first: {}", names(&again)));
            }
            break;
        }
        say(&format!("not passed in this try: {}", names(&pending)));
        again.clone_from(&pending);
    }
    Ok(pending)
}

/// A test that boots a stock kernel.
#[derive(Clone, PartialEq, Eq)]
struct Test {
    program: &'static str,
    name: String,
}

fn names(tests: &[Test]) -> String {
    tests.iter().map(|test| test.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The tests of `booting` with `filter` in their name, as the programs list them; without those that
/// they ignore unless `all` are wanted, or the filter is the whole name.
fn find(booting: &Programs, filter: &str, all: bool) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    for &program in BOOTING {
        let list = |ignored: &[&str]| -> Result<Vec<String>> {
            let mut list = Command::new(build::take(booting, program)?);
            let listed = output(list.args(["--list", "--format", "terse"]).args(ignored))?;
            let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
            Ok(names.map(str::to_owned).collect())
        };
        let ignored = if all { Vec::new() } else { list(&["--ignored"])? };
        let wanted =
            |name: &String| name == filter || name.contains(filter) && !ignored.contains(name);
        let wanted = list(&[])?.into_iter().filter(wanted);
        tests.extend(wanted.map(|name| Test { program, name }));
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
    if tests.iter().any(|test| test.program == DISKS) {
        job.debian.push(&userspace::QEMU_IMG);
    }
    for (name, _, variable) in c::PROGRAMS {
        let place = job.give_program(programs, name)?;
        job.environment.push((variable.into(), place));
    }
    let mut script = String::from("code=0\n");
    for &name in BOOTING {
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
             \"{program}\" --test-threads {THREADS} --include-ignored --exact {wanted} || code=$?\n"
        );
    }
    script += "exit $code\n";
    job.command = vec!["sh".into(), "-c".into(), script];
    Ok(job)
}

/// The tests that `output` says have passed.
pub(crate) fn passed(output: &str) -> Vec<String> {
    let named = output.lines().filter_map(|line| line.trim_end().strip_prefix("test "));
    // Names are set in a column where the harness is not the standard one.
    named
        .filter_map(|line| line.strip_suffix(" ... ok"))
        .map(|name| name.trim_end().into())
        .collect()
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
