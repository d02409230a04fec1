//! What this host has to confine machines with.

use serde::Serialize;
use std::io;
use std::ptr;

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// Whether the kernel has seccomp filters that kill a process.
    pub seccomp: bool,
    /// Whether it has Landlock.
    pub landlock: bool,
    /// What it has of it, in words, or why not and what to do.
    pub found: String,
    /// What of Landlock this kernel is too old for, in words.
    pub missing: Vec<&'static str>,
    /// Whether a jail could be made: only root may.
    pub jail: bool,
}

/// The oldest version of Landlock's interface that has all that is asked for, and the kernel that
/// brought it.
const WHOLE: (i64, &str) = (6, "6.12");

/// What came later than with Landlock's first version, each with the version that brought it.
const LATER: [(i64, &str); 4] = [
    (3, "making files shorter"),
    (4, "TCP"),
    (5, "requests to drivers of devices"),
    (6, "signals to other processes and abstract sockets"),
];

/// What Landlock of this version does not restrict.
fn missing(version: i64) -> Vec<&'static str> {
    LATER.iter().filter(|(since, _)| *since > version).map(|(_, what)| *what).collect()
}

/// Looks at this host.
#[must_use]
pub fn offer() -> Offer {
    let version = landlock_version();
    let missing = missing(*version.as_ref().unwrap_or(&0));
    let (landlock, found) = match version {
        Ok(version) if version < WHOLE.0 => {
            let (whole, kernel) = WHOLE;
            let text = format!(
                "version {version}, which does not restrict {}; all that is asked for has {whole} \
                 (Linux {kernel})",
                missing.join(", ")
            );
            (true, text)
        }
        Ok(version) => (true, format!("version {version}")),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let text = "this kernel has it, but it is not switched on: `landlock` must be among the \
                        modules that the kernel's parameter `lsm=` names";
            (false, text.to_owned())
        }
        Err(_) => {
            (false, "this kernel was built without it, or is older than Linux 5.13".to_owned())
        }
    };
    let jail = rustix::process::geteuid().is_root();
    Offer { seccomp: has_seccomp(), landlock, found, missing, jail }
}

/// The version of Landlock's interface.
fn landlock_version() -> io::Result<i64> {
    const VERSION: libc::c_uint = 1;
    let (nothing, length) = (ptr::null::<libc::c_void>(), 0_usize);
    // SAFETY: without a ruleset the kernel reads no memory, and says its version.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, length, VERSION) };
    if version < 0 { Err(io::Error::last_os_error()) } else { Ok(version) }
}

/// Whether the kernel knows how to kill a process by filter.
fn has_seccomp() -> bool {
    let action: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel reads one number, which `action` is, and changes nothing.
    let known = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    known == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_landlock_lacks_is_named() {
        let counts: Vec<usize> = (0..=7).map(|version| missing(version).len()).collect();
        assert_eq!(counts, [4, 4, 4, 3, 2, 1, 0, 0]);
        // As Linux 6.1 has it.
        assert!(missing(2).contains(&"TCP"));
        assert_eq!(missing(WHOLE.0 - 1), ["signals to other processes and abstract sockets"]);
    }
}
