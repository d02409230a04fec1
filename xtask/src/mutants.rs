//! `cargo xtask mutants`: takes the guards of the monitor away, one at a time, and sees their tests fail.
//!
//! The guards are those of `mutants.toml`. The tree is copied, so that nobody sees it without one; a
//! guard is cut out of the copy, the program of the test that holds it is built there, and that test is
//! run. A test that passes all the same holds nothing.

use crate::Outcome;
use crate::bounded::{self, End};
use crate::build::{self, Programs, root, target};
use crate::run::{cargo, output, say};
use crate::test::passed;
use crate::tools::{self, CC};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The guards.
const LIST: &str = include_str!("../mutants.toml");
/// How long a test may take: one that hangs without its guard comes to an end by itself, as a rule.
const LIMIT: Duration = Duration::from_secs(300);

/// Which guards.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The mutants; all if none is named.
    names: Vec<String>,
    /// Only print them, and what holds the guards that they are without.
    #[arg(long)]
    list: bool,
}

/// The monitor without a guard.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    /// What holds as long as the guard is there.
    guard: String,
    /// The test that fails without it: its program, and its name there.
    test: String,
    /// Where the guard is, from the workspace's root.
    file: PathBuf,
    /// Its text, which the file has once.
    find: String,
    /// What is there instead.
    replace: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

/// What has come of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Killed,
    /// It hung, and the test with it.
    KilledByBound,
    Survived,
    DoesNotApply,
    DoesNotBuild,
}

impl Verdict {
    fn is_killed(self) -> bool {
        matches!(self, Self::Killed | Self::KilledByBound)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.pad(match self {
            Self::Killed => "killed",
            Self::KilledByBound => "killed (bound)",
            Self::Survived => "SURVIVED",
            Self::DoesNotApply => "does not apply",
            Self::DoesNotBuild => "does not build",
        })
    }
}

/// `cargo xtask mutants`.
pub(crate) fn mutants(args: &Args) -> Outcome {
    let chosen = choose(read(LIST)?, &args.names)?;
    let width = chosen.iter().map(|mutant| mutant.name.len()).max().unwrap_or_default();
    if args.list {
        for Mutant { name, guard, test, file, .. } in &chosen {
            println!("{name:width$}  {guard}\n{:width$}  {}: {test}", "", file.display());
        }
        return Ok(0);
    }
    tools::need(&[CC])?;
    let shop = Workshop::new(&target()?.join("mutants"))?;
    shop.must_pass_whole(&chosen)?;
    println!("{:14}  {:width$}  {:>4}  guard", "verdict", "mutant", "s");
    let mut alive = Vec::new();
    for mutant in &chosen {
        let begun = Instant::now();
        let verdict = shop.judge(mutant)?;
        let Mutant { name, guard, .. } = mutant;
        println!("{verdict:14}  {name:width$}  {:>4}  {guard}", begun.elapsed().as_secs());
        if !verdict.is_killed() {
            alive.push(mutant);
        }
    }
    println!("\n{} of {} killed", chosen.len() - alive.len(), chosen.len());
    for mutant in &alive {
        println!("{}: {}; {}", mutant.name, mutant.test, shop.log(&mutant.name).display());
    }
    Ok(u8::from(!alive.is_empty()))
}

fn read(text: &str) -> Result<Vec<Mutant>> {
    let List { mutant } = toml::from_str(text).context("cannot use xtask/mutants.toml")?;
    Ok(mutant)
}

fn choose(mutants: Vec<Mutant>, names: &[String]) -> Result<Vec<Mutant>> {
    for name in names {
        let known = mutants.iter().any(|mutant| mutant.name == *name);
        ensure!(known, "there is no mutant {name}; `cargo xtask mutants --list` prints them");
    }
    let chosen = |mutant: &Mutant| names.is_empty() || names.contains(&mutant.name);
    Ok(mutants.into_iter().filter(chosen).collect())
}

/// `text` with the guard cut out, if it is there once.
fn cut(mutant: &Mutant, text: &str) -> Option<String> {
    let once = text.matches(&mutant.find).count() == 1;
    once.then(|| text.replacen(&mutant.find, &mutant.replace, 1))
}

/// A copy of the tree, and what is built of it.
struct Workshop {
    tree: PathBuf,
    build: PathBuf,
    logs: PathBuf,
    /// Locked: two of us would judge each other's mutants.
    _folder: File,
}

impl Workshop {
    /// Copies the tree as it is now to `folder`.
    fn new(folder: &Path) -> Result<Self> {
        let [tree, build, logs] = ["tree", "build", "logs"].map(|name| folder.join(name));
        for folder in [&tree, &logs] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let locked = File::open(folder)?;
        ensure!(
            locked.try_lock().is_ok(),
            "mutants are being made in {} already; wait for the end of that, or end it",
            folder.display()
        );
        mirror(root(), &tree)?;
        Ok(Self { tree, build, logs, _folder: locked })
    }

    /// Where it is told what has been said about a mutant.
    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// All tests of `mutants` pass as long as there are all guards.
    fn must_pass_whole(&self, mutants: &[Mutant]) -> Result<()> {
        let tests: BTreeSet<&str> = mutants.iter().map(|mutant| mutant.test.as_str()).collect();
        say(&format!("{} tests with all guards", tests.len()));
        let mut programs = BTreeMap::new();
        for test in tests {
            let (program, name) = split(test)?;
            if !programs.contains_key(program) {
                let mut command = self.cargo(program)?;
                let built = build::programs(command.stderr(Stdio::inherit()))
                    .context("the tree does not build as it is")?;
                programs.insert(program, built);
            }
            let log = self.log("none");
            let end = self.play(&programs[program], test, &log)?;
            let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
            ensure!(
                end == End::Success && passed(&said).iter().any(|passed| passed == name),
                "{test} is to pass with all guards; {} says what it did",
                log.display()
            );
        }
        Ok(())
    }

    /// Makes a mutant, has its test judge it, and puts the guard back.
    fn judge(&self, mutant: &Mutant) -> Result<Verdict> {
        let path = self.tree.join(&mutant.file);
        let whole = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let log = self.log(&mutant.name);
        let Some(without) = cut(mutant, &whole) else {
            fs::write(
                &log,
                format!("{} is to have this once:\n{}\n", path.display(), mutant.find),
            )?;
            return Ok(Verdict::DoesNotApply);
        };
        fs::write(&path, without)?;
        let verdict = self.judge_built(mutant, &log);
        fs::write(&path, whole)?;
        verdict
    }

    fn judge_built(&self, mutant: &Mutant, log: &Path) -> Result<Verdict> {
        let (program, _) = split(&mutant.test)?;
        let Ok(built) = build::programs(self.cargo(program)?.stderr(File::create(log)?)) else {
            return Ok(Verdict::DoesNotBuild);
        };
        Ok(match self.play(&built, &mutant.test, log)? {
            End::Success => Verdict::Survived,
            End::Failure => Verdict::Killed,
            End::TookTooLong => Verdict::KilledByBound,
        })
    }

    /// What builds `program` of the copy.
    fn cargo(&self, program: &str) -> Result<Command> {
        let (package, kind) = place(program)?;
        let mut command = cargo();
        command
            .args(["test", "--no-run", "--message-format=json-render-diagnostics"])
            .args(["-p", package])
            .args(kind)
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.build)
            // Nobody debugs them, and there are many.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // A guard that is gone may leave something unused.
            .env_remove("RUSTFLAGS");
        Ok(command)
    }

    /// Runs `test` where cargo would, in its program, which is `built`; what it says goes to `log`.
    fn play(&self, built: &Programs, test: &str, log: &Path) -> Result<End> {
        let (program, name) = split(test)?;
        let (package, _) = place(program)?;
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = bounded::command(LIMIT, &build::take(built, program)?);
        command.args(["--exact", name]).current_dir(self.tree.join(package));
        bounded::run(command.stdout(file.try_clone()?).stderr(file))
    }
}

/// The package of a program, and what cargo is told to build it.
fn place(program: &str) -> Result<(&'static str, &'static [&'static str])> {
    Ok(match program {
        "hostile" => ("vmm", &["--test", "hostile"]),
        "vmm" => ("vmm", &["--lib"]),
        "protocol" => ("protocol", &["--lib"]),
        _ => bail!("no tests of guards are in {program}"),
    })
}

/// The program of a test, and the test's name there.
fn split(test: &str) -> Result<(&str, &str)> {
    test.split_once("::").with_context(|| format!("{test:?} names no program"))
}

/// Makes the files of `copy` those of `tree`, without what git ignores there. A file that is the same
/// stays as old as it is: cargo builds what is newer than before.
fn mirror(tree: &Path, copy: &Path) -> Result<()> {
    let files = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let files = output(Command::new("git").args(files).current_dir(tree))
        .context("what belongs to the tree is what git says")?;
    let mut copied = BTreeSet::new();
    // One that was removed may still be known.
    for name in files.split_terminator('\0').filter(|name| tree.join(name).is_file()) {
        let (from, to) = (tree.join(name), copy.join(name));
        let bytes = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        if fs::read(&to).ok().as_ref() != Some(&bytes) {
            let folder = to.parent().unwrap_or(copy);
            fs::create_dir_all(folder)
                .and_then(|()| fs::copy(&from, &to))
                .with_context(|| format!("cannot write {}", to.display()))?;
        }
        copied.insert(to);
    }
    remove_but(&copied, copy)
}

/// Removes the files below `folder` but `kept`.
fn remove_but(kept: &BTreeSet<PathBuf>, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_but(kept, &path)?;
        } else if !kept.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a source below `path`, or that one, has the function.
    fn has(path: &Path, function: &str) -> bool {
        if path.is_dir() {
            let entries = fs::read_dir(path).expect("a folder of the tree can be listed");
            return entries.flatten().any(|entry| has(&entry.path(), function));
        }
        path.extension().is_some_and(|extension| extension == "rs")
            && fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("fn {function}(")))
    }

    #[test]
    fn each_guard_is_in_its_place_and_has_its_test() {
        let mutants = read(LIST).expect("the list can be read");
        let mut names = BTreeSet::new();
        for mutant in &mutants {
            let Mutant { name, test, file, .. } = mutant;
            assert!(names.insert(name), "{name} is there twice");
            let text = fs::read_to_string(root().join(file)).unwrap_or_default();
            let without = cut(mutant, &text);
            assert!(without.is_some(), "{name}: {} has it not once", file.display());
            assert_ne!(without, Some(text), "{name} is the whole monitor");
            let (program, path) = split(test).expect("a test has a program");
            let modules: Vec<&str> = path.split("::").collect();
            let (function, modules) = modules.split_last().expect("it has a name");
            // Beside the code, a module may be in a file of another name.
            let place = match program {
                "hostile" => format!("tests/tests/hostile/{}.rs", modules.join("/")),
                _ => format!("{program}/src"),
            };
            assert!(has(&root().join(&place), function), "{name}: {test} is not in {place}");
        }
        let folders = ["vmm/src/virtio", "vmm/src/vsock"];
        let held = |mutant: &&Mutant| folders.iter().any(|folder| mutant.file.starts_with(folder));
        assert!(mutants.iter().filter(held).count() >= 20, "too few are of rings and vsock");
    }

    #[test]
    fn a_guard_that_is_there_twice_or_not_at_all_is_not_cut() {
        let mutant = |find: &str| Mutant {
            name: "one".into(),
            guard: "it holds".into(),
            test: "vmm::one".into(),
            file: "one.rs".into(),
            find: find.into(),
            replace: "true".into(),
        };
        let text = "if a < b && c < d {";
        assert_eq!(cut(&mutant("a < b"), text).as_deref(), Some("if true && c < d {"));
        assert_eq!(cut(&mutant(" < "), text), None);
        assert_eq!(cut(&mutant("b < a"), text), None);
    }

    #[test]
    fn a_copy_becomes_what_the_tree_is_and_what_is_the_same_stays_as_old() {
        let (tree, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (tree, copy) = (tree.path(), copy.path());
        crate::run::run(Command::new("git").args(["init", "-q"]).current_dir(tree)).unwrap();
        fs::create_dir(tree.join("src")).unwrap();
        for (name, text) in [(".gitignore", "ignored"), ("src/a", "1"), ("src/b", "2")] {
            fs::write(tree.join(name), text).unwrap();
        }
        fs::write(tree.join("ignored"), "").unwrap();
        fs::write(copy.join("gone"), "").unwrap();
        mirror(tree, copy).unwrap();
        let age = |name: &str| fs::metadata(copy.join(name)).unwrap().modified().unwrap();
        let before = age("src/a");
        fs::write(copy.join("src/b"), "without a guard").unwrap();
        mirror(tree, copy).unwrap();
        assert_eq!(fs::read_to_string(copy.join("src/b")).unwrap(), "2");
        assert_eq!(age("src/a"), before);
        assert!(!copy.join("gone").exists() && !copy.join("ignored").exists());
    }
}
