//! The agent goes away, and comes back.

use tests::stage::{Stage, outcomes, refused, succeeded};

pub(crate) fn the_agent_killed_during_the_grace(stage: &mut Stage) {
    stage.login_stubborn("tty3", "bob");
    let call = stage.logoff_in_background("12s");
    let before = stage.run("pidof vmm-agent");
    stage.run(&format!("kill -9 {before}"));
    let report = succeeded(&call.join().expect("the call returns"));
    assert_eq!(outcomes(&report, "bob"), ["killed"], "{report}");
    assert!(stage.is_empty() && stage.processes("bob").is_empty(), "{report}");
    assert_ne!(stage.run("pidof vmm-agent"), before, "another one has done it");
}

pub(crate) fn the_agent_upgraded_during_the_grace(stage: &mut Stage) {
    stage.login_stubborn("tty3", "bob");
    let before = stage.run("pidof vmm-agent");
    // Long enough for the installation, wherever this is played.
    let call = stage.logoff_in_background("40s");
    stage.install_agent();
    assert!(!call.is_finished(), "the former agent is not to have done it");
    let report = succeeded(&call.join().expect("the call returns"));
    assert_eq!(outcomes(&report, "bob"), ["killed"], "{report}");
    assert!(stage.is_empty() && stage.processes("bob").is_empty(), "{report}");
    assert_ne!(stage.run("pidof vmm-agent"), before, "another one has done it");
}

pub(crate) fn no_agent(stage: &mut Stage) {
    stage.login("tty3", "alice");
    let stop = if stage.has_systemd() {
        "systemctl stop vmm-agent"
    } else {
        "service vmm-agent stop > /dev/null"
    };
    stage.run(stop);
    stage.machine.wait_for_users("the agent is still there", |answer| answer.code == Some(5));
    let text = refused(&stage.logoff(&[]), 5, "0xA0040505");
    assert!(text.contains("last heard"), "{text}");
    assert_eq!(stage.sessions_of("alice").len(), 1, "nobody was logged off");
    let start = stop.replace("stop", "start");
    stage.run(&start);
    stage.machine.wait_for_agent();
    succeeded(&stage.logoff(&[]));
    assert!(stage.is_empty());
}
