//! What can be wrong with a definition, said so that it can be mended: file, line, key, what was
//! expected and what was found.

use protocol::HResult;
use std::fmt;
use std::path::{Path, PathBuf};

/// The longest part of a value that a message shows, in characters.
const SHOWN_MAX: usize = 60;

/// A definition that cannot be used.
///
/// ```text
/// web/machine.toml:3: unknown key "kernl"; did you mean "kernel"?
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionError {
    /// The definition.
    pub file: PathBuf,
    /// The line, from 1, where the fault has one.
    pub line: Option<usize>,
    /// What is wrong.
    pub fault: Box<Fault>,
}

impl fmt::Display for DefinitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.fault)
    }
}

impl std::error::Error for DefinitionError {}

impl DefinitionError {
    pub(super) fn new(file: &Path, line: Option<usize>, fault: Fault) -> Self {
        Self { file: file.to_owned(), line, fault: Box::new(fault) }
    }

    /// The documented code of this error.
    #[must_use]
    pub fn code(&self) -> HResult {
        match &*self.fault {
            Fault::File { code, .. } => *code,
            _ => HResult::VM_E_PREF_ILLEGAL_VALUE,
        }
    }
}

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It has more bytes than [`FILE_MAX`](super::FILE_MAX).
    #[error("a definition has at most {max} bytes", max = super::FILE_MAX)]
    TooLarge,
    /// It is no TOML.
    #[error("not TOML: {0}")]
    Syntax(String),
    /// A key that means nothing.
    #[error("unknown key {key:?}; {hint}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The nearest one that means something, or all.
        hint: Hint,
    },
    /// A key that every definition has is not there.
    #[error("no {key:?}; expected {expected}")]
    Missing {
        /// The key.
        key: String,
        /// What it should be.
        expected: String,
    },
    /// A value of the wrong type, or one that is not allowed.
    #[error("{key:?}: expected {expected}, found {found}")]
    Value {
        /// The key.
        key: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A path at which there is not what should be.
    #[error("{key:?}: expected {expected} at {}, found {found}", path.display())]
    File {
        /// The key.
        key: String,
        /// What should be there.
        expected: &'static str,
        /// Where.
        path: PathBuf,
        /// What is there.
        found: String,
        /// The documented code.
        code: HResult,
    },
    /// It has something that TOML cannot say.
    #[error("cannot be written as TOML: {0}")]
    Unwritable(String),
}

/// What to write in place of an unknown key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// This, probably.
    Nearest(String),
    /// One of these.
    Known(&'static [&'static str]),
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nearest(key) => write!(f, "did you mean {key:?}?"),
            Self::Known(keys) => write!(f, "known here: {}", keys.join(", ")),
        }
    }
}

/// The start of `text`, as much of it as a message has room for.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// The one of `known` that was probably meant by `written`: fewer than half of its characters have to
/// be changed, and no other one is nearer.
pub(super) fn nearest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let written: Vec<char> = written.to_lowercase().chars().take(SHOWN_MAX * 2).collect();
    let distances = known.into_iter().map(|known| (distance(&written, known), known));
    let (distance, nearest) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance * 2 <= written.len()).then_some(nearest)
}

/// How many characters have to be put in, left out or replaced to get from `a` to `b` (Levenshtein's
/// distance).
fn distance(a: &[char], b: &str) -> usize {
    // The distances from each start of `a` to the start of `b` that has been looked at.
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (done, b) in b.chars().enumerate() {
        let mut before = std::mem::replace(&mut row[0], done + 1);
        for (index, a) in a.iter().enumerate() {
            let replaced = before + usize::from(*a != b);
            before = row[index + 1];
            row[index + 1] = replaced.min(before + 1).min(row[index] + 1);
        }
    }
    row[a.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_the_least_changes() {
        for (a, b, least) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kernl", "kernel", 1),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("é", "e", 1),
        ] {
            let a: Vec<char> = a.chars().collect();
            assert_eq!(distance(&a, b), least, "{a:?} {b}");
        }
    }

    #[test]
    fn only_what_is_near_is_suggested() {
        let known = ["name", "kernel", "cpus", "memory"];
        for (written, meant) in [
            ("kernl", Some("kernel")),
            ("KERNEL", Some("kernel")),
            ("cpu", Some("cpus")),
            ("memmory", Some("memory")),
            ("disk", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known), meant, "{written}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
    }

    #[test]
    fn messages_stay_short_whatever_they_show() {
        assert_eq!(shown("short"), "short");
        assert_eq!(shown(&"é".repeat(1000)).chars().count(), SHOWN_MAX + 1);
    }
}
