//! Who is in a control group, by the group's own list: cgroups(7).
//!
//! To ask a handful of groups takes a fraction of the time that it takes to look at every process of
//! the guest, the kernel's own among them. It can be done where systemd keeps all of its groups in
//! one hierarchy of version 2. A process that is dead is in no list.
//!
//! The lists are read one after the other, and below a user's manager the groups are the user's own:
//! who moves from a group that is not read yet to one that is read already is in no list. So lists that
//! have nobody are believed only if the group itself says that it is empty.

use crate::process::read_at_most;
use rustix::io::Errno;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the hierarchy is mounted.
const MOUNT: &str = "sys/fs/cgroup";
/// The list of a group's processes.
const LIST: &str = "cgroup.procs";
/// What says whether anybody is in a group, or in one below it.
const EVENTS: &str = "cgroup.events";
const POPULATED: &[u8] = b"populated 1";
/// Groups below one; a user's services may have some each.
const MAX_GROUPS: usize = 1024;
/// Bytes of a list.
const MAX_LIST: usize = 1 << 20;

/// The control groups of a guest.
pub(super) struct Tree(PathBuf);

impl Tree {
    /// Those of the guest whose files are below `root`, if it has the one hierarchy.
    pub(super) fn of(root: &Path) -> Option<Self> {
        let users = root.join(MOUNT).join("user.slice");
        users.join(LIST).exists().then_some(Self(users))
    }

    /// The processes of `uid`'s session `id`.
    ///
    /// # Errors
    /// They cannot be told that way. A group that has gone has nobody in it.
    pub(super) fn session(&self, uid: u32, id: &str) -> io::Result<Vec<u32>> {
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(io::Error::other("no name of a session of systemd's"));
        }
        self.unit(uid, &format!("session-{id}.scope"))
    }

    /// The processes of `uid`'s manager, and of what it has started.
    ///
    /// # Errors
    /// As above.
    pub(super) fn manager(&self, uid: u32) -> io::Result<Vec<u32>> {
        self.unit(uid, &format!("user@{uid}.service"))
    }

    fn unit(&self, uid: u32, name: &str) -> io::Result<Vec<u32>> {
        let mut pids = Vec::new();
        let unit = self.0.join(format!("user-{uid}.slice")).join(name);
        let mut groups = vec![unit.clone()];
        let mut count = 1;
        while let Some(group) = groups.pop() {
            let list = there(read_at_most(&group.join(LIST), MAX_LIST))?.unwrap_or_default();
            if list.len() == MAX_LIST {
                return Err(io::Error::other("too many processes"));
            }
            let words = list.split(u8::is_ascii_whitespace);
            let words = words.filter_map(|word| std::str::from_utf8(word).ok());
            pids.extend(words.filter_map(|word| word.parse::<u32>().ok()));
            let Some(entries) = there(fs::read_dir(&group))? else { continue };
            for entry in entries {
                let Some(entry) = there(entry)? else { break };
                if entry.file_type()?.is_dir() {
                    count += 1;
                    if count > MAX_GROUPS {
                        return Err(io::Error::other("too many control groups"));
                    }
                    groups.push(entry.path());
                }
            }
        }
        if pids.is_empty() && is_populated(&unit)? {
            return Err(io::Error::other("somebody is there, and in no list"));
        }
        Ok(pids)
    }
}

/// Whether the group says that there is somebody in it or below it.
fn is_populated(group: &Path) -> io::Result<bool> {
    let events = there(read_at_most(&group.join(EVENTS), MAX_LIST))?.unwrap_or_default();
    Ok(events.split(|byte| *byte == b'\n').any(|line| line == POPULATED))
}

/// What was found, or none where the group has gone.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}
