//! Logoffs on guests with a login manager: real processes, a real bus, and a manager of the test's.

mod manager;
mod world;

use guest_agent::info::Info;
use guest_agent::serve::Agent;
use guest_agent::sessions::guest::Guest;
use guest_agent::sessions::united::Paths;
use guest_agent::sessions::{Backend, Backends};
use manager::{Logins, scope, service, session};
use protocol::HResult;
use protocol::message::{AgentMessage, LogoffRequest, Request, Resume};
use protocol::task::{Outcome, SessionSummary, TaskResult};
use rustix::process::Signal;
use std::sync::Arc;
use std::time::Instant;
use world::{Ended, Host, Login, POLITE, STUBBORN, World, last_rows, lives, within};

/// Without a bus there is nothing to play.
macro_rules! played {
    ($logins:expr) => {
        match $logins {
            Some(logins) => logins,
            None => return,
        }
    };
}

fn host(world: &World, logins: &Logins) -> Host {
    let mut host = world.connect_with(Arc::new(logins.backend()));
    host.hello();
    host.welcome();
    host
}

fn logoff(world: &World, logins: &Logins, request: LogoffRequest) -> Ended {
    host(world, logins).logoff(1, request)
}

/// A login of `uid`'s in the session `id`, which logind knows.
fn login(world: &World, logins: &Logins, id: &str, uid: u32, script: &str) -> Login {
    let login = world.login_in(&scope(id, uid), script);
    logins.add(manager::Session { tty: login.tty.clone(), ..session(id, uid, login.pid()) });
    login
}

/// Until the agent has looked, at every session that there is now.
fn wait_for_looks(host: &mut Host) {
    for _ in 0..2 {
        while !matches!(host.next(), AgentMessage::Progress(_)) {}
    }
}

fn ids(sessions: &[SessionSummary]) -> Vec<&str> {
    sessions.iter().map(|session| session.id.as_str()).collect()
}

fn outcomes(ended: &Ended) -> Vec<(String, Option<Outcome>)> {
    let mut rows: Vec<_> =
        ended.sessions().into_iter().map(|row| (row.session.id, row.outcome)).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

/// The managers of the report: user's number, whether it was stopped, and why not.
fn managers(ended: &Ended) -> Vec<(u32, bool, &str)> {
    let mut rows: Vec<_> =
        ended.done.managers.iter().map(|one| (one.uid, one.stopped, &*one.reason)).collect();
    rows.sort_unstable();
    rows
}

// L0: what counts.

#[test]
fn sessions_count_by_their_class_and_greeters_jobs_and_managers_are_ignored() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let mut pids = Vec::new();
    for (id, class) in [
        ("1", "user"),
        ("2", "user-early"),
        ("3", "user-light"),
        ("c1", "greeter"),
        ("c2", "lock-screen"),
        ("4", "background"),
        ("5", "background-light"),
        ("6", "manager"),
        ("7", "manager-early"),
        ("8", "levitation"),
    ] {
        let pid = world.run_in(&scope(id, 1000), "echo ready; exec sleep 1000");
        pids.push(pid);
        logins.add(manager::Session { class, ..session(id, 1000, pid) });
    }
    let mut listing = logins.backend().list().unwrap();
    for list in [&mut listing.counted, &mut listing.ignored] {
        list.sort_by(|a, b| a.id.cmp(&b.id));
    }
    assert_eq!(ids(&listing.counted), ["1", "2", "3"]);
    assert_eq!(ids(&listing.ignored), ["4", "5", "6", "7", "8", "c1", "c2"]);
    assert!(listing.stale.is_empty());
    assert_eq!(listing.counted[0].leader, pids[0]);

    let ended = logoff(&world, &logins, within(1_000, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert!(pids[3..].iter().all(|pid| lives(*pid)), "who is ignored is not touched");
    assert_eq!(ended.done.ignored.len(), 7);
}

#[test]
fn a_session_is_told_with_all_that_logind_knows_of_it() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let pid = world.run_in(&scope("4", 1000), "echo ready; exec sleep 1000");
    logins.add(manager::Session {
        tty: "/dev/pts/7".into(),
        host: "192.0.2.7".into(),
        state: "online",
        user: "al\x1bice".into(),
        ..session("4", 1000, pid)
    });
    let listing = logins.backend().list().unwrap();
    let found = &listing.counted[0];
    assert_eq!((&*found.id, found.uid, &*found.user), ("4", 1000, "al?ice"));
    assert_eq!((&*found.class, &*found.kind, &*found.state), ("user", "tty", "online"));
    assert_eq!((&*found.tty, &*found.remote_host), ("pts/7", "192.0.2.7"));
    assert!(found.leader == pid && found.leader_start > 0);
}

#[test]
fn a_closing_session_counts_while_its_group_holds_somebody_and_is_stale_when_nobody() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let left = world.run_in(&scope("1", 1000), "echo ready; exec sleep 1000");
    for id in ["1", "2"] {
        let closing = manager::Session { state: "closing", stuck: true, ..session(id, 1000, 0) };
        logins.add(closing);
    }
    let listing = logins.backend().list().unwrap();
    assert_eq!((ids(&listing.counted), ids(&listing.stale)), (vec!["1"], vec!["2"]));

    let ended = logoff(&world, &logins, within(1_000, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(outcomes(&ended), [("1".into(), Some(Outcome::Terminated))]);
    assert!(!lives(left));
    let calls = logins.calls();
    assert_eq!(calls, ["KillSession 1 all 15", "KillSession 1 all 1", "KillSession 1 all 18"]);
    assert_eq!(ids(&ended.done.stale), ["1", "2"], "logind keeps both");
}

#[test]
fn a_process_that_has_taken_over_a_leaders_number_is_not_the_leader() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let pid = world.run_in("0::/system.slice/other.service", "echo ready; exec sleep 1000");
    // The session began a second after boot.
    logins.add(manager::Session { since: 1_000_000, stuck: true, ..session("1", 1000, pid) });
    let listing = logins.backend().list().unwrap();
    assert_eq!((ids(&listing.counted), ids(&listing.stale)), (vec![], vec!["1"]));
}

#[test]
fn a_guest_without_a_bus_or_without_logind_is_told_by_utmp_and_proc() {
    let world = World::new();
    let mut logins = played!(Logins::systemd());
    let chosen = |logins: &Logins| {
        let paths = Paths { utmp: vec![world.path("utmp")], ..Paths::default() };
        let guest = Guest::new(logins.root(), paths, World::scope(), |_| ());
        guest.choose().unwrap().0.name()
    };
    assert_eq!(chosen(&logins), "logind");
    logins.stop();
    assert_eq!(chosen(&logins), "utmp+proc", "the bus knows no logind");
    logins.kill_bus();
    assert_eq!(chosen(&logins), "utmp+proc", "there is no bus");
    std::fs::remove_file(logins.socket()).unwrap();
    assert_eq!(chosen(&logins), "utmp+proc");
    std::fs::remove_dir_all(logins.root().join("run")).unwrap();
    assert_eq!(chosen(&logins), "utmp+proc");
}

#[test]
fn an_agent_chooses_anew_for_every_question_and_names_the_backend() {
    let world = World::new();
    let mut logins = played!(Logins::systemd());
    let paths = Paths { utmp: vec![world.path("utmp")], ..Paths::default() };
    let guest = Guest::new(logins.root(), paths, World::scope(), |_| ());
    let mut host = world.connect_to(Agent::choosing(Arc::new(guest), "boot"));
    host.hello();
    host.welcome();
    let mut backend = |id| {
        host.request(id, Request::Sessions);
        match host.next() {
            AgentMessage::Sessions { backend, .. } => backend,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(backend(1), "logind");
    logins.stop();
    assert_eq!(backend(2), "utmp+proc");
    logins.start();
    assert_eq!(backend(3), "logind");
}

// L1: nobody.

#[test]
fn a_greeter_a_job_and_a_stale_session_are_nobody() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let job = world.run_in(&scope("4", 1000), "echo ready; exec sleep 1000");
    logins.add(manager::Session { class: "background", ..session("4", 1000, job) });
    logins.add(manager::Session { state: "closing", stuck: true, ..session("3", 1000, 0) });
    let ended = logoff(&world, &logins, within(1_000, 10_000));
    assert_eq!(ended.done.error, HResult::ERROR_NO_SUCH_LOGON_SESSION);
    assert_eq!((ids(&ended.done.ignored), ids(&ended.done.stale)), (vec!["4"], vec!["3"]));
    assert!(logins.calls().is_empty() && lives(job));
}

// L2: who is told what, in which order.

#[test]
fn logind_is_told_to_end_sessions_and_who_does_not_go_is_killed_after_the_grace() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let _polite = login(&world, &logins, "1", 1000, POLITE);
    let _stubborn = login(&world, &logins, "2", 1001, STUBBORN);
    let ended = logoff(&world, &logins, within(700, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    let expected = [("1", Outcome::Terminated), ("2", Outcome::Killed)];
    assert_eq!(outcomes(&ended), expected.map(|(id, outcome)| (id.into(), Some(outcome))));
    let stubborn = ended.sessions().into_iter().find(|row| row.session.id == "2").unwrap();
    assert!(stubborn.milliseconds >= Some(700), "not before the grace is over");
    let calls = logins.calls();
    assert_eq!(&calls[..2], ["TerminateSession 1", "TerminateSession 2"]);
    assert!(!calls.iter().any(|call| call.starts_with("KillSession")));
    assert!(
        matches!(&ended.messages[0], AgentMessage::Accepted { backend, .. } if backend == "logind")
    );
}

#[test]
fn what_is_in_the_group_goes_and_what_is_in_a_service_stays_whatever_it_looks_like() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    // A terminal multiplexer's server: no terminal, a kernel session of its own, no parent.
    let server = "(setsid sh -c 'trap \"\" HUP TERM; echo server $$; exec >&- 2>&-; \
                  while :; do sleep 1; done' &); ";
    let mut shell = login(&world, &logins, "1", 1000, &format!("{server}{POLITE}"));
    let server = shell.number("server");
    // On a terminal, but a service.
    let mut getty = world.login_in("0::/system.slice/job.service", POLITE);
    let ended = logoff(&world, &logins, within(500, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert!(!lives(server) && getty.is_there());
    assert_eq!(ended.outcome(&shell), Some(Outcome::Killed));
}

#[test]
fn a_session_that_is_still_opening_ends_with_what_its_leader_has_started() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let ssh = "0::/system.slice/ssh.service";
    // In no group of its own yet: the one of the service that let the user in.
    let script = "sh -c 'trap \"\" HUP TERM; echo child $$; while :; do sleep 1; done' & \
                  echo ready; wait";
    let mut shell = world.login_in(ssh, script);
    let child = shell.number("child");
    let (state, tty) = ("opening", shell.tty.clone());
    logins.add(manager::Session { state, tty, ..session("1", 1000, shell.pid()) });
    let mut server = world.login_in(ssh, POLITE);
    let ended = logoff(&world, &logins, within(500, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert!(!shell.is_there() && !lives(child), "{ended:?}");
    assert_eq!(ended.outcome(&shell), Some(Outcome::Killed));
    assert!(server.is_there(), "what else is in that service stays");
}

#[test]
fn children_that_are_born_while_the_session_is_being_killed_are_killed_too() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let script = "trap '' HUP TERM; echo ready; while :; do sleep 60 & sleep 0.02; done";
    let login = login(&world, &logins, "1", 1000, script);
    let ended = logoff(&world, &logins, within(300, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&login), Some(Outcome::Killed));
}

#[test]
fn a_notice_goes_to_the_sessions_terminal() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let mut login = login(&world, &logins, "1", 1000, POLITE);
    let request = LogoffRequest { notice_ms: 1_000, ..within(1_000, 20_000) };
    let ended = logoff(&world, &logins, request);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    login.wait_for("logs all users off in 1 s");
}

#[test]
fn managers_are_stopped_or_kept_for_a_reason() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let mut jobs = Vec::new();
    let mut logged_in = Vec::new();
    for uid in [1000, 1001, 1002] {
        logged_in.push(login(&world, &logins, &format!("{uid}"), uid, POLITE));
        jobs.push(world.run_in(&service(uid), "echo ready; exec sleep 1000"));
        let manager = manager::Session { class: "manager", ..session(&format!("m{uid}"), uid, 0) };
        logins.add(manager);
    }
    logins.linger(1001);
    let cron = world.run_in(&scope("c9", 1002), "echo ready; exec sleep 1000");
    logins.add(manager::Session { class: "background", ..session("c9", 1002, cron) });

    let ended = logoff(&world, &logins, within(1_000, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    let kept = [(1000, true, ""), (1001, false, "linger"), (1002, false, "background")];
    assert_eq!(managers(&ended), kept);
    assert_eq!(jobs.iter().map(|pid| lives(*pid)).collect::<Vec<_>>(), [false, true, true]);
    assert!(lives(cron), "a job of the same user survives");
    let calls = logins.calls();
    let users: Vec<_> = calls.iter().filter(|call| call.starts_with("TerminateUser")).collect();
    assert_eq!(users, ["TerminateUser 1000"]);
    assert_eq!(calls.last(), Some(users[0]), "sessions first");
}

#[test]
fn a_job_in_a_manager_that_does_not_stop_is_killed_after_its_grace() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let _login = login(&world, &logins, "1", 1000, POLITE);
    let job = world.run_in(&service(1000), STUBBORN);
    let ended = logoff(&world, &logins, within(500, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert!(!lives(job));
    assert_eq!(managers(&ended), [(1000, true, "")]);
}

// L3: success is what a look finds, not what a reply says.

#[test]
fn a_session_that_logind_keeps_open_has_not_ended_although_nobody_is_left() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let login = world.login_in(&scope("1", 1000), POLITE);
    logins.add(manager::Session { stuck: true, ..session("1", 1000, login.pid()) });
    let mut host = host(&world, &logins);
    host.request(1, Request::Logoff(within(300, 30_000)));
    logins.wait_for_call("TerminateSession 1");
    login.leave();
    let began = Instant::now();
    // Whoever is asked again is told that it is empty.
    while logins.calls().len() < 2 {
        host.next();
        assert!(began.elapsed().as_secs() < 20);
    }
    assert_eq!(logins.calls(), ["TerminateSession 1", "TerminateSession 1"]);
    logins.remove("1");
    let ended = host.follow(1);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
}

#[test]
fn a_session_that_logind_never_gives_up_is_a_time_out() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let login = world.login_in(&scope("1", 1000), POLITE);
    logins.add(manager::Session { stuck: true, ..session("1", 1000, login.pid()) });
    let ended = logoff(&world, &logins, within(300, 1_500));
    assert_eq!(ended.done.result, TaskResult::TimeOutError, "{ended:?}");
    assert_eq!(outcomes(&ended), [("1".into(), Some(Outcome::Remaining))]);
    assert_eq!(managers(&ended), [(1000, false, "sessions remain")]);
}

#[test]
fn a_stuck_closing_session_in_which_nobody_is_left_has_ended() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let login = login(&world, &logins, "1", 1000, STUBBORN);
    let mut host = host(&world, &logins);
    host.request(1, Request::Logoff(within(500, 20_000)));
    logins.wait_for_call("TerminateSession 1");
    logins.change("1", |session| (session.state, session.stuck) = ("closing", true));
    let ended = host.follow(1);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert!(!lives(login.pid()));
    assert_eq!(ids(&ended.done.stale), ["1"]);
}

#[test]
fn a_terminal_that_logs_in_again_by_itself_is_a_relogin_and_keeps_the_manager() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let old = login(&world, &logins, "1", 1000, STUBBORN);
    let job = world.run_in(&service(1000), "echo ready; exec sleep 1000");
    let mut host = host(&world, &logins);
    host.request(1, Request::Logoff(within(800, 20_000)));
    host.until_committed();
    let mut new = login(&world, &logins, "2", 1000, POLITE);
    let ended = host.follow(1);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(outcomes(&ended), [("1".into(), Some(Outcome::Killed))]);
    assert!(!lives(old.pid()) && new.is_there() && lives(job));
    assert_eq!(ids(&ended.done.relogins), ["2"]);
    assert_eq!(managers(&ended), [(1000, false, "relogin")]);
    assert!(!logins.calls().iter().any(|call| call.starts_with("TerminateUser")));
}

#[test]
fn a_new_session_that_has_got_an_old_ones_name_is_left_alone() {
    let world = World::new();
    let mut logins = played!(Logins::systemd());
    let _old = login(&world, &logins, "c1", 1000, POLITE);
    let _other = login(&world, &logins, "c2", 1001, STUBBORN);
    let mut host = host(&world, &logins);
    host.request(1, Request::Logoff(within(1_500, 20_000)));
    // A login manager without audit counts anew when it is restarted.
    while logins.knows("c1") {
        host.next();
    }
    wait_for_looks(&mut host);
    logins.stop();
    logins.start();
    let mut new = login(&world, &logins, "c1", 1000, POLITE);
    let ended = host.follow(1);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert!(new.is_there());
    assert_eq!(ids(&ended.done.relogins), ["c1"]);
}

// L4: percent.

#[test]
fn the_managers_to_stop_are_announced_and_counted() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let _alice = login(&world, &logins, "1", 1000, POLITE);
    let _again = login(&world, &logins, "2", 1000, POLITE);
    let _bob = login(&world, &logins, "3", 1001, POLITE);
    let _carol = login(&world, &logins, "4", 1002, POLITE);
    logins.linger(1002);
    let ended = logoff(&world, &logins, within(2_000, 20_000));
    assert!(matches!(&ended.messages[0], AgentMessage::Accepted { sessions: 4, managers: 2, .. }));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    let progress = ended.progress();
    assert!(progress.is_sorted() && progress.last() == Some(&6), "{progress:?}");
}

// L7: what can go wrong on the way.

#[test]
fn a_guest_that_logind_says_is_going_down_logs_nobody_off() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let mut login = login(&world, &logins, "1", 1000, POLITE);
    logins.go_down();
    let ended = logoff(&world, &logins, within(0, 5_000));
    assert_eq!(ended.done.error, HResult::ERROR_SHUTDOWN_IN_PROGRESS);
    assert!(login.is_there() && logins.calls().is_empty());
}

#[test]
fn a_bus_that_dies_midway_leaves_the_work_to_signals() {
    let world = World::new();
    let mut logins = played!(Logins::systemd());
    let polite = login(&world, &logins, "1", 1000, POLITE);
    let stubborn = login(&world, &logins, "2", 1000, STUBBORN);
    let job = world.run_in(&service(1000), "echo ready; exec sleep 1000");
    let mut host = host(&world, &logins);
    host.request(1, Request::Logoff(LogoffRequest { notice_ms: 1_000, ..within(500, 30_000) }));
    assert!(matches!(host.next(), AgentMessage::Accepted { sessions: 2, .. }));
    logins.kill_bus();
    let ended = host.follow(1);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&polite), Some(Outcome::Terminated));
    assert_eq!(ended.outcome(&stubborn), Some(Outcome::Killed));
    assert_eq!(managers(&ended), [(1000, false, "logind does not answer")]);
    assert!(lives(job), "whose manager it is nobody could be asked");
}

#[test]
fn a_bus_that_hangs_midway_holds_nothing_up() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let stubborn = login(&world, &logins, "1", 1000, STUBBORN);
    let mut host = host(&world, &logins);
    host.request(1, Request::Logoff(within(500, 30_000)));
    logins.wait_for_call("TerminateSession 1");
    logins.freeze_bus(Signal::STOP);
    let ended = host.follow(1);
    logins.freeze_bus(Signal::CONT);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&stubborn), Some(Outcome::Killed));
}

#[test]
fn a_connection_leaves_no_thread_behind() {
    let _world = World::new();
    let logins = played!(Logins::systemd());
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.join("comm")).ok());
        names.filter(|name| name == "bus\n").count()
    };
    for _ in 0..10 {
        logins.backend().list().unwrap();
    }
    let began = Instant::now();
    while threads() > 0 {
        assert!(began.elapsed().as_secs() < 20, "{} are left", threads());
        std::thread::yield_now();
    }
}

#[test]
fn a_logind_that_restarts_midway_is_asked_again() {
    let world = World::new();
    let mut logins = played!(Logins::systemd());
    let stubborn = login(&world, &logins, "1", 1000, STUBBORN);
    let job = world.run_in(&service(1000), "echo ready; exec sleep 1000");
    let mut host = host(&world, &logins);
    host.request(1, Request::Logoff(within(1_500, 30_000)));
    logins.wait_for_call("TerminateSession 1");
    logins.stop();
    wait_for_looks(&mut host);
    logins.start();
    let ended = host.follow(1);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&stubborn), Some(Outcome::Killed));
    assert_eq!(managers(&ended), [(1000, true, "")]);
    assert!(!lives(job));
}

#[test]
fn where_logind_denies_it_the_agent_signals_by_itself_and_the_manager_is_kept() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let polite = login(&world, &logins, "1", 1000, POLITE);
    let job = world.run_in(&service(1000), "echo ready; exec sleep 1000");
    logins.deny();
    let ended = logoff(&world, &logins, within(5_000, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&polite), Some(Outcome::Terminated));
    assert_eq!(managers(&ended), [(1000, false, "not allowed: not for you")]);
    assert!(lives(job));
}

#[test]
fn a_logoff_goes_on_in_another_agent_without_counting_anew() {
    let world = World::new();
    let logins = played!(Logins::systemd());
    let stubborn = login(&world, &logins, "1", 1000, STUBBORN);
    let mut host1 = host(&world, &logins);
    host1.request(1, Request::Logoff(within(60_000, 90_000)));
    let messages = host1.until_committed();
    logins.wait_for_call("TerminateSession 1");
    host1.hang_up().unwrap();
    let mut new = login(&world, &logins, "2", 1001, POLITE);
    let resume = Resume { committed_ms: Some(2_000), sessions: last_rows(&messages) };
    let request = LogoffRequest { resume: Some(resume), ..within(1_000, 20_000) };
    let ended = logoff(&world, &logins, request);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&stubborn), Some(Outcome::Killed));
    assert_eq!(managers(&ended), [(1000, true, "")]);
    assert!(new.is_there());
    assert_eq!(ids(&ended.done.relogins), ["2"]);
}

// elogind.

#[test]
fn on_elogind_processes_are_signalled_and_roots_daemons_in_the_group_survive() {
    let world = World::new();
    let logins = played!(Logins::elogind());
    let group = "1:name=elogind:/1";
    let daemon = "(setsid sh -c 'echo daemon $$; exec sleep 1000 </dev/null >/dev/null' &); ";
    let mut shell = world.login_in(group, &format!("{daemon}{POLITE}"));
    let daemon = shell.number("daemon");
    // Another terminal of the same session, with no kin in it.
    let inner = world.login_in(group, STUBBORN);
    let tty = shell.tty.clone();
    logins.add(manager::Session { tty, ..session("1", 1000, shell.pid()) });
    let listing = logins.backend().list().unwrap();
    assert_eq!(ids(&listing.counted), ["1"]);
    let mut host = host(&world, &logins);
    host.request(1, Request::Logoff(within(500, 20_000)));
    // The daemon keeps the group from being empty, and the session listed.
    let ended = host.follow(1);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(outcomes(&ended), [("1".into(), Some(Outcome::Killed))]);
    assert!(!shell.is_there() && !lives(inner.pid()) && lives(daemon));
    assert!(ended.done.managers.is_empty() && logins.calls().is_empty(), "{:?}", logins.calls());
}

#[test]
fn on_elogind_a_session_that_is_kept_open_is_terminated_once_nobody_is_left() {
    let world = World::new();
    let logins = played!(Logins::elogind());
    let login = world.login_in("1:name=elogind:/1", POLITE);
    logins.add(manager::Session { stuck: true, ..session("1", 1000, login.pid()) });
    let mut host = host(&world, &logins);
    host.request(1, Request::Logoff(within(5_000, 20_000)));
    logins.wait_for_call("TerminateSession 1");
    assert!(!lives(login.pid()), "it is not asked before");
    logins.change("1", |session| session.state = "closing");
    let ended = host.follow(1);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(logins.calls(), ["TerminateSession 1"]);
}

// The other question that logind answers.

#[test]
fn the_screen_is_locked_when_a_users_session_says_so() {
    let _world = World::new();
    let mut logins = played!(Logins::systemd());
    let info = Info::new(logins.root());
    assert_eq!(info.screen_locked().unwrap(), Some(false));
    logins.add(manager::Session { stuck: true, ..session("1", 1000, 0) });
    logins.add(manager::Session { class: "greeter", locked: true, ..session("2", 0, 0) });
    assert_eq!(info.screen_locked().unwrap(), Some(false), "greeters have no screen of their own");
    logins.change("1", |session| session.locked = true);
    assert_eq!(info.screen_locked().unwrap(), Some(true));
    logins.stop();
    assert!(info.screen_locked().is_err());
    std::fs::remove_dir_all(logins.root().join("run/systemd")).unwrap();
    assert_eq!(info.screen_locked().unwrap(), None);
}
