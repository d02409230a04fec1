//! Shutting the guest down and restarting it: whether that can be done now, and having it done.
//!
//! What brings the guest up takes it down: its [`init`]. All that is done here is to ask it, and to
//! say so where it does not happen. Success is never said: nobody would be there to say it.

pub mod init;

use crate::info::Info;
use protocol::HResult;
use protocol::message::Done;
use protocol::power::{PowerAction, PowerRequest};
use protocol::task::TaskResult;
use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How often an init is asked whether it still goes down.
const LOOK: Duration = Duration::from_secs(2);
/// An init that has said for so long that it is up, although it was told to go down, will not.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);

/// How far up a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It boots.
    Booting,
    /// It is up.
    Up,
    /// It is on its way down.
    GoingDown,
    /// Its init does not say.
    Unknown,
}

/// What brings a guest up and takes it down.
pub trait Init: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// How far up the guest is.
    fn stage(&self) -> Stage;

    /// Asks it to stop everything in order and to do `action` then.
    ///
    /// # Errors
    /// It cannot be asked, or will not do it.
    fn ask(&self, action: PowerAction) -> io::Result<()>;

    /// Does `action` without asking anybody. As a rule it does not return.
    ///
    /// # Errors
    /// The guest's kernel refuses.
    fn force(&self, action: PowerAction) -> io::Result<()>;
}

/// The guest's power.
pub struct Power {
    init: Box<dyn Init>,
    info: Info,
}

impl fmt::Debug for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Power").field("init", &self.init.name()).finish_non_exhaustive()
    }
}

/// Why nothing came of a request.
struct Failure {
    result: TaskResult,
    error: HResult,
    text: String,
}

impl Failure {
    fn refused(error: HResult, text: &str) -> Self {
        Self { result: TaskResult::UnexpectedError, error, text: text.into() }
    }

    fn aborted(text: String) -> Self {
        Self { result: TaskResult::ShutdownAbort, error: HResult::DISP_E_EXCEPTION, text }
    }
}

impl Power {
    /// The power of a guest that `init` takes down, and whose screen `info` knows to be locked.
    #[must_use]
    pub fn new(init: Box<dyn Init>, info: Info) -> Self {
        Self { init, info }
    }

    /// What takes the guest down.
    #[must_use]
    pub fn init(&self) -> &'static str {
        self.init.name()
    }

    /// Does what was asked for as `id`, and gives the message that says why nothing came of it.
    /// `going_down` says that it is known to happen already, in a way that this request would not
    /// hasten. Ends without one when `connection`
    /// does, of which nothing ever comes but its end.
    pub fn run(
        &self,
        id: u64,
        request: PowerRequest,
        going_down: bool,
        connection: &Receiver<()>,
    ) -> Option<Done> {
        let outcome = self.check(request.forced, going_down).and_then(|()| {
            let outcome = if request.forced {
                self.init.force(request.action)
            } else {
                self.init.ask(request.action)
            };
            outcome.map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    Failure::refused(HResult::ERROR_ACCESS_DENIED, "the guest does not allow it")
                }
                _ => Failure::aborted(format!("{} will not do it: {error}", self.init.name())),
            })
        });
        let failure = match outcome {
            Ok(()) => self.watch(connection)?,
            Err(failure) => failure,
        };
        Some(Done::failed(id, failure.result, failure.error, failure.text))
    }

    /// Whether it can be done now.
    fn check(&self, forced: bool, going_down: bool) -> Result<(), Failure> {
        let stage = if forced { Stage::Unknown } else { self.init.stage() };
        if going_down || stage == Stage::GoingDown {
            let text = "the guest is shutting down already";
            return Err(Failure::refused(HResult::ERROR_SHUTDOWN_IN_PROGRESS, text));
        }
        if forced {
            return Ok(());
        }
        if stage == Stage::Booting {
            let text = "the guest has not finished booting; wait, or force it";
            return Err(Failure::refused(HResult::ERROR_NOT_READY, text));
        }
        // A logind that does not answer keeps nobody from shutting down.
        if matches!(self.info.screen_locked(), Ok(Some(true))) {
            let text = "a user has locked the screen; force it to shut down nevertheless";
            return Err(Failure::refused(HResult::ERROR_MACHINE_LOCKED, text));
        }
        Ok(())
    }

    /// Waits for the guest to go down, and says why if it gives up.
    fn watch(&self, connection: &Receiver<()>) -> Option<Failure> {
        let mut up_since = None;
        loop {
            match connection.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return None,
            }
            if has_given_up(&mut up_since, self.init.stage(), Instant::now()) {
                let text = format!(
                    "{} was told, and is still up {} s later; it has been called off in the guest",
                    self.init.name(),
                    GIVEN_UP_AFTER.as_secs()
                );
                return Some(Failure::aborted(text));
            }
        }
    }
}

/// Whether an init that is at `stage` has said for long enough that it is up.
fn has_given_up(up_since: &mut Option<Instant>, stage: Stage, now: Instant) -> bool {
    if stage != Stage::Up {
        *up_since = None;
        return false;
    }
    let since = *up_since.get_or_insert(now);
    now.saturating_duration_since(since) >= GIVEN_UP_AFTER
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex, mpsc};

    /// An init that does nothing but remember.
    struct Fake {
        stage: Stage,
        answer: fn() -> io::Result<()>,
        told: Arc<Mutex<Vec<(&'static str, PowerAction)>>>,
    }

    impl Init for Fake {
        fn name(&self) -> &'static str {
            "fake"
        }

        fn stage(&self) -> Stage {
            self.stage
        }

        fn ask(&self, action: PowerAction) -> io::Result<()> {
            self.told.lock().unwrap().push(("ask", action));
            (self.answer)()
        }

        fn force(&self, action: PowerAction) -> io::Result<()> {
            self.told.lock().unwrap().push(("force", action));
            (self.answer)()
        }
    }

    type Told = Vec<(&'static str, PowerAction)>;

    /// What comes of a request over a connection that has ended.
    fn run(
        stage: Stage,
        answer: fn() -> io::Result<()>,
        action: PowerAction,
        forced: bool,
    ) -> (Option<(TaskResult, HResult)>, Told) {
        let told = Arc::default();
        let init = Fake { stage, answer, told: Arc::clone(&told) };
        let nowhere = Info::new("/nonexistent");
        let (_, connection) = mpsc::channel();
        let power = Power::new(Box::new(init), nowhere);
        let done = power.run(7, PowerRequest { action, forced }, false, &connection);
        assert!(done.as_ref().is_none_or(|done| done.id == 7));
        let told = told.lock().unwrap().clone();
        (done.map(|done| (done.result, done.error)), told)
    }

    #[test]
    fn a_guest_that_is_up_is_asked_or_forced_and_nothing_is_said_of_success() {
        let (done, told) = run(Stage::Up, || Ok(()), PowerAction::Shutdown, false);
        assert_eq!((done, told), (None, vec![("ask", PowerAction::Shutdown)]));
        let (done, told) = run(Stage::Unknown, || Ok(()), PowerAction::Restart, true);
        assert_eq!((done, told), (None, vec![("force", PowerAction::Restart)]));
    }

    #[test]
    fn a_guest_that_boots_or_goes_down_is_refused_unless_forced() {
        let refused = |error| Some((TaskResult::UnexpectedError, error));
        let (done, told) = run(Stage::Booting, || Ok(()), PowerAction::Shutdown, false);
        assert_eq!((done, told), (refused(HResult::ERROR_NOT_READY), vec![]));
        let (done, told) = run(Stage::Booting, || Ok(()), PowerAction::Shutdown, true);
        assert_eq!((done, told.len()), (None, 1));
        let (done, told) = run(Stage::GoingDown, || Ok(()), PowerAction::Restart, false);
        assert_eq!((done, told), (refused(HResult::ERROR_SHUTDOWN_IN_PROGRESS), vec![]));
        let (done, told) = run(Stage::GoingDown, || Ok(()), PowerAction::Restart, true);
        assert_eq!((done, told.len()), (None, 1), "it may hang");
    }

    #[test]
    fn an_init_that_refuses_aborts_the_shutdown() {
        let refuse = || Err(io::Error::other("blocked by an inhibitor"));
        let (done, _) = run(Stage::Up, refuse, PowerAction::Shutdown, false);
        assert_eq!(done, Some((TaskResult::ShutdownAbort, HResult::DISP_E_EXCEPTION)));
        let deny = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let (done, _) = run(Stage::Up, deny, PowerAction::Shutdown, true);
        assert_eq!(done, Some((TaskResult::UnexpectedError, HResult::ERROR_ACCESS_DENIED)));
    }

    #[test]
    fn only_an_init_that_stays_up_has_given_up() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut up = None;
        assert!(!has_given_up(&mut up, Stage::Up, at(0)));
        assert!(!has_given_up(&mut up, Stage::Up, at(29)));
        assert!(!has_given_up(&mut up, Stage::GoingDown, at(31)), "it goes down after all");
        assert!(!has_given_up(&mut up, Stage::Up, at(33)));
        assert!(!has_given_up(&mut up, Stage::Unknown, at(62)), "nothing is known");
        assert!(!has_given_up(&mut up, Stage::Up, at(64)));
        assert!(has_given_up(&mut up, Stage::Up, at(94)));
    }
}
