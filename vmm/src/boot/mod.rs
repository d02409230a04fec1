//! From a kernel file to a vCPU's first instruction.

pub mod bzimage;
pub mod cache;
pub mod elf;
pub mod unpack;
