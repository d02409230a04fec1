//! A guest that lets a test play its agent, or its init: a kernel of some hundred bytes with a driver
//! for the vsock device and nothing else.
//!
//! When a host program connects to a port of the guest, the guest accepts, dials the service of the
//! monitor that has the same port from a privileged one, and from then on passes every packet of the
//! one connection on as one of the other. The program at the host's vsock socket is then the
//! machine's agent, over the same ring, device and multiplexer as a real one.
//!
//! ```text
//! test -- vsock.sock -- device -> relay -> device -- a service of the monitor
//! ```
//!
//! Each pair has its own port of the guest, so what is late of one that has ended is not taken for the
//! next one's: host programs have ports that follow one another, and the last six bits tell 64 pairs
//! apart.
//!
//! The driver has 16 buffers to receive into. A packet is forwarded from the buffer that it came in,
//! and the buffer is given back when it has been sent.

use std::arch::global_asm;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// A bound against hanging.
const LIMIT: Duration = Duration::from_secs(30);

global_asm!(
    r"
    .pushsection .rodata
    .globl tests_relay_begin
    .globl tests_relay_end
tests_relay_begin:
    mov esp, 0x280000
    // The vsock device is the one with number 19; its registers are at rbx.
    mov ebx, 0xcffff000
.Lfind:
    add rbx, 0x1000
    mov eax, [rbx + 0x08]
    cmp eax, 19
    jne .Lfind
    // Reset, acknowledge, driver, version 1 is the only feature.
    mov dword ptr [rbx + 0x70], 0
    mov dword ptr [rbx + 0x70], 1
    mov dword ptr [rbx + 0x70], 3
    mov dword ptr [rbx + 0x24], 1
    mov dword ptr [rbx + 0x20], 1
    mov dword ptr [rbx + 0x70], 11
    // Queues of 16: receive at 2 MiB, transmit and event behind it; each has its descriptors, its
    // ring of the driver and its ring of the device in a page of their own.
    mov r8d, 0x200000
    mov esi, 0x200000
    xor ecx, ecx
.Lqueue:
    mov [rbx + 0x30], ecx
    mov dword ptr [rbx + 0x38], 16
    mov [rbx + 0x80], esi
    mov dword ptr [rbx + 0x84], 0
    lea edx, [rsi + 0x1000]
    mov [rbx + 0x90], edx
    mov dword ptr [rbx + 0x94], 0
    lea edx, [rsi + 0x2000]
    mov [rbx + 0xa0], edx
    mov dword ptr [rbx + 0xa4], 0
    mov dword ptr [rbx + 0x44], 1
    add esi, 0x3000
    inc ecx
    cmp ecx, 3
    jb .Lqueue
    // Buffers to receive into: a page each, from 3 MiB.
    mov rdi, r8
    mov eax, 0x300000
    xor ecx, ecx
.Lbuffer:
    mov [rdi], rax
    mov dword ptr [rdi + 8], 0x1000
    mov dword ptr [rdi + 12], 2
    mov [r8 + rcx * 2 + 0x1004], cx
    add rdi, 16
    add eax, 0x1000
    inc ecx
    cmp ecx, 16
    jb .Lbuffer
    mov word ptr [r8 + 0x1002], 16
    mov dword ptr [rbx + 0x70], 15
    mov dword ptr [rbx + 0x50], 0
    // r9: packets received, r10: packets sent. From 0x209000: each pair's port of the host program.
    xor r9d, r9d
    xor r10d, r10d
.Lreceive:
    pause
    cmp r9w, [r8 + 0x2002]
    je .Lreceive
    mov eax, r9d
    and eax, 15
    mov ebp, [r8 + rax * 8 + 0x2004]
    mov edi, ebp
    shl edi, 12
    add edi, 0x300000
    inc r9d
    // The packet is at rdi, from port edx to port ecx: it becomes one from us, with credit without
    // end. What is accepted, and credit, end here; all else is passed on.
    movzx eax, word ptr [rdi + 30]
    mov edx, [rdi + 16]
    mov ecx, [rdi + 20]
    mov qword ptr [rdi], 3
    mov qword ptr [rdi + 8], 2
    mov dword ptr [rdi + 36], 0x40000000
    mov dword ptr [rdi + 40], 0
    cmp eax, 2
    je .Lback
    cmp eax, 6
    jae .Lback
    cmp edx, 0x40000000
    jae .Lhost
    // From a service: the pair is that of our port.
    sub ecx, [rip + .Lfirst]
    and ecx, [rip + .Lpairs]
    mov ecx, [r8 + rcx * 4 + 0x9000]
    mov [rdi + 20], ecx
    call .Lsend
    jmp .Lback
.Lhost:
    // A request to one of the ports of orders is one.
    cmp eax, 1
    jne .Lno_order
    cmp ecx, 6
    je .Lpower_off
    cmp ecx, 7
    je .Ltriple_fault
    cmp ecx, 8
    je .Lpanic
    cmp ecx, 9
    je .Lunknown
.Lno_order:
    mov r11d, edx
    and r11d, [rip + .Lpairs]
    mov [r8 + r11 * 4 + 0x9000], edx
    add r11d, [rip + .Lfirst]
    cmp eax, 1
    jne .Lpass
    // A request: accept it, and dial the service.
    mov [rdi + 16], ecx
    mov [rdi + 20], edx
    mov word ptr [rdi + 30], 2
    call .Lsend
    mov word ptr [rdi + 30], 1
.Lpass:
    mov [rdi + 16], r11d
    mov [rdi + 20], ecx
    call .Lsend
.Lback:
    movzx eax, word ptr [r8 + 0x1002]
    mov ecx, eax
    and ecx, 15
    mov [r8 + rcx * 2 + 0x1004], bp
    inc eax
    mov [r8 + 0x1002], ax
    mov dword ptr [rbx + 0x50], 0
    jmp .Lreceive
.Lsend:
    mov [r8 + 0x3000], rdi
    mov eax, [rdi + 24]
    add eax, 44
    mov [r8 + 0x3008], eax
    mov dword ptr [r8 + 0x300c], 0
    inc r10d
    mov [r8 + 0x4002], r10w
    mov dword ptr [rbx + 0x50], 1
.Lsent:
    pause
    cmp r10w, [r8 + 0x5002]
    jne .Lsent
    ret
.Lpower_off:
    mov edx, 0x600
    mov al, 0x34
    out dx, al
    hlt
.Ltriple_fault:
    lidt [rip + .Lnothing]
    ud2
.Lpanic:
    mov edx, 0x505
    mov al, 1
    out dx, al
    hlt
.Lunknown:
    // fld tbyte ptr [rbx]: ten bytes of a device's registers, which KVM cannot read for the guest.
    .byte 0xdb, 0x2b
.Lnothing:
    .word 0
    .quad 0
    // The first port to dial from, and the bits by which pairs are told apart.
.Lfirst:
    .long 512
.Lpairs:
    .long 63
tests_relay_end:
    .popsection
    "
);

unsafe extern "C" {
    static tests_relay_begin: u8;
    static tests_relay_end: u8;
}

/// The kernel's code, for [`micro::elf`](crate::micro::elf).
#[must_use]
pub fn code() -> &'static [u8] {
    let begin = &raw const tests_relay_begin;
    let length = (&raw const tests_relay_end).addr() - begin.addr();
    // SAFETY: between the two labels are `length` bytes of constants.
    unsafe { std::slice::from_raw_parts(begin, length) }
}

/// The kernel's code, which dials from `port` alone: there can be one pair at a time.
#[must_use]
pub fn code_dialling_from(port: u32) -> Vec<u8> {
    let code = code();
    let ports = code.len() - 2 * size_of::<u32>();
    [&code[..ports], &port.to_le_bytes(), &0_u32.to_le_bytes()].concat()
}

/// What the guest itself can be told to do, instead of being dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// Turn the machine off.
    PowerOff = 6,
    /// Run into an exception that nobody handles.
    TripleFault,
    /// Say that it has panicked.
    Panic,
    /// Run an instruction that KVM cannot do for it.
    Unknown,
}

/// Gives the guest of the machine whose vsock socket is at `vsock` an order, and waits until it has ended
/// the machine.
///
/// # Panics
/// There is no such socket.
pub fn order(vsock: &Path, order: Order) {
    let mut stream = UnixStream::connect(vsock).expect("the machine is there");
    let line = format!("CONNECT {}\n", order as u32);
    stream.write_all(line.as_bytes()).expect("the machine listens");
    // Nothing ever comes but its end.
    let _ = stream.read(&mut [0]);
}

/// Connects to the service with this port as soon as the relay accepts, in the machine whose vsock
/// socket is at `vsock`.
///
/// # Panics
/// It never accepts.
#[must_use]
pub fn dial(vsock: &Path, port: u32) -> UnixStream {
    let deadline = Instant::now() + LIMIT;
    loop {
        match try_dial(vsock, port) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "the relay never accepts: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn try_dial(vsock: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(vsock)?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut answer = [0];
    while answer != *b"\n" {
        stream.read_exact(&mut answer)?;
    }
    Ok(stream)
}
