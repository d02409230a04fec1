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
const UNITS: [(&str, &str); 3] = [
    ("systemd.extra-unit.run-vmm-kit.mount", include_str!("run-vmm-kit.mount")),
    ("systemd.extra-unit.vmm-agent.service", include_str!("vmm-agent.service")),
    ("systemd.unit-dropin.systemd-user-sessions.service", "[Unit]\nWants=vmm-agent.service\n"),
];

/// The strings for the SMBIOS tables.
#[must_use]
pub fn credentials() -> Vec<String> {
    let credential = |(name, text): (&str, &str)| {
        format!("io.systemd.credential.binary:{name}={}", base64(text.as_bytes()))
    };
    UNITS.map(credential).into()
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
    fn the_units_mount_the_disk_and_start_the_agent_that_is_on_it() {
        let mount = decoded("systemd.extra-unit.run-vmm-kit.mount");
        assert!(mount.contains(&format!("What=/dev/disk/by-id/virtio-{VOLUME}\n")), "{mount}");
        assert!(mount.contains("Where=/run/vmm/kit\n"), "{mount}");
        let service = decoded("systemd.extra-unit.vmm-agent.service");
        assert!(service.contains("ExecStart=/run/vmm/kit/vmm-agent\n"), "{service}");
        assert!(service.contains("Requires=run-vmm-kit.mount\n"), "{service}");
        let wants = decoded("systemd.unit-dropin.systemd-user-sessions.service");
        assert!(wants.contains("Wants=vmm-agent.service\n"), "{wants}");
    }

    #[test]
    fn systemd_finds_nothing_wrong_with_the_units() {
        let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
            return println!("there is no systemd-analyze here");
        };
        assert!(version.status.success());
        let folder = tempfile::tempdir().unwrap();
        // What it would start must be there, so it starts something else.
        for (name, text) in UNITS {
            let name = name.trim_start_matches("systemd.extra-unit.");
            let text = text.replace("/run/vmm/kit/vmm-agent", "/bin/true");
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
