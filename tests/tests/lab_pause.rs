//! What a pause does to a guest's clock and to a logoff, judged by the guest's own tools.

use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tests::{Flavour, Machine, Recipe, vmm};

/// Only a bound against hanging.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs `vmm VERB` for the machine and says that it could be done.
fn act(machine: &Machine, verb: &str) {
    let answer = machine.vmm(&[verb], &[]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
}

/// By how many seconds the guest's clock is off.
fn off(machine: &mut Machine) -> u64 {
    let told = machine.console.run("date +%s");
    let guest: u64 = told.trim().parse().unwrap_or_else(|_| panic!("date said {told:?}"));
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs().abs_diff(guest)
}

#[test]
fn a_clock_that_is_wrong_after_a_pause_is_set_to_the_hosts() {
    let mut machine = Machine::boot(&Recipe::new("clock", Flavour::BookwormCloud, "none"));
    machine.console.run("date -s @1000000000");
    act(&machine, "pause");
    act(&machine, "resume");
    let limit = Instant::now() + LIMIT;
    while off(&mut machine) > 2 {
        assert!(Instant::now() < limit, "it is still off by {} s", off(&mut machine));
    }
}

#[test]
fn a_logoff_that_is_paused_goes_on_when_the_machine_does() {
    let mut machine = Machine::boot(&Recipe::new("pause", Flavour::BookwormCloud, "none"));
    let profile = "trap '' HUP TERM; while :; do read -r line; done";
    machine.console.run(&format!("echo \"{profile}\" > /home/bob/.profile"));
    machine.console.run("login-on tty3 bob");
    machine.wait_for_who(1);

    let words = ["logoff", "pause", "--grace", "20s", "--deadline", "30s", "--format", "json"];
    let call = thread::spawn(move || vmm(words));
    let limit = Instant::now() + LIMIT;
    // Before it the newest task is the machine's start.
    let is_committed =
        |task: &Value| task["description"] == "log off all users" && task["is_cancelable"] == false;
    while !is_committed(&machine.newest_task()) {
        assert!(Instant::now() < limit, "the logoff is never committed");
    }
    act(&machine, "pause");
    // Longer than the deadline: while nothing runs in the guest its time does not run out.
    thread::sleep(Duration::from_secs(60));
    assert_eq!(machine.newest_task()["is_complete"], false);
    let refused = machine.logoff(&[]);
    assert_eq!(refused.json()["error"]["name"], "VM_E_VM_NOT_RUNNING");
    act(&machine, "resume");
    let answer = call.join().unwrap();
    let document = answer.json();
    assert_eq!(document["task"]["result"], "Success", "{answer:?}");
    assert_eq!(document["report"]["sessions"][0]["outcome"], "killed", "{answer:?}");
    assert_eq!(machine.who(), Vec::<String>::new());
}
