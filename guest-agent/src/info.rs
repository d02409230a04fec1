//! What the guest's system says of itself: os-release(5), uname(2) and logind.

use crate::command::Programs;
use crate::process::read_at_most;
use crate::sessions::clean;
use protocol::info::OsInfo;
use rustix::system::uname;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of an os-release file that are read.
const MAX_OS_RELEASE: usize = 64 * 1024;
/// How long a question to logind may take.
const LOGIND_WITHIN: Duration = Duration::from_secs(2);
/// Sessions that are looked at for a locked screen.
const MAX_SESSIONS: usize = 64;
/// The folder that is there where logind, or elogind, runs: sd_login(3).
const LOGIND: &str = "run/systemd/seats";

/// A guest's system.
#[derive(Clone, Debug)]
pub struct Info {
    root: PathBuf,
    programs: Programs,
}

impl Default for Info {
    fn default() -> Self {
        Self::new("/", Programs::default())
    }
}

/// What uname(2) says.
struct Kernel {
    sysname: String,
    nodename: String,
    release: String,
    version: String,
    machine: String,
}

impl Info {
    /// The system whose files are below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, programs: Programs) -> Self {
        Self { root: root.into(), programs }
    }

    /// What it says of itself.
    #[must_use]
    pub fn os_info(&self) -> OsInfo {
        let read = |path| read_at_most(&self.root.join(path), MAX_OS_RELEASE).ok();
        let os_release = read("etc/os-release").or_else(|| read("usr/lib/os-release"));
        let name = uname();
        let kernel = Kernel {
            sysname: clean(name.sysname().to_bytes()),
            nodename: clean(name.nodename().to_bytes()),
            release: clean(name.release().to_bytes()),
            version: clean(name.version().to_bytes()),
            machine: clean(name.machine().to_bytes()),
        };
        describe(&assignments(&os_release.unwrap_or_default()), kernel)
    }

    /// Whether a user has locked their screen, or none where nobody knows.
    ///
    /// # Errors
    /// logind is there and does not answer.
    pub fn screen_locked(&self) -> io::Result<Option<bool>> {
        if !self.root.join(LOGIND).is_dir() || self.programs.find("loginctl").is_none() {
            return Ok(None);
        }
        let list = self.loginctl(&["list-sessions", "--no-legend", "--no-pager"])?;
        let ids = list.lines().filter_map(|line| line.split_whitespace().next());
        let ids = ids.filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()));
        let mut arguments = vec!["show-session", "--property=Class", "--property=LockedHint"];
        let options = arguments.len();
        arguments.extend(ids.take(MAX_SESSIONS));
        if arguments.len() == options {
            return Ok(Some(false));
        }
        Ok(Some(is_locked(&self.loginctl(&arguments)?)))
    }

    fn loginctl(&self, arguments: &[&str]) -> io::Result<String> {
        let ended = self.programs.run("loginctl", arguments, LOGIND_WITHIN)?;
        // A session that has gone meanwhile is a failure, but what is said of the others holds.
        if ended.success || ended.output.contains("LockedHint=") {
            return Ok(ended.output);
        }
        let text = format!("loginctl: {}", clean(ended.output.trim().as_bytes()));
        Err(io::Error::other(text))
    }
}

/// Whether one of the sessions that `loginctl show-session` describes is a user's and locked.
fn is_locked(sessions: &str) -> bool {
    sessions.split("\n\n").any(|session| {
        let has = |line| session.lines().any(|one| one == line);
        has("LockedHint=yes") && session.lines().any(|line| line.starts_with("Class=user"))
    })
}

fn describe(os_release: &HashMap<String, String>, kernel: Kernel) -> OsInfo {
    let get = |key| os_release.get(key).map(String::as_str).unwrap_or_default().to_owned();
    let has = !os_release.is_empty();
    let or = |text: String, other: String| if text.is_empty() { other } else { text };
    OsInfo {
        computer_name: kernel.nodename,
        name: or(or(get("PRETTY_NAME"), get("NAME")), kernel.sysname),
        id: get("ID"),
        version: if has { get("VERSION_ID") } else { kernel.release.clone() },
        build: get("BUILD_ID"),
        variant: get("VARIANT_ID"),
        kernel_release: kernel.release,
        kernel_version: kernel.version,
        architecture: kernel.machine,
    }
}

/// The assignments of an os-release file, which are those of a shell without any expansion.
fn assignments(bytes: &[u8]) -> HashMap<String, String> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), clean(unquote(value).as_bytes()))).collect()
}

/// A shell's word without its quotes.
fn unquote(word: &str) -> String {
    let mut plain = String::new();
    let mut quote = None;
    let mut characters = word.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => plain.extend(characters.next()),
            (c, _) => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn kernel() -> Kernel {
        Kernel {
            sysname: "Linux".into(),
            nodename: "guest".into(),
            release: "6.1.0-35-cloud-amd64".into(),
            version: "#1 SMP".into(),
            machine: "x86_64".into(),
        }
    }

    #[test]
    fn a_distribution_says_what_it_is() {
        let text = "# made by hand\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME='Debian'\n\
                    VERSION_ID=12\nID=debian\n\nBUILD_ID=\"a\\\"b\"\nbroken\nVARIANT_ID=server";
        let info = describe(&assignments(text.as_bytes()), kernel());
        assert_eq!(info.name, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!((&*info.id, &*info.version, &*info.build), ("debian", "12", "a\"b"));
        assert_eq!((&*info.computer_name, &*info.variant), ("guest", "server"));
        assert_eq!(info.kernel_release, "6.1.0-35-cloud-amd64");
    }

    #[test]
    fn what_a_system_does_not_say_is_empty_and_without_os_release_it_is_its_kernel() {
        let info = describe(&assignments(b"NAME=Arch\n"), kernel());
        assert_eq!((&*info.name, &*info.version, &*info.build), ("Arch", "", ""));
        let info = describe(&HashMap::new(), kernel());
        assert_eq!((&*info.name, &*info.version), ("Linux", "6.1.0-35-cloud-amd64"));
        assert_eq!((&*info.id, &*info.variant), ("", ""));
    }

    #[test]
    fn this_very_system_describes_itself() {
        let info = Info::default().os_info();
        assert_eq!(info.architecture, "x86_64");
        assert!(!info.computer_name.is_empty() && !info.name.is_empty());
    }

    #[test]
    fn only_a_users_session_that_says_so_is_locked() {
        let sessions = "Class=user\nLockedHint=no\n\nClass=user\nLockedHint=yes\n";
        assert!(is_locked(sessions));
        assert!(is_locked("LockedHint=yes\nClass=user-early"));
        assert!(!is_locked("Class=user\nLockedHint=no\n\nClass=greeter\nLockedHint=yes\n"));
        assert!(!is_locked(""));
    }

    /// A system with a `loginctl` that is `script`.
    fn system(script: &str) -> (tempfile::TempDir, Info) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join(LOGIND)).unwrap();
        let program = folder.path().join("loginctl");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let info = Info::new(folder.path(), Programs::of([folder.path()]));
        (folder, info)
    }

    #[test]
    fn logind_is_asked_about_every_session_and_only_where_it_runs() {
        let (_folder, info) = system(
            "case $1 in list-sessions) echo '  2 1000 alice seat0 tty1'; echo '$(x) 0 root';; \
             show-session) [ \"$4\" = 2 ] && [ $# = 4 ] && echo Class=user && \
             echo LockedHint=yes;; esac",
        );
        assert_eq!(info.screen_locked().unwrap(), Some(true));
        let (_folder, info) = system("true");
        assert_eq!(info.screen_locked().unwrap(), Some(false), "nobody is logged on");
        let (folder, info) = system("true");
        fs::remove_dir_all(folder.path().join("run")).unwrap();
        assert_eq!(info.screen_locked().unwrap(), None);
        let (_folder, info) = system("echo 'no bus' >&2; exit 1");
        assert_eq!(info.screen_locked().unwrap_err().to_string(), "loginctl: no bus");
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_break_the_parser(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let info = describe(&assignments(&bytes), kernel());
            prop_assert!(info.name.len() <= protocol::message::MAX_TEXT);
        }
    }
}
