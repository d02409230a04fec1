//! A virtual machine monitor on KVM that works with its guests.

pub mod boot;
pub mod bus;
pub mod config;
pub mod console;
pub mod control;
pub mod devices;
pub mod error;
pub mod integration;
pub mod io;
pub mod irq;
mod kick;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod outcome;
pub mod probe;
pub mod runtime;
pub mod state;
pub mod task;
pub mod vcpu;
pub mod virtio;
pub mod vm;
pub mod vsock;
pub mod x86;
