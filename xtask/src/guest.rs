//! `cargo xtask guest`: stock Debian kernels, each with a user space small enough to boot in a
//! moment and real enough to be logged on to.

use crate::Outcome;
use crate::archive::Archive;
use crate::build::{self, Programs};
use crate::debian::{Suite, digest};
use crate::image::IMAGES;
use crate::kernel::{Kernel, write_whole};
use crate::run::say;
use crate::userspace::Userspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// A guest.
struct Flavour {
    name: &'static str,
    suite: Suite,
    /// The kernel's meta package.
    meta: &'static str,
    /// Whether the kernel is also given uncompressed.
    unpacked: bool,
}

/// All guests. Between them their kernels are packed in three ways: LZ4, xz and Zstandard.
const FLAVOURS: [Flavour; 3] = [
    Flavour {
        name: "bookworm-cloud",
        suite: Suite::Bookworm,
        meta: "linux-image-cloud-amd64",
        unpacked: true,
    },
    Flavour {
        name: "bookworm",
        suite: Suite::Bookworm,
        meta: "linux-image-amd64",
        unpacked: false,
    },
    Flavour {
        name: "trixie-cloud",
        suite: Suite::Trixie,
        meta: "linux-image-cloud-amd64",
        unpacked: false,
    },
];

/// Modules in the order in which they are loaded: each after those that it needs.
const MODULES: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "virtio-rng",
    "virtio_balloon",
    "virtio_console",
    "pvpanic",
    "pvpanic-mmio",
];

/// The same for guests that have file systems on disks: only these load them.
const DISK_MODULES: [&str; 7] =
    ["virtio_blk", "crc16", "crc32c_generic", "mbcache", "jbd2", "ext4", "romfs"];

/// The same for guests that have network interfaces.
const NET_MODULES: [&str; 3] = ["failover", "net_failover", "virtio_net"];
/// Loads them.
const USE_NET: &str = include_str!("../guest/use-net");

/// The folder of the guests, and which of them are there.
pub(crate) struct Guests {
    pub(crate) folder: PathBuf,
    pub(crate) names: Vec<&'static str>,
    /// The agent that they have, which monitors can bring along as well.
    pub(crate) agent: PathBuf,
}

/// Which guests.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// debian12, debian13 or sysvinit (Debian on a disk); bookworm-cloud, bookworm or trixie-cloud
    /// (a kernel with busybox), or busybox for these three; all of them if none is named.
    names: Vec<String>,
}

/// `cargo xtask guest`.
pub(crate) fn print(args: &Args) -> Outcome {
    let (mut flavours, mut images) = (Vec::new(), Vec::new());
    for name in &args.names {
        match IMAGES.iter().find(|image| image.name == name) {
            Some(image) => images.push(image),
            None if name == "busybox" => flavours.extend(FLAVOURS.map(|flavour| flavour.name)),
            None => flavours.push(name),
        }
    }
    if args.names.is_empty() {
        images.extend(&IMAGES);
    }
    if args.names.is_empty() || !flavours.is_empty() {
        let guests = make(&build::tools()?, &flavours)?;
        for name in guests.names {
            println!("{}", guests.folder.join(name).display());
        }
    }
    for image in images {
        println!("{}", image.get()?.display());
    }
    Ok(0)
}

/// Makes the guests `names`, or all, below the target folder.
pub(crate) fn make(programs: &Programs, names: &[&str]) -> Result<Guests> {
    if let Some(name) = names.iter().find(|name| !FLAVOURS.iter().any(|one| one.name == **name)) {
        let known = FLAVOURS.iter().map(|one| one.name).chain(IMAGES.iter().map(|one| one.name));
        let known: Vec<&str> = known.collect();
        bail!("no guest is called {name:?}: there are {}", known.join(", "));
    }
    let agent = build::agent()?;
    let dial = build::take(programs, "vsock-dial")?;
    let userspace = Userspace::get()?;
    let disk_tools = Userspace::for_disks()?;
    let folder = build::target()?.join("guests");
    let mut guests = Guests { folder, names: Vec::new(), agent };
    let wanted = |flavour: &&Flavour| names.is_empty() || names.contains(&flavour.name);
    for flavour in FLAVOURS.iter().filter(wanted) {
        let folder = guests.folder.join(flavour.name);
        make_one(flavour, &userspace, &guests.agent, &dial, &folder)
            .and_then(|kernel| {
                make_disk_tools(&kernel, &disk_tools, &folder)?;
                make_net_tools(&kernel, &folder)
            })
            .with_context(|| format!("cannot make the guest {}", flavour.name))?;
        guests.names.push(flavour.name);
    }
    Ok(guests)
}

fn make_one(
    flavour: &Flavour,
    userspace: &Userspace,
    agent: &Path,
    dial: &Path,
    folder: &Path,
) -> Result<Kernel> {
    let kernel = Kernel::get(flavour.suite, flavour.meta)?;
    fs::create_dir_all(folder)?;
    write_whole(&folder.join("vmlinuz"), &fs::read(&kernel.vmlinuz)?)?;
    if flavour.unpacked {
        write_whole(&folder.join("vmlinux"), &fs::read(kernel.vmlinux()?)?)?;
    }
    let mut archive = Archive::default();
    userspace.add_to(&mut archive)?;
    archive.modules("modules", &kernel.modules(&MODULES)?)?;
    archive.copy(agent, "bin/vmm-agent")?;
    archive.copy(dial, "bin/vsock-dial")?;
    let initrd = archive.finish()?;
    write_whole(&folder.join("initrd"), &initrd)?;
    say(&format!(
        "guest {}: {}, vmlinuz sha256 {}, initrd of {} KiB",
        flavour.name,
        kernel.name,
        digest(&kernel.vmlinuz)?,
        initrd.len() / 1024
    ));
    Ok(kernel)
}

/// Makes an archive that can be put behind the initrd: what guests with disks need besides.
fn make_disk_tools(kernel: &Kernel, tools: &Userspace, folder: &Path) -> Result<()> {
    let mut archive = Archive::default();
    archive.modules("modules/disk", &kernel.modules(&DISK_MODULES)?)?;
    tools.add_disk_tools_to(&mut archive)?;
    write_whole(&folder.join("disk-tools"), &archive.finish()?)
}

/// The same for guests with network interfaces.
fn make_net_tools(kernel: &Kernel, folder: &Path) -> Result<()> {
    let mut archive = Archive::default();
    archive.modules("modules/net", &kernel.modules(&NET_MODULES)?)?;
    archive.file("bin/use-net", USE_NET.as_bytes(), 0o755)?;
    write_whole(&folder.join("net-tools"), &archive.finish()?)
}
