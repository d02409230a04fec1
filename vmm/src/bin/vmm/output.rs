//! What is printed on standard output, and which exit code goes with which error.

use crate::args::Format;
use protocol::HResult;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use vmm::error::CallError;

/// Characters of a line of a table, and the fewest that it is cut to for a narrow terminal.
const LINE: usize = 80;
const LINE_MIN: usize = 40;
/// The fewest characters that a column is cut to: codes and numbers are of no use otherwise.
const COLUMN_MIN: usize = 10;
/// Between two columns.
const GAP: &str = "  ";

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
        HResult::E_INVALIDARG
        | HResult::VM_E_CONFIG_NO_NAME
        | HResult::VM_E_CONFIG_NAME_TOO_LONG
        | HResult::VM_E_CONFIG_NAME_INVALID_CHAR => 2,
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
        Format::Human => {
            let (begin, end) = if is_colourful() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
            let line = format!("{begin}error:{end} {}\n", harmless(text));
            complain(&line);
        }
        Format::Json => print_json(&error_json(code, text)),
    }
}

/// The document of a refusal.
pub(crate) fn error_json(code: HResult, text: &str) -> Value {
    let name = code.symbol().unwrap_or_default();
    json!({ "error": { "code": code, "name": name, "description": text } })
}

/// Whether standard error shows colours, and the user wants them: see no-color.org.
pub(crate) fn is_colourful() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_capable() && !unwanted
}

/// Whether standard error is a terminal that can do more than print lines.
pub(crate) fn is_capable() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    io::stderr().is_terminal() && !dumb
}

/// Prints one document.
pub(crate) fn print_json(document: &impl Serialize) {
    print_raw((line_of(document) + "\n").as_bytes());
}

/// A document in one line.
pub(crate) fn line_of(document: &impl Serialize) -> String {
    // Nothing that is printed here has a part that is no JSON.
    serde_json::to_string(document).unwrap_or_else(|error| {
        json!({ "error": { "description": error.to_string() } }).to_string()
    })
}

/// Prints `bytes` on standard output as they are.
pub(crate) fn print_raw(bytes: &[u8]) {
    print_whole(bytes);
}

/// Why something that was to be on standard output is not there, because of a full disk say.
static MISSING: OnceLock<io::Error> = OnceLock::new();

/// Why standard output lacks something; a reader that has gone wants no more, and lacks nothing.
pub(crate) fn missing() -> Option<&'static io::Error> {
    MISSING.get()
}

/// Prints `bytes` on standard output; false if they are not there.
fn print_whole(bytes: &[u8]) -> bool {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => true,
        Err(error) => {
            if error.kind() != io::ErrorKind::BrokenPipe {
                // The first one is as good as the next.
                let _ = MISSING.set(error);
            }
            false
        }
    }
}

/// Prints a value: as it is, unless a terminal would obey it.
pub(crate) fn print_value(value: &str) {
    if io::stdout().is_terminal() {
        print(&format!("{}\n", value.replace('\t', " ")));
    } else {
        print_raw(format!("{value}\n").as_bytes());
    }
}

/// Prints a line on standard output, as one among those of other threads; false if nobody reads it.
pub(crate) fn write_line(line: &str) -> bool {
    print_whole((harmless(line) + "\n").as_bytes())
}

/// Whether nobody will ever read standard output.
pub(crate) fn reader_has_gone() -> bool {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let gone = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(gone)
}

/// Prints `text` for people on standard output.
pub(crate) fn print(text: &str) {
    print_raw(harmless(text).as_bytes());
}

/// Prints a line for people on standard error.
pub(crate) fn say(line: &str) {
    complain(&(harmless(line) + "\n"));
}

/// Writes `text` to standard error. There is nobody to tell if that does not work.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// `text` without what a terminal would obey, whoever wrote it.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if steers(c) && c != '\n' { '?' } else { c }).collect()
}

/// `text` on one line: what somebody else wrote is to look like nothing that we say.
fn one_line(text: &str) -> String {
    harmless(&text.replace('\n', " "))
}

/// Whether a terminal would obey `c`, or show what follows in another order or on another line.
fn steers(c: char) -> bool {
    let reorders = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Prints what has a name each, a line each: the values are whole, for people copy them.
pub(crate) fn print_properties(rows: &[(&str, String)]) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in rows {
        print(&format!("{name:width$}{GAP}{}\n", one_line(value)));
    }
}

/// Prints `rows` below `head`.
pub(crate) fn print_table(head: &[&str], rows: &[Vec<String>]) {
    print(&table(head, rows, columns(&io::stdout())));
}

/// Characters of a line of `stream`.
pub(crate) fn columns(stream: &impl AsFd) -> usize {
    let size = rustix::termios::tcgetwinsize(stream);
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    // Terminals that do not know say zero.
    if columns == 0 { LINE } else { columns.clamp(LINE_MIN, LINE) }
}

/// Columns as wide as they must be; the widest are cut until a line has `length` characters.
fn table(head: &[&str], rows: &[Vec<String>], length: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
        cells.chain(head.get(column).copied()).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..head.len()).map(width).collect();
    let gaps = GAP.len() * head.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > length {
        match widths.iter_mut().max() {
            Some(widest) if *widest > COLUMN_MIN => *widest -= 1,
            _ => break,
        }
    }
    let line = |cells: &[&str]| {
        let fitted = cells.iter().zip(&widths).map(|(cell, width)| fit(&one_line(cell), *width));
        fitted.collect::<Vec<_>>().join(GAP).trim_end().to_owned() + "\n"
    };
    let mut text = line(head);
    for row in rows {
        text.push_str(&line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    text
}

/// `cell`, cut or filled to `width` characters.
fn fit(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return format!("{cell:width$}");
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
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

/// A value for people.
pub(crate) fn words(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".into(),
        Value::Array(items) => items.iter().map(words).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_its_line_whatever_is_in_it() {
        let rows = [
            vec!["é".repeat(300), "x".repeat(300), "short".into()],
            vec!["a".into(), String::new(), "b".into()],
        ];
        for length in [LINE_MIN, LINE] {
            let text = table(&["ONE", "TWO", "THREE"], &rows, length);
            assert!(text.lines().all(|line| line.chars().count() <= length), "{text}");
            assert!(text.lines().nth(1).unwrap().ends_with("…  short"), "{text}");
        }
        let text = table(&["A", "B"], &[vec!["xyz".into(), "-".into()]], LINE);
        assert_eq!(text, "A    B\nxyz  -\n");
    }

    #[test]
    fn nothing_printed_for_people_steers_a_terminal() {
        assert_eq!(harmless("a\x1b[2J\r\u{9b}b\nc"), "a?[2J??b\nc");
        assert_eq!(harmless("a\u{202e}b\u{2069}\u{2028}c é 中"), "a?b??c é 中");
        let text = table(&["USER"], &[vec!["bob\nroot".into()]], LINE);
        assert_eq!(text, "USER\nbob root\n");
    }

    #[test]
    fn each_documented_code_has_its_exit_code() {
        for (code, exit) in [
            (HResult::S_OK, 0),
            (HResult::DISP_E_EXCEPTION, 1),
            (HResult::E_INVALIDARG, 2),
            (HResult::VM_E_VM_UNKNOWN, 3),
            (HResult::VM_E_VM_NOT_RUNNING, 4),
            (HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL, 5),
            (HResult::VM_E_TIMED_OUT, 6),
            (HResult::ERROR_CANCELLED, 7),
            (HResult::ERROR_NO_SUCH_LOGON_SESSION, 8),
            (HResult::ERROR_ACCESS_DENIED, 9),
        ] {
            assert_eq!(exit_code(code), exit, "{code}");
        }
    }
}
