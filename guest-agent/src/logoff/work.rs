//! An operation from *accepted* to *done*: it looks, signals and waits, over and over.

mod wait;

use super::Send;
use super::control::{Control, Lost, Stop};
use super::managers::{Managers, Step};
use super::stopwatch::Stopwatch;
use super::tracked::{Phase, Tracked};
use crate::process::{Handle, Identity};
use crate::sessions::{Backend, Known, Listing, Sight, clean, rows};
use protocol::HResult;
use protocol::frame::MAX_FRAME;
use protocol::message::{AgentMessage, Done, LogoffRequest, Progress};
use protocol::task::{SessionSummary, TaskResult};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use std::collections::{HashMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

/// The longest time between two progress messages, and between two looks.
const TICK: Duration = Duration::from_millis(500);
/// Processes that are waited for at once; the others are found by looking.
const MAX_WATCHED: usize = 512;
/// Processes that are held at once in order to be signalled.
const BATCH: usize = 256;

/// Bytes of the last message that each of its four lists may have.
const ROOM: usize = MAX_FRAME / 5;

/// How an operation ended.
pub(super) struct End {
    result: TaskResult,
    error: HResult,
    text: String,
}

impl End {
    pub(super) fn new(result: TaskResult, error: HResult, text: &str) -> Self {
        Self { result, error, text: clean(text.as_bytes()) }
    }
}

/// An operation under way.
pub(super) struct Work<'a> {
    backend: &'a dyn Backend,
    id: u64,
    request: &'a LogoffRequest,
    control: &'a Control,
    send: Send<'a>,
    sessions: Vec<Tracked>,
    managers: Managers,
    watched: HashMap<Identity, Handle>,
    /// A process that the latest look has found had gone when it was to be watched.
    missed: bool,
    /// Runs from the commit on, also where an earlier agent committed.
    committed: Option<Stopwatch>,
    looked: Instant,
    /// The processor's time that the latest look took, at sessions and at managers.
    effort: Duration,
    ticked: Option<Instant>,
    done: u32,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        backend: &'a dyn Backend,
        id: u64,
        request: &'a LogoffRequest,
        control: &'a Control,
        send: Send<'a>,
        sessions: Vec<Tracked>,
        managers: Managers,
    ) -> Self {
        Self {
            backend,
            id,
            request,
            control,
            send,
            sessions,
            managers,
            watched: HashMap::new(),
            missed: false,
            committed: None,
            looked: Instant::now(),
            effort: Duration::ZERO,
            ticked: None,
            done: 0,
        }
    }

    pub(super) fn accept(&mut self) -> Result<(), Stop> {
        (self.send)(AgentMessage::Accepted {
            id: self.id,
            backend: self.backend.name().into(),
            sessions: self.sessions.len() as u32,
            managers: self.managers.to_stop(),
        })?;
        self.report()
    }

    pub(super) fn carry_out(&mut self) -> Result<End, Stop> {
        if self.sessions.is_empty() {
            let error = HResult::ERROR_NO_SUCH_LOGON_SESSION;
            return Ok(End::new(TaskResult::UnexpectedError, error, "nobody is logged on"));
        }
        let resumed = self.request.resume.as_ref().and_then(|resume| resume.committed_ms);
        if resumed.is_none() {
            if self.backend.going_down() {
                let error = HResult::ERROR_SHUTDOWN_IN_PROGRESS;
                return Ok(End::new(TaskResult::UnexpectedError, error, "guest is shutting down"));
            }
            self.give_notice()?;
        }
        self.control.commit()?;
        let before = Duration::from_millis(resumed.unwrap_or(0));
        self.committed = Some(Stopwatch::start(before));
        self.ticked = None;
        self.end_all()
    }

    /// Tells everybody, and gives them the time that the host asked for.
    fn give_notice(&mut self) -> Result<(), Stop> {
        if self.request.notice_ms == 0 {
            return Ok(());
        }
        let notice = Duration::from_millis(self.request.notice_ms);
        let seconds = notice.as_secs().max(1);
        let text = format!("\r\n\x07The host logs all users off in {seconds} s.\r\n");
        for tracked in &self.sessions {
            self.backend.notify(&tracked.report.session, &text);
        }
        let mut noticed = Stopwatch::start(Duration::ZERO);
        loop {
            self.look()?;
            self.tick()?;
            let left = notice.saturating_sub(noticed.read());
            if left.is_zero() || self.sessions.iter().all(Tracked::has_ended) {
                return Ok(());
            }
            self.watch()?;
            self.wait(left)?;
        }
    }

    /// From the commit to the end of the last session, or to the deadline.
    fn end_all(&mut self) -> Result<End, Stop> {
        let grace = Duration::from_millis(self.request.grace_ms);
        let deadline = Duration::from_millis(self.request.deadline_ms);
        loop {
            self.look()?;
            self.settle_managers(grace)?;
            self.tick()?;
            if self.sessions.iter().all(Tracked::has_ended) && self.managers.are_settled() {
                return Ok(End::new(TaskResult::Success, HResult::S_OK, ""));
            }
            let elapsed = self.elapsed().unwrap_or_default();
            if elapsed >= deadline {
                return self.give_up(TaskResult::TimeOutError, HResult::VM_E_TIMED_OUT);
            }
            let phase = if elapsed < grace { Phase::Ask } else { Phase::Kill };
            self.signal(phase)?;
            let left = self.sessions.iter().any(|one| !one.has_ended());
            if phase == Phase::Kill && left && self.sessions.iter().all(Tracked::is_hopeless) {
                return self.give_up(TaskResult::UnexpectedError, HResult::ERROR_ACCESS_DENIED);
            }
            self.watch()?;
            let next = if phase == Phase::Ask { grace.min(deadline) } else { deadline };
            self.wait(next.saturating_sub(elapsed))?;
        }
    }

    /// Stops the managers of those users who have no session any more.
    fn settle_managers(&mut self, grace: Duration) -> Result<(), Stop> {
        let lasting = |uid| {
            let mut sessions = self.sessions.iter();
            sessions.any(|one| one.report.session.uid == uid && !one.has_ended())
        };
        let is_due = |one: &&SessionSummary| self.managers.awaits(one.uid) && !lasting(one.uid);
        let snapshot: Vec<_> = self.sessions.iter().map(|one| &one.report.session).collect();
        if !snapshot.iter().any(is_due) {
            return Ok(());
        }
        let begun = processor_time();
        let mut managers = self.backend.managers(&snapshot).map_err(Stop::Failed)?;
        managers.retain(|manager| !lasting(manager.uid));
        let elapsed = self.elapsed().unwrap_or_default();
        for manager in managers {
            let uid = manager.uid;
            match self.managers.update(manager, elapsed, grace) {
                Step::Wait => {}
                Step::Stop => {
                    if let Err(error) = self.backend.stop_manager(uid) {
                        self.managers.keep(uid, clean(error.to_string().as_bytes()));
                    }
                }
                Step::Kill(due) => self.kill(&due)?,
            }
        }
        self.effort += processor_time().saturating_sub(begun);
        Ok(())
    }

    /// Kills these, without regard to what comes of it: the next look says that.
    fn kill(&mut self, due: &[Identity]) -> Result<(), Stop> {
        for identity in due {
            match self.backend.hold(*identity) {
                Ok(Some(handle)) => drop(handle.signal(Signal::KILL)),
                Ok(None) => {}
                Err(error) if is_passing(&error) => break,
                Err(error) => return Err(Stop::Failed(error)),
            }
        }
        Ok(())
    }

    /// The time since the commit.
    fn elapsed(&mut self) -> Option<Duration> {
        self.committed.as_mut().map(Stopwatch::read)
    }

    /// Looks at every session anew, and twice where one seems to have ended.
    fn look(&mut self) -> Result<(), Stop> {
        let begun = processor_time();
        // First, so that what changes from now on is not overlooked.
        self.backend.clear();
        let first = self.sights()?;
        let mut ended = first.iter().zip(&self.sessions);
        let mut second = None;
        if ended.any(|(sight, tracked)| sight.is_over() && !tracked.has_ended()) {
            second = Some(self.sights()?);
        }
        let elapsed = self.elapsed();
        let was_over: Vec<bool> = first.iter().map(Sight::is_over).collect();
        let sights = second.unwrap_or(first);
        for ((tracked, sight), was_over) in self.sessions.iter_mut().zip(sights).zip(was_over) {
            tracked.update(sight, was_over, elapsed);
        }
        self.looked = Instant::now();
        self.effort = processor_time().saturating_sub(begun);
        let left: HashSet<Identity> = self.left().collect();
        self.watched.retain(|identity, _| left.contains(identity));
        self.report()
    }

    /// The processes that are left, as far as they are waited for.
    fn left(&self) -> impl Iterator<Item = Identity> {
        let seen = self.sessions.iter().flat_map(|tracked| &tracked.seen).copied();
        seen.chain(self.managers.members())
    }

    fn sights(&self) -> Result<Vec<Sight>, Stop> {
        let sessions: Vec<Known<'_>> = self.sessions.iter().map(Tracked::known).collect();
        self.backend.look(&sessions).map_err(Stop::Failed)
    }

    /// Sends what is due in `phase` to whom it is due.
    fn signal(&mut self, phase: Phase) -> Result<(), Stop> {
        for tracked in &mut self.sessions {
            if let Some(is_empty) = tracked.termination_due()
                && self.backend.terminate(&tracked.report.session, is_empty)
            {
                tracked.taken_on();
            }
            let due = tracked.due(phase);
            for batch in due.chunks(BATCH) {
                let mut handles = Vec::with_capacity(batch.len());
                for identity in batch {
                    match self.backend.hold(*identity) {
                        Ok(handle) => handles.extend(handle),
                        Err(error) if is_passing(&error) => break,
                        Err(error) => return Err(Stop::Failed(error)),
                    }
                }
                let session = &tracked.report.session;
                let sent = match phase {
                    Phase::Ask => self.backend.end(session, &handles),
                    Phase::Kill => self.backend.kill(session, &handles),
                };
                tracked.signalled(phase, &handles, sent);
                let room = MAX_WATCHED.saturating_sub(self.watched.len());
                let watched = handles.into_iter().take(room);
                self.watched.extend(watched.map(|handle| (handle.identity(), handle)));
            }
        }
        Ok(())
    }

    /// At least once a second: names who is still there, and says how far the work is.
    fn tick(&mut self) -> Result<(), Stop> {
        let ended = self.sessions.iter().filter(|tracked| tracked.has_ended()).count() as u32;
        let done = ended + self.managers.settled();
        let due = self.ticked.is_none_or(|ticked| ticked.elapsed() >= TICK);
        if !due && done <= self.done {
            return Ok(());
        }
        self.ticked = Some(Instant::now());
        // A session that was thought ended and is not takes nothing back of what was said.
        self.done = self.done.max(done);
        if self.committed.is_some() {
            self.sessions.iter_mut().for_each(Tracked::name_survivors);
            self.report()?;
        }
        (self.send)(AgentMessage::Progress(Progress {
            id: self.id,
            committed: self.committed.is_some(),
            done: self.done,
        }))?;
        Ok(())
    }

    /// Sends the row of every session that has changed.
    fn report(&mut self) -> Result<(), Stop> {
        for tracked in &mut self.sessions {
            if let Some(session) = tracked.news() {
                (self.send)(AgentMessage::Session { id: self.id, session })?;
            }
        }
        Ok(())
    }

    /// Ends with sessions that are still there, and names them.
    fn give_up(&mut self, result: TaskResult, error: HResult) -> Result<End, Stop> {
        let mut left: Vec<String> = self.sessions.iter_mut().filter_map(Tracked::remain).collect();
        self.report()?;
        let count = left.len();
        left.append(&mut self.managers.give_up());
        let left = left.join(", ");
        let text = format!("{count} of {} sessions remain: {left}", self.sessions.len());
        Ok(End::new(result, error, &text))
    }

    pub(super) fn finish(self, end: End) -> Result<(), Lost> {
        let mut listing = self.backend.list().unwrap_or_default();
        listing.counted.retain(|session| !self.sessions.iter().any(|tracked| tracked.is(session)));
        let managers = rows(self.managers.reports(), ROOM).0;
        let rows = |sessions| rows(sessions, ROOM).0;
        let Listing { counted, ignored, stale } = listing;
        let End { result, error, text } = end;
        (self.send)(AgentMessage::Done(Done {
            id: self.id,
            result,
            error,
            text,
            worked_us: 0,
            managers,
            relogins: rows(counted),
            ignored: rows(ignored),
            stale: rows(stale),
        }))
    }
}

/// What this thread has had of the processor.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Whether a hold may be had later: memory or descriptors are short now.
fn is_passing(error: &io::Error) -> bool {
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| short.contains(&code))
}
