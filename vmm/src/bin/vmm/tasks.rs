//! `vmm task`: the tasks of all machines, which have ids that are unique among them.

use crate::args::{Format, TaskArgs, TaskVerb};
use crate::follow;
use crate::machines::{ask_all, connect};
use crate::output::{Outcome, exit_code, print, print_json, print_table};
use crate::report::print_document;
use protocol::HResult;
use protocol::task::TaskInfo;
use serde::Serialize;
use serde_json::json;
use vmm::control::client::Client;
use vmm::error::CallError;
use vmm::runtime::Runtime;

pub(crate) fn task(verb: &TaskVerb, format: Format) -> Outcome {
    match verb {
        TaskVerb::Ls { name } => list(name.as_deref(), format),
        TaskVerb::Show(task) => {
            let document = find(task)?.task(task.id)?;
            print_document(&document, format);
            Ok(0)
        }
        TaskVerb::Wait { task, waiting } => {
            Ok(exit_code(follow::finish(&mut find(task)?, task.id, waiting, format)?))
        }
        TaskVerb::Cancel(task) => {
            let document = find(task)?.cancel(task.id)?;
            print_document(&document, format);
            Ok(0)
        }
    }
}

/// A task, and whose it is.
#[derive(Serialize)]
struct Row {
    machine: String,
    #[serde(flatten)]
    task: TaskInfo,
}

fn list(name: Option<&str>, format: Format) -> Outcome {
    let runtime = Runtime::of_user();
    let found = match name {
        Some(name) => {
            let mut client = connect(name)?;
            let tasks = client.tasks()?;
            vec![(client.name().to_owned(), Ok(tasks))]
        }
        None => ask_all(&runtime, Client::tasks),
    };
    let rows = found.into_iter().flat_map(|(machine, tasks)| {
        // One that has ended meanwhile has none.
        let tasks = tasks.unwrap_or_default().into_iter();
        tasks.map(move |task| Row { machine: machine.clone(), task })
    });
    let rows: Vec<Row> = rows.collect();
    match format {
        Format::Json => print_json(&json!({ "tasks": rows })),
        Format::Human if rows.is_empty() => print("no tasks\n"),
        Format::Human => {
            let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
            print_table(&["MACHINE", "ID", "DONE", "RESULT", "ERROR", "TASK"], &rows);
        }
    }
    Ok(0)
}

fn cells(Row { machine, task }: &Row) -> Vec<String> {
    vec![
        machine.clone(),
        task.id.to_string(),
        format!("{}%", task.percent_completed),
        task.result.map_or_else(|| "running".into(), |result| format!("{result:?}")),
        task.error.to_string(),
        task.description.clone(),
    ]
}

/// The machine that has the task.
fn find(args: &TaskArgs) -> Result<Client, CallError> {
    let runtime = Runtime::of_user();
    if let Some(name) = &args.name {
        return connect(name);
    }
    let id = args.id;
    let asked = ask_all(&runtime, |client| client.task(id));
    let has_it = |(name, answer): (String, Result<_, _>)| answer.is_ok().then_some(name);
    let owners: Vec<String> = asked.into_iter().filter_map(has_it).collect();
    match &*owners {
        [name] => connect(name),
        [] => {
            let text = format!("no running machine has a task {id}; `vmm task ls` lists all tasks");
            Err(CallError::new(HResult::DISP_E_BADINDEX, text))
        }
        [first, second, ..] => {
            let text = format!("{first} and {second} both have a task {id}; name the machine too");
            Err(CallError::new(HResult::E_INVALIDARG, text))
        }
    }
}
