//! The network interfaces of a definition.
//!
//! ```toml
//! [[net]]
//! tap = "tap0"
//! mac = "02:00:00:00:00:01"       # derived from the machine's id if nothing is said
//! ```

use super::fault::{DefinitionError, Fault, shown};
use super::reader::{Known, Section};
use crate::config::{ConsoleDevice, DEVICES_MAX, Mac, Net, is_tap_name};
use serde::Serialize;

pub(super) static NET: Known = Known { table: "net", keys: &["tap", "mac"] };

/// Reads the network interfaces, of which `sections` are the tables, of a machine that has that many
/// `disks`, and its console on that device.
pub(super) fn read(
    sections: &[Section<'_>],
    disks: usize,
    console: ConsoleDevice,
) -> Result<Vec<Net>, DefinitionError> {
    let most = DEVICES_MAX.saturating_sub(disks + console.virtio_devices());
    let and_console = match console {
        ConsoleDevice::Serial => "",
        ConsoleDevice::Virtio => " and the virtio console",
    };
    let mut nets: Vec<Net> = Vec::new();
    for section in sections {
        let refused = |key: &str, wrong: &str, expected: String, found: String| {
            let fault = Fault::Value { key: key.to_owned(), expected, found };
            Err(section.error(section.span(wrong), fault))
        };
        if nets.len() == most {
            let expected = format!("at most {most} of them beside {disks} disks{and_console}");
            return refused("net", "tap", expected, "one more".into());
        }
        let tap_name = |text: &str| is_tap_name(text).then(|| text.to_owned());
        let tap = section.need("tap", Net::TAP_EXPECTED, |value| tap_name(value.as_str()?))?;
        let mac = section.get("mac", Mac::EXPECTED, |value| value.as_str()?.parse().ok())?;
        let found = |text: &str| format!("the text {:?}", shown(text));
        if nets.iter().any(|net| net.tap == tap) {
            let expected = "a tap that no other interface is on".into();
            return refused("net.tap", "tap", expected, found(&tap));
        }
        if let Some(mac) = mac
            && nets.iter().any(|net| net.mac == Some(mac))
        {
            let expected = "an address that no other interface has".into();
            return refused("net.mac", "mac", expected, found(&mac.to_string()));
        }
        nets.push(Net { tap, mac });
    }
    Ok(nets)
}

/// A network interface as it is written.
#[derive(Serialize)]
pub(super) struct Written<'a> {
    tap: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
}

impl<'a> From<&'a Net> for Written<'a> {
    fn from(net: &'a Net) -> Self {
        Self { tap: &net.tap, mac: net.mac.map(|mac| mac.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Definition;
    use super::*;
    use std::path::Path;

    const TOP: &str = "name = 'web'\nkernel = 'k'\n";

    fn parse(text: &str) -> Result<Definition, String> {
        let parsed = Definition::parse(&format!("{TOP}{text}"), Path::new("web.toml"));
        parsed.map_err(|error| error.to_string())
    }

    #[test]
    fn interfaces_are_read_and_written_as_they_are() {
        let text = "[[net]]\ntap = 'tap0'\n[[net]]\nmac = '02:00:00:AA:00:01'\ntap = 'tap1'";
        let definition = parse(text).unwrap();
        let mac = Mac::new([2, 0, 0, 0xaa, 0, 1]);
        assert_eq!(definition.nets, [Net::new("tap0"), Net { mac, ..Net::new("tap1") }]);
        let written = definition.to_toml().unwrap();
        assert_eq!(Definition::parse(&written, Path::new("web.toml")).unwrap(), definition);
        let config = definition.config(Path::new("/"));
        assert_eq!(config.nets, definition.nets);
        assert_eq!(Some(config.mac(1)), mac);
    }

    #[test]
    fn faults_are_told_with_line_key_what_was_expected_and_what_was_found() {
        let tap = Net::TAP_EXPECTED;
        let mac = Mac::EXPECTED;
        for (text, expected) in [
            ("[[net]]\n".to_owned(), format!(r#":3: no "net.tap"; expected {tap}"#)),
            ("[[net]]\ntap = 1".into(), format!(r#":4: "net.tap": expected {tap}, found the number 1"#)),
            (
                "[[net]]\ntap = 'a/b'".into(),
                format!(r#":4: "net.tap": expected {tap}, found the text "a/b""#),
            ),
            (
                "[[net]]\ntap = 'a'\nmac = 'ff:ff:ff:ff:ff:ff'".into(),
                format!(r#":5: "net.mac": expected {mac}, found the text "ff:ff:ff:ff:ff:ff""#),
            ),
            (
                "[[net]]\ntap = 'a'\nmack = ''".into(),
                r#":5: unknown key "net.mack"; did you mean "net.mac"?"#.into(),
            ),
            (
                "[net]\ntap = 'a'".into(),
                r#":3: "net": expected tables that begin with [[net]], found a table"#.into(),
            ),
            (
                "[[net]]\ntap = 'a'\n[[net]]\ntap = 'a'".into(),
                r#":6: "net.tap": expected a tap that no other interface is on, found the text "a""#.into(),
            ),
            (
                "[[net]]\ntap = 'a'\nmac = '02:00:00:00:00:01'\n\
                 [[net]]\ntap = 'b'\nmac = '02:00:00:00:00:01'"
                    .into(),
                r#":8: "net.mac": expected an address that no other interface has, found the text "02:00:00:00:00:01""#
                    .into(),
            ),
        ] {
            assert_eq!(parse(&text).unwrap_err(), format!("web.toml{expected}"), "{text}");
        }
    }

    #[test]
    fn a_machine_has_no_more_interfaces_than_its_disks_and_its_console_leave_room_for() {
        let table = |key: &str, value: &str, count: usize| -> String {
            (0..count).map(|number| format!("[[{key}]]\n{value} = '{number}'\n")).collect()
        };
        for (console, others, beside) in
            [("serial", 0, "3 disks"), ("virtio", 1, "3 disks and the virtio console")]
        {
            let text = |disks, nets| {
                let console = format!("console_device = '{console}'\n");
                console + &table("disk", "path", disks) + &table("net", "tap", nets)
            };
            let most = DEVICES_MAX - others;
            let definition = parse(&text(0, most)).unwrap();
            assert_eq!(definition.nets.len(), most);
            assert_eq!(definition.config(Path::new("/")).devices(), DEVICES_MAX);
            assert!(parse(&text(0, most + 1)).is_err(), "{console}");
            let most = most - 3;
            assert!(parse(&text(3, most)).is_ok(), "{console}");
            let error = parse(&text(3, most + 1)).unwrap_err();
            let line = 3 + 3 * 2 + (most + 1) * 2;
            let found = format!(
                r#"web.toml:{line}: "net": expected at most {most} of them beside {beside}, found one more"#
            );
            assert_eq!(error, found);
        }
    }
}
