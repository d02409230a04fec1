//! A virtual machine monitor on KVM that works with its guests.
//!
//! # Quick start
//!
//! A machine runs in the process that starts it. The guest's agent connects when it is up, and
//! then the guest can be asked to do things, as tasks:
//!
//! ```no_run
//! use std::time::Duration;
//! use vmm::{LogoffOptions, MachineConfig, Vm};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut config = MachineConfig::new("web", "/boot/vmlinuz");
//!     config.initrd = Some("initrd.img".into());
//!     let vm = Vm::start(config, None)?;
//!     if !vm.guest_os().wait_for_agent(Duration::from_secs(60)) {
//!         return Err("no agent".into());
//!     }
//!     let task = vm.guest_os().logoff(LogoffOptions::default())?;
//!     let info = task.wait(None);
//!     println!("{}%: {:?} {}", info.percent_completed, info.result, info.error);
//!     Ok(())
//! }
//! ```
//!
//! Dropping the [`Vm`] turns the machine off. The library never prints, exits the process or
//! installs signal handlers; it tells what it does through `tracing`. It confines the process that it
//! runs in only when told to: see [`confine`].
//!
//! A [`Vm`] is known to the process that made it. Machines that have a definition, and can be found
//! and controlled by other processes and users, are those of a [`VirtualPc`]:
//!
//! ```no_run
//! use vmm::{LogoffOptions, VirtualPc};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let web = VirtualPc::of_user().find_virtual_machine("web")?.ok_or("no such machine")?;
//! let task = web.guest_os().logoff(LogoffOptions::default())?;
//! println!("{:?}", task.wait_for_completion(60_000)?.result);
//! # Ok(())
//! # }
//! ```

pub mod boot;
pub mod bus;
pub mod catalog;
pub mod config;
pub mod confine;
pub mod console;
pub mod control;
pub mod devices;
pub mod disk;
pub mod error;
pub mod events;
pub mod ffi;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod host_info;
pub mod integration;
pub mod io;
pub mod irq;
mod kick;
pub mod kit;
pub mod kvm;
mod lock;
pub mod machine;
pub mod memory;
pub mod notify;
pub mod outcome;
pub mod pc_events;
pub mod probe;
pub mod runtime;
mod sockets;
pub mod state;
pub mod tap;
pub mod task;
pub mod usage;
pub mod vcpu;
pub mod virtio;
pub mod virtual_pc;
pub mod vm;
pub mod vsock;
pub mod x86;

pub use config::MachineConfig;
pub use integration::guest::GuestOs;
pub use protocol::HResult;
pub use protocol::task::{LogoffOptions, LogoffReport, TaskInfo, TaskResult};
pub use task::Task;
pub use virtual_pc::{VirtualMachine, VirtualPc};
pub use vm::Vm;

/// The examples of the README, which are to compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
