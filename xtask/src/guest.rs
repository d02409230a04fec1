//! The busybox guests: stock Debian kernels, and a user space small enough to boot in a moment and
//! real enough to be logged on to.
//!
//! Users log on through Debian's own `agetty` and `login` with PAM, so that utmp, the audit session
//! and the controlling terminal are what they are on a Debian machine; `who` is coreutils'. The
//! kernel command line says who is there: `logins=root,alice,bob`, a terminal each, or
//! `logins=none`. A shell for maintenance is on the serial console, which is nobody's controlling
//! terminal, so it is no session and survives every logoff.

use crate::archive::Archive;
use crate::build;
use crate::debian::{self, Package, Suite, digest};
use crate::run::{cache, output, say};
use crate::tools::{self, LZ4, XZ};
use crate::{Outcome, run};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A guest's name, its kernel's meta package and the suite of that.
const FLAVOURS: [(&str, Suite, &str); 3] = [
    ("bookworm-cloud", Suite::Bookworm, "linux-image-cloud-amd64"),
    ("bookworm", Suite::Bookworm, "linux-image-amd64"),
    ("trixie-cloud", Suite::Trixie, "linux-image-cloud-amd64"),
];
/// Whose kernel is also given uncompressed.
const UNPACKED: &str = "bookworm-cloud";

/// Modules in the order in which they are loaded. What a kernel has built in is passed over.
const MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "virtio-rng",
    "pvpanic",
];
/// What the user space is made of.
const PACKAGES: [&str; 5] =
    ["busybox-static", "coreutils", "libpam-modules", "login", "util-linux"];
/// What is taken from the packages beside busybox: programs, and PAM's modules.
const PROGRAMS: [&str; 5] = [
    "bin/login",
    "sbin/agetty",
    "usr/bin/who",
    "lib/x86_64-linux-gnu/security/pam_loginuid.so",
    "lib/x86_64-linux-gnu/security/pam_unix.so",
];
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// Where the host's dynamic loader finds the guest's libraries.
const LIBRARY_FOLDERS: [&str; 2] = [LIBRARIES, "usr/lib/x86_64-linux-gnu"];

/// `cargo xtask guest`.
pub(crate) fn print() -> Outcome {
    println!("{}", make()?.display());
    Ok(0)
}

/// Makes the guests, and gives the folder that has a folder for each.
pub(crate) fn make() -> Result<PathBuf> {
    tools::need(&[LZ4, XZ])?;
    let agent = build::agent()?;
    let dial = build::take(&build::tools()?, "vsock-dial")?;
    let userspace = Userspace::unpack()?;
    let guests = cache()?.join("guests");
    for (name, suite, meta) in FLAVOURS {
        let kernel = debian::kernel(suite, meta)?;
        let folder = guests.join(name);
        fs::create_dir_all(&folder)?;
        let vmlinuz = folder.join("vmlinuz");
        fs::copy(find(&kernel.root.join("boot"), "vmlinuz-")?, &vmlinuz)?;
        if name == UNPACKED {
            extract(&vmlinuz, &folder.join("vmlinux"))?;
        }
        let initrd = folder.join("initrd");
        fs::write(&initrd, userspace.archive(&kernel, &agent, &dial)?)?;
        say(&format!(
            "guest {name}: {}, sha256 {}, initrd of {} KiB",
            kernel.name,
            digest(&vmlinuz)?,
            initrd.metadata()?.len() / 1024
        ));
    }
    Ok(guests)
}

/// The one file of `folder` whose name begins with `prefix`.
pub(crate) fn find(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let mut names = entries.flatten().map(|entry| entry.path());
    let begins = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    names.find(begins).with_context(|| format!("no {prefix}* in {}", folder.display()))
}

/// Unpacks an LZ4 kernel by means of its own: the monitor's unpacking is what is tested with it.
fn extract(vmlinuz: &Path, vmlinux: &Path) -> Result<()> {
    let image = fs::read(vmlinuz)?;
    let field = |at: usize| {
        let bytes = image.get(at..at + 4).context("the kernel is cut off")?;
        Ok::<_, anyhow::Error>(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let sectors = usize::from(*image.get(0x1f1).context("the kernel is cut off")?);
    let start = (sectors + 1) * 512 + field(0x248)?;
    // The last four bytes are the size, which is not part of the format.
    let payload = image.get(start..start + field(0x24c)? - 4).context("the kernel is cut off")?;
    let packed = vmlinux.with_extension("lz4");
    fs::write(&packed, payload)?;
    run::run_aside(Command::new("lz4").args(["-dfq"]).arg(&packed).arg(vmlinux))?;
    fs::remove_file(&packed)?;
    Ok(())
}

/// The packages of the user space, in one folder.
struct Userspace {
    root: PathBuf,
}

impl Userspace {
    fn unpack() -> Result<Self> {
        let packages = debian::closure(Suite::Bookworm, &PACKAGES)?;
        let root = cache()?.join("userspace");
        if root.is_dir() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir_all(&root)?;
        for Package { root: package, .. } in &packages {
            run::run_aside(Command::new("cp").arg("-a").arg(package.join(".")).arg(&root))?;
        }
        Ok(Self { root })
    }

    /// The libraries that the programs need, as paths in the guest.
    fn libraries(&self) -> Result<BTreeSet<String>> {
        let path = LIBRARY_FOLDERS.map(|folder| self.root.join(folder).display().to_string());
        let mut libraries = BTreeSet::new();
        for program in PROGRAMS {
            let listed = output(
                Command::new(self.root.join(LOADER))
                    .args(["--library-path", &path.join(":"), "--list"])
                    .arg(self.root.join(program)),
            )?;
            for line in listed.lines() {
                let file = line.split("=> ").nth(1).and_then(|rest| rest.split(' ').next());
                let Some(file) = file.map(Path::new) else { continue };
                ensure!(file.starts_with(&self.root), "{program} needs {}", file.display());
                libraries.insert(file.display().to_string());
            }
        }
        Ok(libraries)
    }

    /// The initial RAM disk for `kernel`.
    fn archive(&self, kernel: &Package, agent: &Path, dial: &Path) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for folder in ["proc", "sys", "dev", "run", "tmp", "root", "mnt"] {
            archive.folder(folder, if folder == "tmp" { 0o1777 } else { 0o755 }, 0)?;
        }
        self.busybox(&mut archive)?;
        for program in PROGRAMS {
            archive.copy(&self.root.join(program), program)?;
        }
        archive.copy(&fs::canonicalize(self.root.join(LOADER))?, LOADER)?;
        for library in self.libraries()? {
            let name = Path::new(&library).file_name().context("a library has a name")?;
            let path = format!("{LIBRARIES}/{}", name.to_string_lossy());
            archive.copy(Path::new(&library), &path)?;
        }
        modules(&mut archive, kernel)?;
        archive.copy(agent, "bin/vmm-agent")?;
        archive.copy(dial, "bin/vsock-dial")?;
        settings(&mut archive)?;
        scripts(&mut archive)?;
        archive.finish()
    }

    fn busybox(&self, archive: &mut Archive) -> Result<()> {
        let busybox = self.root.join("bin/busybox");
        archive.copy(&busybox, "bin/busybox")?;
        let programs: BTreeSet<&str> =
            PROGRAMS.iter().filter_map(|p| p.rsplit('/').next()).collect();
        for applet in output(Command::new(&busybox).arg("--list"))?.lines() {
            if applet != "busybox" && !programs.contains(applet) {
                archive.link(&format!("bin/{applet}"), "busybox")?;
            }
        }
        archive.link("init", "bin/busybox")
    }
}

fn modules(archive: &mut Archive, kernel: &Package) -> Result<()> {
    let folder = find(&kernel.root.join("lib/modules"), "")
        .or_else(|_| find(&kernel.root.join("usr/lib/modules"), ""))?;
    let built_in = fs::read_to_string(folder.join("modules.builtin"))?;
    let dependencies = fs::read_to_string(folder.join("modules.order"))?;
    let mut order = String::new();
    for module in MODULES {
        let is_it = |line: &&str| {
            let name = line.rsplit('/').next().unwrap_or_default();
            name.split('.').next() == Some(module)
        };
        if built_in.lines().any(|line| is_it(&line)) {
            continue;
        }
        let line =
            dependencies.lines().find(is_it).with_context(|| format!("no module {module}"))?;
        let line = line.trim_end_matches(".xz").trim_end_matches(".o");
        let plain = folder.join(line);
        let packed = folder.join(format!("{line}.xz"));
        let path = format!("modules/{module}.ko");
        if plain.is_file() {
            archive.copy(&plain, &path)?;
        } else {
            let unpacked = Command::new("xz").arg("-dc").arg(&packed).output()?;
            ensure!(unpacked.status.success(), "cannot unpack {}", packed.display());
            archive.file(&path, &unpacked.stdout, 0o644)?;
        }
        order.push_str(&format!("{path}\n"));
    }
    archive.file("modules/order", order.as_bytes(), 0o644)
}

/// The files below /etc, and the homes.
fn settings(archive: &mut Archive) -> Result<()> {
    let mut passwd = String::from("root:x:0:0:root:/root:/bin/sh\n");
    let mut group = String::from("root:x:0:\ntty:x:5:\n");
    let mut shadow = String::from("root:*:19000:0:99999:7:::\n");
    for (user, id) in [("alice", 1000), ("bob", 1001)] {
        passwd.push_str(&format!("{user}:x:{id}:{id}:{user}:/home/{user}:/bin/sh\n"));
        group.push_str(&format!("{user}:x:{id}:\n"));
        shadow.push_str(&format!("{user}:*:19000:0:99999:7:::\n"));
        archive.folder(&format!("home/{user}"), 0o755, id)?;
    }
    archive.file("etc/passwd", passwd.as_bytes(), 0o644)?;
    archive.file("etc/group", group.as_bytes(), 0o644)?;
    archive.file("etc/shadow", shadow.as_bytes(), 0o600)?;
    archive.file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nshadow: files\n", 0o644)?;
    archive.file("etc/login.defs", b"MAIL_DIR /var/mail\nTTYPERM 0600\n", 0o644)?;
    archive.file("etc/hostname", b"guest\n", 0o644)?;
    let pam = "auth required pam_unix.so nullok\n\
               account required pam_unix.so\n\
               session required pam_loginuid.so\n\
               session required pam_unix.so\n";
    archive.file("etc/pam.d/login", pam.as_bytes(), 0o644)?;
    archive.file("etc/pam.d/other", pam.as_bytes(), 0o644)?;
    archive.link("var/run", "/run")?;
    archive.folder("var/log", 0o755, 0)?;
    archive.file(
        "etc/inittab",
        b"::sysinit:/bin/start\n\
          null::respawn:/bin/run-agent\n\
          ::respawn:/bin/maintenance\n\
          ::ctrlaltdel:/bin/reboot\n",
        0o644,
    )
}

fn scripts(archive: &mut Archive) -> Result<()> {
    archive.script(
        "bin/start",
        "mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs dev /dev 2>/dev/null\n\
         mkdir -p /dev/pts\n\
         mount -t devpts devpts /dev/pts\n\
         mount -t tmpfs run /run\n\
         : > /run/utmp\n\
         : > /var/log/wtmp\n\
         hostname guest\n\
         ip link set lo up\n\
         while read -r module; do insmod /$module || echo \"no $module\"; done < /modules/order\n\
         setsid su alice -c /bin/daemon-alice < /dev/null > /dev/null 2>&1 &\n\
         logins=none\n\
         for word in $(cat /proc/cmdline); do\n\
         \x20 case $word in logins=*) logins=${word#logins=} ;; esac\n\
         done\n\
         [ $logins = none ] && exit\n\
         terminal=1\n\
         for user in $(echo $logins | tr , ' '); do\n\
         \x20 login-on tty$terminal $user\n\
         \x20 terminal=$((terminal + 1))\n\
         done\n",
    )?;
    // A session begins here, and ends for good when it ends: nobody logs on again by himself.
    archive.script(
        "bin/login-on",
        "exec setsid /sbin/agetty --noclear --autologin \"$2\" \"$1\" linux \
         < /dev/null > /dev/null 2>&1 &\n",
    )?;
    archive.script("bin/daemon-alice", "while :; do sleep 1000; done\n")?;
    archive.script(
        "bin/run-agent",
        "if [ -e /run/no-agent ]; then sleep 1; exit; fi\n\
         exec /bin/vmm-agent > /run/agent.log 2>&1\n",
    )?;
    // The shell would prefer busybox's `who`, which shows records of sessions that are gone.
    archive.script(
        "bin/maintenance",
        "cd /\n\
         who() { /usr/bin/who; }\n\
         while printf 'guest# ' && IFS= read -r line; do eval \"$line\"; done\n",
    )
}
