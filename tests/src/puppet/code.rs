//! The puppet's own code: it carries out calls that the host puts into its memory.
//!
//! ```text
//! 0x10_0000  code                    0x18_0000  mailbox: sequence, answered, count
//! 0x18_0000  stack, downwards        0x18_1000  calls, 64 bytes each
//! 0x1f_8000  interrupt descriptors   0x20_0000  free for tests
//! ```
//!
//! A call is an address and the registers rax, rbx, rcx, rdx, rsi, rdi; they are loaded, the code there
//! is called, and they are stored again. What comes eighth is 0, or the exception that the code ran
//! into, plus 1. When all calls are done, the sequence number is written behind itself as the answer.
//!
//! Called code must leave r13, r14, r15 and the stack as they were. Interrupts are off.

use crate::micro::{BASE, elf};
use std::arch::global_asm;

/// The mailbox: the sequence number, and behind it the one that was answered last, and a count.
pub(super) const MAILBOX: u64 = 0x18_0000;
/// The calls.
pub(super) const CALLS: u64 = 0x18_1000;
/// Most calls in one go.
pub(super) const CALLS_MAX: usize = ((IDT - CALLS) / 64) as usize;
const IDT: u64 = 0x1f_8000;
/// Exceptions of the processor.
const VECTORS: u64 = 32;
/// Bytes of code for each.
const STUB: u64 = 8;
/// Selector of the code segment at the entry.
const CODE_SEGMENT: u64 = 0x10;

global_asm!(
    r"
    .pushsection .rodata
    .globl tests_puppet_begin
    .globl tests_puppet_end
tests_puppet_begin:
    jmp .Lstart
    .balign 8
    // Where the code for each kind of call is, in the order of `Op`, and that of the exceptions.
    .irp name, .Lread8, .Lread16, .Lread32, .Lread64, .Lwrite8, .Lwrite16, .Lwrite32, .Lwrite64, .Lin8, .Lin16, .Lin32, .Lout8, .Lout16, .Lout32, .Lins8, .Lins16, .Lins32, .Louts8, .Louts16, .Louts32, .Lstorm, .Lout_storm, .Lrdmsr, .Lwrmsr, .Lcpuid, .Lvmcall, .Lvmmcall, .Lhlt, .Ltriple, .Lexceptions
    .long \name - tests_puppet_begin
    .endr
.Ltable:
    .word 511
    .quad 0x1f8000
.Lno_table:
    .word 0
    .quad 0

.Lstart:
    mov r15d, 0x180000
    mov esp, r15d
    lidt [rip + .Ltable]
.Lwait:
    pause
    mov eax, [r15]
    cmp eax, [r15 + 4]
    je .Lwait
    mov r14d, [r15 + 8]
    lea r13, [r15 + 0x1000]
.Lcall:
    mov rax, [r13 + 8]
    mov rbx, [r13 + 16]
    mov rcx, [r13 + 24]
    mov rdx, [r13 + 32]
    mov rsi, [r13 + 40]
    mov rdi, [r13 + 48]
    call [r13]
    mov [r13 + 8], rax
    mov [r13 + 16], rbx
    mov [r13 + 24], rcx
    mov [r13 + 32], rdx
    mov [r13 + 40], rsi
    mov [r13 + 48], rdi
.Lnext:
    add r13, 64
    dec r14d
    jnz .Lcall
    mov eax, [r15]
    mov [r15 + 4], eax
    jmp .Lwait

    // An exception, with its number on the stack, ends the call.
.Lfault:
    pop rax
    inc eax
    mov [r13 + 56], rax
    mov esp, r15d
    jmp .Lnext
    .balign 8
.Lexceptions:
    .irp vector, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    .byte 0x6a, \vector // push
    jmp .Lfault
    .balign 8
    .endr

    // Memory and registers of devices.
.Lread8:
    mov al, [rdi]
    ret
.Lread16:
    mov ax, [rdi]
    ret
.Lread32:
    mov eax, [rdi]
    ret
.Lread64:
    mov rax, [rdi]
    ret
.Lwrite8:
    mov [rdi], al
    ret
.Lwrite16:
    mov [rdi], ax
    ret
.Lwrite32:
    mov [rdi], eax
    ret
.Lwrite64:
    mov [rdi], rax
    ret
    // Ports.
.Lin8:
    in al, dx
    ret
.Lin16:
    in ax, dx
    ret
.Lin32:
    in eax, dx
    ret
.Lout8:
    out dx, al
    ret
.Lout16:
    out dx, ax
    ret
.Lout32:
    out dx, eax
    ret
.Lins8:
    rep insb
    ret
.Lins16:
    rep insw
    ret
.Lins32:
    rep insd
    ret
.Louts8:
    rep outsb
    ret
.Louts16:
    rep outsw
    ret
.Louts32:
    rep outsd
    ret
    // Writes a list of rdx pairs at rsi, of an address and 32 bits, and all of it rcx times.
.Lstorm:
    mov r8, rsi
    mov r9, rdx
.Lpair:
    mov rdi, [r8]
    mov eax, [r8 + 8]
    mov [rdi], eax
    add r8, 16
    dec r9
    jnz .Lpair
    dec rcx
    jnz .Lstorm
    ret
    // Writes al to a port rcx times.
.Lout_storm:
    out dx, al
    dec rcx
    jnz .Lout_storm
    ret
    // The processor itself.
.Lrdmsr:
    rdmsr
    ret
.Lwrmsr:
    wrmsr
    ret
.Lcpuid:
    cpuid
    ret
.Lvmcall:
    vmcall
    ret
.Lvmmcall:
    vmmcall
    ret
.Lhlt:
    hlt
    ret
.Ltriple:
    lidt [rip + .Lno_table]
    ud2
tests_puppet_end:
    .popsection
    "
);

unsafe extern "C" {
    static tests_puppet_begin: u8;
    static tests_puppet_end: u8;
}

/// What a call does. Memory and registers of devices are at `rdi`, ports at `rdx`; what is read comes
/// to `rax`, what is written is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the instructions")]
pub enum Op {
    Read8,
    Read16,
    Read32,
    Read64,
    Write8,
    Write16,
    Write32,
    Write64,
    In8,
    In16,
    In32,
    Out8,
    Out16,
    Out32,
    /// `rcx` items from the port to `rdi`.
    Ins8,
    Ins16,
    Ins32,
    /// `rcx` items from `rsi` to the port.
    Outs8,
    Outs16,
    Outs32,
    /// Writes the list of `rdx` pairs at `rsi`, of an address and 32 bits, and all of it `rcx` times.
    Storm,
    /// Writes `al` to a port `rcx` times.
    OutStorm,
    Rdmsr,
    Wrmsr,
    Cpuid,
    /// A hypercall of Intel's processors.
    Vmcall,
    /// A hypercall of AMD's.
    Vmmcall,
    Hlt,
    /// An exception without a handler.
    TripleFault,
}

fn code() -> &'static [u8] {
    let begin = &raw const tests_puppet_begin;
    let length = (&raw const tests_puppet_end).addr() - begin.addr();
    // SAFETY: between the two labels are `length` bytes of constants.
    unsafe { std::slice::from_raw_parts(begin, length) }
}

/// The kernel.
pub(super) fn kernel() -> Vec<u8> {
    elf(code())
}

/// What the kernel begins with.
pub(super) fn beginning() -> &'static [u8] {
    &code()[..64]
}

/// The entry `index` of the table that the code begins with, as an address.
fn entry(index: usize) -> u64 {
    let at = 8 + index * 4;
    let offset = std::array::from_fn(|byte| code()[at + byte]);
    BASE + u64::from(u32::from_le_bytes(offset))
}

impl Op {
    /// Where its code is.
    pub(super) fn address(self) -> u64 {
        entry(self as usize)
    }
}

/// The interrupt descriptors, and where they are to be.
pub(super) fn interrupts() -> (u64, Vec<u8>) {
    let stubs = entry(Op::TripleFault as usize + 1);
    let gates = (0..VECTORS).flat_map(|vector| {
        let at = stubs + vector * STUB;
        // A gate, present, that keeps interrupts off (volume 3 of Intel's manual, section 6.14.1).
        let low = at & 0xffff | CODE_SEGMENT << 16 | 0x8e00 << 32 | (at >> 16 & 0xffff) << 48;
        [low, at >> 32].into_iter().flat_map(u64::to_le_bytes)
    });
    (IDT, gates.collect())
}
