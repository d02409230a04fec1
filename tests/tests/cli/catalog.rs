//! Machines that are known whether they run or not: `vmm create`, `register`, `unregister`, `rm`,
//! `ls`, `show`, and what is said of definitions with faults.

use crate::world::World;
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::time::Duration;
use tests::micro::{POWER_OFF, SPIN};
use vmm::HResult;
use vmm::control::client::Client;
use vmm::runtime::Runtime;

#[test]
fn a_machine_is_created_listed_shown_and_deleted() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let created = world.json(&[
        "create",
        "Web",
        "--kernel",
        &kernel,
        "--memory",
        "32M",
        "--cpus",
        "2",
        "--append",
        "-a b",
        "--notes",
        "mine",
        "--read",
        "4000001",
        "--execute",
        "@5000001",
        "--no-time-sync",
    ]);
    assert_eq!(created.code, Some(0), "{created:?}");
    let path = world.data().join("web/machine.toml");
    assert_eq!(created.json(), json!({ "name": "Web", "path": path }));
    let listed = world.json(&["ls"]).json()["machines"].clone();
    assert_eq!(
        listed,
        json!([{
            "name": "Web", "state": "TurnedOff", "registered": true, "pid": null,
            "uptime_ms": null, "cpus": 2, "memory": 32 << 20, "agent": null, "fault": null,
        }])
    );
    let shown = world.json(&["show", "WEB"]).json();
    assert_eq!((&shown["name"], &shown["state"]), (&json!("Web"), &json!("TurnedOff")));
    assert_eq!((&shown["path"], &shown["running"]), (&json!(path), &json!(null)));
    let definition = &shown["definition"];
    assert!(definition["id"].is_string(), "{definition}");
    for (key, value) in [
        ("kernel", json!(kernel)),
        ("append", json!("-a b")),
        ("notes", json!("mine")),
        ("read", json!(["4000001"])),
        ("execute", json!(["@5000001"])),
        ("host_time_sync", json!(false)),
        ("initrd", json!(null)),
    ] {
        assert_eq!(definition[key], value, "{key}");
    }
    let human = world.vmm(&["ls"]).stdout;
    assert!(human.contains("Web   turned off  -    -   2     32 MiB"), "{human}");
    let human = world.vmm(&["show", "web"]).stdout;
    assert!(human.contains("turned off") && human.contains(&kernel), "{human}");
    assert_eq!(world.vmm(&["rm", "web"]).code, Some(0));
    assert_eq!(world.json(&["ls"]).json(), json!({ "machines": [] }));
    assert_eq!(world.json(&["rm", "web"]).refusal().0, Some(3));
    world.holds_nothing();
}

#[test]
fn relative_paths_are_those_of_whoever_creates_the_machine() {
    let world = World::new();
    world.kernel(POWER_OFF);
    let name = format!("kernel-{}", POWER_OFF.len());
    let mut command = world.command(crate::world::VMM);
    command.args(["create", "web", "--memory", "32M", "--kernel", &name, "--console", "file=out"]);
    assert!(
        command
            .current_dir(world.folder.path())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(world.vmm(&["run", "web"]).code, Some(0));
    assert!(world.folder.path().join("out").exists());
}

#[test]
fn a_definition_that_is_elsewhere_stays_there_until_the_machine_is_deleted() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let path = world.file("web.toml", format!("name = 'web'\nkernel = '{kernel}'\n").as_bytes());
    let registered = world.json(&["register", &path, "--name", "staging"]);
    assert_eq!(registered.json()["name"], "staging", "{registered:?}");
    assert_eq!(world.listed("staging")["state"], "TurnedOff");
    let (exit, code, text) = world.json(&["register", &path, "--name", "other"]).refusal();
    assert_eq!((exit, code.as_str()), (Some(1), "0x800700B7"), "{text}");
    let unregistered = world.json(&["unregister", "STAGING"]).json();
    assert_eq!(
        fs::canonicalize(unregistered["path"].as_str().unwrap()).unwrap(),
        fs::canonicalize(&path).unwrap()
    );
    assert_eq!(world.json(&["show", "staging"]).refusal().0, Some(3));
    assert_eq!(world.vmm(&["register", &path]).code, Some(0));
    assert_eq!(world.vmm(&["rm", "web"]).code, Some(0));
    assert!(!fs::exists(&path).unwrap());
}

#[test]
fn a_machine_that_is_off_answers_every_verb_that_needs_it_running_with_4() {
    let world = World::new();
    world.create("Web", SPIN);
    for verb in [
        &["users", "web"][..],
        &["logoff", "web"],
        &["shutdown", "web"],
        &["restart", "web"],
        &["stop", "web"],
        &["stop", "web", "--guest"],
        &["reset", "web"],
        &["pause", "web"],
        &["resume", "web"],
        &["console", "web"],
        &["info", "web"],
        &["events", "web"],
        &["task", "ls", "web"],
        &["task", "show", "web", "1"],
        &["task", "wait", "web", "1"],
        &["task", "cancel", "web", "1"],
        &["param", "get", "web", "Key"],
        &["param", "set", "web", "Key", "value"],
    ] {
        let (exit, code, text) = world.json(verb).refusal();
        assert_eq!((exit, code.as_str()), (Some(4), "0xA0040206"), "{verb:?}");
        assert!(text.contains("vmm start"), "{text}");
    }
}

#[test]
fn a_name_that_is_nearly_right_is_suggested() {
    let world = World::new();
    world.create("database", SPIN);
    for verb in ["start", "show", "users", "rm", "unregister", "run"] {
        let (exit, _, text) = world.json(&[verb, "databse"]).refusal();
        assert_eq!(exit, Some(3), "{verb}");
        assert!(text.contains("did you mean database?"), "{verb}: {text}");
    }
}

#[test]
fn a_machine_of_the_catalog_runs_in_the_foreground_and_its_name_is_no_other_machines() {
    let world = World::new();
    world.create("brief", POWER_OFF);
    let run = world.json(&["run", "Brief", "--console", "none"]);
    assert_eq!((run.code, &run.json()["name"]), (Some(0), &json!("brief")), "{run:?}");
    let kernel = world.kernel(SPIN);
    let (exit, code, text) = world.json(&["run", "BRIEF", "--kernel", &kernel]).refusal();
    assert_eq!((exit, code.as_str()), (Some(1), "0xA0040403"));
    assert!(text.contains("vmm run brief"), "{text}");
}

#[test]
fn a_machine_without_a_definition_cannot_be_deleted_only_stopped() {
    let world = World::new();
    let _machine = world.start(&["--kernel", &world.kernel(SPIN)]);
    assert_eq!(world.listed("Web")["registered"], false);
    for verb in ["rm", "unregister"] {
        let (exit, code, text) = world.json(&[verb, "web"]).refusal();
        assert_eq!((exit, code.as_str()), (Some(1), "0xA0040500"), "{text}");
        assert!(text.contains("vmm stop Web"), "{text}");
    }
    assert_eq!(world.json(&["show", "web"]).json()["definition"], json!(null));
}

/// Definitions with a fault: what is in it, its code, and what is said of it.
fn faults(kernel: &str) -> Vec<(String, &'static str, Vec<String>)> {
    let with = |line: &str| format!("name = 'web'\nkernel = '{kernel}'\n{line}\n");
    let said = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    let illegal = "0xA0040301";
    vec![
        (with("memmory = '1G'"), illegal, said(&[":3:", "\"memmory\"", "mean \"memory\"?"])),
        (with("colour = 'red'"), illegal, said(&[":3:", "\"colour\"", "known here:", "cpus"])),
        (with("[access]\nexecut = []"), illegal, said(&[":4:", "execut\"", "execute"])),
        (with("memory = true"), illegal, said(&[":3:", "\"memory\"", "512M", "true"])),
        (with("cpus = '2'"), illegal, said(&[":3:", "\"cpus\"", "1 to 255"])),
        (with("cpus = 256"), illegal, said(&[":3:", "\"cpus\"", "1 to 255", "256"])),
        (with("cpus = 99999999999999999999"), illegal, said(&[":3:", "9999999999"])),
        (with("memory = '99999999999T'"), illegal, said(&[":3:", "\"memory\"", "99999999999T"])),
        (with("initrd = '/nowhere/i'"), "0x80070003", said(&[":3:", "\"initrd\"", "/nowhere/i"])),
        ("name = 'web'\nkernel = 'k'\n".into(), "0x80070002", said(&[":2:", "\"kernel\"", "/k"])),
        ("name = 'web'\n".into(), illegal, said(&["\"kernel\"", "the path of a file"])),
        (with("= = ="), illegal, said(&[":3:", "TOML"])),
    ]
}

#[test]
fn what_is_wrong_with_a_definition_is_said_with_file_line_and_key() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let path = world.file("web.toml", b"");
    for (text, code, words) in faults(&kernel) {
        fs::write(&path, &text).unwrap();
        let (exit, found, said) = world.json(&["register", &path]).refusal();
        assert_eq!((exit, found.as_str()), (Some(1), code), "{said}");
        for word in words {
            assert!(said.contains(&path) && said.contains(&word), "{word}: {said}");
        }
        let human = world.vmm(&["register", &path]);
        assert_eq!(human.stderr, format!("error: {said}\n"));
    }
    assert_eq!(world.json(&["ls"]).json(), json!({ "machines": [] }));
}

#[test]
fn a_machine_whose_definition_is_broken_afterwards_is_listed_with_its_fault_and_not_started() {
    let world = World::new();
    world.create("web", SPIN);
    let path = world.data().join("web/machine.toml");
    for (text, code, words) in faults(&world.kernel(SPIN)) {
        fs::write(&path, &text).unwrap();
        for verb in ["start", "run"] {
            let (exit, found, said) = world.json(&[verb, "web"]).refusal();
            assert_eq!((exit, found.as_str()), (Some(1), code), "{verb}: {said}");
            assert!(words.iter().all(|word| said.contains(word)), "{verb}: {said}");
        }
    }
    fs::write(&path, "name = 'web'\nkernle = 'k'\n").unwrap();
    let listed = world.listed("web");
    assert!(listed["fault"].as_str().unwrap().contains("kernle"), "{listed}");
    let human = world.vmm(&["ls"]);
    assert!(human.stdout.contains("web") && human.stderr.contains("mean \"kernel\"?"), "{human:?}");
    assert_eq!(world.json(&["show", "web"]).refusal().1, "0xA0040301");
    assert_eq!(world.vmm(&["rm", "web"]).code, Some(0), "it can still be deleted");
}

#[test]
fn a_machine_whose_process_hangs_is_listed_as_one_that_does_not_answer() {
    let world = World::new();
    let web = world.start(&["--kernel", &world.kernel(SPIN)]);
    web.signal(Signal::STOP);
    let listed = world.json(&["ls"]).json()["machines"].clone();
    assert_eq!(listed[0]["name"], "Web", "{listed}");
    assert!(listed[0]["state"].is_null(), "{listed}");
    let fault = listed[0]["fault"].as_str().unwrap();
    assert!(fault.contains("has not answered"), "{fault}");

    let mut client = Client::connect(&Runtime::at(world.runtime()), "web").unwrap();
    client.set_patience(Duration::from_millis(10)).unwrap();
    assert_eq!(client.machine().unwrap_err().code, HResult::VM_E_TIMED_OUT);
    web.signal(Signal::CONT);
    assert_eq!(world.json(&["ls"]).json()["machines"][0]["state"], "Running");
}

#[test]
fn oem_strings_of_the_command_line_are_in_the_definition_and_bad_ones_are_refused() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let strings = ["--oem-string", "io.systemd.credential:motd=hello, you", "--oem-string", "two"];
    let created = world.vmm(&[&["create", "web", "--kernel", &kernel], &strings[..]].concat());
    assert_eq!(created.code, Some(0), "{created:?}");
    let shown = world.json(&["show", "web"]).json();
    assert_eq!(shown["definition"]["oem_strings"], json!([strings[1], strings[3]]));
    for verb in ["create", "run"] {
        let bad = ["--oem-string", ""];
        let refused = world.json(&[&[verb, "db", "--kernel", &kernel], &bad[..]].concat());
        assert_eq!(refused.refusal().0, Some(2), "{refused:?}");
    }
    assert_eq!(world.vmm(&["run", "web", "--oem-string", "x"]).code, Some(2), "it has its own");
}
