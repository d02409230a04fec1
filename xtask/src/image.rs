//! Debian as people install it, on a disk: its own kernel and initrd, its own init, users who can log
//! on. mmdebstrap makes it; it is kept until its recipe changes.

use crate::debian::{self, Suite, digest};
use crate::run::{cache, output, run_aside, say};
use crate::tools::{self, MKE2FS, MMDEBSTRAP};
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Debian.
pub(crate) struct Image {
    pub(crate) name: &'static str,
    suite: Suite,
    /// Packages that only this one has.
    packages: &'static [&'static str],
}

/// All of them.
pub(crate) static IMAGES: [Image; 3] = [
    Image { name: "debian12", suite: Suite::Bookworm, packages: &SYSTEMD },
    Image { name: "debian13", suite: Suite::Trixie, packages: &SYSTEMD },
    Image {
        name: "sysvinit",
        suite: Suite::Bookworm,
        packages: &["sysvinit-core", "elogind", "libpam-elogind", "initscripts"],
    },
];

const SYSTEMD: [&str; 2] = ["systemd-sysv", "libpam-systemd"];
/// What each of them has.
const PACKAGES: [&str; 13] = [
    "cron",
    "dbus",
    "e2fsprogs",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "linux-image-cloud-amd64",
    "login",
    "openssh-server",
    "procps",
    "tmux",
    "udev",
    "util-linux",
];
/// What makes it the tests' guest: a script, run in it, and the files that the script installs.
const SET_UP: [(&str, &str); 5] = [
    ("set-up", include_str!("../guest/debian/set-up")),
    ("maintenance", include_str!("../guest/debian/maintenance")),
    ("login-on", include_str!("../guest/debian/login-on")),
    ("maintenance.service", include_str!("../guest/debian/maintenance.service")),
    ("login@.service", include_str!("../guest/debian/login@.service")),
];
/// The disk's size.
const SIZE: &str = "1G";
/// Changes when this file makes something else of the same words.
const RECIPE: &str = "1";

/// The one called `name`.
pub(crate) fn find(name: &str) -> Result<&'static Image> {
    let known = IMAGES.iter().map(|image| image.name).collect::<Vec<_>>().join(", ");
    let found = IMAGES.iter().find(|image| image.name == name);
    found.with_context(|| {
        format!("no guest with a whole Debian is called {name:?}: there are {known}")
    })
}

impl Image {
    /// The folder with its `vmlinuz`, `initrd` and `disk`, made if it is not there.
    pub(crate) fn get(&self) -> Result<PathBuf> {
        let images = cache()?.join("images");
        let name = format!("{}-{}", self.name, self.recipe());
        let folder = images.join(&name);
        fs::create_dir_all(&images)?;
        let _lock = debian::lock(&format!("lock-{}", self.name))?;
        if folder.is_dir() {
            return Ok(folder);
        }
        tools::need(&[MMDEBSTRAP, MKE2FS])?;
        // Those of other recipes, and what was left half made, are of no use any more.
        for entry in fs::read_dir(&images)?.flatten() {
            let other = entry.file_name().to_string_lossy().into_owned();
            if other.split_once('-').is_some_and(|(name, _)| name == self.name) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        say(&format!("making the guest {} with mmdebstrap; it takes some minutes", self.name));
        let draft = images.join(format!("{}-draft", self.name));
        fs::create_dir(&draft)?;
        self.make(&draft).with_context(|| format!("cannot make the guest {}", self.name))?;
        fs::rename(&draft, &folder)?;
        Ok(folder)
    }

    /// The digest of all that decides what it is like, but for the archive's state.
    fn recipe(&self) -> String {
        let mut recipe = Sha256::new();
        let words = [RECIPE, self.suite.name(), SIZE].into_iter();
        let packages = PACKAGES.iter().chain(self.packages).copied();
        for word in words.chain(packages).chain(SET_UP.into_iter().flat_map(|(a, b)| [a, b])) {
            recipe.update(word);
            recipe.update([0]);
        }
        recipe.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn make(&self, folder: &Path) -> Result<()> {
        let set_up = folder.join("set-up");
        fs::create_dir(&set_up)?;
        for (name, text) in SET_UP {
            fs::write(set_up.join(name), text)?;
        }
        let place = folder.to_str().context("the cache's path is no UTF-8")?;
        ensure!(!place.contains('\''), "shells cannot work below {place}");
        let packages = [&PACKAGES[..], self.packages].concat().join(",");
        let mut command = Command::new("mmdebstrap");
        command
            .args(["--quiet", "--variant=minbase", "--format=tar"])
            .arg(format!("--include={packages}"));
        for left_out in ["doc", "man", "locale", "info"] {
            command.arg(format!("--dpkgopt=path-exclude=/usr/share/{left_out}/*"));
        }
        command
            .arg("--customize-hook=mkdir \"$1/set-up\"")
            .arg(format!("--customize-hook=sync-in '{place}/set-up' /set-up"))
            .arg("--customize-hook=chroot \"$1\" sh /set-up/set-up && rm -r \"$1/set-up\"")
            .args([self.suite.name(), &format!("{place}/root.tar")])
            .arg(debian::source(self.suite)?);
        run_aside(&mut command)?;
        // Whoever is not root sees the files' owners only in a namespace of users.
        let script = format!(
            "cd '{place}' && mkdir root && tar -C root -xf root.tar --exclude='./dev/*' && \
             cp -L root/vmlinuz vmlinuz && cp -L root/initrd.img initrd && \
             mke2fs -q -t ext4 -d root disk {SIZE} && rm -r root root.tar set-up && \
             chmod 644 vmlinuz initrd disk"
        );
        let mut command = Command::new("sh");
        if output(Command::new("id").arg("-u"))?.trim() != "0" {
            command = Command::new("unshare");
            command.args(["--map-auto", "--map-root-user", "sh"]);
        }
        run_aside(command.args(["-c", &script]))?;
        for file in ["vmlinuz", "initrd"] {
            say(&format!("{} {file}: sha256 {}", self.name, digest(&folder.join(file))?));
        }
        Ok(())
    }
}
