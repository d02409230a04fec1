//! How a machine's process tells `vmm start` that the machine runs, or why not.
//!
//! `vmm start` runs `vmm run NAME --detached`, whose standard output is a pipe. It carries lines of
//! JSON: the task of the start when it has been accepted, the same when it is complete; or a refusal.
//! Then the process lets go of the pipe. If it ends without a word, its log may say why.
//!
//! Its standard error is the machine's log. Of two processes that are started at the same time one
//! gets the machine, and with it the log, which it empties; the other leaves no trace there.

use crate::output::{Failure, Outcome, error_json, print_json};
use protocol::HResult;
use protocol::task::TaskInfo;
use serde::Deserialize;
use std::cell::Cell;
use std::fs::OpenOptions;
use vmm::control::wire::TaskDocument;

/// The machine's process' end.
pub(crate) struct Readiness {
    detached: bool,
    /// The log is this process's.
    claimed: Cell<bool>,
}

/// A line of what it says.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Line {
    /// The task of the start.
    Task(Box<TaskDocument>),
    /// The machine cannot be started.
    Refused {
        /// Why.
        error: Refusal,
    },
}

/// Why a machine cannot be started.
#[derive(Deserialize)]
pub(crate) struct Refusal {
    /// The documented code.
    pub(crate) code: HResult,
    /// What was tried, what was found, and what to do next.
    pub(crate) description: String,
}

impl Readiness {
    /// Tells nobody unless the process is `detached`.
    pub(crate) fn new(detached: bool) -> Self {
        Self { detached, claimed: Cell::new(false) }
    }

    /// The machine is this process's, and so is the log.
    pub(crate) fn claimed(&self) {
        self.claimed.set(true);
        if self.detached
            && let Err(error) = rustix::fs::ftruncate(rustix::stdio::stderr(), 0)
        {
            tracing::debug!(%error, "what was in the log before is still there");
        }
    }

    /// Whether standard error is the machine's log.
    pub(crate) fn has_log(&self) -> bool {
        self.detached
    }

    pub(crate) fn accepted(&self, task: &TaskInfo) {
        if self.detached {
            print_json(&TaskDocument { task: task.clone(), report: None });
        }
    }

    pub(crate) fn complete(&self, task: &TaskInfo) {
        self.accepted(task);
        self.let_go();
    }

    /// The machine cannot be started; what is left for the process to say and to end with.
    pub(crate) fn refused(&self, failure: Failure) -> Outcome {
        if self.detached {
            print_json(&error_json(failure.code, &failure.text));
        }
        self.let_go();
        if self.detached && !self.claimed.get() { Ok(failure.exit) } else { Err(failure) }
    }

    fn let_go(&self) {
        if self.detached {
            // The other end has heard everything, and ignores what might still come.
            let nowhere = OpenOptions::new().write(true).open("/dev/null");
            let _ = nowhere.map(rustix::stdio::dup2_stdout);
        }
    }
}
