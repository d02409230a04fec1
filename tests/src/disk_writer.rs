//! A [micro](crate::micro) guest with a driver for virtio-blk: it writes sectors, flushes each, and
//! says on the serial console which ones are safe.
//!
//! Its page of memory for a request:
//!
//! ```text
//! 0x0000  header, 16 bytes     0x1000  descriptors
//! 0x0020  data, a sector       0x2000  available ring
//! 0x0300  status, a byte       0x3000  used ring
//! ```

use crate::micro::elf;

/// Where the page is.
const PAGE: u32 = 0x11_0000;
/// Places that are written, one after the other and again from the first.
const PLACES: u64 = 4096;
/// Sectors from one place to the next: in a qcow2 image nearly each is in a cluster of its own.
const STRIDE: u64 = 131;

/// Bytes of a disk that has all places.
pub const DISK_SIZE: u64 = PLACES * STRIDE * 512;

/// Where in the disk the number `number` is written, in bytes: 8 bytes there, and 8 at the end of the
/// sector.
#[must_use]
pub fn place_of(number: u64) -> u64 {
    number % PLACES * STRIDE * 512
}

/// The number that a later one overwrites `number` with.
#[must_use]
pub fn overwritten_by(number: u64) -> u64 {
    number + PLACES
}

/// The kernel. It writes `first` and the numbers after it, in 16 hexadecimal digits each on a line
/// of the serial console when they are safe.
#[must_use]
pub fn disk_writer(first: u64) -> Vec<u8> {
    let mut code = CODE.to_vec();
    code.extend(first.to_le_bytes());
    for (place, value) in set_up() {
        code.extend(place.to_le_bytes());
        code.extend(value.to_le_bytes());
    }
    code.extend([0xff; 8]);
    elf(&code)
}

/// What is written to bring the disk up: register or address, and value.
fn set_up() -> Vec<(u32, u32)> {
    let descriptor = |index: u32, offset: u32, length: u32, flags: u32, next: u32| {
        let at = PAGE + 0x1000 + index * 16;
        [(at, PAGE + offset), (at + 4, 0), (at + 8, length), (at + 12, flags | next << 16)]
    };
    let (next, write) = (1, 2);
    let mut writes = Vec::new();
    writes.extend(descriptor(0, 0, 16, next, 1));
    writes.extend(descriptor(1, 0x20, 512, next, 2));
    writes.extend(descriptor(2, 0x300, 1, write, 0));
    writes.extend(descriptor(3, 0, 16, next, 2));
    writes.extend([
        // ACKNOWLEDGE, DRIVER; VERSION_1 and FLUSH; FEATURES_OK.
        (0x70, 1),
        (0x70, 3),
        (0x24, 1),
        (0x20, 1),
        (0x24, 0),
        (0x20, 1 << 9),
        (0x70, 11),
        // The queue has 8 places.
        (0x30, 0),
        (0x38, 8),
        (0x80, PAGE + 0x1000),
        (0x90, PAGE + 0x2000),
        (0xa0, PAGE + 0x3000),
        (0x44, 1),
        // DRIVER_OK.
        (0x70, 15),
    ]);
    writes
}

/// The code; the first number and the table follow.
#[rustfmt::skip]
const CODE: &[u8] = &[
    // start:
    // A stack, and the first device; the disk is device type 2.
    0xbc, 0x00, 0x00, 0x12, 0x00, // mov esp, 0x120000
    0xbd, 0x00, 0x00, 0x00, 0xd0, // mov ebp, 0xd0000000
    // find:
    0x83, 0x7d, 0x08, 0x02, // cmp dword ptr [rbp + 8], 2
    0x74, 0x08, // je found
    0x81, 0xc5, 0x00, 0x10, 0x00, 0x00, // add ebp, 0x1000
    0xeb, 0xf2, // jmp find
    // found:
    // Writes what the table says: to the disk's registers, or to memory.
    0x48, 0x8d, 0x35, 0xe2, 0x00, 0x00, 0x00, // lea rsi, [rip + table]
    // set:
    0x8b, 0x06, // mov eax, [rsi]
    0x8b, 0x4e, 0x04, // mov ecx, [rsi + 4]
    0x48, 0x83, 0xc6, 0x08, // add rsi, 8
    0x83, 0xf8, 0xff, // cmp eax, -1
    0x74, 0x0d, // je ready
    0x3d, 0x00, 0x10, 0x00, 0x00, // cmp eax, 0x1000
    0x73, 0x02, // jae store
    0x01, 0xe8, // add eax, ebp
    // store:
    0x89, 0x08, // mov dword ptr [rax], ecx
    0xeb, 0xe5, // jmp set
    // ready:
    // The number that is written, and the page of the request.
    0x48, 0x8b, 0x1d, 0xb8, 0x00, 0x00, 0x00, // mov rbx, [rip + first]
    0xbf, 0x00, 0x00, 0x11, 0x00, // mov edi, 0x110000
    // next:
    // The sector says it at both ends, and lies at one of 4,096 places.
    0x48, 0x89, 0x5f, 0x20, // mov [rdi + 0x20], rbx
    0x48, 0x89, 0x9f, 0x18, 0x02, 0x00, 0x00, // mov [rdi + 0x218], rbx
    0x89, 0xd8, // mov eax, ebx
    0x25, 0xff, 0x0f, 0x00, 0x00, // and eax, 0xfff
    0x69, 0xc0, 0x83, 0x00, 0x00, 0x00, // imul eax, eax, 131
    0x48, 0x89, 0x47, 0x08, // mov [rdi + 8], rax
    0xc7, 0x07, 0x01, 0x00, 0x00, 0x00, // mov dword ptr [rdi], 1
    // The write is the chain that begins with descriptor 0, the flush that with 3.
    0x31, 0xc0, // xor eax, eax
    0xe8, 0x47, 0x00, 0x00, 0x00, // call submit
    0xc7, 0x07, 0x04, 0x00, 0x00, 0x00, // mov dword ptr [rdi], 4
    0x48, 0xc7, 0x47, 0x08, 0x00, 0x00, 0x00, 0x00, // mov qword ptr [rdi + 8], 0
    0xb8, 0x03, 0x00, 0x00, 0x00, // mov eax, 3
    0xe8, 0x2f, 0x00, 0x00, 0x00, // call submit
    // Now it is acknowledged: 16 digits and a line feed on the serial console.
    0xb9, 0x10, 0x00, 0x00, 0x00, // mov ecx, 16
    0x49, 0x89, 0xd8, // mov r8, rbx
    0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx, 0x3f8
    // digit:
    0x49, 0xc1, 0xc0, 0x04, // rol r8, 4
    0x44, 0x89, 0xc0, // mov eax, r8d
    0x83, 0xe0, 0x0f, // and eax, 15
    0x83, 0xf8, 0x0a, // cmp eax, 10
    0x72, 0x03, // jb say
    0x83, 0xc0, 0x27, // add eax, 39
    // say:
    0x83, 0xc0, 0x30, // add eax, 48
    0xee, // out dx, al
    0xff, 0xc9, // dec ecx
    0x75, 0xe6, // jnz digit
    0xb0, 0x0a, // mov al, 10
    0xee, // out dx, al
    0x48, 0xff, 0xc3, // inc rbx
    0xeb, 0x90, // jmp next
    // submit:
    // Makes the chain that begins with descriptor eax available, and waits for its end.
    0x0f, 0xb7, 0x8f, 0x02, 0x20, 0x00, 0x00, // movzx ecx, word ptr [rdi + 0x2002]
    0x89, 0xca, // mov edx, ecx
    0x83, 0xe2, 0x07, // and edx, 7
    0x66, 0x89, 0x84, 0x57, 0x04, 0x20, 0x00, 0x00, // mov [rdi + 0x2004 + rdx * 2], ax
    0xff, 0xc1, // inc ecx
    0x66, 0x89, 0x8f, 0x02, 0x20, 0x00, 0x00, // mov [rdi + 0x2002], cx
    0xc7, 0x45, 0x50, 0x00, 0x00, 0x00, 0x00, // mov dword ptr [rbp + 0x50], 0
    // wait:
    0xf3, 0x90, // pause
    0x66, 0x39, 0x8f, 0x02, 0x30, 0x00, 0x00, // cmp word ptr [rdi + 0x3002], cx
    0x75, 0xf5, // jne wait
    0x80, 0xbf, 0x00, 0x03, 0x00, 0x00, 0x00, // cmp byte ptr [rdi + 0x300], 0
    0x75, 0x01, // jne fail
    0xc3, // ret
    // fail:
    // A status that is none of success: says so without end.
    0xba, 0xf8, 0x03, 0x00, 0x00, // mov edx, 0x3f8
    0xb0, 0x21, // mov al, '!'
    0xee, // out dx, al
    0xeb, 0xf6, // jmp fail
];
