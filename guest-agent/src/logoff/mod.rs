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

mod control;
mod stopwatch;
mod tracked;
mod work;

pub use control::{Control, Lost};

use crate::process::{Identity, TICKS_PER_SECOND};
use crate::sessions::Backend;
use control::Stop;
use protocol::HResult;
use protocol::message::{AgentMessage, LogoffRequest};
use protocol::task::TaskResult;
use rustix::time::{ClockId, clock_gettime};
use std::io;
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
    backend: &dyn Backend,
    id: u64,
    request: &LogoffRequest,
    control: &Control,
    send: Send<'_>,
) -> Result<(), Lost> {
    let sessions = match begin(backend, request) {
        Ok(sessions) => sessions,
        Err(error) => {
            let text = format!("sessions cannot be counted: {error}");
            return send(AgentMessage::Rejected { id, error: HResult::DISP_E_EXCEPTION, text });
        }
    };
    let mut work = Work::new(backend, id, request, control, send, sessions);
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
fn begin(backend: &dyn Backend, request: &LogoffRequest) -> io::Result<Vec<Tracked>> {
    let Some(resume) = &request.resume else {
        return Ok(backend.list()?.counted.into_iter().map(Tracked::new).collect());
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
    Ok(sessions.collect())
}

/// Whether `process` started more than `milliseconds` ago.
fn started_before(process: Identity, milliseconds: u64) -> bool {
    let now = clock_gettime(ClockId::Boottime);
    let now_ms = (now.tv_sec as u64).saturating_mul(1000) + now.tv_nsec as u64 / 1_000_000;
    let start_ms = process.start.saturating_mul(1000 / TICKS_PER_SECOND);
    start_ms.saturating_add(milliseconds) < now_ms
}
