//! The host's half of a logoff.
//!
//! ```text
//!           accepted             committed                done, or the deadline
//! Asked ------------> Preparing -----------> Committed ------------------------> over
//!   |  5 s               |  cancelled            |  connection lost: sent again,
//!   +-> VM_E_TIMED_OUT   +-> Cancelled           |  with what is known of it
//! ```
//!
//! The guest counts and acts; the host believes it as far as its own words agree. It says how many
//! sessions there are before it acts, gives a row for each, and success is success only if every
//! row says that its session has ended. Then the host takes a second look: it asks who is logged on,
//! and a guest that still lists what it has ended has not succeeded. It can be cancelled only if that was asked, and before it
//! acts. Percent is the host's sum of all that.
//!
//! Callers who ask while an operation goes on join it: each has a task, and all end alike.

use crate::error::CallError;
use crate::integration::worker::Key;
use crate::task::{Task, Work};
use crossbeam_channel::Sender;
use protocol::HResult;
use protocol::message::{Done, LogoffRequest, Progress, Resume};
use protocol::task::{
    LogoffOptions, LogoffReport, Outcome, SecondLook, SessionReport, SessionSummary, TaskResult,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sessions that a guest may claim to have; more is nonsense.
const MAX_SESSIONS: u32 = 1024;
/// How often the tasks are given a new report at most.
const REPORT_PAUSE: Duration = Duration::from_millis(50);
/// The longest that a guest's times are waited for.
const MAX_OPTION: Duration = Duration::from_secs(24 * 3600);

/// Who asked, and waits for the acceptance.
pub(super) type Caller = Sender<Result<Task, CallError>>;

/// How far the operation is.
pub(super) enum Stage {
    /// The guest has been asked.
    Asked {
        /// When the callers have waited long enough.
        deadline: Instant,
        callers: Vec<Caller>,
    },
    /// The guest has accepted, and may still be told to leave it.
    Preparing,
    /// The guest acts.
    Committed {
        /// Since when, if it had not stood still since.
        since: Instant,
    },
}

/// One logoff of the guest, with everyone who wants it.
pub(super) struct Operation {
    /// Its first request: no other operation ever has the same.
    pub(super) key: Key,
    /// The request that the guest works on; none if its connection was lost.
    pub(super) request: Option<Key>,
    pub(super) stage: Stage,
    pub(super) boot_id: String,
    options: LogoffOptions,
    margin: Duration,
    /// When the guest is given up, once it has accepted.
    give_up: Option<Instant>,
    works: Vec<Work>,
    /// Those who wait for the answer to a cancellation, and until when.
    pub(super) cancelling: Vec<(Instant, Sender<Result<(), CallError>>)>,
    /// The guest has been asked to cancel the request, whether or not anybody waits for that.
    pub(super) cancel_asked: bool,
    /// The guest has been asked to count anew.
    recount: bool,
    announced: u32,
    managers: u32,
    done: u32,
    report: LogoffReport,
    /// The guest has claimed success, and is asked once more over this connection until then.
    pub(super) looking: Option<(u64, Instant)>,
    /// The report has changed, and the tasks are to be given it at this time.
    pub(super) publish_at: Option<Instant>,
}

impl Operation {
    /// An operation that `caller` wants, and that is asked for as `request`.
    pub(super) fn ask(
        request: Key,
        boot_id: String,
        options: LogoffOptions,
        caller: Caller,
        answer: Duration,
        margin: Duration,
    ) -> Self {
        Self {
            key: request,
            request: Some(request),
            stage: Stage::Asked { deadline: Instant::now() + answer, callers: vec![caller] },
            report: LogoffReport { boot_id: boot_id.clone(), options, ..LogoffReport::default() },
            boot_id,
            options,
            margin,
            give_up: None,
            works: Vec::new(),
            cancelling: Vec::new(),
            cancel_asked: false,
            recount: false,
            announced: 0,
            managers: 0,
            done: 0,
            looking: None,
            publish_at: None,
        }
    }

    /// What is asked of the guest: all of it, or what is left of it.
    pub(super) fn to_request(&self) -> LogoffRequest {
        let resume = match self.stage {
            Stage::Asked { .. } => None,
            Stage::Preparing => (!self.recount).then_some(None),
            Stage::Committed { since } => Some(Some(super::guest::milliseconds(since.elapsed()))),
        };
        LogoffRequest {
            grace_ms: self.options.grace_ms,
            notice_ms: self.options.notice_ms,
            deadline_ms: self.options.deadline_ms,
            resume: resume.map(|committed_ms| Resume {
                committed_ms,
                sessions: self.report.sessions.clone(),
            }),
        }
    }

    /// The operation is asked for once more, as `request` of another connection.
    pub(super) fn ask_again(&mut self, request: Key) {
        self.request = Some(request);
        let complete = self.report.sessions.len() == self.announced as usize;
        // A session that is not known by name could not be gone on with.
        self.recount = matches!(self.stage, Stage::Preparing) && !complete;
        if self.recount {
            self.report.sessions.clear();
        }
    }

    /// Its connection has been lost; gives those who wait for an answer to a cancellation.
    pub(super) fn lost(&mut self) -> impl Iterator<Item = Sender<Result<(), CallError>>> {
        self.request = None;
        self.cancel_asked = false;
        self.cancelling.drain(..).map(|(_, answer)| answer)
    }

    /// The guest has accepted; gives the callers, each of whom is to get a task by [`join`]; none
    /// if it claims more than a guest can have.
    ///
    /// [`join`]: Self::join
    pub(super) fn accept(
        &mut self,
        backend: String,
        sessions: u32,
        managers: u32,
    ) -> Option<Vec<Caller>> {
        let recount = std::mem::take(&mut self.recount);
        if !recount && !matches!(self.stage, Stage::Asked { .. }) {
            return Some(Vec::new());
        }
        if sessions > MAX_SESSIONS || managers > MAX_SESSIONS {
            return None;
        }
        self.report.backend = backend;
        self.announced = sessions;
        self.managers = managers;
        match std::mem::replace(&mut self.stage, Stage::Preparing) {
            Stage::Asked { callers, .. } => {
                self.give_time();
                Some(callers)
            }
            _ => Some(Vec::new()),
        }
    }

    /// The guest is being asked to cancel it, and `answer` waits for what it says until `until`.
    pub(super) fn cancel(&mut self, until: Instant, answer: Sender<Result<(), CallError>>) {
        self.cancel_asked = true;
        self.cancelling.push((until, answer));
    }

    /// Whether the guest may say that it has been cancelled.
    pub(super) fn can_be_cancelled(&self) -> bool {
        self.cancel_asked && matches!(self.stage, Stage::Preparing)
    }

    /// The guest has all of its time from now on.
    fn give_time(&mut self) {
        let bounded = |milliseconds| Duration::from_millis(milliseconds).min(MAX_OPTION);
        let notice = match self.stage {
            Stage::Committed { .. } => Duration::ZERO,
            Stage::Asked { .. } | Stage::Preparing => bounded(self.options.notice_ms),
        };
        let wait = notice + bounded(self.options.deadline_ms) + self.margin;
        self.give_up = Some(Instant::now() + wait);
    }

    /// The machine stood still for so long, and the guest gets its time anew.
    pub(super) fn resumed(&mut self, stood_still: Duration) {
        if let Stage::Committed { since } = &mut self.stage {
            // What was committed just when it was paused may be in the future now: no time has passed.
            *since += stood_still;
        }
        if self.give_up.is_some() {
            self.give_time();
        }
    }

    /// One more task for the same work.
    pub(super) fn join(&mut self, work: Work) {
        if matches!(self.stage, Stage::Committed { .. }) {
            work.commit();
        }
        work.advance(self.done as usize, self.total());
        work.report(Arc::new(self.report.clone()));
        self.works.push(work);
    }

    /// When something is to be done although the guest says nothing. Its own time stands still in
    /// a pause.
    pub(super) fn deadline(&self, paused: bool) -> Option<Instant> {
        let asked = match self.stage {
            Stage::Asked { deadline, .. } => Some(deadline),
            _ => None,
        };
        let cancelling = self.cancelling.iter().map(|(until, _)| *until);
        let give_up = self.give_up.filter(|_| !paused);
        let looking = self.looking.map(|(_, until)| until).filter(|_| !paused);
        let others = asked.into_iter().chain(give_up).chain(self.publish_at).chain(looking);
        others.chain(cancelling).min()
    }

    /// Whether the guest has had its time.
    pub(super) fn is_overdue(&self, paused: bool) -> bool {
        !paused && self.give_up.is_some_and(|time| time <= Instant::now())
    }

    fn total(&self) -> usize {
        self.announced as usize + self.managers as usize
    }

    /// A row of the report, new or newer; gives the session if it has just been ended.
    pub(super) fn session(&mut self, row: SessionReport) -> Option<SessionSummary> {
        let rows = &mut self.report.sessions;
        let known = rows.iter().position(|known| known.session.id == row.session.id);
        let before = known.is_some_and(|at| has_ended(&rows[at]));
        let ended = (has_ended(&row) && !before).then(|| row.session.clone());
        match known {
            Some(at) => rows[at] = row,
            None if rows.len() < self.announced as usize => rows.push(row),
            // More than it has announced.
            None => return None,
        }
        self.publish_at.get_or_insert_with(|| Instant::now() + REPORT_PAUSE);
        self.advance(0);
        ended
    }

    /// The guest says how far it is.
    pub(super) fn progress(&mut self, progress: &Progress) {
        if progress.committed {
            self.commit();
        }
        self.advance(progress.done);
    }

    fn commit(&mut self) {
        if matches!(self.stage, Stage::Preparing) {
            self.stage = Stage::Committed { since: Instant::now() };
            self.give_time();
            self.works.iter().for_each(Work::commit);
        }
    }

    /// Counts what is done: the guest's number, or its rows where they say more.
    fn advance(&mut self, claimed: u32) {
        let ended = self.report.sessions.iter().filter(|row| has_ended(row)).count();
        // No more rows than were announced.
        self.done = self.done.max(claimed).max(ended as u32);
        let total = self.total();
        for work in &self.works {
            work.advance(self.done as usize, total);
        }
    }

    /// Gives the tasks the report as it is.
    pub(super) fn publish(&mut self) {
        if self.publish_at.take().is_some() {
            let report = Arc::new(self.report.clone());
            for work in &self.works {
                work.report(Arc::clone(&report));
            }
        }
    }

    /// The guest says that it is done, and is believed unless it contradicts itself. Gives the
    /// operation back if it has succeeded by all that it has said so far.
    pub(super) fn done(mut self, done: Done) -> Option<Self> {
        self.report.guest_us = self.report.guest_us.saturating_add(done.worked_us);
        self.report.managers = done.managers;
        self.report.relogins = done.relogins;
        self.report.ignored = done.ignored;
        self.report.stale = done.stale;
        let agrees = self.report.sessions.len() == self.announced as usize
            && self.announced > 0
            && self.report.sessions.iter().all(has_ended);
        let contradiction = match (done.result, done.error) {
            (TaskResult::Success, HResult::S_OK) if agrees => return Some(self),
            (TaskResult::Success, HResult::S_OK) => {
                "the guest says that everybody is logged off, but its own list of sessions does not"
            }
            (TaskResult::Cancelled, _) if self.can_be_cancelled() => {
                self.cancelled();
                return None;
            }
            (TaskResult::Cancelled, _) => {
                "the guest says that the work was cancelled, but nobody had asked for that in time"
            }
            (TaskResult::Success, _) => "the guest says that it succeeded and failed",
            (_, error) if !error.is_failure() => "the guest says that it failed and succeeded",
            (_, HResult::ERROR_NO_SUCH_LOGON_SESSION) if self.announced > 0 => {
                "the guest says that nobody was logged on, but it had counted somebody"
            }
            (result, error) => {
                self.end(result, error, &done.text);
                return None;
            }
        };
        self.end(TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION, contradiction);
        None
    }

    /// The guest is to be asked once more over the connection `number`. Its work is over: nothing that
    /// it says of that counts any more.
    pub(super) fn look_again(&mut self, number: u64) {
        self.looking = Some((number, Instant::now()));
        self.request = None;
        self.commit();
        self.give_up = None;
    }

    /// The guest lists these `sessions` after it has claimed success, and has worked so long on that.
    pub(super) fn compare(mut self, sessions: &[SessionSummary], worked_us: u64) {
        self.report.guest_us = self.report.guest_us.saturating_add(worked_us);
        let mut remaining = 0;
        for row in &mut self.report.sessions {
            if sessions.iter().any(|session| session.is(&row.session)) {
                row.outcome = Some(Outcome::Remaining);
                row.milliseconds = None;
                remaining += 1;
            }
        }
        if remaining == 0 {
            return self.succeed(SecondLook::Agrees);
        }
        self.report.second_look = SecondLook::Contradicts;
        let text = format!(
            "the guest says that everybody is logged off, but lists {remaining} of {} sessions when \
             it is asked once more",
            self.announced
        );
        self.end(TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION, &text);
    }

    /// Everybody is logged off, as far as the guest can be believed.
    pub(super) fn succeed(mut self, second_look: SecondLook) {
        self.report.second_look = second_look;
        self.end(TaskResult::Success, HResult::S_OK, "");
    }

    /// What the guest worked in is no more: what it has claimed before that stands.
    pub(super) fn end_early(self, error: HResult, text: &str) {
        match self.looking {
            Some(_) => self.succeed(SecondLook::NotTaken),
            None => self.end(TaskResult::UnexpectedError, error, text),
        }
    }

    /// The guest has stopped before it had begun to act.
    pub(super) fn cancelled(self) {
        let text = "cancelled before anything was done";
        self.end(TaskResult::Cancelled, HResult::ERROR_CANCELLED, text);
    }

    /// The guest has had its time: what has not ended remains.
    pub(super) fn time_out(mut self) {
        let mut remaining = 0;
        for row in &mut self.report.sessions {
            if !has_ended(row) {
                row.outcome.get_or_insert(Outcome::Remaining);
                remaining += 1;
            }
        }
        let text = format!(
            "not completed within {} ms; {remaining} of {} sessions are still there",
            self.options.deadline_ms, self.announced
        );
        self.end(TaskResult::TimeOutError, HResult::VM_E_TIMED_OUT, &text);
    }

    /// Ends the operation as it is, for all who wanted it.
    pub(super) fn end(mut self, result: TaskResult, error: HResult, text: &str) {
        if let Stage::Asked { callers, .. } = &mut self.stage {
            refuse(std::mem::take(callers), &CallError::new(error, text));
        }
        let report = Arc::new(self.report);
        for work in self.works.drain(..) {
            work.report(Arc::clone(&report));
            work.finish(result, error, text);
        }
        // Last, since whoever has cancelled finds the task complete.
        for (_, answer) in self.cancelling.drain(..) {
            let outcome = match result {
                TaskResult::Cancelled => Ok(()),
                _ => Err(CallError::new(HResult::E_FAIL, "the task ended before it was cancelled")),
            };
            // Whoever asked may have gone.
            let _ = answer.send(outcome);
        }
    }
}

/// Tells `callers` that there will be no task.
pub(super) fn refuse(callers: Vec<Caller>, error: &CallError) {
    for caller in callers {
        // Whoever asked may have gone.
        let _ = caller.send(Err(error.clone()));
    }
}

fn has_ended(row: &SessionReport) -> bool {
    matches!(row.outcome, Some(Outcome::Terminated | Outcome::Killed | Outcome::Vanished))
}
