//! `vmm`: the command that launches guests and works with them.
fn main() {}
