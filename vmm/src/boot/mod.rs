//! From a kernel file to a vCPU's first instruction.

pub mod bzimage;
pub mod cache;
pub mod elf;
pub mod unpack;

/// Where the boot processor starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Address of its first instruction.
    pub rip: u64,
    /// Address of the zero page.
    pub boot_params: u64,
}
