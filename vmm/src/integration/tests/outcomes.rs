//! How far the work is and how it ended, as far as the guest's own words agree.

use super::*;
use crate::integration::logoff::Operation;
use crate::task::Tasks;
use proptest::prelude::*;
use protocol::task::{LogoffReport, MAX_SURVIVORS, ManagerReport, SecondLook};

/// A logoff of `sessions` sessions that the guest ends with `done` after these rows.
fn ended_with(rows: &[SessionReport], sessions: u32, done: Done) -> (TaskInfo, LogoffReport) {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, sessions);
    rows.iter().for_each(|row| agent.row(id, row.clone()));
    agent.progress(id, true, sessions);
    agent.say(&AgentMessage::Done(Done { id, ..done }));
    end(&task);
    (task.info(), task.report().unwrap())
}

fn ending(result: TaskResult, error: HResult) -> Done {
    Done::failed(0, result, error, "the guest's words")
}

fn success() -> Done {
    ending(TaskResult::Success, HResult::S_OK)
}

#[test]
fn case_47_percent_rises_never_falls_and_is_at_most_99_before_the_end_whatever_the_guest_claims() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 4);
    let percent = |agent: &mut Agent| {
        host.settle(agent);
        task.info().percent_completed
    };
    agent.commit(id, 4);
    assert_eq!(percent(&mut agent), 0);
    agent.row(id, row(0, Some(Outcome::Terminated)));
    assert_eq!(percent(&mut agent), 25, "a row that says that its session has ended counts");
    agent.progress(id, true, 2);
    assert_eq!(percent(&mut agent), 50, "so does the guest's number");
    agent.progress(id, true, 0);
    agent.progress(id, false, 1);
    agent.row(id, row(0, None));
    assert_eq!(percent(&mut agent), 50, "nothing is taken back");
    for number in ["-1", "1e999", "1.5", "NaN", "null", "4294967296", "\"3\"", "[3]"] {
        let claim = format!(r#"{{"type":"progress","id":{id},"committed":true,"done":{number}}}"#);
        agent.say_frame(claim);
    }
    assert_eq!(percent(&mut agent), 50, "what is no number is no progress");
    assert_eq!(host.guest().agent().dropped, 8);
    agent.progress(id, true, 3);
    assert_eq!(percent(&mut agent), 75);
    for done in [4, 5, 255, u32::MAX] {
        agent.progress(id, true, done);
        assert_eq!(percent(&mut agent), 99);
    }
    agent.progress(id, true, 3);
    (0..4).for_each(|number| agent.row(id, row(number, Some(Outcome::Killed))));
    assert_eq!(percent(&mut agent), 99, "until the guest has looked for the last time");
    agent.succeed(id, 4);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn percent_counts_the_users_managers_too_and_stays_where_it_is_on_failure() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let asking = call(&host, |guest| guest.logoff(LogoffOptions::default()));
    let (id, _) = agent.logoff();
    let (backend, sessions, managers) = (String::new(), 2, 1);
    agent.say(&AgentMessage::Accepted { id, backend, sessions, managers });
    let task = asking.join().unwrap().unwrap();
    agent.commit(id, 2);
    agent.row(id, row(1, Some(Outcome::Vanished)));
    agent.done(id, TaskResult::UnexpectedError, HResult::ERROR_ACCESS_DENIED);
    assert_eq!(end(&task), failed(HResult::ERROR_ACCESS_DENIED));
    assert_eq!(task.info().percent_completed, 33);
}

#[test]
fn case_47_a_flood_of_claims_wakes_nobody_who_waits_for_news() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 2);
    agent.commit(id, 2);
    agent.progress(id, true, 1);
    until(&task, |info| info.percent_completed == 50);
    // The rows are in the report by then.
    std::thread::sleep(Duration::from_millis(100));
    host.settle(&mut agent);
    let (version, _) = task.wait_change(0, None);
    for done in [0, 1].repeat(1_000) {
        agent.progress(id, true, done);
    }
    host.settle(&mut agent);
    assert_eq!(task.wait_change(0, None).0, version);
}

#[test]
fn nobody_logged_on_is_the_tasks_error_and_not_the_calls() {
    let error = HResult::ERROR_NO_SUCH_LOGON_SESSION;
    let (info, report) = ended_with(&[], 0, ending(TaskResult::UnexpectedError, error));
    assert_eq!((info.result, info.error), failed(HResult(0x8007_0520)));
    assert_eq!(info.error_name, "ERROR_NO_SUCH_LOGON_SESSION");
    assert_eq!(info.percent_completed, 0);
    assert!(report.sessions.is_empty());
}

/// A host that takes a second look, and a guest that has said that its two sessions have ended.
fn claimed(patience: Duration) -> (Host, Agent, Task) {
    let host = Host::looking_twice(patience);
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 2);
    agent.commit(id, 2);
    agent.succeed(id, 2);
    (host, agent, task)
}

fn list(agent: &mut Agent, id: u64, sessions: Vec<SessionSummary>) {
    agent.say(&AgentMessage::Sessions {
        id,
        backend: "test".into(),
        sessions,
        omitted: 0,
        worked_us: 9,
    });
}

fn second_look(agent: &mut Agent) -> u64 {
    let (id, request) = agent.request();
    assert_eq!(request, Request::Sessions);
    id
}

#[test]
fn case_48_a_guest_that_lists_what_it_has_ended_has_not_succeeded() {
    let (_host, mut agent, task) = claimed(PATIENCE);
    let id = second_look(&mut agent);
    let info = task.info();
    assert!(!info.is_complete && !info.is_cancelable && info.percent_completed == 99, "{info:?}");
    list(&mut agent, id, vec![row(7, None).session, row(1, None).session]);
    assert_eq!(end(&task), failed(HResult::DISP_E_EXCEPTION));
    assert!(task.info().error_description.contains("lists 1 of 2 sessions"));
    let report = task.report().unwrap();
    assert_eq!(report.second_look, SecondLook::Contradicts);
    assert_eq!(report.sessions[1].outcome, Some(Outcome::Remaining));
    assert_ne!(report.sessions[0].outcome, Some(Outcome::Remaining));
}

#[test]
fn case_48_who_has_logged_on_since_is_no_contradiction() {
    let (_host, mut agent, task) = claimed(PATIENCE);
    let id = second_look(&mut agent);
    let reused = SessionSummary { leader_start: 9_000, ..row(0, None).session };
    list(&mut agent, id, vec![row(7, None).session, reused]);
    assert_eq!(end(&task), SUCCESS);
    assert_eq!(task.report().unwrap().second_look, SecondLook::Agrees);
}

#[test]
fn case_48_a_claim_that_cannot_be_looked_at_again_stands_as_one() {
    type Lose = fn(&Host, Agent, u64) -> Option<Agent>;
    // The guest says nothing; it refuses; it is gone; another agent of it comes; it reboots.
    let ways: [Lose; 5] = [
        |_, agent, _| Some(agent),
        |_, mut agent, id| {
            let error = HResult::ERROR_ACCESS_DENIED;
            agent.say(&AgentMessage::Rejected { id, error, text: String::new() });
            Some(agent)
        },
        |_, _, _| None,
        |host, _, _| Some(host.ready_agent()),
        |host, agent, _| {
            host.integration.boot_starts().wait();
            Some(agent)
        },
    ];
    for (number, lose) in ways.into_iter().enumerate() {
        let patience = if number == 0 { Duration::from_millis(50) } else { PATIENCE };
        let (host, mut agent, task) = claimed(patience);
        let id = second_look(&mut agent);
        let _agent = lose(&host, agent, id);
        assert_eq!(end(&task), SUCCESS, "{number}");
        assert_eq!(task.report().unwrap().second_look, SecondLook::NotTaken, "{number}");
    }
}

#[test]
fn case_48_the_time_of_a_pause_is_none_of_the_second_looks() {
    let patience = Duration::from_millis(300);
    let (host, mut agent, task) = claimed(patience);
    second_look(&mut agent);
    host.state.set(VmState::Paused);
    host.integration.paused();
    let info = task.wait(Some(patience * 3));
    assert!(!info.is_complete, "{info:?}");
    host.integration.resumed(|| host.state.set(VmState::Running));
    let id = second_look(&mut agent);
    list(&mut agent, id, vec![row(1, None).session]);
    assert_eq!(end(&task), failed(HResult::DISP_E_EXCEPTION));
    assert_eq!(task.report().unwrap().second_look, SecondLook::Contradicts);
}

#[test]
fn case_48_an_answer_that_comes_too_late_is_none_to_the_next_logoff() {
    let (host, mut agent, task) = claimed(Duration::from_millis(50));
    let late = second_look(&mut agent);
    assert_eq!(end(&task), SUCCESS);
    let (id, next) = host.begin(&mut agent, 2);
    agent.commit(id, 2);
    list(&mut agent, late, vec![row(0, None).session]);
    assert!(!next.info().is_complete);
    agent.succeed(id, 2);
    let look = second_look(&mut agent);
    list(&mut agent, look, Vec::new());
    assert_eq!(end(&next), SUCCESS);
    assert_ne!(next.report().unwrap().second_look, SecondLook::Contradicts);
}

#[test]
fn case_48_nobody_logged_on_is_not_believed_where_somebody_was() {
    let error = HResult::ERROR_NO_SUCH_LOGON_SESSION;
    let rows = [row(0, None)];
    let (info, _) = ended_with(&rows, 1, ending(TaskResult::UnexpectedError, error));
    assert_eq!((info.result, info.error), failed(HResult::DISP_E_EXCEPTION));
}

#[test]
fn success_carries_the_whole_report() {
    let summary = |id: &str| SessionSummary { id: id.into(), ..SessionSummary::default() };
    let manager =
        ManagerReport { uid: 7, user: "bob".into(), stopped: false, reason: "linger".into() };
    let rows = [
        row(0, Some(Outcome::Terminated)),
        row(1, Some(Outcome::Killed)),
        row(2, Some(Outcome::Vanished)),
    ];
    let done = Done {
        worked_us: 5000,
        managers: vec![manager.clone()],
        relogins: vec![summary("relogin")],
        ignored: vec![summary("greeter")],
        stale: vec![summary("stale")],
        ..success()
    };
    let (info, report) = ended_with(&rows, 3, done);
    assert_eq!((info.result, info.error), SUCCESS);
    assert_eq!((info.percent_completed, info.is_cancelable), (100, false));
    assert_eq!(info.error_description, "");
    let expected = LogoffReport {
        backend: "test".into(),
        boot_id: "boot".into(),
        options: LogoffOptions::default(),
        sessions: rows.to_vec(),
        managers: vec![manager],
        relogins: vec![summary("relogin")],
        ignored: vec![summary("greeter")],
        stale: vec![summary("stale")],
        second_look: SecondLook::NotTaken,
        guest_us: 5000,
    };
    assert_eq!(report, expected);
}

#[test]
fn case_48_success_is_believed_only_if_every_session_is_said_to_have_ended() {
    let ended = |number| row(number, Some(Outcome::Terminated));
    for (rows, sessions, what) in [
        (vec![], 0, "none was counted"),
        (vec![], 2, "none is named"),
        (vec![ended(0)], 2, "one is not named"),
        (vec![ended(0), ended(0)], 2, "one is named twice"),
        (vec![ended(0), row(1, None)], 2, "one says nothing"),
        (vec![ended(0), row(1, Some(Outcome::Remaining))], 2, "one remains"),
        (vec![ended(0), row(1, Some(Outcome::Denied))], 2, "one was denied"),
        (vec![ended(0), ended(1), row(0, None)], 2, "one has come back"),
    ] {
        let (info, _) = ended_with(&rows, sessions, success());
        assert_eq!((info.result, info.error), failed(HResult::DISP_E_EXCEPTION), "{what}");
        assert!(info.percent_completed < 100, "{what}");
    }
}

#[test]
fn an_end_whose_result_and_code_contradict_each_other_is_an_error() {
    let rows = [row(0, Some(Outcome::Terminated))];
    for (result, error) in [
        (TaskResult::Success, HResult::VM_E_TIMED_OUT),
        (TaskResult::Success, HResult::S_FALSE),
        (TaskResult::UnexpectedError, HResult::S_OK),
        (TaskResult::TimeOutError, HResult::S_FALSE),
        // Nobody has cancelled it.
        (TaskResult::Cancelled, HResult::ERROR_CANCELLED),
    ] {
        let (info, _) = ended_with(&rows, 1, ending(result, error));
        let expected = failed(HResult::DISP_E_EXCEPTION);
        assert_eq!((info.result, info.error), expected, "{result:?} {error}");
        assert!(info.error.is_failure() && !info.error_description.is_empty());
    }
}

#[test]
fn survivors_make_it_a_time_out_that_names_them() {
    let survivors = vec![process(77, "emacs"), process(78, "sleep")];
    let remaining = SessionReport { survivors, ..row(1, Some(Outcome::Remaining)) };
    let rows = [row(0, Some(Outcome::Killed)), remaining.clone()];
    let error = HResult::VM_E_TIMED_OUT;
    let (info, report) = ended_with(&rows, 2, ending(TaskResult::TimeOutError, error));
    assert_eq!((info.result, info.error), TIMED_OUT);
    assert_eq!(info.error_description, "the guest's words");
    assert_eq!(report.sessions[1], remaining);
    assert!(info.percent_completed < 100);
}

#[test]
fn case_47_the_hosts_own_clock_ends_what_the_guest_does_not_and_names_who_is_left() {
    let margin = Duration::from_millis(100);
    let host = Host::with(Timing { margin, ..Timing::default() });
    let mut agent = host.ready_agent();
    let options = LogoffOptions { deadline_ms: 400, ..LogoffOptions::default() };
    let (id, task) = host.begin_with(&mut agent, 3, options);
    agent.progress(id, true, 0);
    let began = Instant::now();
    agent.row(id, row(0, Some(Outcome::Killed)));
    let survivors = vec![process(9, "emacs")];
    agent.row(id, SessionReport { survivors: survivors.clone(), ..row(1, None) });
    agent.row(id, row(2, Some(Outcome::Denied)));
    assert_eq!(end(&task), TIMED_OUT);
    assert!(began.elapsed() >= Duration::from_millis(400), "the guest has its own time first");
    let info = task.info();
    assert!(info.error_description.contains("within 400 ms; 2 of 3 sessions"), "{info:?}");
    assert_eq!(info.percent_completed, 33);
    let rows = task.report().unwrap().sessions;
    let outcomes = [Outcome::Killed, Outcome::Remaining, Outcome::Denied].map(Some);
    assert_eq!([rows[0].outcome, rows[1].outcome, rows[2].outcome], outcomes);
    assert_eq!(rows[1].survivors, survivors);
    // Whatever it says now, it is over.
    agent.succeed(id, 3);
    host.wait_for_dropped(4);
    assert_eq!(end(&task), TIMED_OUT);
}

#[test]
fn a_guest_that_accepts_and_never_begins_is_given_up_and_told_to_leave_it() {
    let margin = Duration::from_millis(50);
    let host = Host::with(Timing { margin, ..Timing::default() });
    let mut agent = host.ready_agent();
    let options = LogoffOptions { notice_ms: 50, deadline_ms: 50, ..LogoffOptions::default() };
    let (id, task) = host.begin_with(&mut agent, 1, options);
    agent.row(id, row(0, None));
    assert_eq!(end(&task), TIMED_OUT);
    assert_eq!(task.report().unwrap().sessions[0].outcome, Some(Outcome::Remaining));
    assert_eq!(agent.cancel(), id);
}

#[test]
fn times_without_end_are_no_trouble() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (grace_ms, notice_ms, deadline_ms) = (u64::MAX, u64::MAX, u64::MAX);
    let options = LogoffOptions { grace_ms, notice_ms, deadline_ms };
    let (id, task) = host.begin_with(&mut agent, 1, options);
    agent.commit(id, 1);
    agent.succeed(id, 1);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn the_report_has_the_newest_row_of_every_session_that_was_announced_and_no_other() {
    let many = (0..100).map(|pid| process(pid, "fork")).collect();
    let crowded = SessionReport { survivors: many, ..row(1, None) };
    let rows = [row(0, None), crowded, row(2, None), row(3, None), row(0, Some(Outcome::Denied))];
    let error = HResult::ERROR_ACCESS_DENIED;
    let (_, report) = ended_with(&rows, 2, ending(TaskResult::UnexpectedError, error));
    let rows: Vec<&str> = report.sessions.iter().map(|row| row.session.id.as_str()).collect();
    assert_eq!(rows, ["s0", "s1"]);
    assert_eq!(report.sessions[0].outcome, Some(Outcome::Denied));
    assert_eq!(report.sessions[1].survivors.len(), MAX_SURVIVORS);
}

#[test]
fn the_report_can_be_read_while_the_work_goes_on() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 2);
    agent.row(id, row(0, None));
    let until = Instant::now() + PATIENCE;
    while task.report().unwrap().sessions.is_empty() {
        assert!(Instant::now() < until, "the row is not in the report");
        task.wait_change(0, Some(Duration::from_millis(1)));
    }
    assert!(!task.info().is_complete);
}

/// What a guest can say between its acceptance and its end.
#[derive(Clone, Debug)]
enum Said {
    Row(u32, Option<Outcome>),
    Progress(bool, u32),
}

fn any_outcome() -> impl Strategy<Value = Option<Outcome>> {
    use Outcome::{Denied, Killed, Remaining, Terminated, Vanished};
    let ended = vec![Some(Terminated), Some(Killed), Some(Vanished)];
    prop_oneof![3 => prop::sample::select(ended), 1 => Just(None), 1 => Just(Some(Remaining)),
        1 => Just(Some(Denied))]
}

fn anything() -> impl Strategy<Value = Said> {
    prop_oneof![
        3 => (0_u32..4, any_outcome()).prop_map(|(number, outcome)| Said::Row(number, outcome)),
        1 => (any::<bool>(), prop_oneof![0_u32..5, any::<u32>()])
            .prop_map(|(committed, done)| Said::Progress(committed, done)),
    ]
}

proptest! {
    #[test]
    fn case_48_no_order_of_claims_makes_percent_fall_or_success_of_sessions_that_remain(
        sessions in 0_u32..4,
        managers in 0_u32..3,
        said in prop::collection::vec(anything(), 0..20),
    ) {
        let (caller, _) = bounded(1);
        let (options, limit) = (LogoffOptions::default(), PATIENCE);
        let mut operation = Operation::ask((1, 1), "boot".into(), options, caller, limit, limit);
        prop_assert!(operation.accept("test".into(), sessions, managers).is_some());
        let (task, work) = Tasks::default().start("test", Box::new(|| Ok(())));
        operation.join(work);
        let mut last = 0;
        let mut cancelable = true;
        for said in said {
            match said {
                Said::Row(number, outcome) => drop(operation.session(row(number, outcome))),
                Said::Progress(committed, done) => {
                    operation.progress(&Progress { id: 1, committed, done });
                }
            }
            let info = task.info();
            prop_assert!((last..=99).contains(&info.percent_completed));
            prop_assert!(cancelable || !info.is_cancelable, "what is committed stays so");
            (last, cancelable) = (info.percent_completed, info.is_cancelable);
        }
        operation.done(success());
        let (info, report) = (task.info(), task.report().unwrap());
        let ended = |row: &SessionReport| {
            matches!(row.outcome, Some(Outcome::Terminated | Outcome::Killed | Outcome::Vanished))
        };
        let all = sessions > 0
            && report.sessions.len() == sessions as usize
            && report.sessions.iter().all(ended);
        prop_assert_eq!(info.result == Some(TaskResult::Success), all);
        prop_assert_eq!(info.percent_completed, if all { 100 } else { last });
    }
}
