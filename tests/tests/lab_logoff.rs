//! The scenes of a logoff, each played against a real guest and judged by the guest's own tools.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tests::stage::ended;
use tests::{Answer, Flavour, Machine, Recipe, runtime_dir, vmm, vmm_bin};

/// Boots a guest in which `logins` are logged in, by its own `who`.
fn machine(name: &str, logins: &str) -> Machine {
    let mut machine = Machine::boot(&Recipe::new(name, Flavour::BookwormCloud, logins));
    let count = if logins == "none" { 0 } else { logins.split(',').count() };
    machine.wait_for_who(count);
    machine
}

/// Lets every later login of `user` ignore the polite signals.
fn make_stubborn(machine: &mut Machine, user: &str) {
    let profile = "trap '' HUP TERM; while :; do read -r line; done";
    machine.console.run(&format!("echo \"{profile}\" > /home/{user}/.profile"));
}

/// Boots a guest with one user in it who does not leave before he is killed.
fn machine_with_stubborn_bob(name: &str) -> Machine {
    let mut machine = machine(name, "none");
    make_stubborn(&mut machine, "bob");
    machine.console.run("login-on tty3 bob");
    machine.wait_for_who(1);
    machine
}

/// Calls `vmm logoff` in a thread and gives it the time to commit.
fn logoff_in_background(machine: &Machine, grace: &str) -> JoinHandle<Answer> {
    let arguments =
        ["logoff", &machine.name, "--grace", grace, "--format", "json"].map(String::from);
    let call = thread::spawn(move || vmm(arguments));
    thread::sleep(Duration::from_secs(3));
    call
}

/// Says that `answer` is a refusal of the call with `code` and `name`, and gives its words.
fn refused(answer: &Answer, exit: i32, code: &str, name: &str) -> String {
    let document = answer.json();
    assert_eq!(document["error"]["code"], code, "{answer:?}");
    assert_eq!(document["error"]["name"], name, "{answer:?}");
    assert_eq!(answer.code, Some(exit), "{answer:?}");
    document["error"]["description"].as_str().expect("a refusal is explained").to_owned()
}

/// The outcome of `user`'s only session.
fn outcome<'a>(document: &'a Value, user: &str) -> &'a str {
    let sessions = document["report"]["sessions"].as_array().expect("the report lists sessions");
    let mut of_user = sessions.iter().filter(|session| session["user"] == user);
    let session = of_user.next().unwrap_or_else(|| panic!("no session of {user}: {document}"));
    assert!(of_user.next().is_none(), "more than one session of {user}: {document}");
    session["outcome"].as_str().unwrap_or_else(|| panic!("no outcome: {session}"))
}

/// The number before the first percent sign of a progress line.
fn percent(line: &str) -> Option<u32> {
    let before = line.split_once('%')?.0;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[test]
fn three_users_are_logged_off_and_a_second_logoff_finds_nobody() {
    let mut machine = machine("three", "root,alice,bob");
    let document = ended(&machine.logoff(&[]), 0, "Success", "0x00000000");
    assert_eq!(document["task"]["percent_completed"], 100);
    assert_eq!(document["task"]["error_name"], "S_OK");
    for user in ["root", "alice", "bob"] {
        assert_eq!(outcome(&document, user), "terminated", "{document}");
    }
    assert_eq!(machine.who(), Vec::<String>::new());

    let document = ended(&machine.logoff(&[]), 8, "UnexpectedError", "0x80070520");
    assert_eq!(document["task"]["error_name"], "ERROR_NO_SUCH_LOGON_SESSION");
    assert_eq!(document["task"]["percent_completed"], 0);
    assert_eq!(machine.logoff(&["--ok-if-none"]).code, Some(0));
    assert_eq!(machine.power_off().0.code(), Some(0));
}

#[test]
fn a_user_who_is_there_twice_is_logged_off_twice() {
    let mut machine = machine("twice", "alice,alice,bob");
    let document = ended(&machine.logoff(&[]), 0, "Success", "0x00000000");
    assert_eq!(document["report"]["sessions"].as_array().map(Vec::len), Some(3), "{document}");
    assert_eq!(machine.who(), Vec::<String>::new());
}

#[test]
fn who_ignores_hup_and_term_is_killed_after_the_grace_and_a_daemon_survives() {
    let mut machine = machine("stubborn", "none");
    make_stubborn(&mut machine, "bob");
    machine.console.run("login-on tty2 alice");
    machine.console.run("login-on tty3 bob");
    machine.wait_for_who(2);
    let daemon = machine.console.run("pidof daemon-alice");
    assert!(!daemon.is_empty(), "the guest runs a daemon of alice's");

    let answer = machine.logoff(&["--grace", "3s", "--progress", "plain"]);
    let document = ended(&answer, 0, "Success", "0x00000000");
    assert_eq!(outcome(&document, "alice"), "terminated", "{document}");
    assert_eq!(outcome(&document, "bob"), "killed", "{document}");
    assert_eq!(machine.who(), Vec::<String>::new());
    assert_eq!(machine.console.run("pidof daemon-alice"), daemon, "the daemon is no session");

    let percents: Vec<u32> = answer.stderr.lines().filter_map(percent).collect();
    assert!(percents.is_sorted(), "percent never falls: {percents:?}");
    assert!(percents.contains(&50), "one of two is half: {}", answer.stderr);
    assert_eq!(percents.last(), Some(&100), "{}", answer.stderr);
}

#[test]
fn without_an_agent_the_refusal_says_when_it_was_last_heard() {
    let mut machine = machine("silent", "alice");
    machine.console.run("touch /run/no-agent; kill -9 $(pidof vmm-agent)");
    machine.wait_for_users("the agent is still there", |answer| answer.code == Some(5));
    let answer = machine.logoff(&[]);
    let text = refused(&answer, 5, "0xA0040505", "VM_E_ADDITIONS_FEATURE_NOT_AVAIL");
    assert!(text.contains("last heard"), "{text}");
    assert_eq!(machine.who().len(), 1, "nobody was logged off");

    machine.console.run("rm /run/no-agent");
    machine.wait_for_agent();
    ended(&machine.logoff(&[]), 0, "Success", "0x00000000");
}

#[test]
fn an_agent_killed_during_the_grace_comes_back_and_finishes() {
    let mut machine = machine_with_stubborn_bob("midway");
    let call = logoff_in_background(&machine, "8s");
    machine.console.run("kill -9 $(pidof vmm-agent)");
    let document = ended(&call.join().expect("the call returns"), 0, "Success", "0x00000000");
    assert_eq!(outcome(&document, "bob"), "killed", "{document}");
    assert_eq!(machine.who(), Vec::<String>::new());
}

#[test]
fn a_reboot_during_the_grace_ends_the_task_with_a_text() {
    let mut machine = machine_with_stubborn_bob("rebooted");
    let call = logoff_in_background(&machine, "50s");
    machine.console.type_line("reboot -f");
    let answer = call.join().expect("the call returns");
    let document = ended(&answer, 1, "UnexpectedError", "0x80020009");
    let text = document["task"]["error_description"].as_str().unwrap_or_default();
    assert!(text.contains("reboot"), "{text}");
}

#[test]
fn a_reset_during_the_grace_ends_the_task_with_a_text() {
    let machine = machine_with_stubborn_bob("reset");
    let call = logoff_in_background(&machine, "50s");
    assert_eq!(machine.vmm(&["reset"], &[]).code, Some(0));
    let answer = call.join().expect("the call returns");
    let document = ended(&answer, 1, "UnexpectedError", "0x80020009");
    let text = document["task"]["error_description"].as_str().unwrap_or_default();
    assert!(text.contains("reboot"), "{text}");
}

#[test]
fn an_autologin_that_comes_straight_back_is_left_alone() {
    let mut machine = machine("back", "none");
    machine.console.run(
        "(setsid sh -c 'while :; do /sbin/agetty --noclear --autologin alice tty3 linux; done' \
         < /dev/null > /dev/null 2>&1 &)",
    );
    machine.wait_for_who(1);
    let first = machine.console.run("pidof login");
    let document = ended(&machine.logoff(&[]), 0, "Success", "0x00000000");
    assert_eq!(outcome(&document, "alice"), "terminated", "{document}");
    machine.wait_for_who(1);
    assert_ne!(machine.console.run("pidof login"), first, "another login came");
}

#[test]
fn a_user_who_logs_in_during_the_work_is_left_alone() {
    let mut machine = machine_with_stubborn_bob("meanwhile");
    let call = logoff_in_background(&machine, "15s");
    machine.console.run("login-on tty4 alice");
    machine.wait_for_who(2);
    let document = ended(&call.join().expect("the call returns"), 0, "Success", "0x00000000");
    assert_eq!(outcome(&document, "bob"), "killed", "{document}");
    let relogins = document["report"]["relogins"].as_array().expect("a list");
    assert!(relogins.iter().any(|one| one["user"] == "alice"), "{document}");
    let who = machine.who();
    assert!(who.len() == 1 && who[0].starts_with("alice"), "{who:?}");
}

#[test]
fn a_machine_that_ends_during_the_grace_ends_the_task_as_not_running() {
    let machine = machine_with_stubborn_bob("unplugged");
    let call = logoff_in_background(&machine, "50s");
    machine.power_off();
    let answer = call.join().expect("the call returns");
    assert_eq!(answer.code, Some(4), "{answer:?}");
    assert!(answer.stdout.contains("0xA0040206"), "{answer:?}");
}

#[test]
fn a_frozen_process_ends_in_a_time_out_that_names_it() {
    let mut machine = machine("frozen", "alice");
    let frozen = machine.console.run(
        "mkdir /tmp/freezer; mount -t cgroup -o freezer none /tmp/freezer; mkdir /tmp/freezer/ice; \
         ps -o pid,user,comm | awk '$2 == \"alice\" && $3 ~ /sh$/ { print $1; exit }' \
         > /tmp/freezer/ice/tasks; \
         echo FROZEN > /tmp/freezer/ice/freezer.state; cat /tmp/freezer/ice/tasks",
    );
    let frozen: u64 = frozen.parse().unwrap_or_else(|_| panic!("no shell is frozen: {frozen}"));
    let answer = machine.logoff(&["--grace", "1s", "--deadline", "5s"]);
    let document = ended(&answer, 6, "TimeOutError", "0xA0040202");
    assert_eq!(outcome(&document, "alice"), "remaining", "{document}");
    let survivors = document["report"]["sessions"][0]["survivors"].as_array().expect("a list");
    assert!(
        survivors.iter().any(|process| process["pid"] == frozen),
        "{frozen} is named: {document}"
    );
    machine.console.run("echo THAWED > /tmp/freezer/ice/freezer.state");
    machine.wait_for_who(0);
}

#[test]
fn an_unprivileged_process_cannot_pose_as_the_agent() {
    let mut machine = machine("posing", "none");
    let said = machine.console.run(&format!("su alice -c 'vsock-dial {}'", protocol::AGENT_PORT));
    assert!(said.starts_with("refused"), "{said}");
    assert_eq!(machine.logoff(&[]).code, Some(8), "the real agent still answers");
}

#[test]
fn two_callers_share_one_logoff_and_its_end() {
    let machine = machine_with_stubborn_bob("both");
    let first = logoff_in_background(&machine, "8s");
    let second = logoff_in_background(&machine, "8s");
    let ids = [first, second].map(|call| {
        let answer = call.join().expect("the call returns");
        ended(&answer, 0, "Success", "0x00000000")["task"]["id"].as_u64()
    });
    assert!(ids[0].is_some() && ids[1].is_some() && ids[0] != ids[1], "a task for each: {ids:?}");
}

#[test]
fn a_logoff_is_cancelable_until_it_is_committed() {
    let mut machine = machine("undecided", "alice");
    let id = machine.logoff(&["--notice", "30s", "--no-wait"]).json()["task"]["id"].to_string();
    let answer = vmm(["task", "cancel", &machine.name, &id, "--format", "json"]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let answer = vmm(["task", "wait", &machine.name, &id, "--format", "json"]);
    ended(&answer, 7, "Cancelled", "0x800704C7");
    assert_eq!(machine.who().len(), 1, "nobody was touched");
}

#[test]
fn an_unknown_name_is_refused_as_unknown() {
    let answer = vmm(["logoff", "no-such-machine", "--format", "json"]);
    refused(&answer, 3, "0xA0040207", "VM_E_VM_UNKNOWN");
}

#[test]
fn a_guest_that_does_not_accept_in_time_makes_no_task_and_a_late_acceptance_does_nothing() {
    let mut machine = machine("deaf", "none");
    machine.console.run("login-on tty3 bob");
    machine.wait_for_who(1);
    let newest = machine.newest_task();
    machine.console.run("kill -STOP $(pidof vmm-agent)");
    let text = refused(&machine.logoff(&[]), 6, "0xA0040202", "VM_E_TIMED_OUT");
    assert!(text.contains("nobody was logged off"), "{text}");
    assert_eq!(machine.newest_task(), newest, "there is no task");
    machine.console.run("kill -CONT $(pidof vmm-agent)");
    // The agent answers this after what it had not read before.
    machine.wait_for_users("the agent does not come back", |answer| answer.code == Some(0));
    assert_eq!(machine.who().len(), 1, "nobody was logged off");
    ended(&machine.logoff(&[]), 0, "Success", "0x00000000");
}

/// Starts `vmm logoff` with `options`, interrupts it before or after the commit, and gives its end.
fn interrupted_logoff(machine: &Machine, options: &[&str], committed: bool) -> Answer {
    let mut call = Command::new(vmm_bin())
        .args(["logoff", &machine.name, "--format", "json"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the vmm command starts");
    // The first progress line comes when the guest has accepted and Ctrl-C is handled.
    let mut errors = BufReader::new(call.stderr.take().expect("standard error is a pipe"));
    let mut stderr = String::new();
    errors.read_line(&mut stderr).expect("progress is told");
    let deadline = Instant::now() + Duration::from_secs(60);
    while machine.newest_task()["is_cancelable"] == committed {
        assert!(Instant::now() < deadline, "the logoff is never committed");
    }
    kill_process(Pid::from_child(&call), Signal::INT).expect("the call is there");
    errors.read_to_string(&mut stderr).expect("the rest is told");
    let mut stdout = String::new();
    let mut output = call.stdout.take().expect("standard output is a pipe");
    output.read_to_string(&mut stdout).expect("the document is printed");
    let code = call.wait().expect("the call ends").code();
    Answer { code, stdout, stderr }
}

#[test]
fn an_interrupt_before_the_commit_cancels_and_one_after_it_only_leaves() {
    let mut machine = machine("interrupted", "none");
    make_stubborn(&mut machine, "bob");
    machine.console.run("login-on tty3 bob");
    machine.wait_for_who(1);

    let answer = interrupted_logoff(&machine, &["--notice", "50s"], false);
    ended(&answer, 7, "Cancelled", "0x800704C7");
    assert_eq!(machine.who().len(), 1, "nobody was touched");

    let answer = interrupted_logoff(&machine, &["--grace", "15s"], true);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.stderr.contains("goes on"), "{answer:?}");
    let id = machine.newest_task()["id"].to_string();
    let answer = machine.vmm(&["task", "wait"], &[&id]);
    ended(&answer, 0, "Success", "0x00000000");
    assert_eq!(machine.who(), Vec::<String>::new());
}

#[test]
fn a_guest_program_reaches_a_host_program_through_vsock() {
    let mut machine = machine("sockets", "none");
    let listener = UnixListener::bind(runtime_dir("sockets").join("vsock.sock_5000"))
        .expect("the directory is there");
    let host = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the guest dials");
        stream.write_all(b"x").expect("the guest reads");
    });
    assert_eq!(machine.console.run("vsock-dial 5000"), "connected, then read 1 bytes");
    host.join().expect("the host program was reached");
    let refused = machine.console.run("vsock-dial 5001");
    assert!(refused.starts_with("refused"), "nobody serves that port: {refused}");
}
