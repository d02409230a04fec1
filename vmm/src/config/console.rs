//! The console: where it goes on the host, and what it is on in the guest.

use std::path::PathBuf;
use std::str::FromStr;

/// How the guest's console is connected to the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Console {
    /// Output is thrown away; there is no input.
    #[default]
    None,
    /// Standard input and output of this process.
    Stdio,
    /// Output goes to this file, which is created or truncated; there is no input.
    File(PathBuf),
    /// Whoever [attaches](crate::console::hub) to it.
    Attach,
}

/// Which of its devices the guest has its console on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsoleDevice {
    /// The serial port, `ttyS0`: there from the first instruction on, and slow.
    #[default]
    Serial,
    /// A virtio console, `hvc0`: there when the guest has loaded its driver.
    Virtio,
}

impl ConsoleDevice {
    /// Its name in definitions and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::Virtio => "virtio",
        }
    }

    /// Virtio devices that it takes.
    pub(crate) fn virtio_devices(self) -> usize {
        match self {
            Self::Serial => 0,
            Self::Virtio => 1,
        }
    }

    /// What Linux calls it.
    #[must_use]
    pub fn terminal(self) -> &'static str {
        match self {
            Self::Serial => "ttyS0",
            Self::Virtio => "hvc0",
        }
    }
}

impl FromStr for ConsoleDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::Serial, Self::Virtio].into_iter().find(|device| device.name() == text);
        known.ok_or_else(|| "it is serial or virtio".into())
    }
}
