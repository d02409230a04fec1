//! Debian's packages, from the mirror that this machine uses, without touching its own apt.
//!
//! The archive keeps only the newest build of a kernel, so kernels are found through their meta
//! packages. What was found is used for a day before the archive is asked again; everything is
//! kept, so that a machine without network can go on with what it has. Signatures are checked
//! against Debian's keyring, as apt always does.

use crate::run::{cache, output, run_aside, say};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A release of Debian.
#[derive(Clone, Copy)]
pub(crate) enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How long an answer of the archive is good.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// An unpacked package.
pub(crate) struct Package {
    /// Its name and version, as its file is called.
    pub(crate) name: String,
    /// Where its files are.
    pub(crate) root: PathBuf,
}

/// The kernel that the meta package `meta` of `suite` stands for, unpacked.
pub(crate) fn kernel(suite: Suite, meta: &str) -> Result<Package> {
    let folder = cache()?.join("kernels").join(format!("{}-{meta}", suite.name()));
    let packages = fetch(suite, &folder, &[meta], &["linux-image-"])?;
    let image = packages.into_iter().find(|package| !package.name.starts_with(meta));
    image.with_context(|| format!("{meta} depends on no kernel"))
}

/// `names` of `suite` and all that they depend on, unpacked.
pub(crate) fn closure(suite: Suite, names: &[&str]) -> Result<Vec<Package>> {
    let folder = cache()?.join("packages").join(format!("{}-{}", suite.name(), names.join("-")));
    fetch(suite, &folder, names, &[""])
}

/// Fetches `names` and what they depend on into `folder`, as far as it begins like one of
/// `prefixes`, and unpacks it.
fn fetch(suite: Suite, folder: &Path, names: &[&str], prefixes: &[&str]) -> Result<Vec<Package>> {
    let stamp = folder.join("complete");
    let age = fs::metadata(&stamp).and_then(|data| data.modified()).ok().map(|time| time.elapsed());
    let known = age.is_some();
    if !matches!(age, Some(Ok(age)) if age < FRESH) {
        match ask(suite, folder, names, prefixes) {
            Ok(()) => fs::write(&stamp, "")?,
            Err(error) if known => say(&format!("{error:#}; going on with what is kept")),
            Err(error) => return Err(error),
        }
    }
    let mut packages = Vec::new();
    for name in fs::read_to_string(folder.join("list"))?.lines() {
        let deb = folder.join(name);
        let root = folder.join(name.trim_end_matches(".deb"));
        if !root.is_dir() {
            let draft = folder.join("draft");
            // Left over from a run that was broken off.
            let _ = fs::remove_dir_all(&draft);
            run_aside(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&draft))?;
            fs::rename(&draft, &root)?;
            say(&format!("{name} sha256 {}", digest(&deb)?));
        }
        packages.push(Package { name: name.trim_end_matches(".deb").into(), root });
    }
    Ok(packages)
}

/// Asks the archive, downloads what is missing, and writes the names of the files to `list`.
fn ask(suite: Suite, folder: &Path, names: &[&str], prefixes: &[&str]) -> Result<()> {
    say(&format!("asking Debian's archive ({}) for {}", suite.name(), names.join(", ")));
    let apt = Apt::new(suite)?;
    fs::create_dir_all(folder)?;
    let install = ["-y", "-q", "--no-install-recommends", "--print-uris", "install"];
    let plan = output(apt.get().args(install).args(names))?;
    let mut list = String::new();
    for line in plan.lines().filter(|line| line.starts_with('\'')) {
        let Some(file) = line.split(' ').nth(1) else { bail!("apt-get said {line:?}") };
        if !prefixes.iter().any(|prefix| file.starts_with(prefix)) {
            continue;
        }
        let deb = folder.join(file);
        if !deb.is_file() {
            // The archive's files are named as packages are, with the colon of an epoch escaped.
            let (package, version) = split(file)?;
            run_aside(
                apt.get().arg("download").arg(format!("{package}={version}")).current_dir(folder),
            )?;
        }
        list.push_str(file);
        list.push('\n');
    }
    Ok(fs::write(folder.join("list"), list)?)
}

/// Package and version of a file such as `login_1%3a4.13_amd64.deb`.
fn split(file: &str) -> Result<(&str, String)> {
    let mut parts = file.split('_');
    match (parts.next(), parts.next()) {
        (Some(package), Some(version)) => Ok((package, version.replace("%3a", ":"))),
        _ => bail!("{file} is not named as a package is"),
    }
}

/// apt with lists, state and cache of its own, and nothing installed.
struct Apt {
    root: PathBuf,
}

impl Apt {
    fn new(suite: Suite) -> Result<Self> {
        let root = cache()?.join(format!("apt-{}", suite.name()));
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::write(root.join("status"), "")?;
        let name = suite.name();
        let line = format!("deb [signed-by={KEYRING}] {} {name} main\n", mirror()?);
        fs::write(root.join("sources.list"), line)?;
        let apt = Self { root };
        run_aside(apt.get().args(["-q", "update"]))?;
        Ok(apt)
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        let at = |name: &str| self.root.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::SourceList={}", at("sources.list")),
            "Dir::Etc::SourceParts=-".into(),
            format!("Dir::State={}", self.root.display()),
            format!("Dir::State::Status={}", at("status")),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", self.root.display()),
            format!("Dir::Cache::Archives={}", at("archives")),
            "APT::Architecture=amd64".into(),
            "APT::Sandbox::User=".into(),
            "Debug::NoLocking=1".into(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }
}

/// The mirror of Debian's main archive that this machine uses.
fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(parts) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(parts.flatten().map(|part| part.path()));
    }
    files.sort();
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .context("no source of this machine's apt ends in /debian: is this a Debian machine?")
}

/// A file's SHA-256.
pub(crate) fn digest(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}
