//! Logging everybody off.
//!
//! ```text
//! count ── notice ── commit ── ask ───────────── grace ── kill, at most 5 times ──── deadline
//!   │        cancelable │       HUP TERM CONT               KILL                          │
//!   └ nobody: done      └ no way back                  all gone, looked at twice: done ───┘ time-out
//! ```
//!
//! Nothing is believed but a look: a session has ended when two looks, one right after the other,
//! find no process of it. (One would not do: a process that forks and ends while `/proc` is being
//! read can be missed together with its child.) Signals go through pidfds, and so does waiting.
//!
//! `login` and `sshd`, which let the user in, clean up after the user when the shell has ended: they
//! close the PAM session and the utmp record. So these doors are signalled only once they have been
//! alone for a moment and are still there.
//!
//! Where a login manager keeps the sessions it is told first, and a session goes on as long as it
//! says so. When all sessions of a user have ended the user's service manager is stopped too, or
//! kept for a reason.

mod control;
mod managers;
mod stopwatch;
mod tracked;
mod work;

pub use control::{Control, Lost};

use crate::process::{Identity, TICKS_PER_SECOND};
use crate::sessions::{Backend, Backends, Listing};
use control::Stop;
use managers::Managers;
use protocol::HResult;
use protocol::message::{AgentMessage, LogoffRequest};
use protocol::task::TaskResult;
use rustix::time::{ClockId, clock_gettime};
use tracked::Tracked;
use work::{End, Work};

/// Where an operation's messages go.
pub type Send<'a> = &'a mut dyn FnMut(AgentMessage) -> Result<(), Lost>;

/// Carries out `request` under the host's `id`, from *accepted* to *done*.
///
/// # Errors
/// The connection ended, or `control` was told so: the operation has stopped acting, wherever it
/// was. The host sends it again over the next connection.
pub fn run(
    backends: &dyn Backends,
    id: u64,
    request: &LogoffRequest,
    control: &Control,
    send: Send<'_>,
) -> Result<(), Lost> {
    let begun = backends.choose().and_then(|(backend, listing)| {
        let sessions = begin(&*backend, request, listing);
        let snapshot: Vec<_> = sessions.iter().map(|one| &one.report.session).collect();
        let managers = Managers::new(backend.managers(&snapshot)?);
        Ok((backend, sessions, managers))
    });
    let (backend, sessions, managers) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let text = format!("sessions cannot be counted: {error}");
            return send(AgentMessage::Rejected { id, error: HResult::DISP_E_EXCEPTION, text });
        }
    };
    let mut work = Work::new(&*backend, id, request, control, send, sessions, managers);
    let end = match work.accept().and_then(|()| work.carry_out()) {
        Ok(end) => end,
        Err(Stop::Cancelled) => {
            End::new(TaskResult::Cancelled, HResult::ERROR_CANCELLED, "cancelled before the commit")
        }
        Err(Stop::Failed(error)) => {
            let text = format!("processes cannot be looked at or held: {error}");
            End::new(TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION, &text)
        }
        Err(Stop::Lost) => return Err(Lost),
    };
    work.finish(end)
}

/// The snapshot: counted now, or taken over from an operation that was interrupted.
fn begin(backend: &dyn Backend, request: &LogoffRequest, listing: Listing) -> Vec<Tracked> {
    let Some(resume) = &request.resume else {
        return listing.counted.into_iter().map(Tracked::new).collect();
    };
    let asked = resume.committed_ms.is_some();
    let sessions = resume.sessions.iter().map(|report| {
        let survivors = report.survivors.iter().filter_map(|survivor| {
            let now = backend.identify(survivor.pid)?;
            // What has been running since before the commit is what had this pid after it.
            started_before(now, resume.committed_ms?).then_some(now)
        });
        Tracked::resumed(report.clone(), asked, survivors.collect())
    });
    sessions.collect()
}

/// Whether `process` started more than `milliseconds` ago.
fn started_before(process: Identity, milliseconds: u64) -> bool {
    let now = clock_gettime(ClockId::Boottime);
    let now_ms = (now.tv_sec as u64).saturating_mul(1000) + now.tv_nsec as u64 / 1_000_000;
    let start_ms = process.start.saturating_mul(1000 / TICKS_PER_SECOND);
    start_ms.saturating_add(milliseconds) < now_ms
}
