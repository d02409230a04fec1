//! What a call of the API answers when it refuses: a documented code, and words for a person.

use protocol::HResult;

/// A refused call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct CallError {
    /// The documented code.
    pub code: HResult,
    /// What was tried, what was found, and what to do next.
    pub text: String,
}

impl CallError {
    /// A refusal with `code`, explained by `text`.
    #[must_use]
    pub fn new(code: HResult, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// An error with its sources, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
