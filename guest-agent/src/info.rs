//! What the guest's system says of itself: os-release(5), uname(2) and logind.

use crate::logind::LoginManager;
use crate::process::read_at_most;
use crate::sessions::clean;
use protocol::info::OsInfo;
use rustix::system::uname;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

/// Bytes of an os-release file that are read.
const MAX_OS_RELEASE: usize = 64 * 1024;

/// A guest's system.
#[derive(Clone, Debug)]
pub struct Info {
    root: PathBuf,
}

impl Default for Info {
    fn default() -> Self {
        Self::new("/")
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
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
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
        match LoginManager::connect(&self.root) {
            Ok(manager) => Ok(Some(manager.is_screen_locked()?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
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
