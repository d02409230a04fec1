//! Installing what the host has brought along: the disk is found by its serial number, mounted
//! where nobody else looks, and its own script does the work. Then this program becomes the one
//! that was installed: whatever started it and keeps it running goes on to do so, and the host sees
//! a new agent connect.
//!
//! The script ends with the connection on which it was asked for. It leaves every file whole or not
//! there, and can be run again at any time, which the host's next request does: that is better than
//! a script that goes on while nobody knows of it, and may meet its successor.

use crate::command::Programs;
use crate::process::read_at_most;
use crate::sessions::clean;
use protocol::HResult;
use protocol::install::DISK;
use protocol::message::{AgentMessage, Done};
use protocol::task::TaskResult;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where the script puts the agent.
const INSTALLED: &str = "/usr/sbin/vmm-agent";
/// Where the disk is mounted meanwhile.
const MOUNT_POINT: &str = "/run/vmm/install";
/// The most block devices that are looked at.
const MAX_DEVICES: usize = 1024;
/// How long a program may take to say its version, and the script to do its work.
const VERSION_WITHIN: Duration = Duration::from_secs(3);
const WORK_WITHIN: Duration = Duration::from_secs(60);

/// Why nothing was installed.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub error: HResult,
    /// The reason.
    pub text: String,
}

impl Failure {
    fn new(error: HResult, text: impl Into<String>) -> Self {
        Self { error, text: text.into() }
    }
}

/// A folder with what is to be installed: the agent, and the script `install`.
#[derive(Debug)]
pub struct Kit {
    folder: PathBuf,
    mounted: bool,
}

impl Kit {
    /// In a folder that is there.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), mounted: false }
    }

    /// On the disk that the host has brought along.
    ///
    /// # Errors
    /// It is not there, or cannot be mounted.
    pub fn on_disk() -> Result<Self, Failure> {
        let device = find(Path::new("/sys/block")).ok_or_else(|| {
            let text = format!(
                "the guest sees no disk with the serial number {DISK}; is virtio_blk loaded?"
            );
            Failure::new(HResult::ERROR_FILE_NOT_FOUND, text)
        })?;
        let device = Path::new("/dev").join(device);
        let failed = |error: io::Error| {
            let text = format!("{} cannot be mounted: {error}", device.display());
            Failure::new(HResult::DISP_E_EXCEPTION, text)
        };
        fs::create_dir_all(MOUNT_POINT).map_err(failed)?;
        // What an agent that was killed has left.
        let _ = unmount(MOUNT_POINT, UnmountFlags::DETACH);
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount(&device, MOUNT_POINT, "romfs", flags, None)
            .map_err(|error| failed(io::Error::from(error)))?;
        Ok(Self { folder: MOUNT_POINT.into(), mounted: true })
    }

    /// Runs a program of it for `host`.
    fn run(
        &self,
        host: BorrowedFd<'_>,
        program: &str,
        argument: &str,
        limit: Duration,
    ) -> io::Result<(bool, String)> {
        let path = self.folder.join(program);
        // A path that begins at the root is what the search for programs gives.
        let path = path.to_string_lossy();
        let ended = Programs::default().run_for(host, &path, &[argument], limit)?;
        Ok((ended.success, ended.output))
    }

    /// The version of the agent.
    fn version(&self, host: BorrowedFd<'_>) -> Result<String, Failure> {
        let said = self.run(host, "vmm-agent", "--version", VERSION_WITHIN);
        let version =
            said.map(|(_, said)| said.trim().strip_prefix("vmm-agent ").map(str::to_owned));
        let text = match version {
            Ok(Some(version)) => return Ok(clean(version.as_bytes())),
            Ok(None) => "it does not say its version".to_owned(),
            Err(error) => error.to_string(),
        };
        let text = format!("the agent on the disk does not run here: {text}");
        Err(Failure::new(HResult::DISP_E_EXCEPTION, text))
    }

    /// Has the script do its work, but for starting anything.
    fn install(&self, host: BorrowedFd<'_>) -> Result<(), Failure> {
        let why = match self.run(host, "install", "--no-start", WORK_WITHIN) {
            Ok((true, _)) => return Ok(()),
            Ok((false, said)) => match said.lines().rfind(|line| !line.trim().is_empty()) {
                Some(line) => clean(line.as_bytes()),
                None => "the script failed without a word".into(),
            },
            Err(error) => format!("the script was not carried out: {error}"),
        };
        Err(Failure::new(HResult::DISP_E_EXCEPTION, why))
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        if self.mounted {
            // Whoever is still in there keeps it until they leave.
            let _ = unmount(MOUNT_POINT, UnmountFlags::DETACH);
        }
    }
}

/// The block device below `devices` that has the disk's serial number.
fn find(devices: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(devices).ok()?.flatten().take(MAX_DEVICES);
    let is_it = |path: &PathBuf| {
        let serial = read_at_most(&path.join("serial"), 64);
        serial.is_ok_and(|serial| serial.trim_ascii() == DISK.as_bytes())
    };
    let found = entries.map(|entry| entry.path()).find(is_it)?;
    found.file_name().map(PathBuf::from)
}

type Open = Box<dyn Fn() -> Result<Kit, Failure> + Send + Sync>;
type GoOver = Box<dyn Fn() -> io::Error + Send + Sync>;

/// How to install.
pub struct Install {
    open: Open,
    go_over: GoOver,
}

impl std::fmt::Debug for Install {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Install").finish_non_exhaustive()
    }
}

impl Install {
    /// What `open` finds; `go_over` lets the installed agent take this one's place, and returns
    /// only if it cannot.
    pub fn new(
        open: impl Fn() -> Result<Kit, Failure> + Send + Sync + 'static,
        go_over: impl Fn() -> io::Error + Send + Sync + 'static,
    ) -> Self {
        Self { open: Box::new(open), go_over: Box::new(go_over) }
    }

    /// From the disk; then this process runs the installed program.
    #[must_use]
    pub fn from_disk() -> Self {
        Self::new(Kit::on_disk, || Command::new(INSTALLED).exec())
    }

    /// Installs for the request `id`, and says through `say` how that goes. True if it has: then
    /// [`go_over`](Self::go_over) is due. `host` is readable, or its other end gone, when the
    /// connection has ended: then the script is ended, too.
    pub fn run(&self, id: u64, host: BorrowedFd<'_>, say: &dyn Fn(AgentMessage)) -> bool {
        let opened = (self.open)().and_then(|kit| Ok((kit.version(host)?, kit)));
        let (version, kit) = match opened {
            Ok(opened) => opened,
            Err(Failure { error, text }) => {
                say(AgentMessage::Rejected { id, error, text });
                return false;
            }
        };
        say(AgentMessage::Installing { id, version });
        let installed = kit.install(host);
        drop(kit);
        match installed {
            Ok(()) => say(AgentMessage::Installed { id }),
            Err(Failure { error, text }) => {
                say(failed(id, error, text));
                return false;
            }
        }
        true
    }

    /// Lets the installed agent take this one's place. What it gives, if it returns, is why it could
    /// not.
    pub fn go_over(&self, id: u64) -> AgentMessage {
        let error = (self.go_over)();
        failed(id, HResult::DISP_E_EXCEPTION, format!("it is installed, but does not run: {error}"))
    }
}

fn failed(id: u64, error: HResult, text: impl Into<String>) -> AgentMessage {
    AgentMessage::Done(Done::failed(id, TaskResult::UnexpectedError, error, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;

    fn script(path: &Path, text: &str) {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What is said when these scripts are the agent and the installer.
    fn said(agent: &str, installer: &str) -> Vec<AgentMessage> {
        let folder = tempfile::tempdir().unwrap();
        script(&folder.path().join("vmm-agent"), agent);
        script(&folder.path().join("install"), installer);
        let place = folder.path().to_owned();
        let install =
            Install::new(move || Ok(Kit::at(&place)), || io::Error::other("no such place"));
        let messages = Mutex::new(Vec::new());
        let (host, _connected) = UnixStream::pair().unwrap();
        if install.run(7, host.as_fd(), &|message| messages.lock().unwrap().push(message)) {
            messages.lock().unwrap().push(install.go_over(7));
        }
        messages.into_inner().unwrap()
    }

    const GOOD: &str = "echo vmm-agent 1.2.3";

    fn failed(text: &str) -> AgentMessage {
        super::failed(7, HResult::DISP_E_EXCEPTION, text)
    }

    #[test]
    fn the_script_installs_and_then_the_new_agent_takes_over() {
        let begun = AgentMessage::Installing { id: 7, version: "1.2.3".into() };
        // The last one is of tests alone: a program that takes over says nothing here.
        let over = failed("it is installed, but does not run: no such place");
        assert_eq!(
            said(GOOD, "[ \"$1\" = --no-start ] && echo done"),
            [begun.clone(), AgentMessage::Installed { id: 7 }, over]
        );
        let words = "install: cannot write to /usr/sbin; is it read-only?";
        let script = format!("echo begun; echo '{words}' >&2; exit 1");
        assert_eq!(said(GOOD, &script), [begun.clone(), failed(words)]);
        assert_eq!(said(GOOD, "exit 1"), [begun, failed("the script failed without a word")]);
    }

    #[test]
    fn a_disk_without_an_agent_for_this_guest_is_not_installed_from() {
        for agent in ["exit 1", "echo something else", "kill -SEGV $$"] {
            let said = said(agent, "exit 0");
            let [AgentMessage::Rejected { id: 7, error, text }] = &said[..] else {
                panic!("{said:?}")
            };
            assert_eq!(*error, HResult::DISP_E_EXCEPTION);
            assert!(text.contains("does not run here"), "{text}");
        }
    }

    #[test]
    fn the_disk_is_the_one_with_the_serial_number() {
        let folder = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "disk-0"), ("vdb", "VMM-IC\n"), ("vdc", "VMM-IC2")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir(folder.path().join("loop0")).unwrap();
        assert_eq!(find(folder.path()), Some("vdb".into()));
        fs::remove_dir_all(folder.path().join("vdb")).unwrap();
        assert_eq!(find(folder.path()), None);
        assert_eq!(find(&folder.path().join("none")), None);
    }
}
