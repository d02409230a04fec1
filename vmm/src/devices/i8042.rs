//! The keyboard controller, of which only the reset line is left.
