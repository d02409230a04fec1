//! Network interfaces on the command line: what is refused, which addresses they have, and who may
//! have a tap.

use crate::world::World;
use serde_json::json;
use std::path::Path;
use tests::micro::SPIN;
use vmm::config::{DEVICES_MAX, DISKS_MAX};

/// Whether a test can make taps; it says so if not.
fn may_make_taps() -> bool {
    let may = rustix::process::geteuid().is_root() && Path::new("/dev/net/tun").exists();
    if !may {
        tests::not_tested("only root, on a host with /dev/net/tun, can make taps");
    }
    may
}

/// The name of a tap of this process's own.
fn tap_name(number: usize) -> String {
    format!("vmm{}x{number}", std::process::id() % 1_000_000)
}

#[test]
fn interfaces_that_a_machine_cannot_have_are_explained() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let machine = ["--kernel", kernel.as_str(), "--memory", "32M"];
    let with = |nets: &[String]| {
        let words = nets.iter().flat_map(|net| ["--net", net]);
        world.refused(&machine.into_iter().chain(words).collect::<Vec<_>>())
    };
    let many: Vec<String> = (0..=DEVICES_MAX).map(|number| format!("tap=t{number}")).collect();
    for (nets, named) in [
        (many, format!("0 and {}", DEVICES_MAX + 1)),
        (vec!["tap=a".into(), "tap=a".into()], "tap a".to_owned()),
        (
            vec!["tap=a,mac=02:00:00:00:00:01".into(), "tap=b,mac=02:00:00:00:00:01".into()],
            "02:00:00:00:00:01".to_owned(),
        ),
    ] {
        let (exit, code, text) = with(&nets);
        assert_eq!((exit, code.as_str()), (Some(2), "0x80070057"), "{text}");
        assert!(text.contains(&named), "{text}");
    }
    const { assert!(DISKS_MAX < DEVICES_MAX) };
}

#[test]
fn addresses_stay_and_a_tap_is_one_machines_alone() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let tap = tap_name(100);
    let net = format!("tap={tap}");
    let fixed = format!("tap={},mac=02:00:00:00:00:01", tap_name(101));
    let mut addresses = Vec::new();
    for (name, nets) in [("one", &[&net, &fixed][..]), ("two", &[&net])] {
        let machine = ["create", name, "--kernel", &kernel, "--memory", "32M"];
        let words = nets.iter().flat_map(|net| ["--net", net]);
        let created = world.vmm(&machine.into_iter().chain(words).collect::<Vec<_>>());
        assert_eq!(created.code, Some(0), "{created:?}");
        let shown = || world.json(&["show", name]).json()["definition"]["networks"].clone();
        assert_eq!(shown(), shown());
        let address = shown()[0]["mac"].as_str().unwrap().to_owned();
        assert_eq!(shown()[0], json!({ "tap": tap, "mac": address }));
        let human = world.vmm(&["show", name]).stdout;
        assert!(human.contains(&format!("{tap} ({address})")), "{human}");
        addresses.push(address);
    }
    assert_ne!(addresses[0], addresses[1], "machines have addresses of their own");
    let second = &world.json(&["show", "one"]).json()["definition"]["networks"][1];
    assert_eq!(second["mac"], "02:00:00:00:00:01");

    if !may_make_taps() {
        return;
    }
    assert_eq!(world.vmm(&["start", "one"]).code, Some(0));
    let refused = world.json(&["start", "two"]);
    let task = refused.json()["task"].clone();
    assert_eq!((refused.code, &task["error"]), (Some(1), &json!("0x80070020")), "{task}");
    let text = task["error_description"].as_str().unwrap();
    assert!(text.contains(&tap) && text.contains("in use"), "{text}");
    let running = world.json(&["show", "one"]).json()["running"]["used"].clone();
    assert_eq!(running["network_bytes_sent"], 0);
    assert_eq!(world.vmm(&["stop", "one"]).code, Some(0));
    assert_eq!(world.vmm(&["start", "two"]).code, Some(0));
    assert_eq!(world.vmm(&["stop", "two"]).code, Some(0));
}

#[test]
fn a_machine_with_as_many_devices_as_there_can_be_runs() {
    let world = World::new();
    if !may_make_taps() {
        return;
    }
    let kernel = world.kernel(SPIN);
    let nets: Vec<String> =
        (0..DEVICES_MAX).map(|number| format!("tap={}", tap_name(number))).collect();
    let machine = ["create", "full", "--kernel", &kernel, "--memory", "32M"];
    let words = nets.iter().flat_map(|net| ["--net", net]);
    let created = world.vmm(&machine.into_iter().chain(words).collect::<Vec<_>>());
    assert_eq!(created.code, Some(0), "{created:?}");
    let started = world.vmm(&["start", "full"]);
    assert_eq!(started.code, Some(0), "{started:?}");
    assert_eq!(world.vmm(&["stop", "full"]).code, Some(0));
}
