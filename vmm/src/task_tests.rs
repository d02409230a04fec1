//! Tasks of no machine, worked on by the tests themselves.

use super::*;
use proptest::prelude::*;
use protocol::task::{SessionReport, SessionSummary};
use std::thread;

fn start() -> (Task, Work) {
    Tasks::default().start("test", Box::new(|| Ok(())))
}

#[test]
fn cancelling_asks_the_work_until_it_is_committed() {
    let asked = Arc::new(Mutex::new(0));
    let counter = asked.clone();
    let canceller = move || {
        *counter.lock().unwrap() += 1;
        Ok(())
    };
    let (task, work) = Tasks::default().start("test", Box::new(canceller));
    task.cancel().unwrap();
    assert_eq!(*asked.lock().unwrap(), 1);
    work.commit();
    assert!(!task.info().is_cancelable);
    assert_eq!(task.cancel().unwrap_err().code, HResult::E_FAIL);
    work.finish(TaskResult::Success, HResult::S_OK, "");
    assert_eq!(task.cancel().unwrap_err().code, HResult::E_FAIL);
    assert_eq!(*asked.lock().unwrap(), 1);
}

proptest! {
    #[test]
    fn percent_never_falls_and_is_100_only_with_success(
        steps in prop::collection::vec((0_usize..50, 0_usize..50), 0..30),
        success: bool,
    ) {
        let (task, work) = start();
        work.commit();
        let mut last = 0;
        for (done, total) in steps {
            work.advance(done, total);
            let percent = task.info().percent_completed;
            prop_assert!((last..=99).contains(&percent));
            last = percent;
        }
        let result = if success { TaskResult::Success } else { TaskResult::TimeOutError };
        work.finish(result, HResult::VM_E_TIMED_OUT, "late");
        let info = task.info();
        prop_assert_eq!(info.percent_completed, if success { 100 } else { last });
        prop_assert_eq!(info.error == HResult::S_OK, success);
    }
}

#[test]
fn waits_follow_the_documented_bounds() {
    let (task, work) = start();
    for milliseconds in [i32::MIN, -2, MAX_WAIT_MS + 1, i32::MAX] {
        let error = task.wait_for_completion(milliseconds).unwrap_err();
        assert_eq!(error.code, HResult::E_INVALIDARG);
    }
    task.wait_for_completion(0).unwrap();
    task.wait_for_completion(1).unwrap();
    assert!(!task.info().is_complete);
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let task = task.clone();
            thread::spawn(move || task.wait_for_completion(WAIT_FOR_EVER))
        })
        .collect();
    work.finish(TaskResult::Success, HResult::S_OK, "");
    for waiter in waiters {
        waiter.join().unwrap().unwrap();
    }
    task.wait_for_completion(MAX_WAIT_MS).unwrap();
    assert!(task.info().is_complete);
}

#[test]
fn every_change_is_seen_by_whoever_waits_for_it() {
    let (task, work) = start();
    let (version, info) = task.wait_change(0, None);
    assert_eq!(info.percent_completed, 0);
    work.advance(1, 2);
    let (later, info) = task.wait_change(version, None);
    assert_eq!(info.percent_completed, 50);
    work.advance(1, 2);
    work.advance(0, 2);
    let (same, _) = task.wait_change(later, Some(Duration::from_millis(1)));
    assert_eq!(same, later);
}

#[test]
fn work_that_is_given_up_fails_its_task() {
    let (task, work) = start();
    drop(work);
    let info = task.wait(None);
    assert_eq!(info.result, Some(TaskResult::ThreadCrashError));
    assert_eq!(info.error, HResult::DISP_E_EXCEPTION);
}

#[test]
fn a_thousand_complete_tasks_are_kept_and_all_that_run() {
    let tasks = Tasks::default();
    let (first, running) = tasks.start("runs", Box::new(|| Ok(())));
    for _ in 0..KEPT + 50 {
        let (_, work) = tasks.start("short", Box::new(|| Ok(())));
        work.finish(TaskResult::Success, HResult::S_OK, "");
    }
    let list = tasks.list();
    assert!(list.len() <= KEPT + 2, "{}", list.len());
    assert_eq!(list[0].id(), first.id());
    assert!(list.is_sorted_by_key(Task::id));
    assert!(tasks.get(2).is_none(), "the oldest complete one is forgotten");
    drop(running);
}

#[test]
fn of_tasks_with_long_reports_fewer_are_kept() {
    let tasks = Tasks::default();
    let row = SessionReport {
        session: SessionSummary::default(),
        outcome: None,
        milliseconds: None,
        survivors: Vec::new(),
    };
    let sessions = vec![row; 1_000];
    let report = Arc::new(LogoffReport { sessions, ..LogoffReport::default() });
    for _ in 0..30 {
        let (_, work) = tasks.start("long", Box::new(|| Ok(())));
        work.report(Arc::clone(&report));
        work.finish(TaskResult::Success, HResult::S_OK, "");
    }
    let list = tasks.list();
    assert!((10..=11).contains(&list.len()), "{}", list.len());
    assert_eq!(list.last().unwrap().id(), 30, "the newest are kept");
}

#[test]
fn ids_are_given_again_when_all_have_been_but_never_those_of_tasks_that_are_known() {
    let tasks = Tasks::numbered(7..=11);
    let start = || tasks.start("t", Box::new(|| Ok(())));
    let (running, works): (Vec<_>, Vec<_>) = (0..3).map(|_| start()).unzip();
    let (fourth, fourth_work) = start();
    let (fifth, fifth_work) = start();
    let ids = |some: &[Task]| some.iter().map(Task::id).collect::<Vec<u32>>();
    assert_eq!((ids(&running), fourth.id(), fifth.id()), (vec![7, 8, 9], 10, 11));
    // The fourth is forgotten: its report is too long to be kept beside the fifth's.
    let row = SessionReport {
        session: SessionSummary::default(),
        outcome: None,
        milliseconds: None,
        survivors: Vec::new(),
    };
    for work in [fourth_work, fifth_work] {
        let sessions = vec![row.clone(); KEPT_SESSIONS];
        work.report(Arc::new(LogoffReport { sessions, ..LogoffReport::default() }));
        work.finish(TaskResult::Success, HResult::S_OK, "");
    }
    tasks.lock().forget();
    assert!(tasks.get(10).is_none() && tasks.get(11).is_some());
    let (again, _again_work) = start();
    assert_eq!(again.id(), 10);
    assert_eq!(ids(&tasks.list()), [7, 8, 9, 11, 10], "the oldest comes first");
    // With every id in use there is still an end.
    let (surplus, _surplus_work) = start();
    assert!((7..=11).contains(&surplus.id()));
    drop(works);
}
