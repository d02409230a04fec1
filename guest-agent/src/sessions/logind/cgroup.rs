//! Which session a process is in, by its control groups.
//!
//! `/proc/PID/cgroup` has a line `number:controllers:path` for each hierarchy; the one of version 2
//! is `0::path`. systemd keeps its units in that one, or, on guests that have not moved yet, in the
//! one called `name=systemd`; elogind in one of its own, or in that of version 2:
//!
//! ```text
//! 0::/user.slice/user-1000.slice/session-3.scope                  systemd: session 3
//! 0::/user.slice/user-1000.slice/user@1000.service/app.slice/...  systemd: user 1000's manager
//! 0::/system.slice/cron.service                                   systemd: neither
//! 1:name=elogind:/3                                               elogind: session 3
//! ```
//!
//! Below its manager a user may give units any name, so a unit is only what follows the slices.

/// Where systemd keeps a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// In the session of this name.
    Session(&'a str),
    /// In the service manager of this user, or in what it has started.
    Manager(u32),
    /// In a service of the system's.
    Service,
    /// In none of these.
    Elsewhere,
}

/// Where systemd keeps the process whose `cgroup` file this is.
pub(super) fn of_systemd(cgroups: &[u8]) -> Place<'_> {
    path(cgroups, "name=systemd").or_else(|| path(cgroups, "")).map_or(Place::Elsewhere, place)
}

/// The session that elogind keeps the process in whose `cgroup` file this is.
pub(super) fn of_elogind(cgroups: &[u8]) -> Option<&str> {
    let path = path(cgroups, "name=elogind").or_else(|| path(cgroups, ""))?;
    path.split('/').nth(1).filter(|name| !name.is_empty() && *name != "elogind")
}

/// The path in the hierarchy with these controllers.
fn path<'a>(cgroups: &'a [u8], controllers: &str) -> Option<&'a str> {
    let mut lines =
        cgroups.split(|byte| *byte == b'\n').filter_map(|l| std::str::from_utf8(l).ok());
    lines.find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (found, path) = rest.split_once(':')?;
        (found == controllers).then_some(path)
    })
}

fn place(path: &str) -> Place<'_> {
    let mut uid = None;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if let Some(slice) = name.strip_suffix(".slice") {
            uid = slice.strip_prefix("user-").and_then(|uid| uid.parse::<u32>().ok());
            continue;
        }
        let session = name.strip_prefix("session-").and_then(|rest| rest.strip_suffix(".scope"));
        return match (session, uid) {
            (Some(id), Some(_)) => Place::Session(id),
            (None, Some(uid)) if name == format!("user@{uid}.service") => Place::Manager(uid),
            _ if name.ends_with(".service") => Place::Service,
            _ => Place::Elsewhere,
        };
    }
    Place::Elsewhere
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_of_systemd_are_told_apart_in_every_hierarchy() {
        let alice = "/user.slice/user-1000.slice";
        for (path, place) in [
            (format!("{alice}/session-3.scope"), Place::Session("3")),
            (format!("{alice}/session-c1.scope/sub/group"), Place::Session("c1")),
            (format!("{alice}/user@1000.service/init.scope"), Place::Manager(1000)),
            (format!("{alice}/user@1000.service/session-3.scope"), Place::Manager(1000)),
            (
                format!("{alice}/user@1000.service/user-0.slice/session-1.scope"),
                Place::Manager(1000),
            ),
            (format!("{alice}/user@1001.service"), Place::Service),
            ("/system.slice/session-3.scope".into(), Place::Elsewhere),
            ("/system.slice/cron.service".into(), Place::Service),
            ("/system.slice/system-getty.slice/getty@tty1.service".into(), Place::Service),
            ("/machine.slice/libpod-12.scope".into(), Place::Elsewhere),
            ("/init.scope".into(), Place::Elsewhere),
            ("/".into(), Place::Elsewhere),
            (alice.into(), Place::Elsewhere),
        ] {
            for text in [
                format!("0::{path}\n"),
                format!("12:pids:/user.slice\n1:name=systemd:{path}\n0::{path}\n"),
                format!("1:name=systemd:{path}\n0::/\n"),
            ] {
                assert_eq!(of_systemd(text.as_bytes()), place, "{text}");
            }
        }
        assert_eq!(of_systemd(b""), Place::Elsewhere);
    }

    #[test]
    fn sessions_of_elogind_are_found_in_its_hierarchy_and_in_the_unified_one() {
        assert_eq!(of_elogind(b"3:pids:/\n1:name=elogind:/5\n0::/\n"), Some("5"));
        assert_eq!(of_elogind(b"0::/c2\n"), Some("c2"));
        assert_eq!(of_elogind(b"0::/c2/inner\n"), Some("c2"));
        assert_eq!(of_elogind(b"1:name=elogind:/\n0::/5\n"), None, "its own decides");
        assert_eq!(of_elogind(b"1:name=elogind:/elogind\n"), None, "elogind itself");
        assert_eq!(of_elogind(b"5:cpu:/5\n"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_break_the_parser(
            bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[0-9:a-z@=/.\n-]{0,200}",
        ) {
            for bytes in [&bytes[..], text.as_bytes()] {
                of_systemd(bytes);
                of_elogind(bytes);
            }
        }
    }
}
