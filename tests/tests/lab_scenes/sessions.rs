//! Who is logged off, and who is not a user that could be.

use serde_json::Value;
use tests::stage::{Stage, background, ended, manager, outcomes, succeeded};

fn list<'a>(report: &'a Value, name: &str) -> &'a Vec<Value> {
    report[name].as_array().expect("it is a list")
}

pub(crate) fn nobody_is_logged_on(stage: &mut Stage) {
    let document = ended(&stage.logoff(&[]), 8, "UnexpectedError", "0x80070520");
    assert_eq!(document["task"]["percent_completed"], 0, "{document}");
    assert_eq!(stage.logoff(&["--ok-if-none"]).code, Some(0));
}

pub(crate) fn one_terminal_login(stage: &mut Stage) {
    stage.login("tty3", "alice");
    let prompt = stage.run("ps -t tty1 -o pid=");
    let report = succeeded(&stage.logoff(&[]));
    assert!(stage.is_empty() && stage.processes("alice").is_empty(), "{report}");
    assert_eq!(outcomes(&report, "alice"), ["terminated"], "{report}");
    let session = &report["sessions"][0];
    assert_eq!((&session["tty"], &session["class"]), (&"tty3".into(), &"user".into()));
    assert!(!prompt.is_empty(), "another terminal waits for a login");
    assert_eq!(stage.run("ps -t tty1 -o pid="), prompt, "and goes on to do so");
}

pub(crate) fn several_users_one_of_them_twice(stage: &mut Stage) {
    stage.login("tty3", "alice");
    stage.ssh("alice");
    stage.su("bob", "sleep 5000");
    stage.ssh("carol");
    stage.wait_for("bob", 1);
    let users = stage.machine.vmm(&["users"], &[]).json();
    assert_eq!(users["sessions"].as_array().map(Vec::len), Some(4), "{users}");
    let report = succeeded(&stage.logoff(&[]));
    assert!(stage.is_empty(), "{report}");
    for (user, count) in [("alice", 2), ("bob", 1), ("carol", 1)] {
        assert!(stage.processes(user).is_empty(), "{user}: {report}");
        assert_eq!(outcomes(&report, user).len(), count, "{report}");
        if stage.has_systemd() {
            assert_eq!(manager(&report, user), (true, String::new()), "{report}");
        }
    }
    let remote = list(&report, "sessions").iter().filter(|one| one["remote_host"] == "127.0.0.1");
    assert_eq!(remote.count(), 2, "two came by ssh: {report}");
    let wall = stage.run("who");
    assert!(!stage.has_utmp() || wall.is_empty(), "utmp: {wall}");
}

pub(crate) fn an_autologin_that_comes_straight_back(stage: &mut Stage) {
    stage.run("login-on tty3 alice again");
    stage.wait_for("alice", 1);
    let before = stage.sessions_of("alice").remove(0).id;
    let report = succeeded(&stage.logoff(&[]));
    assert_eq!(outcomes(&report, "alice").len(), 1, "{report}");
    // The next one is there, and is not the work's business.
    stage.wait_for("alice", 1);
    let after = stage.sessions_of("alice").remove(0).id;
    assert_ne!(before, after);
    stage.run("touch /run/enough");
}

pub(crate) fn a_user_who_logs_in_during_the_work(stage: &mut Stage) {
    stage.login_stubborn("tty3", "bob");
    let call = stage.logoff_in_background("25s");
    stage.login("tty4", "carol");
    let carol = stage.sessions_of("carol").remove(0).id;
    let report = succeeded(&call.join().expect("the call returns"));
    assert_eq!(outcomes(&report, "bob"), ["killed"], "{report}");
    assert!(outcomes(&report, "carol").is_empty(), "{report}");
    let relogins = list(&report, "relogins");
    assert!(relogins.iter().any(|one| one["id"] == carol.as_str()), "{report}");
    assert_eq!(stage.sessions_of("carol").len(), 1, "she is left alone");
}

pub(crate) fn greeters_and_background_sessions_stay(stage: &mut Stage) {
    // Whatever else is done for carol may come and go.
    let sleeping = |stage: &mut Stage| -> Vec<String> {
        stage.run("pgrep -u carol -x sleep").lines().map(|line| line.trim().into()).collect()
    };
    for class in ["greeter", "background"] {
        // PAM's module believes the environment of whoever logs on.
        stage.run(&background(&format!(
            "env XDG_SESSION_CLASS={class} su -l carol -c 'sleep 5000'"
        )));
    }
    stage.login("tty3", "alice");
    stage.wait("both are there", |stage| {
        let sessions = stage.sessions();
        let mut carols = sessions.iter().filter(|one| one.user == "carol");
        carols.clone().any(|one| one.class == "greeter" && one.state != "opening")
            && carols.any(|one| one.class == "background" && one.state != "opening")
            && sleeping(stage).len() == 2
    });
    let before = sleeping(stage);
    let report = succeeded(&stage.logoff(&[]));
    let classes: Vec<_> =
        list(&report, "ignored").iter().filter_map(|one| one["class"].as_str()).collect();
    assert!(classes.contains(&"greeter") && classes.contains(&"background"), "{report}");
    assert!(stage.processes("alice").is_empty(), "{report}");
    assert_eq!(sleeping(stage), before, "carol's are still there: {report}");
}
