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
