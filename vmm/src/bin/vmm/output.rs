//! What is printed on standard output, and which exit code goes with which error.

use crate::args::Format;
use protocol::HResult;
use serde::Serialize;
use serde_json::json;
use std::io::{self, Write};
use vmm::error::CallError;

/// What a verb ends with: an exit code, or a refusal.
pub(crate) type Outcome = Result<u8, Failure>;

/// A verb that could not do its work.
pub(crate) struct Failure {
    /// The documented code.
    pub(crate) code: HResult,
    /// The exit code.
    pub(crate) exit: u8,
    /// What was tried, what was found, and what to do next.
    pub(crate) text: String,
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self { code: error.code, exit: exit_code(error.code), text: error.text }
    }
}

/// The exit code for `code`.
pub(crate) fn exit_code(code: HResult) -> u8 {
    match code {
        HResult::S_OK => 0,
        HResult::E_INVALIDARG => 2,
        HResult::VM_E_VM_UNKNOWN => 3,
        HResult::VM_E_VM_NOT_RUNNING => 4,
        HResult::VM_E_ADDITIONS_NOT_AVAIL | HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL => 5,
        HResult::VM_E_TIMED_OUT => 6,
        HResult::ERROR_CANCELLED => 7,
        HResult::ERROR_NO_SUCH_LOGON_SESSION => 8,
        HResult::ERROR_ACCESS_DENIED => 9,
        _ => 1,
    }
}

/// Prints a refusal: for people on standard error, as a document on standard output.
pub(crate) fn print_failure(code: HResult, text: &str, format: Format) {
    match format {
        Format::Human => eprintln!("error: {text}"),
        Format::Json => print_json(&json!({
            "error": {
                "code": code,
                "name": code.symbol().unwrap_or_default(),
                "description": text,
            }
        })),
    }
}

/// Prints one document.
pub(crate) fn print_json(document: &impl Serialize) {
    match serde_json::to_string(document) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => eprintln!("error: the result cannot be printed: {error}"),
    }
}

/// Prints `text`. A reader that has gone wants no more.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Prints `rows` below `head`, in columns as wide as they must be.
pub(crate) fn print_table(head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
        cells.chain(head.get(column).copied()).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(head.to_vec());
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    print(&text);
}

/// A time as people say it: `850 ms`, `42 s`, `3 min`, `5 h`.
pub(crate) fn time(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..120_000 => format!("{} s", milliseconds / 1_000),
        120_000..7_200_000 => format!("{} min", milliseconds / 60_000),
        _ => format!("{} h", milliseconds / 3_600_000),
    }
}

/// A word that stands where nothing is known.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.to_owned() }
}
