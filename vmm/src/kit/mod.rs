//! What the monitor brings along for its guests: the agent, and what installs and starts it.
//!
//! ```text
//! agent        the file vmm-agent of this host, and whether it can be taken
//! romfs        the file system on the disk
//! credentials  what makes a guest with systemd 256 or newer start the agent from the disk
//! ```
//!
//! The disk is read-only, the last of the machine's disks so that the others keep their names, and
//! called `VMM-IC` both as a volume and as a device. It is made in memory when a machine is turned
//! on, and is the same over the guest's reboots. A guest with systemd 256 or newer needs nothing
//! else; in others whoever is root runs the script `install` on it once.

pub mod agent;
mod credentials;
mod romfs;

pub use credentials::{credential, credentials};

use crate::config::Components;
use crate::error::CallError;
use agent::{AgentError, AgentFault, AgentFile, NoAgent};
use protocol::HResult;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};

/// The name of the disk, as a volume and as a device: `/dev/disk/by-id/virtio-VMM-IC`.
pub const VOLUME: &str = "VMM-IC";

/// What is on the disk besides the agent: name, contents, and whether it is a program.
const FILES: [(&str, &str, bool); 5] = [
    ("install", include_str!("../../../guest-agent/kit/install"), true),
    ("README", include_str!("../../../guest-agent/kit/README"), false),
    ("vmm-agent.service", include_str!("../../../guest-agent/kit/vmm-agent.service"), false),
    ("vmm-agent.sysvinit", include_str!("../../../guest-agent/kit/vmm-agent.sysvinit"), true),
    ("vmm-agent.openrc", include_str!("../../../guest-agent/kit/vmm-agent.openrc"), true),
];

/// Why a machine could not get the disk that it was to have.
#[derive(Debug, thiserror::Error)]
pub enum KitError {
    /// The agent that the configuration names cannot be taken.
    #[error("cannot bring along the agent")]
    Agent(#[source] AgentError),
    /// The machine's other devices have all the interrupt lines.
    #[error("the machine has no interrupt line left for the integration disk")]
    NoRoom,
    /// The disk's contents could not be made.
    #[error("cannot make the integration disk")]
    Image(#[source] io::Error),
}

impl KitError {
    /// The documented code that fits best.
    #[must_use]
    pub fn code(&self) -> HResult {
        match self {
            Self::Agent(error) => match &error.fault {
                AgentFault::Missing => HResult::ERROR_FILE_NOT_FOUND,
                AgentFault::Read(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    HResult::ERROR_ACCESS_DENIED
                }
                AgentFault::Read(_) => HResult::DISP_E_EXCEPTION,
                _ => HResult::VM_E_DRIVE_INVALID,
            },
            Self::NoRoom => HResult::E_INVALIDARG,
            Self::Image(_) => HResult::VM_E_OUT_OF_RESOURCE,
        }
    }
}

/// What came of a machine's integration disk.
#[derive(Debug)]
pub enum Kit {
    /// The machine is to have none.
    Off,
    /// There is no agent for it.
    Missing(NoAgent),
    /// The machine's other devices have all the interrupt lines.
    NoRoom,
    /// This is it.
    Disk {
        /// A file in memory that nobody can change.
        file: File,
        /// The agent's version, where its file says one.
        version: Option<String>,
    },
}

/// The same, as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum KitState {
    /// The machine is to have none, or has not been turned on yet.
    #[default]
    Off,
    /// There is none, and this is why.
    Missing {
        /// What was looked for and found.
        reason: String,
    },
    /// The machine's other devices have all the interrupt lines.
    NoRoom,
    /// The machine has it.
    Attached {
        /// The version of the agent on it, where its file says one.
        version: Option<String>,
    },
}

impl KitState {
    /// That the machine has it.
    ///
    /// # Errors
    /// `VM_E_DRIVE_INVALID` if it has no place for it or is not to have it,
    /// `ERROR_FILE_NOT_FOUND` if there is no agent for it.
    pub fn attached(&self) -> Result<(), CallError> {
        let (code, text) = match self {
            Self::Attached { .. } => return Ok(()),
            Self::Missing { reason } => (HResult::ERROR_FILE_NOT_FOUND, reason.as_str()),
            Self::Off => (HResult::VM_E_DRIVE_INVALID, "its integration is off"),
            Self::NoRoom => (HResult::VM_E_DRIVE_INVALID, "other devices have all its lines"),
        };
        Err(CallError::new(code, format!("the machine has no integration disk: {text}")))
    }
}

impl Kit {
    /// How it is told.
    #[must_use]
    pub fn state(&self) -> KitState {
        match self {
            Self::Off => KitState::Off,
            Self::Missing(none) => KitState::Missing { reason: none.to_string() },
            Self::NoRoom => KitState::NoRoom,
            Self::Disk { version, .. } => KitState::Attached { version: version.clone() },
        }
    }

    /// What a machine gets that has `room` for one more device, and whose configuration says
    /// `components`.
    ///
    /// # Errors
    /// The agent that it names cannot be taken or has no place, or there is no memory for the disk.
    pub fn pack(components: &Components, room: bool) -> Result<Self, KitError> {
        let agent = match components {
            Components::Off => return Ok(Self::Off),
            Components::Auto if !room => return Ok(Self::NoRoom),
            Components::Agent(_) if !room => return Err(KitError::NoRoom),
            Components::Agent(path) => AgentFile::read(path).map_err(KitError::Agent)?,
            Components::Auto => match AgentFile::find() {
                Ok(agent) => agent,
                Err(none) => return Ok(Self::Missing(none)),
            },
        };
        let file = disk(&agent.program).map_err(KitError::Image)?;
        Ok(Self::Disk { file, version: agent.version() })
    }
}

/// The disk with this agent.
fn disk(agent: &[u8]) -> io::Result<File> {
    let text = |(name, text, executable): (_, &'static str, _)| romfs::File {
        name,
        contents: text.as_bytes(),
        executable,
    };
    let agent = romfs::File { name: agent::AGENT, contents: agent, executable: true };
    let files: Vec<romfs::File<'_>> = [agent].into_iter().chain(FILES.map(text)).collect();
    let image = romfs::image(VOLUME, &files).ok_or(io::ErrorKind::FileTooLarge)?;
    let memory = memfd_create("vmm-integration", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut disk = File::from(memory);
    disk.write_all(&image)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&disk, seals)?;
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_disk_has_the_agent_and_whatever_installs_it_and_nobody_can_change_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        let agent = agent::tests::program(&[1]);
        fs::write(&path, &agent).unwrap();
        let Ok(Kit::Disk { file: disk, .. }) = Kit::pack(&Components::Agent(path), true) else {
            panic!("no disk")
        };
        let mut image = vec![0; disk.metadata().unwrap().len() as usize];
        disk.read_exact_at(&mut image, 0).unwrap();
        let (volume, files) = romfs::tests::read(&image);
        assert_eq!(volume, VOLUME);
        assert_eq!(files["vmm-agent"], (agent, true));
        for (name, text, executable) in FILES {
            assert_eq!(files[name], (text.as_bytes().to_vec(), executable));
            assert!(text.ends_with('\n') && !text.contains('\r'), "{name}");
        }
        assert_eq!(files.len(), 6);
        assert!(disk.write_at(b"x", 0).is_err() && disk.set_len(0).is_err());
    }

    #[test]
    fn an_agent_that_is_named_must_be_one() {
        let refused = Kit::pack(&Components::Agent("/dev/null".into()), true).unwrap_err();
        assert_eq!(
            crate::error::chain(&refused),
            "cannot bring along the agent: /dev/null: it is not a regular file"
        );
    }

    #[test]
    fn a_machine_that_is_full_gets_none_and_is_refused_only_where_one_was_named() {
        assert!(matches!(Kit::pack(&Components::Off, false), Ok(Kit::Off)));
        assert!(matches!(Kit::pack(&Components::Auto, false), Ok(Kit::NoRoom)));
        let named = Components::Agent("/dev/null".into());
        assert!(matches!(Kit::pack(&named, false), Err(KitError::NoRoom)));
    }

    #[test]
    fn the_scripts_install_what_is_on_the_disk() {
        let [(_, install, _), ..] = FILES;
        for (name, ..) in FILES.iter().filter(|(name, ..)| name.starts_with("vmm-agent.")) {
            let kind = name.trim_start_matches("vmm-agent.");
            assert!(install.contains(kind), "{name} is installed");
        }
        let shell = std::process::Command::new("sh").arg("-n").arg("-c").arg(install).status();
        assert!(shell.unwrap().success());
    }
}
