//! Progress of a task on standard error: a bar on a terminal that can show one, lines elsewhere.

use crate::args::ProgressArg;
use crate::output::{columns, is_capable, say};
use indicatif::{ProgressBar, ProgressStyle};
use protocol::task::{TaskInfo, TaskResult};
use std::io;
use std::time::Duration;

/// How often the bar moves although nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// Characters of a bar, where there is room.
const BAR: usize = 30;
/// Characters beside a bar and the machine's name: brackets, percent, time, message.
const BESIDE: usize = 26;

/// Shows how far a task is.
pub(crate) enum Progress {
    Bar(ProgressBar),
    /// The percent that was shown last.
    Lines(String, Option<u8>),
    None,
}

impl Progress {
    pub(crate) fn new(arg: ProgressArg, machine: &str) -> Self {
        let bar = match arg {
            ProgressArg::Auto => is_capable(),
            ProgressArg::Bar => true,
            ProgressArg::Plain => false,
            ProgressArg::None => return Self::None,
        };
        if !bar {
            return Self::Lines(machine.to_owned(), None);
        }
        let room = columns(&io::stderr()).saturating_sub(machine.chars().count() + BESIDE);
        let length = room.clamp(1, BAR);
        let template = format!("{{prefix}}  [{{bar:{length}}}] {{pos:>3}}%  {{elapsed}}  {{msg}}");
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::new(100).with_style(style).with_prefix(machine.to_owned());
        bar.enable_steady_tick(TICK);
        Self::Bar(bar)
    }

    /// Shows the task as it is.
    pub(crate) fn show(&mut self, task: &TaskInfo) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(task.percent_completed.into());
                bar.set_message(if task.is_cancelable { "not begun" } else { "" });
            }
            Self::Lines(machine, last) => {
                if *last != Some(task.percent_completed) {
                    *last = Some(task.percent_completed);
                    say(&format!("{machine}: {}% {}", task.percent_completed, task.description));
                }
            }
            Self::None => {}
        }
    }

    /// Shows the task's end.
    pub(crate) fn finish(mut self, task: &TaskInfo) {
        self.show(task);
        if let Self::Bar(bar) = self {
            if task.result == Some(TaskResult::Success) {
                bar.finish();
            } else {
                bar.abandon();
            }
        }
    }
}
