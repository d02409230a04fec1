//! Debian's packages, from the mirror that this machine uses, without touching its own apt.
//!
//! The archive keeps only the newest build of a kernel, so kernels are found through their meta
//! packages. What was found is used for a day before the archive is asked again; everything is
//! kept, so that a machine without network can go on with what it has. Signatures are checked
//! against Debian's keyring, as apt always does.

use crate::run::{cache, output, say};
use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
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
    pub(crate) fn name(self) -> &'static str {
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
    let packages = fetch(suite, &folder, &[meta], "linux-image-")?;
    let image = packages.into_iter().find(|package| !package.name.starts_with(meta));
    image.with_context(|| format!("{meta} depends on no kernel"))
}

/// `names` of `suite` and all that they depend on, unpacked.
pub(crate) fn closure(suite: Suite, names: &[&str]) -> Result<Vec<Package>> {
    let folder = cache()?.join("packages").join(format!("{}-{}", suite.name(), names.join("-")));
    fetch(suite, &folder, names, "")
}

/// The line of apt's sources that `suite` comes from.
pub(crate) fn source(suite: Suite) -> Result<String> {
    let apt = Apt::new(suite)?;
    Ok(fs::read_to_string(apt.root.join("sources.list"))?.trim().to_owned())
}

/// Fetches into `folder` and unpacks those of `names` and of what they depend on whose files begin
/// with `prefix`.
fn fetch(suite: Suite, folder: &Path, names: &[&str], prefix: &str) -> Result<Vec<Package>> {
    let _lock = lock("lock")?;
    let list = folder.join("packages");
    let known = list.is_file();
    if !is_fresh(&list) {
        say(&format!("asking Debian's archive ({}) for {}", suite.name(), names.join(", ")));
        match ask(suite, folder, names, prefix) {
            Ok(()) => {}
            Err(error) if known => say(&format!("{error:#}; going on with what is kept")),
            Err(error) => return Err(error.context("cannot get packages from Debian's archive")),
        }
    }
    let text = fs::read_to_string(&list)?;
    let package = |name: &str| Package { name: name.to_owned(), root: folder.join(name) };
    Ok(text.lines().map(package).collect())
}

/// One at a time: several runs share the cache. The lock is the file `name` in it.
pub(crate) fn lock(name: &str) -> Result<File> {
    let path = cache()?.join(name);
    let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    if lock.try_lock().is_err() {
        say("waiting for another run that gets packages");
        lock.lock()?;
    }
    Ok(lock)
}

/// Asks the archive, gets and unpacks what is missing, writes the names to `packages`, and removes what
/// earlier lists had.
fn ask(suite: Suite, folder: &Path, names: &[&str], prefix: &str) -> Result<()> {
    let apt = Apt::new(suite)?;
    let plan = match apt.plan(names).and_then(|plan| get_all(&apt, folder, &plan, prefix)) {
        Ok(plan) => plan,
        Err(error) => {
            // The archive has moved on since the lists were made.
            say(&format!("{error:#}; once more with new lists"));
            apt.update()?;
            get_all(&apt, folder, &apt.plan(names)?, prefix)?
        }
    };
    fs::write(folder.join("draft-packages"), plan.join("\n"))?;
    fs::rename(folder.join("draft-packages"), folder.join("packages"))?;
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !plan.contains(&name) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Gets and unpacks those `files` that begin with `prefix`, and gives their names.
fn get_all(apt: &Apt, folder: &Path, files: &[String], prefix: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in files.iter().filter(|file| file.starts_with(prefix)) {
        let name = file.trim_end_matches(".deb");
        let root = folder.join(name);
        if !root.is_dir() {
            // What is being made has another name, so that a run that is broken off leaves nothing
            // that looks whole.
            let draft = folder.join("draft");
            if draft.is_dir() {
                fs::remove_dir_all(&draft)?;
            }
            fs::create_dir_all(&draft)?;
            let (package, version) = split(file)?;
            let package = format!("{package}={version}");
            output(apt.get().args(["-q", "download", &package]).current_dir(&draft))?;
            let deb = draft.join(file);
            let digest = digest(&deb)?;
            output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(draft.join("root")))?;
            fs::rename(draft.join("root"), &root)?;
            fs::remove_dir_all(&draft)?;
            say(&format!("{file}, sha256 {digest}"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Package and version of a file such as `login_1%3a4.13_amd64.deb`: the archive's files are named
/// as packages are, with the colon of an epoch escaped.
fn split(file: &str) -> Result<(&str, String)> {
    let mut parts = file.split('_');
    match (parts.next(), parts.next()) {
        (Some(package), Some(version)) => Ok((package, version.replace("%3a", ":"))),
        _ => bail!("{file} is not named as a package is"),
    }
}

/// Whether `file` was written less than a day ago.
fn is_fresh(file: &Path) -> bool {
    let written = fs::metadata(file).and_then(|data| data.modified()).ok();
    written.and_then(|time| time.elapsed().ok()).is_some_and(|age| age < FRESH)
}

/// apt with lists, state and cache of its own, and nothing installed.
struct Apt {
    root: PathBuf,
}

impl Apt {
    /// One whose lists are less than a day old.
    fn new(suite: Suite) -> Result<Self> {
        let root = cache()?.join(format!("apt-{}", suite.name()));
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::write(root.join("status"), "")?;
        let apt = Self { root };
        apt.configure()?;
        if !is_fresh(&apt.root.join("updated")) {
            apt.choose_mirror(suite)?;
        }
        Ok(apt)
    }

    fn configure(&self) -> Result<()> {
        let root = self.root.to_str().context("the cache's path is no UTF-8")?;
        ensure!(!root.contains(['"', '\n']), "apt cannot work below {root}");
        let configuration = format!(
            "#clear APT::Update::Pre-Invoke;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             #clear DPkg::Post-Invoke;\n\
             APT::Architecture \"amd64\";\n\
             APT::Architectures \"amd64\";\n\
             APT::Sandbox::User \"\";\n\
             APT::Update::Error-Mode \"any\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             Acquire::Retries \"3\";\n\
             Dir::Etc::SourceList \"{root}/sources.list\";\n\
             Dir::Etc::SourceParts \"-\";\n\
             Dir::Etc::Preferences \"-\";\n\
             Dir::Etc::PreferencesParts \"-\";\n\
             Dir::State \"{root}\";\n\
             Dir::State::Status \"{root}/status\";\n\
             Dir::State::Lists \"{root}/lists\";\n\
             Dir::Cache \"{root}\";\n\
             Dir::Cache::Archives \"{root}/archives\";\n"
        );
        Ok(fs::write(self.root.join("apt.conf"), configuration)?)
    }

    /// Takes the first of this machine's own archives that has `suite` and is signed by Debian.
    fn choose_mirror(&self, suite: Suite) -> Result<()> {
        let planned = output(Command::new("apt-get").args(["update", "--print-uris"]))
            .context("apt does not say where this machine's packages come from")?;
        let mut failure = None;
        for archive in archives(&planned) {
            let line = format!("deb [signed-by={KEYRING}] {archive} {} main\n", suite.name());
            fs::write(self.root.join("sources.list"), line)?;
            match self.update() {
                Ok(()) => return Ok(()),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow!("this machine's apt has no archive of packages")))
            .with_context(|| format!("no source of this machine's apt gives {}", suite.name()))
    }

    /// Gets new lists.
    fn update(&self) -> Result<()> {
        output(self.get().args(["-q", "update"]))?;
        Ok(fs::write(self.root.join("updated"), "")?)
    }

    /// The files of `names` and of all that they depend on.
    fn plan(&self, names: &[&str]) -> Result<Vec<String>> {
        let install = ["-y", "-q", "--no-install-recommends", "--print-uris", "install"];
        let plan = output(self.get().args(install).args(names))?;
        let lines = plan.lines().filter(|line| line.starts_with('\''));
        lines
            .map(|line| line.split(' ').nth(1).map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .with_context(|| format!("apt-get said:\n{plan}"))
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        // Locked by ourselves: apt's own lock would fail instead of waiting.
        command.arg("-c").arg(self.root.join("apt.conf")).args(["-o", "Debug::NoLocking=1"]);
        command
    }
}

/// The archives of whole releases in what `apt-get update --print-uris` says, in its order.
fn archives(planned: &str) -> Vec<&str> {
    let mut archives = Vec::new();
    for line in planned.lines() {
        let address = line.strip_prefix('\'').and_then(|rest| rest.split('\'').next());
        let parts = address
            .and_then(|address| address.strip_suffix("/InRelease"))
            .and_then(|address| address.rsplit_once("/dists/"));
        // Updates, backports and the like have a dash in their name.
        if let Some((archive, release)) = parts
            && !release.contains(['-', '/'])
            && !archives.contains(&archive)
        {
            archives.push(archive);
        }
    }
    archives
}

/// A file's SHA-256.
pub(crate) fn digest(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::{archives, split};

    #[test]
    fn whole_releases_are_found_in_what_apt_says_and_their_updates_are_not() {
        let planned = "'http://mirror/debian/dists/bookworm/InRelease' x 0 \n\
                       'http://mirror/debian/dists/bookworm-updates/InRelease' x 0 \n\
                       'mirror+file:/etc/apt/mirrors/own.list/dists/trixie/InRelease' x 0 \n\
                       'http://mirror/debian/dists/bookworm/main/Packages.xz' x 0 \n";
        assert_eq!(
            archives(planned),
            ["http://mirror/debian", "mirror+file:/etc/apt/mirrors/own.list"]
        );
    }

    #[test]
    fn a_packages_epoch_is_unescaped() {
        let (package, version) = split("login_1%3a4.13+dfsg1-1_amd64.deb").expect("a package");
        assert_eq!((package, version.as_str()), ("login", "1:4.13+dfsg1-1"));
        assert!(split("nothing").is_err());
    }
}
