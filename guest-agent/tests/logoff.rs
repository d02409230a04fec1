//! Logoffs of real logins on real terminals, asked for over a real connection.

mod world;

use guest_agent::process::{Handle, Identity};
use guest_agent::sessions::united::UtmpProc;
use guest_agent::sessions::{Backend, Known, Listing, Sent, Sight};
use protocol::HResult;
use protocol::message::{AgentMessage, HostMessage, LogoffRequest, Request, Resume};
use protocol::task::{Outcome, SessionSummary, TaskResult};
use rustix::process::Signal;
use std::io;
use std::sync::Arc;
use world::{POLITE, STUBBORN, World, last_rows, lives, within};

#[test]
fn nobody_logged_on_is_its_own_error_and_no_success() {
    let world = World::new();
    let ended = world.host().logoff(1, within(1_000, 10_000));
    assert!(matches!(&ended.messages[0], AgentMessage::Accepted { sessions: 0, .. }), "{ended:?}");
    assert_eq!(ended.done.result, TaskResult::UnexpectedError);
    assert_eq!(ended.done.error, HResult::ERROR_NO_SUCH_LOGON_SESSION);
}

#[test]
fn who_leaves_when_asked_is_terminated_who_does_not_is_killed_and_a_daemon_survives() {
    let world = World::new();
    // It says who it is once it has a session of its own.
    let daemon = "(setsid sh -c 'echo daemon $$; exec sleep 1000 </dev/null >/dev/null' &); ";
    let mut polite = world.login(&format!("{daemon}{POLITE}"));
    let daemon = polite.number("daemon");
    let mut stubborn = world.login(STUBBORN);
    let ended = world.host().logoff(7, within(500, 20_000));

    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!((ended.done.error, ended.done.text.as_str()), (HResult::S_OK, ""));
    assert_eq!(ended.outcome(&polite), Some(Outcome::Terminated));
    assert_eq!(ended.outcome(&stubborn), Some(Outcome::Killed));
    assert!(ended.of(&stubborn).milliseconds >= Some(500), "not before the grace is over");
    assert!(ended.sessions().iter().all(|row| row.survivors.is_empty()));
    assert!(!polite.is_there() && !stubborn.is_there());
    assert!(lives(daemon), "a daemon is no part of a session");
    let progress = ended.progress();
    assert!(progress.is_sorted() && progress.contains(&1) && progress.last() == Some(&2));
    assert!(ended.done.relogins.is_empty() && ended.done.stale.is_empty());
}

#[test]
fn a_stopped_process_is_woken_so_that_it_can_leave() {
    let world = World::new();
    let login = world.login("echo ready; kill -STOP $$; exit");
    let ended = world.host().logoff(1, within(15_000, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&login), Some(Outcome::Terminated));
}

#[test]
fn children_that_are_born_while_the_session_is_being_killed_are_killed_too() {
    let world = World::new();
    let script = "trap '' HUP TERM; echo ready; while :; do sleep 60 & sleep 0.02; done";
    let login = world.login(script);
    let ended = world.host().logoff(1, within(300, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&login), Some(Outcome::Killed));
}

#[test]
fn the_door_is_left_time_to_close_behind_its_user() {
    let world = World::new();
    let closed = world.path("closed");
    let after = format!("sleep 0.2; echo done > {}", closed.display());
    let login = world.login_by_ssh(POLITE, &after);
    let ended = world.host().logoff(1, within(15_000, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&login), Some(Outcome::Terminated));
    assert!(closed.exists(), "a signal would have ended it before");
}

#[test]
fn a_door_that_stays_open_is_ended_too() {
    let world = World::new();
    let login = world.login_by_ssh(STUBBORN, "trap '' HUP TERM; while :; do sleep 1; done");
    let ended = world.host().logoff(1, within(300, 20_000));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&login), Some(Outcome::Killed));
    assert!(!lives(login.pid()));
}

/// Processes that end between the look that finds them and the hold on them.
struct Hasty(UtmpProc);

impl Backend for Hasty {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn list(&self) -> io::Result<Listing> {
        self.0.list()
    }

    fn look(&self, sessions: &[Known<'_>]) -> io::Result<Vec<Sight>> {
        self.0.look(sessions)
    }

    fn hold(&self, member: Identity) -> io::Result<Option<Handle>> {
        let Some(handle) = self.0.hold(member)? else { return Ok(None) };
        handle.signal(Signal::KILL)?;
        rustix::event::poll(&mut [handle.poll_fd()], None)?;
        Ok(None)
    }

    fn identify(&self, pid: u32) -> Option<Identity> {
        self.0.identify(pid)
    }

    fn notify(&self, _: &SessionSummary, _: &str) {}

    fn going_down(&self) -> bool {
        false
    }
}

#[test]
fn who_leaves_before_being_watched_is_missed_at_once() {
    let world = World::new();
    // A busy machine may be slow now and then, but whoever waits for a tick never is in time.
    let in_time = (0..5).any(|_| {
        let login = world.login(POLITE);
        let mut host = world.connect_with(Arc::new(Hasty(world.backend())));
        host.hello();
        host.welcome();
        let ended = host.logoff(1, within(15_000, 20_000));
        assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
        ended.of(&login).milliseconds.is_some_and(|ms| ms < 400)
    });
    assert!(in_time, "each was looked at again only after half a second");
}

/// A kernel that lets the agent signal nobody.
struct Forbidden(UtmpProc);

impl Backend for Forbidden {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn list(&self) -> io::Result<Listing> {
        self.0.list()
    }

    fn look(&self, sessions: &[Known<'_>]) -> io::Result<Vec<Sight>> {
        self.0.look(sessions)
    }

    fn hold(&self, member: Identity) -> io::Result<Option<Handle>> {
        self.0.hold(member)
    }

    fn identify(&self, pid: u32) -> Option<Identity> {
        self.0.identify(pid)
    }

    fn end(&self, _: &SessionSummary, members: &[Handle]) -> Sent {
        Sent { reached: 0, denied: members.iter().map(Handle::identity).collect() }
    }

    fn kill(&self, session: &SessionSummary, members: &[Handle]) -> Sent {
        self.end(session, members)
    }

    fn notify(&self, _: &SessionSummary, _: &str) {}

    fn going_down(&self) -> bool {
        false
    }
}

#[test]
fn a_kernel_that_forbids_it_is_access_denied_as_soon_as_nothing_is_left_to_try() {
    let world = World::new();
    let login = world.login(POLITE);
    let mut host = world.connect_with(Arc::new(Forbidden(world.backend())));
    host.hello();
    host.welcome();
    let ended = host.logoff(1, within(200, u64::MAX));
    assert_eq!(ended.done.result, TaskResult::UnexpectedError);
    assert_eq!(ended.done.error, HResult::ERROR_ACCESS_DENIED);
    let row = ended.of(&login);
    assert_eq!((row.outcome, row.survivors[0].pid), (Some(Outcome::Denied), login.pid()));
}

#[test]
fn a_guest_that_is_going_down_logs_nobody_off() {
    let world = World::new();
    let mut login = world.login(POLITE);
    // The run level of the shutdown, noted at the end of the world.
    let mut record = [0; 384];
    record[0] = 1;
    record[4] = b'0';
    record[340..344].copy_from_slice(&u32::MAX.to_le_bytes());
    std::fs::write(world.path("utmp"), record).unwrap();
    let ended = world.host().logoff(1, within(0, 1_000));
    assert_eq!(ended.done.result, TaskResult::UnexpectedError);
    assert_eq!(ended.done.error, HResult::ERROR_SHUTDOWN_IN_PROGRESS);
    assert!(login.is_there());
}

#[test]
fn a_deadline_that_passes_is_a_time_out_that_names_who_is_left() {
    let world = World::new();
    let mut login = world.login(STUBBORN);
    let ended = world.host().logoff(1, within(60_000, 700));
    assert_eq!(ended.done.result, TaskResult::TimeOutError);
    assert_eq!(ended.done.error, HResult::VM_E_TIMED_OUT);
    assert!(ended.done.text.contains(&login.tty), "{}", ended.done.text);
    let row = ended.of(&login);
    assert_eq!((row.outcome, row.milliseconds), (Some(Outcome::Remaining), None));
    assert!(row.survivors.iter().any(|survivor| survivor.pid == login.pid()), "{row:?}");
    assert_eq!(ended.progress().last(), Some(&0));
    assert!(login.is_there());
}

#[test]
fn a_cancel_before_the_commit_touches_nobody() {
    let world = World::new();
    let mut login = world.login(POLITE);
    let mut host = world.host();
    host.request(5, Request::Logoff(LogoffRequest { notice_ms: 60_000, ..within(1, 1) }));
    login.wait_for("logs all users off in 60 s");
    host.say(&HostMessage::Cancel { id: 4 });
    host.say(&HostMessage::Cancel { id: 5 });
    let ended = host.follow(5);
    let answers: Vec<_> = ended
        .messages
        .iter()
        .filter(|message| matches!(message, AgentMessage::CancelAnswer { .. }))
        .collect();
    let answer = |id, cancelled| AgentMessage::CancelAnswer { id, cancelled };
    assert_eq!(answers, [&answer(4, false), &answer(5, true)]);
    assert_eq!(ended.done.result, TaskResult::Cancelled);
    assert_eq!(ended.done.error, HResult::ERROR_CANCELLED);
    assert_eq!(ended.outcome(&login), None);
    assert!(login.is_there());
}

#[test]
fn a_cancel_after_the_commit_is_refused_and_the_work_goes_on() {
    let world = World::new();
    let login = world.login(STUBBORN);
    let mut host = world.host();
    host.request(5, Request::Logoff(within(500, 20_000)));
    let mut messages = host.until_committed();
    host.say(&HostMessage::Cancel { id: 5 });
    let ended = host.follow(5);
    assert!(ended.messages.contains(&AgentMessage::CancelAnswer { id: 5, cancelled: false }));
    assert_eq!(ended.done.result, TaskResult::Success);
    messages.extend(ended.messages);
    assert_eq!(last_rows(&messages)[0].outcome, Some(Outcome::Killed));
    assert_eq!(last_rows(&messages)[0].session.tty, login.tty);
}

#[test]
fn who_leaves_during_the_notice_has_vanished_and_that_is_success() {
    let world = World::new();
    let login = world.login(POLITE);
    let mut host = world.host();
    host.request(1, Request::Logoff(LogoffRequest { notice_ms: 20_000, ..within(1, 20_000) }));
    assert!(matches!(host.next(), AgentMessage::Accepted { sessions: 1, .. }));
    login.leave();
    let ended = host.follow(1);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    let rows = ended.sessions();
    assert_eq!((rows[0].outcome, rows[0].milliseconds), (Some(Outcome::Vanished), Some(0)));
}

#[test]
fn who_logs_in_during_the_work_is_left_alone_and_listed() {
    let world = World::new();
    let old = world.login(STUBBORN);
    let mut host = world.host();
    host.request(1, Request::Logoff(within(1_000, 20_000)));
    host.until_committed();
    let mut new = world.login(POLITE);
    let ended = host.follow(1);
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&old), Some(Outcome::Killed));
    let relogins: Vec<_> = ended.done.relogins.iter().map(|one| one.tty.as_str()).collect();
    assert_eq!(relogins, [new.tty.as_str()]);
    assert!(new.is_there());
}

#[test]
fn a_second_logoff_is_turned_away_while_one_runs() {
    let world = World::new();
    let _login = world.login(STUBBORN);
    let mut host = world.host();
    host.request(1, Request::Logoff(within(700, 20_000)));
    host.until_committed();
    host.request(2, Request::Logoff(within(1, 1)));
    let ended = host.follow(1);
    let rejected = |message: &AgentMessage| match message {
        AgentMessage::Rejected { id, error, .. } => Some((*id, *error)),
        _ => None,
    };
    let rejected: Vec<_> = ended.messages.iter().filter_map(rejected).collect();
    assert_eq!(rejected, [(2, HResult::DISP_E_EXCEPTION)]);
    assert_eq!(ended.done.result, TaskResult::Success);
    let again = host.logoff(3, within(1, 1));
    assert_eq!(again.done.error, HResult::ERROR_NO_SUCH_LOGON_SESSION, "the next one is taken");
}

#[test]
fn a_logoff_stops_acting_with_its_connection() {
    let world = World::new();
    let mut stubborn = world.login(STUBBORN);
    let mut host = world.host();
    host.request(1, Request::Logoff(within(1_000, 20_000)));
    host.until_committed();
    host.hang_up().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    assert!(stubborn.is_there(), "the grace is over, and nobody is killed");
}

#[test]
fn a_logoff_goes_on_over_the_next_connection_without_counting_anew() {
    let world = World::new();
    // The shell has gone when the logoff goes on; what it left behind is known by its session.
    let mut old = world.login(
        "trap '' HUP TERM; sleep 1000 >/dev/null & echo left $!; trap 'exit' TERM; echo ready; \
         while :; do sleep 1; done",
    );
    let left = old.number("left");
    let mut stubborn = world.login(STUBBORN);
    let mut host = world.host();
    host.request(1, Request::Logoff(within(60_000, 90_000)));
    let mut messages = host.until_committed();
    // Its row names what is left of it, once the shell has gone.
    while last_rows(&messages)[0].survivors.iter().all(|one| one.pid != left)
        || last_rows(&messages)[0].survivors.iter().any(|one| one.pid == old.pid())
    {
        messages.push(host.next());
    }
    host.hang_up().unwrap();
    assert!(stubborn.is_there() && lives(left));

    let mut new = world.login(POLITE);
    let resume = Resume { committed_ms: Some(2_000), sessions: last_rows(&messages) };
    let request = LogoffRequest { resume: Some(resume), ..within(1_000, 20_000) };
    let ended = world.host().logoff(1, request);
    assert!(matches!(&ended.messages[0], AgentMessage::Accepted { sessions: 2, .. }));
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert_eq!(ended.outcome(&old), Some(Outcome::Killed));
    assert_eq!(ended.outcome(&stubborn), Some(Outcome::Killed));
    assert!(ended.of(&stubborn).milliseconds >= Some(2_000), "time goes on from where it was");
    assert!(!lives(left) && new.is_there());
    assert_eq!(ended.done.relogins.len(), 1);
}

#[test]
fn a_resumed_logoff_kills_nobody_who_has_taken_over_a_pid() {
    let world = World::new();
    let mut login = world.login(POLITE);
    let mut host = world.host();
    host.request(1, Request::Logoff(LogoffRequest { notice_ms: 60_000, ..within(1, 1) }));
    assert!(matches!(host.next(), AgentMessage::Accepted { sessions: 1, .. }));
    let AgentMessage::Session { mut session, .. } = host.next() else { panic!("no row") };
    host.say(&HostMessage::Cancel { id: 1 });
    host.follow(1);
    // The same pid, but of a process that started at another time.
    session.session.leader_start -= 1;
    let resume = Resume { committed_ms: Some(0), sessions: vec![session] };
    let ended = host.logoff(2, LogoffRequest { resume: Some(resume), ..within(0, 5_000) });
    assert_eq!(ended.done.result, TaskResult::Success, "{ended:?}");
    assert!(login.is_there());
}
