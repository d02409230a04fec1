//! One vsock connection: its state and its credit.
