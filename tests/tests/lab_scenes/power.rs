//! The machine stands still, or begins anew.

use std::thread;
use std::time::Duration;
use tests::stage::{Stage, ended, outcomes, refused, succeeded};

fn act(stage: &Stage, verb: &str) {
    let answer = stage.machine.vmm(&[verb], &[]);
    assert_eq!(answer.code, Some(0), "{verb}: {answer:?}");
}

pub(crate) fn a_paused_machine(stage: &mut Stage) {
    stage.login("tty3", "alice");
    act(stage, "pause");
    refused(&stage.logoff(&[]), 4, "0xA0040206");
    act(stage, "resume");
    assert_eq!(stage.sessions_of("alice").len(), 1, "nobody was logged off");
    succeeded(&stage.logoff(&[]));
}

pub(crate) fn paused_for_a_minute_during_the_grace(stage: &mut Stage) {
    stage.login_stubborn("tty3", "bob");
    let call = stage.logoff_in_background("15s");
    act(stage, "pause");
    thread::sleep(Duration::from_secs(60));
    act(stage, "resume");
    let report = succeeded(&call.join().expect("the call returns"));
    assert_eq!(outcomes(&report, "bob"), ["killed"], "{report}");
    assert!(stage.is_empty() && stage.processes("bob").is_empty(), "{report}");
}

/// Says that the task ended since the guest boots, and waits until it has.
fn ends_with_a_boot(stage: &mut Stage, again: impl FnOnce(&mut Stage)) {
    stage.login_stubborn("tty3", "bob");
    let call = stage.logoff_in_background("100s");
    again(stage);
    let document =
        ended(&call.join().expect("the call returns"), 1, "UnexpectedError", "0x80020009");
    let text = document["task"]["error_description"].as_str().unwrap_or_default();
    assert!(text.contains("reboot"), "{text}");
    stage.machine.wait_for_shell();
    stage.machine.wait_for_agent();
    ended(&stage.logoff(&[]), 8, "UnexpectedError", "0x80070520");
}

pub(crate) fn the_guest_reboots_during_the_grace(stage: &mut Stage) {
    ends_with_a_boot(stage, |stage| stage.machine.console.type_line("reboot -f"));
}

pub(crate) fn reset_during_the_grace(stage: &mut Stage) {
    ends_with_a_boot(stage, |stage| act(stage, "reset"));
}
