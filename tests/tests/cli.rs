//! The `vmm` command from outside: what it refuses and how, and machines without a Linux in them.

#[path = "cli/catalog.rs"]
mod catalog;
#[path = "cli/codes.rs"]
mod codes;
#[path = "cli/console.rs"]
mod console;
#[path = "cli/disk.rs"]
mod disk;
#[path = "cli/events.rs"]
mod events;
#[path = "cli/guest.rs"]
mod guest;
#[path = "cli/help.rs"]
mod help;
#[path = "cli/jail.rs"]
mod jail;
#[path = "cli/life.rs"]
mod life;
#[path = "cli/net.rs"]
mod net;
#[path = "cli/power.rs"]
mod power;
#[path = "cli/readiness.rs"]
mod readiness;
#[path = "cli/sandbox.rs"]
mod sandbox;
#[path = "cli/start.rs"]
mod start;
#[path = "cli/tasks.rs"]
mod tasks;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/work.rs"]
mod work;
#[path = "cli/world.rs"]
mod world;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use tests::micro::{FAULT, POWER_OFF, SPIN, elf};
use vmm::runtime::Runtime;
use world::{VMM, World, answer, for_nobody, wait};

#[test]
fn wrong_usage_exits_with_2_and_names_what_was_wrong() {
    let world = World::new();
    for (arguments, named) in [
        (&["explode"][..], "explode"),
        (&["run"], "--kernel"),
        (&["run", "--kernel", "k", "--memory", "lots"], "lots"),
        (&["run", "--kernel", "k", "--cpus", "256"], "256"),
        (&["run", "--kernel", "k", "--console", "printer"], "printer"),
        (&["run", "--kernel", "k", "--disk", "a.img"], "path=FILE"),
        (&["run", "--kernel", "k", "--disk", "path=a,format=vhd"], "vhd"),
        (&["run", "web", "--disk", "path=a"], "--kernel"),
        (&["run", "--kernel", "k", "--net", "tap0"], "tap=NAME"),
        (&["run", "--kernel", "k", "--net", "tap=a,mac=01:00:00:00:00:00"], "01:00:00:00:00:00"),
        (&["run", "web", "--net", "tap=a"], "--kernel"),
        (&["logoff", "web", "--grace", "10"], "unit"),
        (&["logoff"], "<NAME>"),
        (&["task", "show", "web", "first"], "first"),
        (&["task", "show"], "<ID>"),
        (&["stop", "web", "--forced"], "--guest"),
        (&["completions", "cmd"], "cmd"),
        (&["run", "web", "--memory", "1G"], "--kernel"),
        (&["create", "web"], "--kernel"),
        (&["create", "web", "--kernel", "k", "--console", "stdio"], "file=PATH"),
        (&["create", "web", "--kernel", "k", "--read", "@"], "'@'"),
        (&["start"], "<NAME>"),
        (&["start", "web", "--wait", "spring"], "spring"),
        (&["register"], "<FILE>"),
    ] {
        let human = world.vmm(arguments);
        assert_eq!(human.code, Some(2), "{human:?}");
        assert!(human.stderr.contains(named) && human.stdout.is_empty(), "{human:?}");
        let (exit, code, text) = world.json(arguments).refusal();
        assert_eq!((exit, code.as_str()), (Some(2), "0x80070057"));
        assert!(text.contains(named), "{text}");
    }
    let bare = world.vmm(&[]);
    assert!(bare.code == Some(2) && bare.stderr.contains("Usage"), "{bare:?}");
}

#[test]
fn a_machine_that_does_not_exist_is_unknown_to_every_verb() {
    let world = World::new();
    for name in ["web", "..", "a/b", "", &"x".repeat(300)] {
        for verb in [
            &["users"][..],
            &["logoff"],
            &["shutdown"],
            &["restart"],
            &["stop"],
            &["reset"],
            &["pause"],
            &["resume"],
            &["console"],
            &["info"],
            &["events"],
            &["task", "ls"],
            &["show"],
        ] {
            let (exit, code, _) = world.json(&[verb, &[name]].concat()).refusal();
            assert_eq!((exit, code.as_str()), (Some(3), "0xA0040207"), "{verb:?} {name:?}");
        }
    }
    assert_eq!(world.json(&["param", "get", "web", "Key"]).refusal().0, Some(3));
    assert_eq!(world.json(&["param", "set", "web", "Key", "value"]).refusal().0, Some(3));
    for verb in ["show", "wait", "cancel"] {
        let human = world.vmm(&["task", verb, "web", "1"]);
        assert_eq!(human.code, Some(3));
        assert!(human.stderr.starts_with("error: there is no machine named \"web\""), "{human:?}");
    }
    assert_eq!(world.json(&["ls"]).json(), serde_json::json!({ "machines": [] }));
    assert!(!world.runtime().exists(), "looking makes nothing");
}

#[test]
fn doctor_prints_one_document_whose_verdict_is_its_exit_code() {
    let world = World::new();
    let answer = world.json(&["doctor"]);
    let document = answer.json();
    let stock = document["stock_kernels"].as_bool().unwrap();
    assert_eq!(answer.code, Some(if stock { 0 } else { 1 }));
    assert!(!document["checks"].as_array().unwrap().is_empty());
    assert_eq!(world.vmm(&["doctor"]).stdout.contains("NO"), !stock);
}

#[test]
fn a_kernel_that_is_none_is_explained() {
    let world = World::new();
    let directory = world.folder.path().to_str().unwrap().to_owned();
    let missing = format!("{directory}/missing");
    let (exit, code, text) = world.refused(&["--kernel", &missing]);
    assert_eq!((exit, code.as_str()), (Some(1), "0x80070002"));
    assert!(text.contains(&missing), "{text}");
    let whole = elf(SPIN);
    let kernels = [
        directory,
        "/dev/zero".into(),
        world.file("empty", b""),
        world.file("text", b"I am no kernel\n"),
        world.file("truncated", &whole[..whole.len() - 1]),
        world.file("header", &whole[..64]),
    ];
    for kernel in kernels {
        let (exit, _, text) = world.refused(&["--kernel", &kernel]);
        assert_eq!(exit, Some(1), "{text}");
        assert!(text.contains(&kernel) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn an_initrd_that_does_not_fit_or_exist_is_explained() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let large = world.file("initrd", b"");
    fs::File::options().write(true).open(&large).unwrap().set_len(40 << 20).unwrap();
    for initrd in [large.as_str(), "/nonexistent/initrd"] {
        let (exit, _, text) =
            world.refused(&["--kernel", &kernel, "--initrd", initrd, "--memory", "32M"]);
        assert_eq!(exit, Some(1), "{text}");
        assert!(text.contains("initrd"), "{text}");
    }
}

#[test]
fn values_that_no_machine_can_have_are_usage_errors() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let long = "x".repeat(5000);
    for (arguments, code, named) in [
        (["--memory", "0"], "0x80070057", "RAM"),
        (["--memory", "4K"], "0x80070057", "RAM"),
        (["--memory", "33554433"], "0x80070057", "4096"),
        (["--hugepages", "--memory=33M"], "0x80070057", "2 MiB"),
        (["--share-kernel", "--hugepages"], "0x80070057", "huge pages"),
        (["--share-kernel", "--kernel-entry=bzimage"], "0x80070057", "unpacks itself"),
        (["--memory", "8000T"], "0xA0040203", "this host has"),
        (["--cpus", "0"], "0x80070057", "processor"),
        (["--append", &long], "0x80070057", "command line"),
        (["--append", "a\nb"], "0x80070057", "command line"),
    ] {
        let (exit, found, text) = world.refused(&[&["--kernel", &kernel], &arguments[..]].concat());
        assert_eq!((exit, found.as_str()), (Some(2), code), "{text}");
        assert!(text.contains(named), "{text}");
    }
    for (name, code) in [("a/b", "0xA0040402"), ("..", "0xA0040402"), ("", "0xA0040400")] {
        let answer = world.json(&["run", name, "--kernel", &kernel]);
        let (exit, found, _) = answer.refusal();
        assert_eq!((exit, found.as_str()), (Some(2), code), "{name:?}");
    }
    world.holds_nothing();
}

#[test]
fn a_name_in_use_is_refused_whatever_its_letters_and_its_owner_is_not_harmed() {
    let world = World::new();
    let place = Runtime::at(world.runtime()).claim("Web").unwrap();
    let kernel = world.kernel(SPIN);
    for name in ["Web", "web"] {
        let (exit, code, text) = world.json(&["run", name, "--kernel", &kernel]).refusal();
        assert_eq!((exit, code.as_str()), (Some(1), "0xA0040500"));
        assert!(text.contains("another name"), "{text}");
    }
    // It holds its lock, but does not answer.
    let (exit, code, _) = world.json(&["users", "web"]).refusal();
    assert_eq!((exit, code.as_str()), (Some(4), "0xA0040206"));
    drop(place);
    world.holds_nothing();
}

#[test]
fn a_running_machine_is_listed_answers_and_ends_in_order_when_told_to() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let machine = world.start(&["--kernel", &kernel, "--format", "json"]);
    let listed = &world.json(&["ls"]).json()["machines"][0];
    assert_eq!(listed["name"], "Web");
    assert_eq!(listed["state"], "Running");
    assert_eq!(listed["pid"], machine.child.id());
    assert_eq!(listed["agent"]["connected"], false);
    for verb in ["logoff", "users"] {
        let (exit, code, text) = world.json(&[verb, "web"]).refusal();
        assert_eq!((exit, code.as_str()), (Some(5), "0xA0040505"));
        assert!(text.starts_with("no agent"), "{text}");
    }
    let tasks = world.json(&["task", "ls", "web"]).json();
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 1, "its start: {tasks}");
    let (exit, code, _) = world.json(&["task", "show", "web", "2"]).refusal();
    assert_eq!((exit, code.as_str()), (Some(1), "0x8002000B"));
    machine.signal(rustix::process::Signal::TERM);
    let (status, stdout, stderr) = machine.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(stderr, "Web: turned off\n");
    let document: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(document["end"], "turned_off");
    world.holds_nothing();
}

#[test]
fn each_end_of_a_guest_has_its_message_and_exit_code() {
    let world = World::new();
    for (code, exit, words) in [(POWER_OFF, 0, "powered off"), (FAULT, 11, "triple fault")] {
        let kernel = world.kernel(code);
        let arguments = ["run", "end", "--kernel", &kernel, "--memory", "32M", "--console", "none"];
        let answer = world.vmm(&arguments);
        assert_eq!(answer.code, Some(exit), "{answer:?}");
        assert!(answer.stderr.contains(words) && answer.stdout.is_empty(), "{answer:?}");
        world.holds_nothing();
    }
}

#[test]
fn what_a_killed_machine_leaves_behind_is_no_machine_and_in_nobodys_way() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let machine = world.start(&["--kernel", &kernel]);
    machine.signal(rustix::process::Signal::KILL);
    machine.end();
    assert!(world.runtime().join("web/control.sock").exists());
    let (exit, _, _) = world.json(&["users", "web"]).refusal();
    assert_eq!(exit, Some(3));
    let next = world.start(&["--kernel", &kernel]);
    next.signal(rustix::process::Signal::INT);
    assert_eq!(next.end().0.code(), Some(0));
    world.holds_nothing();
}

#[test]
fn a_signal_that_was_to_be_ignored_does_not_end_the_machine() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    // As nohup does.
    let script = "trap '' HUP; exec \"$0\" \"$@\"";
    let mut command = world.command("sh");
    command.args(["-c", script, VMM, "run", "Web", "--memory", "32M", "--console", "none"]);
    let machine = world.runs(command.args(["--kernel", &kernel]));
    machine.signal(rustix::process::Signal::HUP);
    assert_eq!(world.json(&["ls"]).json()["machines"][0]["state"], "Running");
    machine.signal(rustix::process::Signal::TERM);
    let (status, _, stderr) = machine.end();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), "Web: turned off\n"));
}

#[test]
fn readers_that_have_gone_change_no_exit_code() {
    let world = World::new();
    let kernel = world.kernel(POWER_OFF);
    for arguments in [
        &["ls"][..],
        &["--help"],
        &["run", "gone", "--memory", "32M", "--console", "none", "--kernel", &kernel],
    ] {
        let mut command = world.command(VMM);
        let mut child =
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(wait(&mut child).code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let world = World::new();
    for arguments in [&["ls"][..], &["ls", "--format", "json"], &["completions", "bash"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = world.command(VMM);
        let output = command.args(arguments).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.starts_with("error: cannot write the result: No space left"), "{said}");
    }
}

const NOBODY: u32 = 65534;

#[test]
fn case_43_another_user_sees_no_machine_and_may_not_use_what_is_not_theirs() {
    if !rustix::process::geteuid().is_root() {
        tests::not_tested("only root can become another user");
        return;
    }
    let world = World::new();
    let program = for_nobody(&world);
    let program = program.to_str().unwrap();
    let kernel = world.kernel(SPIN);
    let _machine = world.start(&["--kernel", &kernel]);
    let as_nobody = |arguments: &[&str]| {
        let mut command = world.command(program);
        answer(command.uid(NOBODY).gid(NOBODY).args(arguments).args(["--format", "json"]))
    };
    assert_eq!(as_nobody(&["ls"]).json(), serde_json::json!({ "machines": [] }));
    assert_eq!(as_nobody(&["logoff", "web"]).refusal().0, Some(3));
    let (exit, code, text) = as_nobody(&["run", "mine", "--kernel", &kernel]).refusal();
    assert_eq!((exit, code.as_str()), (Some(9), "0x80070005"), "the directory is root's");
    assert!(text.contains("VMM_RUNTIME_DIR"), "{text}");
}

#[test]
fn a_host_without_kvm_or_without_permission_for_it_is_explained() {
    if !rustix::process::geteuid().is_root() {
        tests::not_tested("only root can take /dev/kvm away");
        return;
    }
    let world = World::new();
    let program = for_nobody(&world);
    let kernel = world.kernel(SPIN);
    let script = "mount -t tmpfs none /dev && exec \"$0\" \"$@\"";
    let hidden = |arguments: &[&str]| {
        let mut command = world.command("unshare");
        command.args(["--mount", "sh", "-c", script, VMM]);
        answer(command.args(arguments).args(["--format", "json"]))
    };
    let run = ["run", "web", "--kernel", &kernel, "--console", "none"];
    let (exit, code, text) = hidden(&run).refusal();
    assert_eq!((exit, code.as_str()), (Some(1), "0xA0040951"), "{text}");
    assert!(text.contains("/dev/kvm"), "{text}");
    let doctor = hidden(&["doctor"]);
    assert_eq!((doctor.code, &doctor.json()["machines"]), (Some(1), &Value::Bool(false)));
    world.holds_nothing();

    if fs::metadata("/dev/kvm").unwrap().permissions().mode() & 0o006 != 0 {
        tests::not_tested("everybody may use /dev/kvm here");
        return;
    }
    let theirs = world.folder.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = world.command(program.to_str().unwrap());
    command.env("VMM_RUNTIME_DIR", &theirs).uid(NOBODY).gid(NOBODY);
    let (exit, code, text) = answer(command.args(run).args(["--format", "json"])).refusal();
    assert_eq!((exit, code.as_str()), (Some(9), "0x80070005"), "{text}");
    assert!(text.contains("/dev/kvm"), "{text}");
    let left = fs::read_dir(&theirs).unwrap().flatten().map(|entry| entry.file_name());
    assert!(left.eq([":last-task"]), "nothing but the counter of tasks is left");
}
