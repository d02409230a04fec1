//! Tasks: work that a caller can watch, wait for and cancel.
