//! Kernels without a Linux: a few instructions of 64-bit code in an ELF file, which run on any KVM.

/// Where the code is, and begins: 1 MiB.
pub const BASE: u64 = 0x10_0000;
/// jmp to itself
pub const SPIN: &[u8] = &[0xeb, 0xfe];
/// ud2: there is no handler, so this is a triple fault
pub const FAULT: &[u8] = &[0x0f, 0x0b];
/// mov dx, 0x600; mov al, 0x34; out dx, al; jmp to itself: soft-off through the sleep register
pub const POWER_OFF: &[u8] = &[0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe];
/// mov dx, 0x3f8; mov al, '.'; out dx, al; jmp to the out: prints dots on the serial console
pub const DOTS: &[u8] = &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xee, 0xeb, 0xfd];

/// The same once, then cli; hlt: it does nothing any more
pub const DOT: &[u8] = &[0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xee, 0xfa, 0xf4, 0xeb, 0xfd];

/// again: mov dx, 0x3fd; in al, dx; test al, 1; jz to the in; mov dx, 0x3f8; in al, dx; out dx, al;
/// jmp again: prints on the serial console what is typed there
pub const ECHO: &[u8] = &[
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb,
    0xef,
];

/// The type of the ELF note with the 32-bit entry of a Xen PVH guest: XEN_ELFNOTE_PHYS32_ENTRY of
/// xen/include/public/elfnote.h.
const PHYS32_ENTRY: u32 = 18;

/// The kernel that [`elf`] makes, which QEMU starts, too: it enters an ELF file in 32-bit mode, where a
/// note says. `code` must be the same instructions there.
#[must_use]
pub fn elf_with_pvh(code: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"Xen\0";
    // Behind the ELF header and two program headers.
    const NOTE: u64 = 64 + 2 * 56;
    let mut note = Vec::new();
    for word in [NAME.len() as u32, 4, PHYS32_ENTRY] {
        note.extend(word.to_le_bytes());
    }
    note.extend(NAME);
    note.extend((BASE as u32).to_le_bytes());
    let size = note.len() as u64;
    let mut file = elf(code);
    // Two program headers; the segment's bytes come later in the file.
    file[56] = 2;
    file[72..80].copy_from_slice(&(NOTE + size).to_le_bytes());
    let code = file.split_off(120);
    for word in [4_u32, 4] {
        file.extend(word.to_le_bytes());
    }
    for long in [NOTE, 0, 0, size, size, 4] {
        file.extend(long.to_le_bytes());
    }
    file.extend(note);
    file.extend(code);
    file
}

/// A kernel of one segment at [`BASE`].
#[must_use]
pub fn elf(code: &[u8]) -> Vec<u8> {
    let size = code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for long in [BASE, 64, 0] {
        file.extend(long.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [1_u32, 5] {
        file.extend(word.to_le_bytes());
    }
    for long in [120, BASE, BASE, size, size, 0x1000] {
        file.extend(long.to_le_bytes());
    }
    file.extend(code);
    file
}
