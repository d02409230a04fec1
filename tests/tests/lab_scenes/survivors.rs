//! What does not leave when it is asked, and what has to stay.

use tests::stage::{Stage, ended, manager, outcomes, succeeded};

pub(crate) fn a_shell_that_ignores_hup_and_term(stage: &mut Stage) {
    stage.login_stubborn("tty3", "bob");
    stage.ssh("alice");
    let answer = stage.logoff(&["--grace", "4s"]);
    let report = succeeded(&answer);
    assert_eq!(outcomes(&report, "bob"), ["killed"], "{report}");
    assert_eq!(outcomes(&report, "alice"), ["terminated"], "{report}");
    assert!(stage.is_empty() && stage.processes("bob").is_empty(), "{report}");
}

pub(crate) fn tmux_in_the_session(stage: &mut Stage) {
    stage.su("alice", "tmux new-session -d sleep 5000; sleep 6000");
    stage.wait_for_process("alice", "tmux: server");
    stage.wait_for("alice", 1);
    let report = succeeded(&stage.logoff(&[]));
    assert!(stage.processes("alice").is_empty(), "tmux and what it ran have gone: {report}");
    assert!(stage.is_empty(), "{report}");
}

/// Logs alice on; her login lets her manager run a process.
fn with_a_process_of_the_manager(stage: &mut Stage) -> u64 {
    stage.profile("alice", "systemd-run --user -q sleep 5000");
    stage.login("tty3", "alice");
    let process = stage.wait_for_process("alice", "sleep");
    let group = stage.run(&format!("cat /proc/{process}/cgroup"));
    assert!(group.contains("user@1000.service"), "{group}");
    process
}

pub(crate) fn a_process_of_the_manager(stage: &mut Stage) {
    with_a_process_of_the_manager(stage);
    let report = succeeded(&stage.logoff(&[]));
    assert!(stage.processes("alice").is_empty(), "the manager has gone with it: {report}");
    assert_eq!(manager(&report, "alice"), (true, String::new()), "{report}");
}

pub(crate) fn a_process_of_the_manager_with_linger(stage: &mut Stage) {
    stage.run("loginctl enable-linger alice");
    let process = with_a_process_of_the_manager(stage);
    let report = succeeded(&stage.logoff(&[]));
    assert!(stage.is_empty(), "{report}");
    assert!(stage.processes("alice").contains(&process), "what lingers stays: {report}");
    assert_eq!(manager(&report, "alice"), (false, "linger".into()), "{report}");
}

pub(crate) fn a_closing_session_with_leftovers(stage: &mut Stage) {
    stage.su("alice", "setsid sleep 5000 > /dev/null 2>&1 &");
    stage.wait("the session is closing", |stage| {
        let closing = |one: &tests::stage::Session| one.user == "alice" && one.state == "closing";
        stage.process("alice", "sleep").is_some() && stage.sessions().iter().any(closing)
    });
    let report = succeeded(&stage.logoff(&[]));
    assert!(stage.processes("alice").is_empty(), "{report}");
    assert_eq!(outcomes(&report, "alice"), ["terminated"], "{report}");
    assert_eq!(report["sessions"][0]["state"], "closing", "{report}");
}

pub(crate) fn a_cron_job_of_the_same_user(stage: &mut Stage) {
    stage.run("echo '* * * * * exec sleep 5000' | crontab -u alice -");
    // Cron looks once a minute: the minute is over in a moment.
    stage.run("date -s \"$(date '+%Y-%m-%d %H:%M'):57\" > /dev/null");
    let job = stage.wait_for_process("alice", "sleep");
    stage.run("crontab -r -u alice");
    stage.login("tty3", "alice");
    let report = succeeded(&stage.logoff(&[]));
    assert_eq!(outcomes(&report, "alice"), ["terminated"], "{report}");
    assert!(stage.is_empty(), "{report}");
    assert!(stage.processes("alice").contains(&job), "the job goes on: {report}");
}

pub(crate) fn a_frozen_process(stage: &mut Stage) {
    stage.su("alice", "sleep 5000");
    stage.wait_for("alice", 1);
    stage.wait_for_process("alice", "sleep");
    // The first version of control groups can freeze so that not even SIGKILL gets through.
    let frozen = stage.run(
        "mkdir -p /tmp/freezer; mount -t cgroup -o freezer none /tmp/freezer; \
         mkdir -p /tmp/freezer/ice; pgrep -u alice -x sleep > /tmp/freezer/ice/cgroup.procs; \
         echo FROZEN > /tmp/freezer/ice/freezer.state; cat /tmp/freezer/ice/cgroup.procs",
    );
    let frozen: u64 =
        frozen.trim().parse().unwrap_or_else(|_| panic!("nothing is frozen: {frozen}"));
    let answer = stage.logoff(&["--grace", "2s", "--deadline", "9s"]);
    let document = ended(&answer, 6, "TimeOutError", "0xA0040202");
    assert_eq!(outcomes(&document["report"], "alice"), ["remaining"], "{document}");
    let survivors = document["report"]["sessions"][0]["survivors"].as_array().expect("a list");
    assert!(survivors.iter().any(|one| one["pid"] == frozen), "{frozen} is named: {document}");
    stage.run("echo THAWED > /tmp/freezer/ice/freezer.state");
    stage.wait("it has thawed and gone", |stage| stage.processes("alice").is_empty());
    stage.run("rmdir /tmp/freezer/ice; umount /tmp/freezer");
}
