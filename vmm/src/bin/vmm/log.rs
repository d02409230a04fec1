//! The log of a machine in the background: what its process said last.

use std::fs::File;
use std::os::unix::fs::FileExt;
use vmm::runtime::Runtime;

/// Lines of it that are shown.
const LINES: usize = 3;
/// Bytes of it that are looked at.
const TAIL: u64 = 4096;

/// The last lines of the log of the machine `name`, if it has one.
pub(crate) fn last_words(runtime: &Runtime, name: &str) -> Vec<String> {
    words_since(runtime, name, 0)
}

/// The same, of what was written when the log had `before` bytes, unless it was begun anew since.
fn words_since(runtime: &Runtime, name: &str, before: u64) -> Vec<String> {
    let tail = || {
        let log = File::open(runtime.log(name)).ok()?;
        let mut bytes = vec![0; TAIL as usize];
        let length = log.metadata().ok()?.len();
        let before = if length < before { 0 } else { before };
        let start = length.saturating_sub(TAIL).max(before);
        let count = log.read_at(&mut bytes, start).ok()?;
        bytes.truncate(count);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let tail = tail().unwrap_or_default();
    let lines: Vec<&str> = tail.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let shown = lines.len().saturating_sub(LINES);
    lines[shown..].iter().map(|line| (*line).to_owned()).collect()
}

/// The same as the end of a sentence.
pub(crate) fn said(name: &str, before: u64) -> String {
    let words = words_since(&Runtime::of_user(), name, before);
    if words.is_empty() { String::new() } else { format!("; it said: {}", words.join(" / ")) }
}
