//! Tasks: how a caller follows work that takes time, Virtual PC's `IVMTask`.
//!
//! ```text
//!            commit               finish
//! Cancelable ------> Committed ----------> Complete
//!     |                                      ^
//!     +---------------- finish --------------+
//! ```
//!
//! A [`Task`] is the caller's half: it can be looked at, waited for and, until the work is
//! committed, cancelled. `Work` is the half of whoever does the work. Cancelling asks whoever
//! does the work: only there it is known whether something has been done already, so there is one
//! winner between cancelling and committing.

use crate::error::CallError;
use protocol::HResult;
use protocol::task::{LogoffReport, TaskInfo, TaskResult};
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// Complete tasks that are kept for those who ask later.
pub const KEPT: usize = 1_000;
/// Sessions in the reports of these tasks together: a guest can make a report some megabytes long,
/// and then fewer tasks are kept.
const KEPT_SESSIONS: usize = 10_000;
/// The longest time-out of [`Task::wait_for_completion`], in milliseconds.
pub const MAX_WAIT_MS: i32 = 4_000_000;
/// A time-out of [`Task::wait_for_completion`] that never ends.
pub const WAIT_FOR_EVER: i32 = -1;

/// The time-out of a wait, none for one that never ends.
///
/// # Errors
/// `E_INVALIDARG` for one that the API does not have.
pub(crate) fn check_wait(milliseconds: i32) -> Result<Option<Duration>, CallError> {
    match milliseconds {
        WAIT_FOR_EVER => Ok(None),
        0..=MAX_WAIT_MS => Ok(Some(Duration::from_millis(milliseconds.unsigned_abs().into()))),
        _ => {
            let text = format!(
                "a wait of {milliseconds} ms: it must be {WAIT_FOR_EVER}, or 0 to {MAX_WAIT_MS}"
            );
            Err(CallError::new(HResult::E_INVALIDARG, text))
        }
    }
}

/// Asks whoever does the work to stop before it has begun to act; once this has succeeded, the
/// task is complete and was cancelled.
pub(crate) type Canceller = Box<dyn Fn() -> Result<(), CallError> + Send + Sync>;

/// The tasks of one machine, with ids from a block of its own, or from 1 on.
#[derive(Clone, Default)]
pub struct Tasks {
    shared: Arc<Mutex<Collection>>,
    bells: Bells,
}

/// What is rung whenever a task changes.
type Bells = Arc<Mutex<Vec<Weak<EventFd>>>>;

struct Collection {
    ids: RangeInclusive<u32>,
    last_id: u32,
    /// In the order in which they began.
    tasks: Vec<Task>,
}

impl Default for Collection {
    fn default() -> Self {
        // The API's ids are positive, in 31 bits.
        Self::of(1..=i32::MAX as u32)
    }
}

impl Collection {
    fn of(ids: RangeInclusive<u32>) -> Self {
        // The first one comes after the last.
        Self { last_id: *ids.end(), ids, tasks: Vec::new() }
    }

    /// The id after the last one. When all have been given they are given again, but not those of
    /// tasks that are known.
    fn next_id(&mut self) -> u32 {
        // There are more ids than tasks are kept, and than run at once; were there not, two tasks
        // would have one, and the older is found by it.
        for _ in 0..=self.tasks.len() {
            let (first, last) = (*self.ids.start(), *self.ids.end());
            self.last_id = if self.last_id < last { self.last_id + 1 } else { first };
            if self.get(self.last_id).is_none() {
                break;
            }
        }
        self.last_id
    }

    fn get(&self, id: u32) -> Option<&Task> {
        self.tasks.iter().find(|task| task.id == id)
    }

    /// Forgets the oldest of the complete tasks, as far as there are too many or they are too long.
    fn forget(&mut self) {
        let (mut tasks, mut sessions) = (0, 0);
        let mut much = |task: &Task| {
            let Some(reported) = task.sessions_if_complete() else { return false };
            tasks += 1;
            sessions += reported;
            tasks > KEPT || sessions > KEPT_SESSIONS
        };
        // The newest are counted first.
        let mut surplus: Vec<bool> = self.tasks.iter().rev().map(&mut much).collect();
        self.tasks.retain(|_| !surplus.pop().unwrap_or_default());
    }
}

impl Tasks {
    /// No tasks yet; these will be their ids, one after the other.
    pub(crate) fn numbered(ids: RangeInclusive<u32>) -> Self {
        Self { shared: Arc::new(Mutex::new(Collection::of(ids))), bells: Bells::default() }
    }

    /// The task with this id, unless it was complete for so long that it has been forgotten.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<Task> {
        self.lock().get(id).cloned()
    }

    /// All tasks, the oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Task> {
        self.lock().tasks.clone()
    }

    /// Has `bell` written to whenever a task changes, as long as somebody else holds it.
    pub(crate) fn ring(&self, bell: &Arc<EventFd>) {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(bell));
    }

    /// Begins a task that does what `description` says, for people.
    #[must_use]
    pub(crate) fn start(&self, description: &str, canceller: Canceller) -> (Task, Work) {
        let mut collection = self.lock();
        let id = collection.next_id();
        let task = Task::new(id, description, canceller, self.bells.clone());
        collection.tasks.push(task.clone());
        collection.forget();
        (task.clone(), Work { task, finished: false })
    }

    /// Begins a task that cannot be cancelled.
    #[must_use]
    pub(crate) fn start_committed(&self, description: &str) -> (Task, Work) {
        let text = "this work cannot be taken back; it goes on";
        let canceller = move || Err(CallError::new(HResult::E_FAIL, text));
        let (task, work) = self.start(description, Box::new(canceller));
        work.commit();
        (task, work)
    }

    fn lock(&self) -> MutexGuard<'_, Collection> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The caller's half of a task.
#[derive(Clone)]
pub struct Task {
    id: u32,
    shared: Arc<(Mutex<Progress>, Condvar)>,
    canceller: Arc<Canceller>,
    bells: Bells,
}

/// How far a task is.
struct Progress {
    /// Rises with every change.
    version: u64,
    info: TaskInfo,
    /// One for all tasks that the same work completes.
    report: Option<Arc<LogoffReport>>,
}

impl Progress {
    fn finish(&mut self, result: TaskResult, error: HResult, text: &str) {
        self.info.is_complete = true;
        self.info.is_cancelable = false;
        self.info.result = Some(result);
        if result == TaskResult::Success {
            self.info.percent_completed = 100;
        } else {
            set_error(&mut self.info, error, text);
        }
    }
}

fn set_error(info: &mut TaskInfo, error: HResult, text: &str) {
    info.error = error;
    info.error_name = error.symbol().unwrap_or_default().to_owned();
    info.error_description = text.to_owned();
}

impl Task {
    fn new(id: u32, description: &str, canceller: Canceller, bells: Bells) -> Self {
        let mut info = TaskInfo {
            id,
            description: description.to_owned(),
            percent_completed: 0,
            is_complete: false,
            is_cancelable: true,
            result: None,
            error: HResult::S_OK,
            error_name: String::new(),
            error_description: String::new(),
        };
        set_error(&mut info, HResult::S_OK, "");
        let progress = Progress { version: 1, info, report: None };
        Self {
            id,
            shared: Arc::new((Mutex::new(progress), Condvar::new())),
            canceller: Arc::new(canceller),
            bells,
        }
    }

    /// Identifies the task among those of its machine.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The task as it is now.
    #[must_use]
    pub fn info(&self) -> TaskInfo {
        self.lock().info.clone()
    }

    /// What the work has done so far, in detail.
    #[must_use]
    pub fn report(&self) -> Option<LogoffReport> {
        let report = self.lock().report.clone();
        report.map(Arc::unwrap_or_clone)
    }

    /// The sessions in its report; none while it runs.
    fn sessions_if_complete(&self) -> Option<usize> {
        let progress = self.lock();
        let sessions = progress.report.as_ref().map_or(0, |report| report.sessions.len());
        progress.info.is_complete.then_some(sessions)
    }

    /// Waits for the task's end: `IVMTask::WaitForCompletion`.
    ///
    /// The time-out is in milliseconds, 0 to [`MAX_WAIT_MS`], or [`WAIT_FOR_EVER`]. A wait that
    /// elapses is no error; the task then says that it is not complete.
    ///
    /// # Errors
    /// `E_INVALIDARG` for any other time-out.
    pub fn wait_for_completion(&self, milliseconds: i32) -> Result<(), CallError> {
        self.wait(check_wait(milliseconds)?);
        Ok(())
    }

    /// Waits until the task is complete or the time is over, and gives the task as it then is.
    pub fn wait(&self, timeout: Option<Duration>) -> TaskInfo {
        self.wait_until(timeout, |progress| progress.info.is_complete).1
    }

    /// Waits until the task is not any more as it was at `version`, or the time is over, and gives
    /// the task and its version. Version 0 was never.
    pub fn wait_change(&self, version: u64, timeout: Option<Duration>) -> (u64, TaskInfo) {
        self.wait_until(timeout, |progress| progress.version != version)
    }

    fn wait_until(
        &self,
        timeout: Option<Duration>,
        enough: impl Fn(&Progress) -> bool,
    ) -> (u64, TaskInfo) {
        // A time-out beyond the clock's end is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut progress = self.lock();
        while !enough(&progress) {
            progress = match deadline {
                None => self.shared.1.wait(progress).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    let waited = self.shared.1.wait_timeout(progress, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        (progress.version, progress.info.clone())
    }

    /// Cancels the task: `IVMTask::Cancel`. It is then complete, with
    /// [`TaskResult::Cancelled`], and nothing was done.
    ///
    /// # Errors
    /// `E_FAIL` if the work is committed or complete; it goes on, or stays as it is.
    pub fn cancel(&self) -> Result<(), CallError> {
        let info = self.info();
        if info.is_cancelable {
            return (self.canceller)();
        }
        let text = if info.is_complete {
            "the task is complete already"
        } else {
            "the work has begun and cannot be taken back; it goes on"
        };
        Err(CallError::new(HResult::E_FAIL, text))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        let mut progress = self.lock();
        let value = change(&mut progress);
        progress.version += 1;
        drop(progress);
        self.shared.1.notify_all();
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|bell| {
            let bell = bell.upgrade();
            // Full means that it is readable, which is all that is wanted.
            if let Some(bell) = &bell {
                let _ = bell.write(1);
            }
            bell.is_some()
        });
        drop(bells);
        value
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The half of whoever does the work. Dropping it before it is finished fails the task.
pub(crate) struct Work {
    task: Task,
    finished: bool,
}

impl Work {
    /// The work has begun to act: the task can no longer be cancelled.
    pub(crate) fn commit(&self) {
        self.task.change(|progress| progress.info.is_cancelable = false);
    }

    /// Says how much is done: `done` of `total`. Percent never falls, and is at most 99 here.
    pub(crate) fn advance(&self, done: usize, total: usize) {
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0).min(99) as u8;
        // Only this half changes it, and whoever waits for news is not woken for none.
        if percent > self.task.lock().info.percent_completed {
            self.task.change(|progress| progress.info.percent_completed = percent);
        }
    }

    /// Replaces the report.
    pub(crate) fn report(&self, report: Arc<LogoffReport>) {
        self.task.change(|progress| progress.report = Some(report));
    }

    /// Completes the task.
    pub(crate) fn finish(mut self, result: TaskResult, error: HResult, text: &str) {
        self.complete(result, error, text);
    }

    fn complete(&mut self, result: TaskResult, error: HResult, text: &str) {
        self.finished = true;
        self.task.change(|progress| progress.finish(result, error, text));
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.finished {
            let text = "the monitor gave the work up";
            self.complete(TaskResult::ThreadCrashError, HResult::DISP_E_EXCEPTION, text);
        }
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
