//! More than one caller, and callers who change their mind.

use tests::stage::{Stage, ended, outcomes, refused, succeeded};
use tests::vmm;

pub(crate) fn two_callers(stage: &mut Stage) {
    stage.login_stubborn("tty3", "bob");
    let calls = [stage.logoff_in_background("12s"), stage.logoff_in_background("12s")];
    let ids = calls.map(|call| {
        let answer = call.join().expect("the call returns");
        let report = succeeded(&answer);
        assert_eq!(outcomes(&report, "bob"), ["killed"], "{report}");
        answer.json()["task"]["id"].as_u64()
    });
    assert!(ids[0].is_some() && ids[1].is_some() && ids[0] != ids[1], "a task for each: {ids:?}");
}

pub(crate) fn cancel_before_the_commit(stage: &mut Stage) {
    stage.login("tty3", "alice");
    let id = stage.logoff(&["--notice", "60s", "--no-wait"]).json()["task"]["id"].to_string();
    let answer = vmm(["task", "cancel", &stage.machine.name, &id, "--format", "json"]);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    let answer = vmm(["task", "wait", &stage.machine.name, &id, "--format", "json"]);
    ended(&answer, 7, "Cancelled", "0x800704C7");
    assert_eq!(stage.sessions_of("alice").len(), 1, "nobody was touched");
}

pub(crate) fn cancel_after_the_commit(stage: &mut Stage) {
    stage.login_stubborn("tty3", "bob");
    let call = stage.logoff_in_background("10s");
    let id = stage.machine.newest_task()["id"].to_string();
    let answer = vmm(["task", "cancel", &stage.machine.name, &id, "--format", "json"]);
    refused(&answer, 1, "0x80004005");
    let report = succeeded(&call.join().expect("the call returns"));
    assert_eq!(outcomes(&report, "bob"), ["killed"], "the work went on: {report}");
}
