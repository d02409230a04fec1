//! What makes a guest with systemd 256 or newer start the agent from the disk, with no change to
//! its image.
//!
//! systemd takes system credentials from SMBIOS strings of type 11
//! (systemd.system-credentials(7)), and its debug generator makes units of those that are called
//! `systemd.extra-unit.*` and drop-ins of `systemd.unit-dropin.*`. Such units come before those of
//! the same name in `/etc` and `/usr/lib`: where the guest has a `vmm-agent.service` of its own, the
//! one from the disk takes its place, and there are never two. The drop-in is on
//! `systemd-user-sessions.service`, which lets users log on and which every guest with users has: one
//! on `multi-user.target` would be in the way of the user's own, since there can be one for each
//! unit. An older systemd, and any other init, lets these strings be.

/// The units: the name of the credential, and the text.
const UNITS: [(&str, &str); 2] = [
    ("systemd.extra-unit.vmm-agent.service", include_str!("vmm-agent.service")),
    ("systemd.unit-dropin.systemd-user-sessions.service", "[Unit]\nWants=vmm-agent.service\n"),
];

/// The strings for the SMBIOS tables.
#[must_use]
pub fn credentials() -> Vec<String> {
    UNITS.map(|(name, text)| credential(name, text)).into()
}

/// The string that is the credential `name`.
#[must_use]
pub fn credential(name: &str, text: &str) -> String {
    format!("io.systemd.credential.binary:{name}={}", base64(text.as_bytes()))
}

/// `bytes` in base64 (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits: u32, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for digit in 0..4 {
            // Of n bytes come n + 1 digits.
            let value = bits >> (18 - 6 * digit) & 63;
            let known = digit <= group.len();
            text.push(if known { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::VOLUME;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::{Command, Stdio};

    #[test]
    fn base64_is_as_the_specification_has_it() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbf, 0xff]), "+/+//w==");
    }

    /// What the credential `name` decodes to.
    fn decoded(name: &str) -> String {
        let prefix = format!("io.systemd.credential.binary:{name}=");
        let all = credentials();
        let text = all.iter().find_map(|text| text.strip_prefix(&prefix)).unwrap();
        let mut decoder = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        decoder.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        String::from_utf8(decoder.wait_with_output().unwrap().stdout).unwrap()
    }

    #[test]
    fn the_unit_looks_for_this_disk_and_users_are_let_in_with_it() {
        let service = decoded("systemd.extra-unit.vmm-agent.service");
        assert!(service.contains(&format!("disk=/dev/disk/by-id/virtio-{VOLUME} ")), "{service}");
        let wants = decoded("systemd.unit-dropin.systemd-user-sessions.service");
        assert!(wants.contains("Wants=vmm-agent.service\n"), "{wants}");
    }

    /// What the unit's shell would become, with its places below `root`, and its exit status.
    fn started(root: &Path) -> (String, Option<i32>) {
        let unit = decoded("systemd.extra-unit.vmm-agent.service").replace("\\\n", " ");
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/bin/sh -c '"));
        let below = |place: &str| format!("{}{place}", root.display());
        let script = line
            .and_then(|line| line.strip_suffix('\''))
            .expect("it starts a shell")
            .replace("$$", "$")
            .replace("/dev/disk", &below("/dev/disk"))
            .replace("/run/vmm", &below("/run/vmm"))
            .replace("/usr/sbin", &below("/usr/sbin"))
            .replace("sleep 1", "true");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), output.status.code())
    }

    #[test]
    fn the_agent_is_the_disks_else_the_guests_own_else_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(started(folder.path()), (String::new(), Some(3)), "it is not tried again");
        for (place, who) in [("usr/sbin", "own"), ("run/vmm/kit", "brought")] {
            let agent = folder.path().join(place).join("vmm-agent");
            fs::create_dir_all(agent.parent().unwrap()).unwrap();
            fs::write(&agent, format!("#!/bin/sh\necho {who}\n")).unwrap();
            fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(started(folder.path()), (who.to_owned(), Some(0)));
        }
    }

    #[test]
    fn systemd_finds_nothing_wrong_with_the_units() {
        let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
            return println!("there is no systemd-analyze here");
        };
        assert!(version.status.success());
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in UNITS {
            let name = name.trim_start_matches("systemd.extra-unit.");
            fs::write(folder.path().join(name), text).unwrap();
        }
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=one"])
            .arg(folder.path().join("vmm-agent.service"))
            .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let ours: Vec<&str> = said.lines().filter(|line| line.contains("vmm")).collect();
        assert!(output.status.success() && ours.is_empty(), "{said}");
    }
}
