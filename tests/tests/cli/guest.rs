//! What is asked of guests, where no agent answers: every code as documented, at once.

use crate::world::World;
use tests::micro::SPIN;

#[test]
fn without_an_agent_the_guest_can_do_nothing_and_the_command_says_so() {
    let world = World::new();
    let _machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    for verb in [
        &["users", "web"][..],
        &["logoff", "web"],
        &["shutdown", "web", "--forced"],
        &["restart", "web"],
        &["stop", "web", "--guest"],
        &["param", "get", "web", "HostName"],
        &["param", "set", "web", "Key", "-value"],
    ] {
        let (exit, code, text) = world.json(verb).refusal();
        assert_eq!((exit, code.as_str()), (Some(5), "0xA0040505"), "{verb:?}");
        assert!(text.starts_with("no agent"), "{text}");
    }
    for (key, value) in [("a/b", "x"), ("", "x"), (".hidden", "x"), ("Key", "\x1b[2J")] {
        let (exit, code, _) = world.json(&["param", "set", "web", key, value]).refusal();
        assert_eq!((exit, code.as_str()), (Some(2), "0x80070057"), "{key:?}");
    }
    assert_eq!(world.json(&["ls"]).json()["machines"][0]["state"], "Running");
}

#[test]
fn info_has_every_property_or_the_code_with_which_it_is_refused() {
    let world = World::new();
    let _machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    let info = world.json(&["info", "web"]);
    assert_eq!(info.code, Some(0), "{info:?}");
    let document = info.json();
    assert_eq!(document["machine"]["name"], "Web");
    let guest = document["guest"].as_object().unwrap();
    assert_eq!(guest.len(), 23);
    assert_eq!(guest["can_shutdown"]["value"], false);
    for (property, code) in [
        ("computer_name", "0xA0040505"),
        ("os_version_info", "0xA0040505"),
        ("terminal_server_port", "0xA0040505"),
        ("is_heartbeating", "0xA0040504"),
        ("heartbeat_percentage", "0xA0040504"),
        ("integration_components_version", "0xA0040504"),
    ] {
        assert_eq!(guest[property]["error"]["code"], code, "{property}");
    }
    let human = world.vmm(&["info", "web"]).stdout;
    assert!(human.lines().all(|line| line.chars().count() <= 80), "{human}");
    assert!(human.contains("can_shutdown") && human.contains("running"), "{human}");
    // People are told that there is no agent, and not for each property anew.
    assert!(!human.contains("computer_name"), "{human}");
}
