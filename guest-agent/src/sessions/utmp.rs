//! The records of utmp: who has logged in where, as login programs note it down.
//!
//! utmp(5): fixed records of 384 bytes on x86-64, in no order, overwritten in place without a lock
//! that readers could rely on. A record that was torn, or whose process has gone, says nothing.
//!
//! ```text
//!   0 type i16   4 pid i32   8 line[32]   40 id[4]   44 user[32]   76 host[256]
//! 332 exit       336 session 340 seconds i32  344 microseconds i32  348 address[16]  364 -
//! ```

use super::clean;

/// Bytes of one record.
pub const RECORD: usize = 384;
/// Bytes of the file that are read: no guest has more terminals than that.
pub const MAX_BYTES: usize = 4096 * RECORD;

const RUN_LEVEL: i16 = 1;
const USER_PROCESS: i16 = 7;
/// Seconds by which a process may seem younger than its record: both clocks are rounded.
const SLACK: i64 = 2;

/// A login as utmp has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The process that the login program named: itself, or the user's shell.
    pub pid: u32,
    /// The terminal without `/dev/`, or a display.
    pub line: String,
    /// The user's name.
    pub user: String,
    /// Where the user came from; empty if from the machine itself.
    pub host: String,
    /// When, in seconds since 1970.
    pub since: i64,
}

impl Login {
    /// Whether a process that started at `started`, in seconds since 1970, can be the one meant.
    #[must_use]
    pub fn can_be(&self, started: i64) -> bool {
        started <= self.since.saturating_add(SLACK)
    }
}

/// The logins in the bytes of a utmp file.
#[must_use]
pub fn logins(bytes: &[u8]) -> Vec<Login> {
    records(bytes).filter(|record| record.kind == USER_PROCESS).filter_map(Record::login).collect()
}

/// Whether the guest has begun to go down in the boot that started at `booted`, in seconds since
/// 1970: the run level is 0 or 6, or the shutdown was noted.
#[must_use]
pub fn going_down(bytes: &[u8], booted: i64) -> bool {
    let last = records(bytes).filter(|record| record.kind == RUN_LEVEL).max_by_key(Record::since);
    last.is_some_and(|record| {
        let level = record.pid() & 0xff;
        let down = level == i32::from(b'0') || level == i32::from(b'6');
        record.since() >= booted && (down || record.text(44, 32) == "shutdown")
    })
}

struct Record<'a> {
    kind: i16,
    bytes: &'a [u8; RECORD],
}

fn records(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    // A torn record at the end is not a whole chunk, and left out.
    let (chunks, _) = bytes.as_chunks::<RECORD>();
    chunks.iter().map(|bytes| Record { kind: i16::from_le_bytes([bytes[0], bytes[1]]), bytes })
}

impl Record<'_> {
    fn number(&self, at: usize) -> i32 {
        self.bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |b| i32::from_le_bytes(*b))
    }

    fn pid(&self) -> i32 {
        self.number(4)
    }

    fn since(&self) -> i64 {
        // Unsigned, as the C library reads it since 2038 came near.
        i64::from(self.number(340) as u32)
    }

    /// A text that ends with its field or with its first zero.
    fn text(&self, at: usize, length: usize) -> String {
        let field = self.bytes.get(at..at + length).unwrap_or_default();
        clean(field.split(|byte| *byte == 0).next().unwrap_or_default())
    }

    fn login(self) -> Option<Login> {
        let pid = u32::try_from(self.pid()).ok().filter(|pid| *pid > 1)?;
        let host = self.text(76, 256);
        Some(Login {
            pid,
            line: self.text(8, 32),
            user: self.text(44, 32),
            // A display is no place that somebody comes from.
            host: if host.starts_with(':') { String::new() } else { host },
            since: self.since(),
        })
        .filter(|login| !login.user.is_empty() && !login.line.is_empty())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record as a login program writes it.
    pub(crate) fn record(
        kind: i16,
        pid: i32,
        line: &str,
        user: &str,
        host: &str,
        since: i64,
    ) -> Vec<u8> {
        let mut bytes = vec![0; RECORD];
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&pid.to_le_bytes());
        for (at, text) in [(8, line), (44, user), (76, host)] {
            bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        bytes[340..344].copy_from_slice(&(since as u32).to_le_bytes());
        bytes
    }

    #[test]
    fn only_logins_are_taken_and_a_torn_record_is_left_out() {
        let mut bytes = record(2, 0, "~", "reboot", "6.1.0", 1_000);
        bytes.extend(record(6, 300, "tty2", "LOGIN", "", 1_005));
        bytes.extend(record(7, 301, "tty1", "alice", ":0", 1_010));
        bytes.extend(record(8, 302, "pts/0", "bob", "there", 1_020));
        bytes.extend(record(7, 303, "pts/1", &"b".repeat(32), "192.0.2.7", 3_000_000_000));
        bytes.extend(record(7, 1, "tty3", "init", "", 1_010));
        bytes.extend(record(7, -5, "tty3", "nobody", "", 1_010));
        bytes.extend(record(7, 304, "tty4", "", "", 1_010));
        bytes.extend_from_slice(&record(7, 305, "tty5", "torn", "", 1_010)[..383]);
        let logins = logins(&bytes);
        assert_eq!(logins.len(), 2, "{logins:?}");
        let alice = &logins[0];
        assert_eq!(
            (alice.pid, &*alice.line, &*alice.user, &*alice.host),
            (301, "tty1", "alice", "")
        );
        assert_eq!(logins[1].user, "b".repeat(32), "a field without a zero at its end");
        assert_eq!((logins[1].since, &*logins[1].host), (3_000_000_000, "192.0.2.7"));
    }

    #[test]
    fn a_process_younger_than_its_record_is_another_one() {
        let login = &logins(&record(7, 301, "tty1", "alice", "", 1_010))[0];
        assert!(login.can_be(900) && login.can_be(1_010) && login.can_be(1_011));
        assert!(!login.can_be(1_013));
    }

    #[test]
    fn run_levels_0_and_6_and_shutdown_mean_going_down_in_this_boot_only() {
        let level = |pid: i32, user: &str, since| record(1, pid, "~", user, "", since);
        let (two, six) = (i32::from(b'2'), i32::from(b'6') + 256 * i32::from(b'2'));
        assert!(going_down(&level(six, "runlevel", 2_000), 1_000));
        assert!(going_down(&level(i32::from(b'0'), "runlevel", 2_000), 1_000));
        assert!(going_down(&level(0, "shutdown", 2_000), 1_000));
        assert!(!going_down(&level(two, "runlevel", 2_000), 1_000));
        assert!(!going_down(&level(six, "runlevel", 900), 1_000), "of an earlier boot");
        let both = [level(0, "shutdown", 900), level(two, "runlevel", 1_001)].concat();
        assert!(!going_down(&both, 800), "the later one holds");
        assert!(!going_down(&[], 0));
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_break_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            for login in logins(&bytes) {
                prop_assert!(login.user.len() <= 32 * 3 && login.host.len() <= 256 * 3);
                prop_assert!(!login.user.chars().chain(login.host.chars()).any(char::is_control));
            }
            let _ = going_down(&bytes, 0);
        }
    }
}
