//! The files below `/proc/PID`, proc(5), and the terminals' numbers in them.
//!
//! Everything in `stat` up to the last parenthesis is the process's own word: a name may hold
//! spaces, parentheses and any byte. So is a command line.

use super::{Door, Identity, Process};

/// `PF_KTHREAD` of the kernel's `sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Whether a program of this name may be a [`Door`] or a login prompt.
pub(super) fn lets_users_in(comm: &str) -> bool {
    matches!(comm, "login" | "sshd" | "sshd-session") || is_prompt_name(comm)
}

/// Whether a program of this name asks for a user's name.
pub(super) fn is_prompt_name(comm: &str) -> bool {
    comm.ends_with("getty") || comm == "sulogin"
}

/// What the title of an ssh server's process says: `sshd: alice@pts/0`, `sshd-session: bob [priv]`.
pub(super) fn ssh_door(title: &[u8]) -> Option<Door> {
    let title = title.split(|byte| *byte == 0).next()?;
    let title = std::str::from_utf8(title).ok()?.trim_end();
    let rest = title.strip_prefix("sshd: ").or_else(|| title.strip_prefix("sshd-session: "))?;
    match rest.rsplit_once(' ') {
        Some((_, "[priv]")) => Some(Door::SshMonitor),
        None if rest.contains('@') && !rest.starts_with('/') => Some(Door::SshUser),
        _ => None,
    }
}

/// A line of `/proc/PID/stat`; what other files say is left open.
pub(super) fn parse_stat(bytes: &[u8]) -> Option<Process> {
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let pid = std::str::from_utf8(bytes.get(..open)?).ok()?.trim().parse().ok()?;
    let comm = String::from_utf8_lossy(bytes.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    // From the third field on; the last one wanted is the twenty-second.
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(20).collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    let unsigned = |field: usize| number(field).and_then(|value| u32::try_from(value).ok());
    // A process whose first thread has ended while others run looks like a zombie, but is none.
    let ended = matches!(*fields.first()?, "Z" | "X" | "x") && number(20)? <= 1;
    Some(Process {
        identity: Identity { pid, start: fields.get(22 - 3)?.parse().ok()? },
        parent: unsigned(4)?,
        sid: unsigned(6)?,
        // The kernel prints the device number as a signed number.
        tty: number(7)? as u32,
        comm,
        dead: ended,
        kernel: fields.get(9 - 3)?.parse::<u64>().ok()? & KERNEL_THREAD != 0,
        audit: None,
        uid: None,
        door: None,
    })
}

/// The real user id in `/proc/PID/status`.
pub(super) fn parse_uid(status: &[u8]) -> Option<u32> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// Major and minor number of a terminal.
#[must_use]
pub fn tty_numbers(tty: u32) -> (u32, u32) {
    ((tty >> 8) & 0xfff, (tty & 0xff) | ((tty >> 12) & 0xf_ff00))
}

/// The name of a terminal, without `/dev/`, from its device number.
#[must_use]
pub fn tty_name(tty: u32) -> String {
    let (major, minor) = tty_numbers(tty);
    match (major, minor) {
        (4, 0..=63) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 1) => "console".into(),
        (136..=143, _) => format!("pts/{}", (major - 136) * 256 + minor),
        (204, 64..) => format!("ttyAMA{}", minor - 64),
        (229, _) => format!("hvc{minor}"),
        _ => format!("{major}:{minor}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(comm: &str, state: &str, threads: u32) -> String {
        format!(
            "42 ({comm}) {state} 7 42 40 34816 42 4194304 1 2 3 4 5 6 7 8 20 0 {threads} 0 987654 1 2"
        )
    }

    #[test]
    fn the_fields_are_found_whatever_the_name_holds() {
        for comm in ["sh", "a b", ") R 1 1 1 1 1 1 1 (", "))", "", "x\ny"] {
            let process = parse_stat(line(comm, "S", 1).as_bytes()).unwrap();
            assert_eq!(process.comm, comm);
            assert_eq!(process.identity, Identity { pid: 42, start: 987_654 });
            assert_eq!((process.parent, process.sid, process.tty), (7, 40, 34816));
            assert!(!process.dead && !process.kernel);
        }
    }

    #[test]
    fn a_zombie_is_dead_unless_threads_of_it_still_run() {
        assert!(parse_stat(line("sh", "Z", 1).as_bytes()).unwrap().dead);
        assert!(!parse_stat(line("sh", "Z", 2).as_bytes()).unwrap().dead);
    }

    #[test]
    fn ssh_titles_tell_connections_from_listeners() {
        for (title, door) in [
            ("sshd: alice@pts/0,pts/3\0", Some(Door::SshUser)),
            ("sshd: root@notty\0\0\0", Some(Door::SshUser)),
            ("sshd-session: al@corp@notty", Some(Door::SshUser)),
            ("sshd: alice [priv]\0", Some(Door::SshMonitor)),
            ("sshd: unknown [preauth]", None),
            ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", None),
            ("/usr/sbin/sshd\0-D", None),
            ("", None),
        ] {
            assert_eq!(ssh_door(title.as_bytes()), door, "{title:?}");
        }
    }

    #[test]
    fn terminals_have_their_usual_names() {
        for (tty, name) in [
            (0x0401, "tty1"),
            (0x0440, "ttyS0"),
            (0x8800, "pts/0"),
            (0x8903, "pts/259"),
            (0x10_8802, "pts/258"),
            (0xe500, "hvc0"),
            (0x0501, "console"),
            (0xabcd, "171:205"),
        ] {
            assert_eq!(tty_name(tty), name);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_break_a_parser(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            parse_stat(&bytes);
            parse_uid(&bytes);
            ssh_door(&bytes);
        }

        #[test]
        fn no_stat_like_text_breaks_the_parser(
            text in r"[0-9]{0,11} \(.{0,20}\)( [-]?[0-9A-Z]{0,21}){0,30}", tty in any::<u32>(),
        ) {
            parse_stat(text.as_bytes());
            prop_assert!(!tty_name(tty).is_empty());
        }
    }
}
