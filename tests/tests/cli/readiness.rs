//! Readiness without an agent, told over real vsock by a guest that plays an init.

use crate::world::{World, eventually};
use serde_json::json;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;
use tests::agent::{self, Manner};
use tests::micro::{POWER_OFF, SPIN};
use tests::relay;

/// Says `message` as systemd does, and waits for the end as that does.
fn say(world: &World, name: &str, message: &str) {
    let vsock = world.runtime().join(name).join("vsock.sock");
    let mut stream = relay::dial(&vsock, protocol::NOTIFY_PORT);
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(message.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is closed without a word");
}

#[test]
fn a_start_that_waits_for_readiness_ends_when_the_guest_says_so_and_a_reset_begins_anew() {
    let world = World::new();
    world.create("web", relay::code());
    let start = world.background(&["start", "web", "--wait", "ready"]);
    eventually("it never runs", || world.listed("web")["state"] == "Running");
    let told = || world.json(&["show", "web"]).json()["running"]["readiness"].clone();
    assert_eq!(told()["phase"], "booting");
    say(&world, "web", "X_SYSTEMD_UNIT_ACTIVE=basic.target\n");
    eventually("it is not heard", || told()["messages"] == 1);
    assert_eq!(told()["phase"], "booting");
    say(&world, "web", "READY=1\nSTATUS=Startup finished.\n");
    let (status, stdout, stderr) = start.end();
    assert_eq!((status.code(), stdout.as_str()), (Some(0), "web is running\n"));
    assert_eq!(stderr, "web is running; waiting for its guest to be ready\n");
    assert!(world.vmm(&["show", "web"]).stdout.contains("ready, "));
    assert_eq!(told()["phase"], "ready");
    assert_eq!(world.vmm(&["reset", "web"]).code, Some(0));
    let anew = json!({
        "phase": "booting", "ready_ms": null, "exit_status": null, "messages": 0, "dropped": 0,
    });
    assert_eq!(told(), anew);
    say(&world, "web", "READY=1\n");
    eventually("the new boot is not heard", || told()["phase"] == "ready");
}

#[test]
fn who_waits_too_long_is_told_what_was_heard() {
    let world = World::new();
    world.create("mute", SPIN);
    world.create("web", relay::code());
    let late = |name: &str| {
        let (exit, code, text) =
            world.json(&["start", name, "--wait", "ready", "--timeout", "300ms"]).refusal();
        assert_eq!((exit, code.as_str()), (Some(6), "0xA0040202"), "{text}");
        assert_eq!(world.listed(name)["state"], "Running", "it goes on");
        text
    };
    assert!(late("mute").contains("said nothing at all"));
    world.create("off", POWER_OFF);
    let (exit, code, text) = world.json(&["start", "off", "--wait", "ready"]).refusal();
    assert_eq!((exit, code.as_str()), (Some(4), "0xA0040206"));
    assert!(text.contains("before its guest was ready") && text.contains("powered off"), "{text}");
    let start = world.background(&[
        "start",
        "web",
        "--wait",
        "ready",
        "--timeout",
        "3s",
        "--format",
        "json",
    ]);
    eventually("it never runs", || world.listed("web")["state"] == "Running");
    say(&world, "web", "X_SYSTEMD_HOSTNAME=web\n");
    let (status, stdout, _) = start.end();
    assert_eq!(status.code(), Some(6));
    assert!(stdout.contains("said something else once"), "{stdout}");
}

#[test]
fn the_exit_status_of_the_guests_init_is_told_with_the_machines_end() {
    let world = World::new();
    let kernel = world.kernel(relay::code());
    let machine = world.start(&["--kernel", &kernel, "--format", "json"]);
    say(&world, "web", "X_SYSTEMD_SHUTDOWN=poweroff\n");
    say(&world, "web", "READY=1\n");
    say(&world, "web", "EXIT_STATUS=3\n");
    assert_eq!(world.vmm(&["stop", "web"]).code, Some(0));
    let (status, stdout, stderr) = machine.end();
    assert_eq!(status.code(), Some(0));
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["exit_status"], 3);
    assert!(stderr.contains("exit status 3"), "{stderr}");
}

#[test]
fn an_agent_and_an_init_do_not_disturb_each_other() {
    let world = World::new();
    world.create("web", relay::code());
    assert_eq!(world.vmm(&["start", "web"]).code, Some(0));
    say(&world, "web", "READY=1\n");
    agent::connect(&world.runtime().join("web/vsock.sock"), Manner::NOBODY);
    eventually("no agent", || world.listed("web")["agent"]["connected"] == true);
    let show = world.json(&["show", "web"]).json();
    assert_eq!(show["running"]["readiness"]["phase"], "ready");
}
