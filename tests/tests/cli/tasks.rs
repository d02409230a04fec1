//! `vmm task` across machines.

use crate::world::{Machine, VMM, World};
use tests::micro::SPIN;

fn start(world: &World, name: &str) -> Machine {
    let mut command = world.command(VMM);
    command.args(["run", name, "--memory", "32M", "--console", "none"]);
    world.runs(command.args(["--kernel", &world.kernel(SPIN)]))
}

#[test]
fn tasks_of_all_machines_are_listed_and_found_by_their_ids_alone() {
    let world = World::new();
    assert_eq!(world.vmm(&["task", "ls"]).stdout, "no tasks\n");
    let _machines = [start(&world, "Web"), start(&world, "db")];
    let listed = world.json(&["task", "ls"]).json();
    let tasks = listed["tasks"].as_array().unwrap();
    let machines: Vec<&str> = tasks.iter().map(|t| t["machine"].as_str().unwrap()).collect();
    assert_eq!(machines, ["db", "Web"], "{listed}");
    assert_ne!(tasks[0]["id"], tasks[1]["id"]);
    for task in tasks {
        let id = task["id"].to_string();
        let shown = world.json(&["task", "show", &id]);
        assert_eq!(shown.json()["task"]["id"], task["id"], "{shown:?}");
        assert_eq!(world.vmm(&["task", "wait", &id]).code, Some(0));
        let (exit, code, _) = world.json(&["task", "cancel", &id]).refusal();
        assert_eq!((exit, code.as_str()), (Some(1), "0x80004005"), "it is complete");
    }
    let of_one = world.json(&["task", "ls", "DB"]).json();
    assert_eq!(of_one["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(of_one["tasks"][0], tasks[0]);
    let human = world.vmm(&["task", "ls"]).stdout;
    assert!(human.starts_with("MACHINE  ID") && human.contains("start the machine"), "{human}");
    for verb in ["show", "wait", "cancel"] {
        let (exit, code, text) = world.json(&["task", verb, "4000000000"]).refusal();
        assert_eq!((exit, code.as_str()), (Some(1), "0x8002000B"));
        assert!(text.contains("vmm task ls"), "{text}");
    }
}
