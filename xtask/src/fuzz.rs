//! `cargo xtask fuzz`: runs the fuzz targets one after the other, and prints how far each has come.

use crate::build::{root, target};
use crate::run::{output, say};
use crate::tools::{self, CC, CXX, NIGHTLY};
use crate::{Outcome, run};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What ends a run as a crash does: an input that takes so many seconds, or so much memory in MiB.
/// Guest RAM is mapped whole, and only a little of it used.
const LIMITS: [&str; 3] = ["-timeout=20", "-rss_limit_mb=4096", "-malloc_limit_mb=2048"];
/// Threads come and go: what they have at a moment is not lost.
const LEAKS: &str = "-detect_leaks=0";

/// Which targets, and for how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The targets; all if none is named.
    targets: Vec<String>,
    /// How long each runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// `cargo xtask fuzz`.
pub(crate) fn fuzz(args: &Args) -> Outcome {
    need_tools()?;
    let known = targets()?;
    for name in &args.targets {
        let all: Vec<&str> = known.iter().map(String::as_str).collect();
        ensure!(known.contains(name), "there is no target {name}; there are {}", all.join(", "));
    }
    let chosen =
        if args.targets.is_empty() { known.into_iter().collect() } else { args.targets.clone() };
    let folder = target()?.join("fuzz");
    run::run_aside(cargo_fuzz().arg("build"))?;
    let mut rows = Vec::new();
    for name in &chosen {
        say(&format!("{name}: {} s", args.seconds));
        rows.push((name, play(name, args.seconds, &folder)?));
    }
    println!(
        "{:16} {:>12} {:>8} {:>9} {:>9}",
        "target", "executions", "each s", "coverage", "features"
    );
    let mut crashes = Vec::new();
    for (name, Played { figures, crash }) in &rows {
        let Figures { executions, each_second, coverage, features } = figures;
        let end = if crash.is_some() { "  crashed" } else { "" };
        println!("{name:16} {executions:>12} {each_second:>8} {coverage:>9} {features:>9}{end}");
        crashes.extend(crash.as_ref().map(|crash| (name, crash)));
    }
    for (name, crash) in &crashes {
        println!("\n{name}: {crash}");
    }
    Ok(u8::from(!crashes.is_empty()))
}

/// Says which tool is missing, and how to get it: neither is of use for anything else here, so they
/// are not installed unasked.
fn need_tools() -> Result<()> {
    tools::need(&[CC, CXX])?;
    // It can count what a program reaches.
    tools::need_nightly()?;
    if output(cargo_fuzz().arg("--version")).is_err() {
        bail!("cargo-fuzz is missing; `cargo install cargo-fuzz --locked` installs it");
    }
    Ok(())
}

fn cargo_fuzz() -> Command {
    let mut command = tools::nightly_cargo();
    command.arg("fuzz").current_dir(root());
    command
}

/// The names of all targets.
fn targets() -> Result<BTreeSet<String>> {
    let folder = root().join("fuzz/targets");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    Ok(names)
}

/// What has come of a target.
struct Played {
    figures: Figures,
    /// What was found, and how to see it again.
    crash: Option<String>,
}

/// Runs a target. What it finds interesting is kept in `folder`, and the next run begins with that;
/// the corpus in the tree is only read.
fn play(name: &str, seconds: u32, folder: &Path) -> Result<Played> {
    let found = folder.join("corpus").join(name);
    let artifacts = folder.join("artifacts").join(name);
    for folder in [&found, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let before = files(&artifacts)?;
    let log = folder.join(format!("{name}.log"));
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let status = cargo_fuzz()
        .args(["run", name])
        .args([&found, &root().join("fuzz/corpus").join(name)])
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", LEAKS])
        .args(LIMITS)
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .context("cannot start rustup")?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let figures = Figures::read(&text);
    if status.success() {
        return Ok(Played { figures, crash: None });
    }
    let mut crash = format!("it ended with {status}; {} says how", log.display());
    for input in files(&artifacts)?.difference(&before) {
        let path = input.display();
        crash += &format!(
            "\n  the input is {path}\n  `cargo +{NIGHTLY} fuzz run {name} {path}` plays it again; \
             copied to fuzz/corpus/{name}, so does `cargo test -p vmm fuzzing`"
        );
    }
    Ok(Played { figures, crash: Some(crash) })
}

fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

/// How far a target has come, as the fuzzer says it; 0 where it does not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    each_second: u64,
    /// Places in the program that were reached, and ways to get there.
    coverage: u64,
    features: u64,
}

impl Figures {
    fn read(log: &str) -> Self {
        let mut figures = Self::default();
        for line in log.lines() {
            let mut words = line.split_whitespace();
            while let Some(word) = words.next() {
                let figure = match word {
                    "cov:" => &mut figures.coverage,
                    "ft:" => &mut figures.features,
                    "exec/s:" | "stat::average_exec_per_sec:" => &mut figures.each_second,
                    "stat::number_of_executed_units:" => &mut figures.executions,
                    _ => continue,
                };
                if let Some(number) = words.next().and_then(|number| number.parse().ok()) {
                    *figure = number;
                }
            }
            // A crash comes before the figures of the end.
            let count = line.strip_prefix('#').and_then(|rest| rest.split_whitespace().next());
            if let Some(count) = count.and_then(|count| count.parse().ok()) {
                figures.executions = count;
            }
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::Figures;

    #[test]
    fn the_last_figures_count_and_a_run_that_crashed_has_those_before() {
        let crashed = "#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 40Mb\n\
                       #4096\tpulse  cov: 20 ft: 33 corp: 5/9b lim: 4 exec/s: 2048 rss: 41Mb\n\
                       ==1== ERROR: libFuzzer: deadly signal\n";
        let figures = Figures { executions: 4096, each_second: 2048, coverage: 20, features: 33 };
        assert_eq!(Figures::read(crashed), figures);
        let ended = format!(
            "{crashed}stat::number_of_executed_units: 5000\nstat::average_exec_per_sec:     900\n"
        );
        let figures = Figures { executions: 5000, each_second: 900, ..figures };
        assert_eq!(Figures::read(&ended), figures);
        assert_eq!(Figures::read(""), Figures::default());
    }
}
