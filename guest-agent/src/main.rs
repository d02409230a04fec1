//! `vmm-agent`: the guest's end of the integration channel.
fn main() {}
