//! Text that somebody else wrote, and what it must not do to a reader's terminal.

/// Whether a terminal would obey `c` rather than show it: control characters, and those that turn
/// the direction of what follows.
#[must_use]
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
