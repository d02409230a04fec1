//! Asking for work that takes time, and following it: progress, time-out, Ctrl-C.

use crate::args::{Format, WaitArgs, WorkArgs};
use crate::machines::connect;
use crate::output::{print, print_json, say};
use crate::progress::Progress;
use crate::report::print_document;
use crate::signals;
use protocol::HResult;
use std::sync::{Arc, Mutex, PoisonError};
use vmm::control::client::Client;
use vmm::control::wire::{Request, TaskDocument};
use vmm::error::CallError;

/// The exit code of a caller that left while the work went on.
const EXIT_DETACHED: i32 = 1;
/// The exit code of a caller that was interrupted twice before there was a task.
const EXIT_IMPATIENT: i32 = 130;

/// Asks the machine `name` for work, follows it as the caller wants, prints how it ended, and
/// returns the code of that: `S_OK` if nobody waits for it.
pub(crate) fn work(
    name: &str,
    request: Request,
    args: &WorkArgs,
    format: Format,
) -> Result<HResult, CallError> {
    let interrupt = Interrupt::watch(name);
    let mut client = connect(name)?;
    if args.no_wait {
        let document = client.work(request)?;
        interrupt.accepted(document.task.id);
        match format {
            Format::Json => print_json(&document),
            Format::Human => print(&format!("{}\n", document.task.id)),
        }
        return Ok(HResult::S_OK);
    }
    let mut progress = Progress::new(args.waiting.progress, client.name());
    let document = client.work_watching(
        request,
        args.waiting.timeout,
        |task| interrupt.accepted(task.id),
        |task| progress.show(task),
    )?;
    progress.finish(&document.task);
    print_document(&document, format);
    Ok(code(&document))
}

/// Follows a task, prints how it ended, and returns the code of that.
pub(crate) fn finish(
    client: &mut Client,
    id: u32,
    waiting: &WaitArgs,
    format: Format,
) -> Result<HResult, CallError> {
    let mut progress = Progress::new(waiting.progress, client.name());
    let document = client.wait(id, waiting.timeout, |task| progress.show(task))?;
    progress.finish(&document.task);
    print_document(&document, format);
    Ok(code(&document))
}

/// How a task ended, or that it did not within the caller's time.
pub(crate) fn code(document: &TaskDocument) -> HResult {
    if document.task.is_complete { document.task.error } else { HResult::VM_E_TIMED_OUT }
}

/// Ctrl-C cancels the task while that is possible; else it only ends this process, and says so.
struct Interrupt {
    name: String,
    stage: Arc<Mutex<Stage>>,
}

enum Stage {
    /// The machine has not accepted yet, so there is no task.
    Asking,
    /// The task is to be cancelled as soon as there is one.
    Unwanted,
    Task(u32),
}

impl Interrupt {
    fn watch(name: &str) -> Self {
        let stage = Arc::new(Mutex::new(Stage::Asking));
        let interrupt = Self { name: name.to_owned(), stage: Arc::clone(&stage) };
        let name = name.to_owned();
        let watched = signals::watch(&[libc::SIGINT], move |_| {
            let task = {
                let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
                match &*stage {
                    Stage::Asking => {
                        *stage = Stage::Unwanted;
                        return;
                    }
                    Stage::Unwanted => std::process::exit(EXIT_IMPATIENT),
                    Stage::Task(id) => *id,
                }
            };
            cancel_or_leave(&name, task);
        });
        if let Err(error) = watched {
            tracing::warn!(%error, "Ctrl-C ends this command without cancelling the work");
        }
        interrupt
    }

    /// The machine has accepted.
    fn accepted(&self, id: u32) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *stage, Stage::Task(id));
        drop(stage);
        if matches!(before, Stage::Unwanted) {
            cancel_or_leave(&self.name, id);
        }
    }
}

/// Cancels a task, so that whoever waits for it sees its end; if that is not possible any more, ends
/// this process.
fn cancel_or_leave(name: &str, id: u32) {
    let cancelled = connect(name).and_then(|mut client| {
        client.cancel(id).or_else(|refusal| match client.task(id) {
            // It ended by itself meanwhile.
            Ok(document) if document.task.is_complete => Ok(document),
            _ => Err(refusal),
        })
    });
    if let Err(error) = cancelled {
        say(&format!("\nnot cancelled: {error}; `vmm task wait {name} {id}` follows it"));
        std::process::exit(EXIT_DETACHED);
    }
}
