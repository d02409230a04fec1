//! `vmm stop`, `reset`, `pause`, `resume`, `balloon` of machines without a Linux in them.

use crate::world::World;
use tests::micro::SPIN;

#[test]
fn a_stopped_machine_is_off_when_the_command_returns() {
    let world = World::new();
    let machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    let stop = world.json(&["stop", "web"]);
    assert_eq!(stop.code, Some(0), "{stop:?}");
    let task = &stop.json()["task"];
    assert_eq!((&task["result"], &task["error"]), (&"Success".into(), &"0x00000000".into()));
    let (status, _, stderr) = machine.end();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), "Web: turned off\n"));
    world.holds_nothing();
}

#[test]
fn a_paused_machine_stands_still_until_it_is_resumed() {
    let world = World::new();
    let _machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    let paused = world.json(&["pause", "web"]);
    assert_eq!(paused.code, Some(0), "{paused:?}");
    assert_eq!(paused.json(), serde_json::json!({ "name": "Web", "state": "Paused" }));
    assert_eq!(world.json(&["ls"]).json()["machines"][0]["state"], "Paused");
    let (exit, code, _) = world.json(&["pause", "web"]).refusal();
    assert_eq!((exit, code.as_str()), (Some(1), "0x80004005"));
    for verb in ["logoff", "shutdown", "restart"] {
        let (exit, code, text) = world.json(&[verb, "web"]).refusal();
        assert_eq!((exit, code.as_str()), (Some(4), "0xA0040206"), "{verb}");
        assert!(text.contains("resume"), "{text}");
    }
    let resumed = world.vmm(&["resume", "web"]);
    assert_eq!((resumed.code, resumed.stdout.as_str()), (Some(0), "Web is running\n"));
    let (exit, code, _) = world.json(&["resume", "web"]).refusal();
    assert_eq!((exit, code.as_str()), (Some(1), "0x80004005"));
}

#[test]
fn a_reset_is_a_task_and_the_machine_runs_on() {
    let world = World::new();
    let machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    let reset = world.json(&["reset", "web", "--progress", "none"]);
    assert_eq!((reset.code, &reset.json()["task"]["result"]), (Some(0), &"Success".into()));
    let listed = world.json(&["ls"]).json();
    assert_eq!(listed["machines"][0]["state"], "Running");
    assert_eq!(listed["machines"][0]["pid"], machine.child.id());
    let id = world.vmm(&["reset", "web", "--no-wait"]).stdout;
    assert_eq!(world.vmm(&["task", "wait", id.trim()]).code, Some(0));
}

#[test]
fn a_balloon_has_a_target_also_where_no_driver_follows_it() {
    let world = World::new();
    let _machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    let shown = world.json(&["balloon", "web"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let expected = serde_json::json!({
        "name": "Web", "target": 0, "actual": 0, "driver": false, "given_back": 0,
        "stats": null, "stats_age_ms": null,
    });
    assert_eq!(shown.json(), expected);
    assert_eq!(world.json(&["balloon", "web", "8M"]).json()["target"], 8 << 20);
    world.json(&["pause", "web"]);
    let words = world.vmm(&["balloon", "web"]).stdout;
    assert!(words.contains("target        8 MiB\n"), "{words}");
    for size in ["32M", "4097", "900T"] {
        let (exit, code, text) = world.json(&["balloon", "web", size]).refusal();
        assert_eq!((exit, code.as_str()), (Some(2), "0x80070057"), "{size}");
        assert!(text.contains("16 MiB"), "{text}");
    }
    assert_eq!(world.json(&["balloon", "web"]).json()["target"], 8 << 20);
}
