//! System calls and their arguments: numbers, and what they are called.
#![allow(
    clippy::unnecessary_cast,
    clippy::cast_lossless,
    reason = "constants of the C library have different types in each, and in a const there is no from"
)]

/// A number and what it is called.
pub(super) type Value = (&'static str, u64);

/// Calls, by the names of their numbers.
macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}
pub(super) use calls;

/// Constants of the C library, by their names.
macro_rules! values {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name as u64)),*] };
}
pub(super) use values;

/// A constant by its name.
macro_rules! value {
    ($name:ident) => {
        (stringify!($name), libc::$name as u64)
    };
}
pub(super) use value;

/// A request of an ioctl: direction, type, number and size, as `_IOC` of the kernel puts them
/// together.
const fn request(direction: u64, kind: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | kind << 8 | number
}

const NONE: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;

const fn kvm(direction: u64, number: u64, size: usize) -> u64 {
    request(direction, kvm_bindings::KVMIO as u64, number, size)
}

const fn tun(number: u64) -> u64 {
    request(WRITE, b'T' as u64, number, size_of::<libc::c_int>())
}

/// What a processor asks for, the one that it asks for all the time first: a filter is read from its
/// beginning.
pub(super) const PROCESSOR: &[Value] = &[
    ("KVM_RUN", kvm(NONE, 0x80, 0)),
    ("KVM_SET_SIGNAL_MASK", kvm(WRITE, 0x8b, size_of::<u32>())),
    ("KVM_SET_GSI_ROUTING", kvm(WRITE, 0x6a, size_of::<kvm_bindings::kvm_irq_routing>())),
    ("KVM_KVMCLOCK_CTRL", kvm(NONE, 0xad, 0)),
    ("KVM_GET_REGS", kvm(READ, 0x81, size_of::<kvm_bindings::kvm_regs>())),
];

/// What makes a machine.
pub(super) const MACHINE: &[Value] = &[
    ("KVM_GET_API_VERSION", kvm(NONE, 0x00, 0)),
    ("KVM_CREATE_VM", kvm(NONE, 0x01, 0)),
    ("KVM_CHECK_EXTENSION", kvm(NONE, 0x03, 0)),
    ("KVM_GET_VCPU_MMAP_SIZE", kvm(NONE, 0x04, 0)),
    ("KVM_GET_SUPPORTED_CPUID", kvm(READ | WRITE, 0x05, size_of::<kvm_bindings::kvm_cpuid2>())),
    (
        "KVM_SET_USER_MEMORY_REGION",
        kvm(WRITE, 0x46, size_of::<kvm_bindings::kvm_userspace_memory_region>()),
    ),
    ("KVM_SET_TSS_ADDR", kvm(NONE, 0x47, 0)),
    ("KVM_ENABLE_CAP", kvm(WRITE, 0xa3, size_of::<kvm_bindings::kvm_enable_cap>())),
    ("KVM_CREATE_VCPU", kvm(NONE, 0x41, 0)),
    ("KVM_SET_CPUID2", kvm(WRITE, 0x90, size_of::<kvm_bindings::kvm_cpuid2>())),
    ("KVM_SET_XCRS", kvm(WRITE, 0xa7, size_of::<kvm_bindings::kvm_xcrs>())),
    ("KVM_SET_MSRS", kvm(WRITE, 0x89, size_of::<kvm_bindings::kvm_msrs>())),
    ("KVM_GET_SREGS", kvm(READ, 0x83, size_of::<kvm_bindings::kvm_sregs>())),
    ("KVM_SET_SREGS", kvm(WRITE, 0x84, size_of::<kvm_bindings::kvm_sregs>())),
    ("KVM_SET_REGS", kvm(WRITE, 0x82, size_of::<kvm_bindings::kvm_regs>())),
    ("KVM_IRQFD", kvm(WRITE, 0x76, size_of::<kvm_bindings::kvm_irqfd>())),
    ("KVM_IOEVENTFD", kvm(WRITE, 0x79, size_of::<kvm_bindings::kvm_ioeventfd>())),
];

/// What a guest does itself with packets.
pub(super) const OFFLOADS: Value = ("TUNSETOFFLOAD", tun(208));
/// What takes a tap.
pub(super) const TAP: &[Value] =
    &[("TUNSETIFF", tun(202)), ("TUNSETVNETHDRSZ", tun(216)), OFFLOADS];
/// What a disk is asked that is a device.
pub(super) const BLOCK_DEVICE: &[Value] =
    &[("BLKGETSIZE64", request(READ, 0x12, 114, 8)), ("BLKSSZGET", request(NONE, 0x12, 104, 0))];
/// What a terminal is asked; both forms, since newer libraries use the second.
pub(super) const TERMINAL: &[Value] = &[
    ("TCGETS", libc::TCGETS as u64),
    ("TCSETS", libc::TCSETS as u64),
    ("TCGETS2", request(READ, b'T' as u64, 0x2a, size_of::<libc::termios2>())),
    ("TCSETS2", request(WRITE, b'T' as u64, 0x2b, size_of::<libc::termios2>())),
];
/// What tells of a terminal.
pub(super) const WINDOW: &[Value] =
    &[("TCGETS", libc::TCGETS as u64), TERMINAL[2], ("TIOCGWINSZ", libc::TIOCGWINSZ as u64)];
