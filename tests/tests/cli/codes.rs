//! Each code that a call or a task can answer with and this command can reach, provoked for real.
//!
//! The machines run; their agents are a test's own, in guests that relay them. Codes of properties
//! are in `guest.rs`, of definitions' faults in `catalog.rs`, of a host without KVM in `cli.rs`. What
//! no host here can be made to answer is not in the tables: a KVM that lacks a capability.

use crate::world::{Answer, VMM, World, answer, eventually, for_nobody};
use protocol::HResult;
use protocol::task::TaskResult;
use serde_json::Value;
use std::fs;
use tests::agent::{self, Manner};
use tests::micro::SPIN;
use tests::relay;

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The call: it was refused, or there is nothing more to it.
    Call,
    /// The task that the call gave.
    Task,
}

/// Who answered, with which code, and the exit code.
fn judge(answer: &Answer) -> (Source, HResult, Option<i32>) {
    let document = answer.json();
    let (from, code, name) = match (&document["error"], &document["task"]) {
        (Value::Null, Value::Null) => return (Source::Call, HResult::S_OK, answer.code),
        (Value::Null, task) => (Source::Task, &task["error"], &task["error_name"]),
        (error, _) => (Source::Call, &error["code"], &error["name"]),
    };
    let code: HResult = serde_json::from_value(code.clone()).unwrap();
    assert_eq!(name.as_str(), code.symbol(), "{answer:?}");
    (from, code, answer.code)
}

type Row<'a> = (&'a [&'a str], Source, HResult, i32);

fn check(world: &World, rows: &[Row<'_>]) {
    for (arguments, from, code, exit) in rows {
        let found = judge(&world.json(arguments));
        assert_eq!(found, (*from, *code, Some(*exit)), "{arguments:?}");
    }
}

#[test]
fn names_and_files_of_machines_have_their_codes() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let folder = world.folder.path().to_str().unwrap();
    let (long, longest) = ("x".repeat(81), "é".repeat(80));
    let lengthy = format!("{folder}/{}", "x".repeat(300));
    let missing = format!("{folder}/missing");
    let nowhere = format!("{folder}/missing/kernel");
    let text = world.file("text.toml", b"I am no definition\n");
    let good = world.file("good", format!("name = 'good'\nkernel = '{kernel}'\n").as_bytes());
    let named = world.file("named", format!("name = 'a?'\nkernel = '{kernel}'\n").as_bytes());
    let create = |name| ["create", name, "--kernel", &*kernel];
    let with = |kernel| ["create", "new", "--kernel", kernel];
    check(
        &world,
        &[
            (&create("Web"), Source::Call, HResult::S_OK, 0),
            (&create(&longest), Source::Call, HResult::S_OK, 0),
            (&create(""), Source::Call, HResult::VM_E_CONFIG_NO_NAME, 2),
            (&create(&long), Source::Call, HResult::VM_E_CONFIG_NAME_TOO_LONG, 2),
            (&create("wEB"), Source::Call, HResult::VM_E_CONFIG_DUPLICATE_NAME, 1),
            (
                &["run", "web", "--kernel", &kernel],
                Source::Call,
                HResult::VM_E_CONFIG_DUPLICATE_NAME,
                1,
            ),
            (&with(&missing), Source::Call, HResult::ERROR_FILE_NOT_FOUND, 1),
            (&with(&nowhere), Source::Call, HResult::ERROR_PATH_NOT_FOUND, 1),
            (&with(folder), Source::Call, HResult::ERROR_BAD_PATHNAME, 1),
            (&with(&lengthy), Source::Call, HResult::ERROR_BUFFER_OVERFLOW, 1),
            (
                &["create", "new", "--kernel", &kernel, "--memory", "9000T"],
                Source::Call,
                HResult::VM_E_OUT_OF_RESOURCE,
                2,
            ),
            (&["register", &missing], Source::Call, HResult::ERROR_FILE_NOT_FOUND, 1),
            (&["register", &nowhere], Source::Call, HResult::ERROR_PATH_NOT_FOUND, 1),
            (&["register", &lengthy], Source::Call, HResult::ERROR_BUFFER_OVERFLOW, 1),
            (&["register", &text], Source::Call, HResult::VM_E_PREF_ILLEGAL_VALUE, 1),
            (&["register", &named], Source::Call, HResult::VM_E_PREF_ILLEGAL_VALUE, 1),
            (
                &["register", &good, "--name", &long],
                Source::Call,
                HResult::VM_E_CONFIG_NAME_TOO_LONG,
                2,
            ),
            (
                &["register", &good, "--name", "web"],
                Source::Call,
                HResult::VM_E_CONFIG_DUPLICATE_NAME,
                1,
            ),
            (&["register", &good], Source::Call, HResult::S_OK, 0),
            (&["register", &good, "--name", "b"], Source::Call, HResult::ERROR_ALREADY_EXISTS, 1),
            (&["unregister", "web"], Source::Call, HResult::S_OK, 0),
            (&create("web"), Source::Call, HResult::ERROR_ALREADY_EXISTS, 1),
            (&["unregister", "web"], Source::Call, HResult::VM_E_VM_UNKNOWN, 3),
            (&["rm", "web"], Source::Call, HResult::VM_E_VM_UNKNOWN, 3),
            (&["rm", "good"], Source::Call, HResult::S_OK, 0),
            (&["show", "good"], Source::Call, HResult::VM_E_VM_UNKNOWN, 3),
        ],
    );
    for character in r#"*?:<>/\|""#.chars().chain(['\n', '\u{7f}']) {
        let name = format!("a{character}b");
        let refused = (Source::Call, HResult::VM_E_CONFIG_NAME_INVALID_CHAR, Some(2));
        let answer = world.json(&["create", &name, "--kernel", &kernel]);
        assert_eq!(judge(&answer), refused, "{character:?}");
    }
}

#[test]
fn a_machine_whose_console_cannot_be_written_says_with_a_code_why() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let folder = world.folder.path().to_str().unwrap();
    for (path, code) in [
        (folder.to_owned(), HResult::ERROR_BAD_PATHNAME),
        (format!("{folder}/missing/log"), HResult::ERROR_PATH_NOT_FOUND),
        (format!("{folder}/{}", "x".repeat(300)), HResult::ERROR_BUFFER_OVERFLOW),
    ] {
        let console = format!("file={path}");
        let run = ["run", "new", "--kernel", &kernel, "--memory", "32M", "--console", &console];
        check(&world, &[(&run, Source::Call, code, 1)]);
    }
    world.holds_nothing();
}

#[test]
fn an_image_that_another_machine_writes_is_refused_with_its_code() {
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let disk = format!("path={}", world.file("disk", &[0; 4096]));
    let _web = world.start(&["--kernel", &kernel, "--disk", &disk]);
    let run = ["run", "new", "--kernel", &kernel, "--memory", "32M", "--disk", &disk];
    check(&world, &[(&run, Source::Call, HResult::ERROR_SHARING_VIOLATION, 1)]);
}

#[test]
fn case_42_a_full_disk_is_told_with_its_code_and_leaves_no_machine() {
    if !rustix::process::geteuid().is_root() {
        tests::not_tested("only root can mount a small disk");
        return;
    }
    let world = World::new();
    let kernel = world.kernel(SPIN);
    let script = "mkdir -p $VMM_DATA_DIR && mount -t tmpfs -o size=8k,mode=700 none $VMM_DATA_DIR
        cat /dev/zero > $VMM_DATA_DIR/FILL
        \"$0\" create web --kernel \"$1\" --format json; code=$?
        \"$0\" ls --format json >&2; exit $code";
    let mut command = world.command("unshare");
    let created = answer(command.args(["--mount", "sh", "-c", script, VMM, &kernel]));
    assert_eq!(judge(&created), (Source::Call, HResult::ERROR_DISK_FULL, Some(1)), "{created:?}");
    assert!(created.stderr.contains("\"machines\":[]"), "{created:?}");
}

#[test]
fn a_machine_answers_in_each_state_with_its_codes() {
    let world = World::new();
    world.create("web", SPIN);
    world.create("off", SPIN);
    let (call, task) = (Source::Call, Source::Task);
    let unknown = HResult::VM_E_VM_UNKNOWN;
    let not_running = HResult::VM_E_VM_NOT_RUNNING;
    let no_feature = HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL;
    check(
        &world,
        &[
            (&["start", "gone"], call, unknown, 3),
            (&["run", "gone"], call, unknown, 3),
            (&["logoff", "gone"], call, unknown, 3),
            (&["logoff", "off"], call, not_running, 4),
            (&["shutdown", "off"], call, not_running, 4),
            (&["stop", "off"], call, not_running, 4),
            (&["pause", "off"], call, not_running, 4),
            (&["start", "web"], task, HResult::S_OK, 0),
            (&["start", "web"], call, HResult::VM_E_VM_RUNNING, 1),
            (&["run", "web"], call, HResult::VM_E_VM_RUNNING, 1),
            (&["rm", "web"], call, HResult::VM_E_VM_RUNNING, 1),
            (&["unregister", "web"], call, HResult::VM_E_VM_RUNNING, 1),
            (&["logoff", "web"], call, no_feature, 5),
            (&["users", "web"], call, no_feature, 5),
            (&["shutdown", "web", "--forced"], call, no_feature, 5),
            (&["restart", "web"], call, no_feature, 5),
            (&["param", "get", "web", "HostName"], call, no_feature, 5),
            (&["param", "set", "web", "a\\b", "c"], call, HResult::E_INVALIDARG, 2),
            (&["resume", "web"], call, HResult::E_FAIL, 1),
            (&["pause", "web"], call, HResult::S_OK, 0),
            (&["pause", "web"], call, HResult::E_FAIL, 1),
            (&["logoff", "web"], call, not_running, 4),
            (&["restart", "web"], call, not_running, 4),
            (&["users", "web"], call, HResult::VM_E_VM_PAUSED, 1),
            (&["param", "get", "web", "HostName"], call, HResult::VM_E_VM_PAUSED, 1),
            (&["param", "set", "web", "a", "b"], call, HResult::VM_E_VM_PAUSED, 1),
            (&["resume", "web"], call, HResult::S_OK, 0),
            (&["reset", "web"], task, HResult::S_OK, 0),
            (&["task", "show", "web", "4000000000"], call, HResult::DISP_E_BADINDEX, 1),
            (&["task", "ls", "off"], call, not_running, 4),
            (&["stop", "web"], task, HResult::S_OK, 0),
            (&["stop", "web"], call, not_running, 4),
            (&["explode", "web"], call, HResult::E_INVALIDARG, 2),
        ],
    );
}

/// A machine `name` whose agent has this manner.
fn machine(world: &World, name: &str, manner: Manner) {
    world.create(name, relay::code());
    assert_eq!(world.vmm(&["start", name]).code, Some(0));
    agent::connect(&world.runtime().join(name).join("vsock.sock"), manner);
    eventually("the agent is not taken", || world.listed(name)["agent"]["connected"] == true);
}

#[test]
fn what_a_guest_answers_comes_from_the_call_or_the_task_with_its_code() {
    let world = World::new();
    let failed = |error| Manner::Ends(TaskResult::UnexpectedError, error);
    let done = Manner::Ends(TaskResult::Success, HResult::S_OK);
    let late = Manner::Ends(TaskResult::TimeOutError, HResult::VM_E_TIMED_OUT);
    let aborted = Manner::Ends(TaskResult::ShutdownAbort, HResult::ERROR_SHUTDOWN_IN_PROGRESS);
    for (index, (manner, verb, from, code, exit)) in [
        (done, "logoff", Source::Task, HResult::S_OK, 0),
        (late, "logoff", Source::Task, HResult::VM_E_TIMED_OUT, 6),
        (Manner::Silent, "logoff", Source::Call, HResult::VM_E_TIMED_OUT, 6),
        (Manner::Silent, "users", Source::Call, HResult::VM_E_TIMED_OUT, 6),
        (failed(HResult::DISP_E_EXCEPTION), "logoff", Source::Task, HResult::DISP_E_EXCEPTION, 1),
        (
            Manner::Rejects(HResult::DISP_E_EXCEPTION),
            "logoff",
            Source::Call,
            HResult::DISP_E_EXCEPTION,
            1,
        ),
        (
            Manner::Rejects(HResult::DISP_E_EXCEPTION),
            "shutdown",
            Source::Call,
            HResult::DISP_E_EXCEPTION,
            1,
        ),
        (Manner::NOBODY, "logoff", Source::Task, HResult::ERROR_NO_SUCH_LOGON_SESSION, 8),
        (
            failed(HResult::ERROR_MACHINE_LOCKED),
            "shutdown",
            Source::Task,
            HResult::ERROR_MACHINE_LOCKED,
            1,
        ),
        (failed(HResult::ERROR_NOT_READY), "restart", Source::Task, HResult::ERROR_NOT_READY, 1),
        (
            failed(HResult::ERROR_ACCESS_DENIED),
            "restart",
            Source::Task,
            HResult::ERROR_ACCESS_DENIED,
            9,
        ),
        (aborted, "shutdown", Source::Task, HResult::ERROR_SHUTDOWN_IN_PROGRESS, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("web{index}");
        machine(&world, &name, manner);
        check(&world, &[(&[verb, &name], from, code, exit)]);
    }
}

#[test]
fn work_that_is_cancelled_has_its_code() {
    let world = World::new();
    machine(&world, "web", Manner::Waits);
    let begun = world.json(&["logoff", "web", "--no-wait"]).json();
    let id = begun["task"]["id"].to_string();
    let late = ["task", "wait", "web", &id, "--timeout", "50ms"];
    check(
        &world,
        &[
            (&late, Source::Task, HResult::S_OK, 6),
            (&["task", "cancel", "web", &id], Source::Task, HResult::ERROR_CANCELLED, 0),
            (&["task", "wait", "web", &id], Source::Task, HResult::ERROR_CANCELLED, 7),
            (&["task", "cancel", "web", &id], Source::Call, HResult::E_FAIL, 1),
        ],
    );
}

/// Users that no system gives to anybody.
const READER: &str = "4000001";
const OPERATOR: &str = "4000002";
const STRANGER: &str = "4000003";

#[test]
fn access_is_denied_with_its_code() {
    if !rustix::process::geteuid().is_root() {
        tests::not_tested("only root can become other users");
        return;
    }
    let world = World::new();
    let program = for_nobody(&world);
    let kernel = world.kernel(SPIN);
    let access = ["--read", READER, "--execute", OPERATOR, "--memory", "32M"];
    let created = world.vmm(&[&["create", "web", "--kernel", &kernel], &access[..]].concat());
    assert_eq!(created.code, Some(0), "{created:?}");
    assert_eq!(world.vmm(&["start", "web"]).code, Some(0));
    let ask = |user: &str, arguments: &[&str]| {
        let mut command = world.command("setpriv");
        command.args(["--reuid", user, "--regid", STRANGER, "--clear-groups"]).arg(&program);
        judge(&answer(command.args(arguments).args(["--format", "json"])))
    };
    let denied = (Source::Call, HResult::ERROR_ACCESS_DENIED, Some(9));
    let unknown = (Source::Call, HResult::VM_E_VM_UNKNOWN, Some(3));
    for verb in ["start", "stop", "reset", "pause", "resume", "logoff", "shutdown", "restart"] {
        assert_eq!(ask(READER, &[verb, "web"]), denied, "{verb}");
        assert_eq!(ask(STRANGER, &[verb, "web"]), unknown, "{verb}");
    }
    let seen = (Source::Call, HResult::S_OK, Some(0));
    assert_eq!(ask(READER, &["task", "ls", "web"]), seen);
    assert_eq!(ask(OPERATOR, &["pause", "web"]), seen);
    let created = ask(STRANGER, &["create", "mine", "--kernel", &kernel]);
    assert_eq!(created, denied, "the directory is root's");
}

#[test]
fn a_start_that_the_host_cannot_make_fails_with_its_code() {
    let world = World::new();
    world.create("web", SPIN);
    fs::write(world.kernel(SPIN), "I am no kernel\n").unwrap();
    check(&world, &[(&["start", "web"], Source::Task, HResult::DISP_E_EXCEPTION, 1)]);
    if !rustix::process::geteuid().is_root() {
        tests::not_tested("only root can take /dev/kvm away");
        return;
    }
    world.create("db", SPIN);
    let script = "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && exec \"$0\" \"$@\"";
    let mut command = world.command("unshare");
    command.args(["--mount", "sh", "-c", script, VMM, "start", "db", "--format", "json"]);
    let missing = HResult::VM_E_HARDWARE_VIRTUALIZATION_DISABLED;
    assert_eq!(judge(&answer(&mut command)), (Source::Task, missing, Some(1)));
}
