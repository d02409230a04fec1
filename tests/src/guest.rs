//! The guests that `cargo xtask guest` makes, and where they are.

use std::path::PathBuf;

/// A guest: a stock Debian kernel with the busybox user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Debian 12's cloud kernel.
    BookwormCloud,
    /// Debian 12's generic kernel.
    Bookworm,
    /// Debian 13's cloud kernel.
    TrixieCloud,
}

impl Flavour {
    /// The guest's folder in `VMM_GUESTS`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BookwormCloud => "bookworm-cloud",
            Self::Bookworm => "bookworm",
            Self::TrixieCloud => "trixie-cloud",
        }
    }

    /// The kernel as Debian packs it.
    #[must_use]
    pub fn kernel(self) -> PathBuf {
        self.file("vmlinuz")
    }

    /// The kernel unpacked, as an ELF file.
    #[must_use]
    pub fn vmlinux(self) -> PathBuf {
        self.file("vmlinux")
    }

    /// The user space.
    #[must_use]
    pub fn initrd(self) -> PathBuf {
        self.file("initrd")
    }

    /// What is put behind the user space of guests that have file systems on disks.
    #[must_use]
    pub fn disk_tools(self) -> PathBuf {
        self.file("disk-tools")
    }

    /// The same for guests that have network interfaces.
    #[must_use]
    pub fn net_tools(self) -> PathBuf {
        self.file("net-tools")
    }

    fn file(self, name: &str) -> PathBuf {
        file(self.name(), name)
    }
}

/// A guest with a whole Debian on its disk: its own kernel, initrd and init, and users who log on as
/// people do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debian {
    /// Debian 12 with systemd: logind, and records in utmp.
    Twelve,
    /// Debian 13 with systemd: logind, which lists managers, too; no utmp.
    Thirteen,
    /// Debian 12 with sysvinit and elogind.
    Sysvinit,
}

impl Debian {
    /// The guest's folder in `VMM_GUESTS`, and what its machine is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Twelve => "debian12",
            Self::Thirteen => "debian13",
            Self::Sysvinit => "sysvinit",
        }
    }

    /// The file `name`: `vmlinuz`, `initrd`, or `disk`.
    #[must_use]
    pub fn file(self, name: &str) -> PathBuf {
        file(self.name(), name)
    }
}

fn file(guest: &str, name: &str) -> PathBuf {
    let guests = std::env::var_os("VMM_GUESTS")
        .expect("VMM_GUESTS names the folder of the guests; `cargo xtask test` sets it");
    PathBuf::from(guests).join(guest).join(name)
}
