//! `vmm logoff` and `vmm task`: work that takes time, and following it.

use crate::args::{Format, LogoffArgs, TaskArgs, TaskVerb, WaitArgs};
use crate::output::{Outcome, exit_code, or_dash, print, print_json, print_table, say, time};
use crate::progress::Progress;
use crate::signals;
use protocol::HResult;
use protocol::task::{
    LogoffOptions, LogoffReport, Outcome as SessionOutcome, SessionReport, TaskInfo,
};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vmm::control::client::Client;
use vmm::control::wire::TaskDocument;
use vmm::error::CallError;
use vmm::runtime::Runtime;

/// The exit code of a caller that left while the work went on.
const EXIT_DETACHED: i32 = 1;
/// The exit code of a caller that was interrupted twice before there was a task.
const EXIT_IMPATIENT: i32 = 130;

pub(crate) fn logoff(args: &LogoffArgs, format: Format) -> Outcome {
    let interrupt = Interrupt::watch(&args.name);
    let mut client = Client::connect(&Runtime::of_user(), &args.name)?;
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let options = LogoffOptions {
        grace_ms: milliseconds(args.grace),
        notice_ms: milliseconds(args.notice),
        deadline_ms: milliseconds(args.deadline),
    };
    let document = client.logoff(options)?;
    interrupt.accepted(document.task.id);
    if args.no_wait {
        match format {
            Format::Json => print_json(&document),
            Format::Human => print(&format!("{}\n", document.task.id)),
        }
        return Ok(0);
    }
    let document = follow(&mut client, document.task.id, &args.waiting)?;
    print_document(&document, format);
    let nobody = document.task.error == HResult::ERROR_NO_SUCH_LOGON_SESSION;
    Ok(if nobody && args.ok_if_none { 0 } else { ended(&document) })
}

pub(crate) fn task(verb: &TaskVerb, format: Format) -> Outcome {
    let runtime = Runtime::of_user();
    match verb {
        TaskVerb::Ls { name } => {
            let tasks = Client::connect(&runtime, name)?.tasks()?;
            match format {
                Format::Json => print_json(&json!({ "tasks": tasks })),
                Format::Human if tasks.is_empty() => print("no tasks\n"),
                Format::Human => {
                    let rows: Vec<Vec<String>> = tasks.iter().map(task_row).collect();
                    print_table(&["ID", "DONE", "RESULT", "ERROR", "TASK"], &rows);
                }
            }
            Ok(0)
        }
        TaskVerb::Show(TaskArgs { name, id }) => {
            let document = Client::connect(&runtime, name)?.task(*id)?;
            print_document(&document, format);
            Ok(0)
        }
        TaskVerb::Wait { task: TaskArgs { name, id }, waiting } => {
            let mut client = Client::connect(&runtime, name)?;
            let document = follow(&mut client, *id, waiting)?;
            print_document(&document, format);
            Ok(ended(&document))
        }
        TaskVerb::Cancel(TaskArgs { name, id }) => {
            let document = Client::connect(&runtime, name)?.cancel(*id)?;
            print_document(&document, format);
            Ok(0)
        }
    }
}

/// Waits for a task, with progress.
fn follow(client: &mut Client, id: u32, waiting: &WaitArgs) -> Result<TaskDocument, CallError> {
    let mut progress = Progress::new(waiting.progress, client.name());
    let document = client.wait(id, waiting.timeout, |task| progress.show(task))?;
    progress.finish(&document.task);
    Ok(document)
}

/// The exit code that says how a task ended, or that it did not within the caller's time.
fn ended(document: &TaskDocument) -> u8 {
    if document.task.is_complete {
        exit_code(document.task.error)
    } else {
        exit_code(HResult::VM_E_TIMED_OUT)
    }
}

/// Ctrl-C cancels the task while that is possible; else it only ends this process, and says so.
struct Interrupt {
    name: String,
    stage: Arc<Mutex<Stage>>,
}

enum Stage {
    /// The guest has not accepted yet, so there is no task.
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
        let watched = signals::watch(&[libc::SIGINT], move |_, _| {
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
            tracing::warn!(%error, "Ctrl-C ends this command without cancelling the logoff");
        }
        interrupt
    }

    /// The guest has accepted.
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
    let cancelled = Client::connect(&Runtime::of_user(), name).and_then(|mut client| {
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

fn print_document(document: &TaskDocument, format: Format) {
    match format {
        Format::Json => print_json(document),
        Format::Human => {
            print(&summary(&document.task));
            if let Some(report) = &document.report {
                print_report(report);
            }
        }
    }
}

/// A task in one line.
fn summary(task: &TaskInfo) -> String {
    match task.result {
        None => {
            format!("task {}: {}, {}% done\n", task.id, task.description, task.percent_completed)
        }
        Some(result) if task.error == HResult::S_OK => {
            format!("task {}: {}: {result:?}\n", task.id, task.description)
        }
        Some(result) => {
            let meaning = task.error.text().unwrap_or("an error of the guest's");
            let details = match &*task.error_description {
                "" => String::new(),
                text if text == meaning => String::new(),
                text => format!(" ({text})"),
            };
            format!(
                "task {}: {}: {result:?}: {} {}: {meaning}{details}\n",
                task.id, task.description, task.error, task.error_name
            )
        }
    }
}

fn task_row(task: &TaskInfo) -> Vec<String> {
    vec![
        task.id.to_string(),
        format!("{}%", task.percent_completed),
        task.result.map_or_else(|| "running".into(), |result| format!("{result:?}")),
        task.error.to_string(),
        task.description.clone(),
    ]
}

fn print_report(report: &LogoffReport) {
    if !report.sessions.is_empty() {
        let rows: Vec<Vec<String>> = report.sessions.iter().map(session_row).collect();
        print_table(&["USER", "TERMINAL", "FROM", "OUTCOME", "TIME", "SURVIVORS"], &rows);
    }
    for row in report.sessions.iter().filter(|row| !row.survivors.is_empty()) {
        let survivors: Vec<String> = row
            .survivors
            .iter()
            .map(|process| format!("{} {}", process.pid, process.comm))
            .collect();
        let terminal = or_dash(&row.session.tty);
        print(&format!("{} on {terminal} still has: {}\n", row.session.user, survivors.join(", ")));
    }
    for manager in &report.managers {
        let what =
            if manager.stopped { "stopped".into() } else { format!("kept: {}", manager.reason) };
        print(&format!("manager of {}: {what}\n", manager.user));
    }
    for session in &report.relogins {
        print(&format!("{} logged on again on {}\n", session.user, or_dash(&session.tty)));
    }
}

fn session_row(row: &SessionReport) -> Vec<String> {
    let outcome = match row.outcome {
        None => "-",
        Some(SessionOutcome::Terminated) => "terminated",
        Some(SessionOutcome::Killed) => "killed",
        Some(SessionOutcome::Vanished) => "vanished",
        Some(SessionOutcome::Remaining) => "remaining",
        Some(SessionOutcome::Denied) => "denied",
    };
    vec![
        row.session.user.clone(),
        or_dash(&row.session.tty),
        or_dash(&row.session.remote_host),
        outcome.into(),
        row.milliseconds.map_or_else(|| "-".into(), time),
        // They are named below the table, which has no room for them.
        if row.survivors.is_empty() { "-".into() } else { row.survivors.len().to_string() },
    ]
}
