//! What the tests share: a machine under the `vmm` command, its serial console, and the guests;
//! the kernels of [`micro`] guests; and an [`agent`] of a test's own in one of those.
//!
//! The tests that boot stock kernels (`tests/lab_*.rs`) run wherever KVM can do that: on the host
//! itself or in the lab, as `cargo xtask test` decides. It tells them through the environment where
//! the command ([`VMM_BIN`](vmm_bin)) and the guests ([`VMM_GUESTS`](Flavour::kernel)) are.
//!
//! The judge of every scene is the guest itself, asked over its serial console: a maintenance shell
//! without a controlling terminal, which is no session and survives every logoff.

pub mod agent;
pub mod cases;
mod console;
pub mod disk_load;
pub mod disk_writer;
mod guest;
pub mod init;
pub mod level;
pub mod load;
mod machine;
pub mod memory;
pub mod meter;
pub mod micro;
pub mod monitor;
pub mod net;
pub mod puppet;
pub mod relay;
pub mod scenes;
pub mod stage;
pub mod tracepoints;
pub mod untested;

pub use console::Console;
pub use guest::{Debian, Flavour};
pub use machine::{Answer, Machine, Recipe, runtime_dir, vmm, vmm_bin};
pub use untested::not_tested;
