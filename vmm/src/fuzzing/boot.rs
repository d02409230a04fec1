//! Kernels and initrds, as somebody may have made them.

use super::blank;
use super::input::Input;
use crate::boot::bzimage::BzImage;
use crate::boot::unpack::{unpack as unpack_payload, unpacked_size};
use crate::boot::{BootError, load_with};
use crate::config::{KernelEntry, MachineConfig};
use crate::memory::{self, PAGE_SIZE};
use crate::x86::layout::{BOOT_PARAMS, HIGH_RAM};
use std::error::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// What is packed may say that it unpacks to so much here: to clear more takes all the time.
const UNPACKED_MAX: u32 = 1 << 20;

/// A kernel file and an initrd, whole, into RAM. The first byte says how the kernel is entered and how
/// much RAM there is, the next two how long the initrd is, in front of the kernel.
pub fn kernel(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    let length = usize::from(input.u16());
    let (initrd, kernel) = (input.piece(length), input.rest());
    if BzImage::parse(kernel, kernel.len()).is_ok_and(|bzimage| says_much(&kernel[bzimage.payload]))
    {
        return;
    }
    let (_kernel_file, kernel_path) = blank::file(kernel);
    let (_initrd_file, initrd_path) = blank::file(initrd);
    let mut config = MachineConfig::new("fuzz", kernel_path);
    if choice & 1 != 0 {
        config.kernel_entry = KernelEntry::Bzimage;
    }
    config.initrd = (choice & 2 == 0).then_some(initrd_path);
    config.append = "x".repeat(usize::from(choice >> 4) * 200);
    let size = [16 << 20, 2 << 20, 3 << 20, 5 << 30][usize::from(choice >> 2 & 3)];
    let ram = memory::map(size).expect("only what is used takes memory");
    match load_with(&ram, &config, None) {
        Ok(entry) => {
            assert!(entry.rip >= HIGH_RAM && ram.address_in_range(GuestAddress(entry.rip)));
            assert_eq!(entry.boot_params, BOOT_PARAMS);
        }
        Err(error) => {
            tell(&error);
            let before = matches!(
                error,
                BootError::NotAKernel(_) | BootError::BzImage { .. } | BootError::Unpack { .. }
            );
            let mut first = [0xff; PAGE_SIZE as usize];
            ram.read_slice(&mut first, GuestAddress(HIGH_RAM)).expect("all sizes reach so far");
            assert!(!before || first == [0; PAGE_SIZE as usize], "a refused kernel is not there");
        }
    }
}

/// What is packed in a kernel.
pub fn unpack(data: &[u8]) {
    if says_much(data) {
        return;
    }
    match unpack_payload(data) {
        Ok(kernel) => {
            let said = unpacked_size(data).expect("it is unpacked");
            assert_eq!(kernel.len(), said as usize);
        }
        Err(error) => tell(&error),
    }
}

fn says_much(payload: &[u8]) -> bool {
    unpacked_size(payload).is_ok_and(|size| size > UNPACKED_MAX)
}

/// Says all that an error has to say.
fn tell(error: &dyn Error) {
    let mut next = Some(error);
    while let Some(error) = next {
        assert!(!error.to_string().is_empty());
        next = error.source();
    }
}
