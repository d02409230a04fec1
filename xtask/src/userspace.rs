//! The guests' user space: busybox, and what makes a logon real.
//!
//! Users log on through Debian's own `agetty` and `login` with PAM as Debian sets it up, so that
//! utmp, the audit session and the controlling terminal are what they are on a Debian machine;
//! `who` is coreutils'. A shell for maintenance is on the serial console: it is no session and
//! survives every logoff.

use crate::archive::Archive;
use crate::debian::{self, Package, Suite};
use crate::run::output;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What it is made of. What these depend on comes along.
const PACKAGES: [&str; 5] =
    ["busybox-static", "coreutils", "libpam-modules", "login", "util-linux"];
/// What file systems on disks need.
const DISK_PACKAGES: [&str; 2] = ["e2fsprogs", "util-linux"];
/// Programs of these.
const DISK_PROGRAMS: [&str; 3] = ["sbin/blkid", "sbin/mke2fs", "sbin/e2fsck"];
/// Loads the modules for disks.
const USE_DISKS: &str = include_str!("../guest/use-disks");
/// Programs that are not busybox'.
const PROGRAMS: [&str; 3] = ["bin/login", "sbin/agetty", "usr/bin/who"];
/// Settings as the packages have them.
const SETTINGS: [&str; 5] = [
    "etc/login.defs",
    "etc/pam.d/login",
    "etc/security/group.conf",
    "etc/security/limits.conf",
    "etc/security/pam_env.conf",
];
/// What `pam-auth-update` writes on a machine where nothing but passwords is set up.
const PAM: [(&str, &str); 5] = [
    (
        "common-auth",
        "auth [success=1 default=ignore] pam_unix.so nullok\n\
         auth requisite pam_deny.so\n\
         auth required pam_permit.so\n",
    ),
    (
        "common-account",
        "account [success=1 new_authtok_reqd=done default=ignore] pam_unix.so\n\
         account requisite pam_deny.so\n\
         account required pam_permit.so\n",
    ),
    (
        "common-session",
        "session [default=1] pam_permit.so\n\
         session requisite pam_deny.so\n\
         session required pam_permit.so\n\
         session required pam_unix.so\n",
    ),
    (
        "common-password",
        "password [success=1 default=ignore] pam_unix.so obscure yescrypt\n\
         password requisite pam_deny.so\n\
         password required pam_permit.so\n",
    ),
    ("other", "auth required pam_deny.so\naccount required pam_deny.so\n"),
];
/// A program of a Debian package, for the lab, where it is found by its name.
pub(crate) struct Program {
    package: &'static str,
    path: &'static str,
    /// Other files that it reads, of its package and those that it depends on.
    files: &'static [&'static str],
}

/// QEMU's judge of images.
pub(crate) const QEMU_IMG: Program =
    Program { package: "qemu-utils", path: "usr/bin/qemu-img", files: &[] };
/// What administrators reach machines with.
pub(crate) const SSH: Program =
    Program { package: "openssh-client", path: "usr/bin/ssh", files: &[] };
/// QEMU, with the firmware of its `microvm` and `q35` machines.
pub(crate) const QEMU: Program = Program {
    package: "qemu-system-x86",
    path: "usr/bin/qemu-system-x86_64",
    files: &[
        "usr/share/qemu/bios-microvm.bin",
        "usr/share/qemu/kvmvapic.bin",
        "usr/share/qemu/linuxboot_dma.bin",
        "usr/share/qemu/pvh.bin",
        "usr/share/seabios/bios-256k.bin",
    ],
};

const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// The users beside root, each with a number as user and group.
const USERS: [(&str, u32); 2] = [("alice", 1000), ("bob", 1001)];

/// The scripts, and what init is told.
const SCRIPTS: [(&str, &str); 5] = [
    ("bin/start", include_str!("../guest/start")),
    ("bin/login-on", include_str!("../guest/login-on")),
    ("bin/daemon-alice", include_str!("../guest/daemon-alice")),
    ("bin/run-agent", include_str!("../guest/run-agent")),
    ("bin/maintenance", include_str!("../guest/maintenance")),
];
const INITTAB: &str = include_str!("../guest/inittab");

/// Puts `busybox` and links for all its programs but `others` into /bin.
pub(crate) fn busybox(archive: &mut Archive, busybox: &Path, others: &[&str]) -> Result<()> {
    archive.copy(busybox, "bin/busybox")?;
    for applet in output(Command::new(busybox).arg("--list"))?.lines() {
        if applet != "busybox" && !others.contains(&applet) {
            archive.link(&format!("bin/{applet}"), "busybox")?;
        }
    }
    Ok(())
}

/// The packages of the user space.
pub(crate) struct Userspace {
    packages: Vec<Package>,
}

impl Userspace {
    /// Gets the packages.
    pub(crate) fn get() -> Result<Self> {
        Ok(Self { packages: debian::closure(Suite::Bookworm, &PACKAGES)? })
    }

    /// Gets the packages of what is added for disks.
    pub(crate) fn for_disks() -> Result<Self> {
        Ok(Self { packages: debian::closure(Suite::Bookworm, &DISK_PACKAGES)? })
    }

    /// Puts into `archive` what a guest needs to have file systems on disks, but for modules.
    pub(crate) fn add_disk_tools_to(&self, archive: &mut Archive) -> Result<()> {
        archive.file("bin/use-disks", USE_DISKS.as_bytes(), 0o755)?;
        self.files(archive, &DISK_PROGRAMS.map(str::to_owned).into())
    }

    /// Puts `program` into `archive`.
    pub(crate) fn add_program_to(archive: &mut Archive, program: &Program) -> Result<()> {
        let userspace = Self { packages: debian::closure(Suite::Bookworm, &[program.package])? };
        userspace.files(archive, &[program.path.to_owned()].into())?;
        for path in program.files {
            archive.copy(&userspace.file(path)?, path)?;
        }
        // Where the lab's commands are looked for.
        let name = program.path.rsplit('/').next().context("a program has a name")?;
        archive.link(&format!("bin/{name}"), &format!("/{}", program.path))
    }

    /// busybox, which runs everywhere.
    pub(crate) fn static_busybox(&self) -> Result<PathBuf> {
        self.file("bin/busybox")
    }

    /// Puts all of it into `archive`.
    pub(crate) fn add_to(&self, archive: &mut Archive) -> Result<()> {
        for folder in ["proc", "sys", "dev", "run", "root", "mnt", "var/log", "var/mail"] {
            archive.folder(folder, 0o755, 0)?;
        }
        archive.folder("tmp", 0o1777, 0)?;
        archive.link("var/run", "/run")?;
        archive.file("var/log/wtmp", &[], 0o644)?;
        archive.file("var/log/lastlog", &[], 0o644)?;
        let names: Vec<&str> = PROGRAMS.iter().filter_map(|path| path.rsplit('/').next()).collect();
        busybox(archive, &self.static_busybox()?, &names)?;
        archive.link("init", "bin/busybox")?;
        self.programs(archive)?;
        accounts(archive)?;
        for (path, text) in SCRIPTS {
            archive.file(path, text.as_bytes(), 0o755)?;
        }
        archive.file("etc/inittab", INITTAB.as_bytes(), 0o644)
    }

    /// `path` in whichever package has it.
    fn file(&self, path: &str) -> Result<PathBuf> {
        let mut files = self.packages.iter().map(|package| package.root.join(path));
        files.find(|file| file.exists()).with_context(|| format!("no package has {path}"))
    }

    /// Adds programs, their settings, the PAM modules that these name, and all libraries.
    fn programs(&self, archive: &mut Archive) -> Result<()> {
        let mut files: BTreeSet<String> = PROGRAMS.map(str::to_owned).into();
        let mut words = String::new();
        for path in SETTINGS {
            archive.copy(&self.file(path)?, path)?;
            if path.starts_with("etc/pam.d/") {
                words += &fs::read_to_string(self.file(path)?)?;
            }
        }
        for (name, text) in PAM {
            archive.file(&format!("etc/pam.d/{name}"), text.as_bytes(), 0o644)?;
            words += text;
        }
        let lines = words.lines().filter(|line| !line.starts_with('#'));
        for word in lines.flat_map(str::split_whitespace).filter(|word| word.ends_with(".so")) {
            files.insert(format!("{LIBRARIES}/security/{word}"));
        }
        self.files(archive, &files)
    }

    /// Adds `files`, programs and modules of such, and all libraries.
    fn files(&self, archive: &mut Archive, files: &BTreeSet<String>) -> Result<()> {
        for path in files {
            archive.copy(&self.file(path)?, path)?;
        }
        archive.copy(&fs::canonicalize(self.file(LOADER)?)?, LOADER)?;
        for library in self.libraries(files)? {
            let name = library.file_name().context("a library has a name")?.to_string_lossy();
            archive.copy(&library, &format!("{LIBRARIES}/{name}"))?;
        }
        Ok(())
    }

    /// The libraries that `files` need, as their own dynamic loader finds them.
    fn libraries(&self, files: &BTreeSet<String>) -> Result<BTreeSet<PathBuf>> {
        let folders = self.packages.iter().flat_map(|package| {
            ["", "usr/"].map(|base| package.root.join(format!("{base}{LIBRARIES}")))
        });
        let folders: Vec<String> = folders
            .filter(|folder| folder.is_dir())
            .map(|folder| folder.display().to_string())
            .collect();
        let loader = self.file(LOADER)?;
        let mut libraries = BTreeSet::new();
        for path in files {
            let mut list = Command::new(&loader);
            list.args(["--library-path", &folders.join(":"), "--list"]).arg(self.file(path)?);
            for line in output(&mut list)?.lines() {
                let found = line.split("=> ").nth(1).and_then(|rest| rest.split(' ').next());
                let Some(found) = found.map(PathBuf::from) else { continue };
                let ours = self.packages.iter().any(|package| found.starts_with(&package.root));
                ensure!(ours, "{path} needs {}, which no package has", found.display());
                libraries.insert(found);
            }
        }
        Ok(libraries)
    }
}

/// The users, their homes, and what a Debian machine has in /etc.
fn accounts(archive: &mut Archive) -> Result<()> {
    let mut passwd = String::from("root:x:0:0:root:/root:/bin/sh\n");
    let mut group = String::from("root:x:0:\ntty:x:5:\n");
    let mut shadow = String::from("root:*:19000:0:99999:7:::\n");
    for (user, id) in USERS {
        passwd += &format!("{user}:x:{id}:{id}:{user}:/home/{user}:/bin/sh\n");
        group += &format!("{user}:x:{id}:\n");
        shadow += &format!("{user}:*:19000:0:99999:7:::\n");
        archive.folder(&format!("home/{user}"), 0o755, id)?;
    }
    archive.file("etc/passwd", passwd.as_bytes(), 0o644)?;
    archive.file("etc/group", group.as_bytes(), 0o644)?;
    archive.file("etc/shadow", shadow.as_bytes(), 0o600)?;
    archive.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nshadow: files\n", 0o644)?;
    archive.file("etc/environment", &[], 0o644)?;
    archive.file("etc/default/locale", &[], 0o644)?;
    archive.file("etc/hostname", b"guest\n", 0o644)
}
