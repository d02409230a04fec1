//! How a task and the report of a logoff are printed.

use crate::args::Format;
use crate::output::{or_dash, print, print_json, print_table, time};
use protocol::HResult;
use protocol::task::{LogoffReport, Outcome, SecondLook, SessionReport, TaskInfo};
use vmm::control::wire::TaskDocument;

/// Prints a task and what it has done.
pub(crate) fn print_document(document: &TaskDocument, format: Format) {
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
    if !report.sessions.is_empty() {
        let again = match report.second_look {
            SecondLook::NotTaken => "",
            SecondLook::Agrees => "; asked once more, it lists none of these sessions",
            SecondLook::Contradicts => "; asked once more, it contradicts itself",
        };
        print(&format!("this is the guest's claim{again}\n"));
    }
}

fn session_row(row: &SessionReport) -> Vec<String> {
    let outcome = match row.outcome {
        None => "-",
        Some(Outcome::Terminated) => "terminated",
        Some(Outcome::Killed) => "killed",
        Some(Outcome::Vanished) => "vanished",
        Some(Outcome::Remaining) => "remaining",
        Some(Outcome::Denied) => "denied",
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
