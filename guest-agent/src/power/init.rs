//! The inits that guests have, how process 1 is recognised, and how each is told to go down.
//!
//! | init | asked | forced |
//! |---|---|---|
//! | systemd | `systemctl poweroff`, `reboot` | the same with `--force`, else as below |
//! | sysvinit, and others with a `shutdown` | `shutdown -h -P now`, `-r now`; `telinit 0`, `6` | sync(2), reboot(2) |
//! | openrc-init | `openrc-shutdown -p now`, `-r now` | sync(2), reboot(2) |
//! | busybox init | SIGUSR2, SIGTERM to process 1 | sync(2), reboot(2) |
//! | none of these | it cannot be asked | sync(2), reboot(2) |

use super::{Init, Stage};
use crate::command::Programs;
use crate::process::read_at_most;
use crate::sessions::clean;
use protocol::power::PowerAction;
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long a program that tells init may take. `shutdown` of old waits for none of its work.
const TOLD_WITHIN: Duration = Duration::from_secs(20);
/// How long `systemctl` may take to say how the system is.
const STATE_WITHIN: Duration = Duration::from_secs(2);
/// How long disks are waited for when the guest is forced down.
const SYNC_WITHIN: Duration = Duration::from_secs(5);
/// The folder that is there where systemd is process 1: sd_booted(3).
const SYSTEMD: &str = "run/systemd/system";
/// The file that keeps users out, with the reason in it: nologin(5).
const NOLOGIN: &str = "run/nologin";

/// What process 1 looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Looks {
    /// systemd has left its sign.
    systemd: bool,
    /// The name of the program's file, if it can be seen.
    program: Option<String>,
    /// The name that it was called by.
    called: String,
    /// Its process's name.
    comm: String,
}

/// The inits that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Systemd,
    Busybox,
    Openrc,
    /// sysvinit, or one that is told by the same programs.
    Sysv,
    Unknown,
}

/// Which init it is that looks like this.
fn recognise(looks: &Looks) -> Kind {
    let busybox = looks.program.as_ref().is_some_and(|name| name.starts_with("busybox"));
    if looks.systemd {
        Kind::Systemd
    } else if busybox {
        // A shell of busybox' that runs a script is no init and listens to no signal.
        match &*looks.called {
            "init" | "linuxrc" => Kind::Busybox,
            _ => Kind::Unknown,
        }
    } else if looks.program.as_deref() == Some("openrc-init") || looks.comm == "openrc-init" {
        Kind::Openrc
    } else if matches!(&*looks.comm, "init" | "runit" | "s6-svscan" | "dinit") {
        Kind::Sysv
    } else {
        Kind::Unknown
    }
}

impl Looks {
    /// Of process 1 of the system whose files are below `root`.
    fn of(root: &Path) -> Self {
        let process = root.join("proc/1");
        let program = fs::read_link(process.join("exe")).ok();
        // A program that has been replaced on disk is called "init (deleted)".
        let program = program.and_then(|path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some(name.strip_suffix(" (deleted)").map_or(name.clone(), str::to_owned))
        });
        let read = |file| read_at_most(&process.join(file), 256).unwrap_or_default();
        let line = read("cmdline");
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        // A login shell's name begins with a dash, and so may an init's that is called by one.
        let called = first.rsplit('/').next().unwrap_or_default().trim_start_matches('-');
        Self {
            systemd: root.join(SYSTEMD).is_dir(),
            program,
            called: called.to_owned(),
            comm: String::from_utf8_lossy(&read("comm")).trim_end().to_owned(),
        }
    }
}

/// The init of the running guest.
#[must_use]
pub fn of_guest() -> Box<dyn Init> {
    let programs = Programs::default();
    let sysv = ["shutdown", "telinit"].iter().any(|name| programs.find(name).is_some());
    let root = PathBuf::from("/");
    match recognise(&Looks::of(&root)) {
        Kind::Systemd => Box::new(Systemd { root, programs, kernel: force_kernel }),
        Kind::Busybox => Box::new(Busybox),
        Kind::Openrc => Box::new(ByProgram { name: "openrc-init", root, programs, table: OPENRC }),
        Kind::Sysv if sysv => Box::new(ByProgram { name: "sysvinit", root, programs, table: SYSV }),
        Kind::Sysv | Kind::Unknown => Box::new(Unknown),
    }
}

fn verb(action: PowerAction) -> &'static str {
    match action {
        PowerAction::Shutdown => "poweroff",
        PowerAction::Restart => "reboot",
    }
}

/// Runs a program that tells init, and makes an error of what it says if it fails.
fn tell(programs: &Programs, name: &str, arguments: &[&str]) -> io::Result<()> {
    let ended = programs.run(name, arguments, TOLD_WITHIN)?;
    if ended.success {
        return Ok(());
    }
    Err(io::Error::other(format!("{name}: {}", clean(ended.output.trim().as_bytes()))))
}

/// Writes what can be written to the disks, and has the kernel do `action`.
fn force_kernel(action: PowerAction) -> io::Result<()> {
    let (sender, written) = mpsc::channel();
    // A disk that does not answer keeps this thread, and nobody else. Without a thread, or when the
    // time is over, the disks have had their chance.
    let _ = thread::Builder::new().name("sync".into()).spawn(move || {
        rustix::fs::sync();
        let _ = sender.send(());
    });
    let _ = written.recv_timeout(SYNC_WITHIN);
    reboot(match action {
        PowerAction::Shutdown => RebootCommand::PowerOff,
        PowerAction::Restart => RebootCommand::Restart,
    })?;
    Ok(())
}

/// Whether users are kept out because the guest boots. They may be for other reasons: a shutdown
/// that has been announced for later, or work of an administrator's.
fn is_closed_for_boot(root: &Path) -> bool {
    let reason = read_at_most(&root.join(NOLOGIN), 256).unwrap_or_default();
    String::from_utf8_lossy(&reason).to_lowercase().contains("boot")
}

/// What has the kernel do something at once.
type Kernel = fn(PowerAction) -> io::Result<()>;

struct Systemd {
    root: PathBuf,
    programs: Programs,
    kernel: Kernel,
}

/// What `systemctl is-system-running` says: systemctl(1).
fn systemd_stage(state: &str, closed_for_boot: bool) -> Stage {
    match state.trim() {
        "initializing" | "starting" => Stage::Booting,
        "running" | "degraded" => Stage::Up,
        "stopping" => Stage::GoingDown,
        // It cannot be asked yet.
        _ if closed_for_boot => Stage::Booting,
        _ => Stage::Unknown,
    }
}

impl Init for Systemd {
    fn name(&self) -> &'static str {
        "systemd"
    }

    fn stage(&self) -> Stage {
        // It says how the system is by its exit code as well: only what it prints counts.
        let ended = self.programs.run("systemctl", &["is-system-running"], STATE_WITHIN);
        let state = ended.map(|ended| ended.output).unwrap_or_default();
        systemd_stage(&state, is_closed_for_boot(&self.root))
    }

    fn ask(&self, action: PowerAction) -> io::Result<()> {
        tell(&self.programs, "systemctl", &["--no-ask-password", verb(action)])
    }

    fn force(&self, action: PowerAction) -> io::Result<()> {
        // Services are not stopped, but processes are killed and disks unmounted.
        let arguments = ["--no-ask-password", "--force", verb(action)];
        tell(&self.programs, "systemctl", &arguments).or_else(|_| (self.kernel)(action))
    }
}

/// An init that is told by a program: for a shutdown and for a restart, those that are tried.
struct ByProgram {
    name: &'static str,
    root: PathBuf,
    programs: Programs,
    table: Table,
}

/// Programs and their arguments, for a shutdown and for a restart.
type Table = [&'static [(&'static str, &'static [&'static str])]; 2];

const SYSV: Table = [
    &[("shutdown", &["-h", "-P", "now"]), ("telinit", &["0"])],
    &[("shutdown", &["-r", "now"]), ("telinit", &["6"])],
];
const OPENRC: Table =
    [&[("openrc-shutdown", &["-p", "now"])], &[("openrc-shutdown", &["-r", "now"])]];

impl Init for ByProgram {
    fn name(&self) -> &'static str {
        self.name
    }

    fn stage(&self) -> Stage {
        if is_closed_for_boot(&self.root) { Stage::Booting } else { Stage::Unknown }
    }

    fn ask(&self, action: PowerAction) -> io::Result<()> {
        let [shutdown, restart] = self.table;
        let tries = match action {
            PowerAction::Shutdown => shutdown,
            PowerAction::Restart => restart,
        };
        let there = tries.iter().find(|(name, _)| self.programs.find(name).is_some());
        let (name, arguments) = there.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "the guest has no program that tells it")
        })?;
        tell(&self.programs, name, arguments)
    }

    fn force(&self, action: PowerAction) -> io::Result<()> {
        force_kernel(action)
    }
}

struct Busybox;

impl Init for Busybox {
    fn name(&self) -> &'static str {
        "busybox"
    }

    fn stage(&self) -> Stage {
        Stage::Unknown
    }

    fn ask(&self, action: PowerAction) -> io::Result<()> {
        let signal = match action {
            PowerAction::Shutdown => Signal::USR2,
            PowerAction::Restart => Signal::TERM,
        };
        Ok(kill_process(Pid::INIT, signal)?)
    }

    fn force(&self, action: PowerAction) -> io::Result<()> {
        force_kernel(action)
    }
}

struct Unknown;

impl Init for Unknown {
    fn name(&self) -> &'static str {
        "an unknown init"
    }

    fn stage(&self) -> Stage {
        Stage::Unknown
    }

    fn ask(&self, _: PowerAction) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "nobody knows how to tell it; force it to do without",
        ))
    }

    fn force(&self, action: PowerAction) -> io::Result<()> {
        force_kernel(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A system with a process 1, and what it looks like.
    fn looks(exe: &str, cmdline: &str, comm: &str, systemd: bool) -> Looks {
        let folder = tempfile::tempdir().unwrap();
        let process = folder.path().join("proc/1");
        fs::create_dir_all(&process).unwrap();
        symlink(exe, process.join("exe")).unwrap();
        fs::write(process.join("cmdline"), cmdline).unwrap();
        fs::write(process.join("comm"), format!("{comm}\n")).unwrap();
        if systemd {
            fs::create_dir_all(folder.path().join(SYSTEMD)).unwrap();
        }
        Looks::of(folder.path())
    }

    #[test]
    fn inits_are_told_apart_by_what_process_1_is_and_how_it_was_called() {
        let table = [
            ("/usr/lib/systemd/systemd", "/sbin/init\0splash\0", "systemd", true, Kind::Systemd),
            ("/bin/busybox", "/init\0", "init", false, Kind::Busybox),
            ("/bin/busybox", "init\0", "init", false, Kind::Busybox),
            ("/usr/bin/busybox-static", "/sbin/init\0", "init", false, Kind::Busybox),
            ("/bin/busybox", "linuxrc\0", "linuxrc", false, Kind::Busybox),
            ("/bin/busybox (deleted)", "/sbin/init\0", "init", false, Kind::Busybox),
            ("/bin/busybox", "/bin/sh\0/init\0", "init", false, Kind::Unknown),
            ("/bin/busybox", "-sh\0", "sh", false, Kind::Unknown),
            ("/sbin/init", "init [2]  \0", "init", false, Kind::Sysv),
            ("/usr/bin/runit", "runit\0", "runit", false, Kind::Sysv),
            ("/sbin/openrc-init", "/sbin/openrc-init\0", "openrc-init", false, Kind::Openrc),
            ("/bin/bash", "/bin/bash\0", "bash", false, Kind::Unknown),
            ("/vmm-agent", "/vmm-agent\0", "vmm-agent", false, Kind::Unknown),
        ];
        for (exe, cmdline, comm, systemd, kind) in table {
            let looks = looks(exe, cmdline, comm, systemd);
            assert_eq!(recognise(&looks), kind, "{exe} {cmdline:?}: {looks:?}");
        }
        assert_eq!(recognise(&Looks::of(Path::new("/nonexistent"))), Kind::Unknown);
    }

    #[test]
    fn systemd_says_how_far_up_it_is() {
        for (state, closed, stage) in [
            ("initializing\n", false, Stage::Booting),
            ("starting\n", true, Stage::Booting),
            ("running\n", false, Stage::Up),
            ("degraded\n", false, Stage::Up),
            ("stopping\n", true, Stage::GoingDown),
            ("maintenance\n", false, Stage::Unknown),
            ("", true, Stage::Booting),
            ("", false, Stage::Unknown),
        ] {
            assert_eq!(systemd_stage(state, closed), stage, "{state}");
        }
    }

    #[test]
    fn users_who_are_kept_out_for_another_reason_mean_no_boot() {
        let folder = tempfile::tempdir().unwrap();
        let (_programs, found) = programs(&["systemctl"], 1);
        let systemd =
            Systemd { root: folder.path().into(), programs: found, kernel: |_| unreachable!() };
        assert_eq!(systemd.stage(), Stage::Unknown);
        fs::create_dir(folder.path().join("run")).unwrap();
        let say = |text: &str| fs::write(folder.path().join(NOLOGIN), text).unwrap();
        say("System is booting up. Unprivileged users are not permitted to log in yet.");
        assert_eq!(systemd.stage(), Stage::Booting);
        say("The system is going down at 18:00.");
        assert_eq!(systemd.stage(), Stage::Unknown);
    }

    /// Programs of those names, which write their name and arguments down, and end with `code`.
    fn programs(names: &[&str], code: u8) -> (tempfile::TempDir, Programs) {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        for name in names {
            let path = folder.path().join(name);
            let script =
                format!("#!/bin/sh\necho {name} $* >> {}\necho no; exit {code}\n", said.display());
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let programs = Programs::of([folder.path()]);
        (folder, programs)
    }

    fn said(folder: &tempfile::TempDir) -> String {
        fs::read_to_string(folder.path().join("said")).unwrap_or_default()
    }

    #[test]
    fn systemd_is_told_by_systemctl() {
        let (folder, programs) = programs(&["systemctl"], 0);
        let init = Systemd { root: "/".into(), programs, kernel: |_| unreachable!() };
        init.ask(PowerAction::Shutdown).unwrap();
        init.force(PowerAction::Restart).unwrap();
        let expected = "systemctl --no-ask-password poweroff\n\
                        systemctl --no-ask-password --force reboot\n";
        assert_eq!(said(&folder), expected);
    }

    #[test]
    fn a_systemctl_that_refuses_is_quoted_and_cannot_stop_a_forced_one() {
        let (_folder, programs) = programs(&["systemctl"], 1);
        let kernel = |_| Err(io::Error::other("the kernel was asked"));
        let init = Systemd { root: "/".into(), programs, kernel };
        let error = init.ask(PowerAction::Shutdown).unwrap_err();
        assert_eq!(error.to_string(), "systemctl: no");
        let error = init.force(PowerAction::Shutdown).unwrap_err();
        assert_eq!(error.to_string(), "the kernel was asked");
    }

    #[test]
    fn sysvinit_is_told_by_shutdown_or_else_by_telinit() {
        let (folder, found) = programs(&["shutdown", "telinit"], 0);
        let init = ByProgram { name: "sysvinit", root: "/".into(), programs: found, table: SYSV };
        init.ask(PowerAction::Shutdown).unwrap();
        init.ask(PowerAction::Restart).unwrap();
        assert_eq!(said(&folder), "shutdown -h -P now\nshutdown -r now\n");
        let (folder, found) = programs(&["telinit"], 0);
        let init = ByProgram { name: "sysvinit", root: "/".into(), programs: found, table: SYSV };
        init.ask(PowerAction::Shutdown).unwrap();
        init.ask(PowerAction::Restart).unwrap();
        assert_eq!(said(&folder), "telinit 0\ntelinit 6\n");
        let (_folder, none) = programs(&[], 0);
        let init =
            ByProgram { name: "openrc-init", root: "/".into(), programs: none, table: OPENRC };
        assert_eq!(init.ask(PowerAction::Restart).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_unknown_init_is_not_asked() {
        let error = Unknown.ask(PowerAction::Shutdown).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
