//! The floor of a start: what KVM itself takes until a guest writes its first byte. It makes the
//! objects that a machine with one processor needs, puts the guest into 64-bit mode by hand, and copies
//! what it writes on the serial port to standard output, until it is killed. With `once` after the MiB of
//! its memory the guest writes one byte, and stands still.

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use std::env;
use std::error::Error;
use std::io::Write;
use tests::micro::{BASE, DOT, DOTS};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// The page tables: they map the first 2 MiB, each address to itself.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
/// Present, writable; and for an entry of the third level, a page of 2 MiB.
const TABLE: u64 = 0b11;
const LARGE: u64 = TABLE | 1 << 7;
/// CR0.PE and PG, CR4.PAE, EFER.LME and LMA.
const PROTECTED_PAGED: u64 = 1 | 1 << 31;
const PAE: u64 = 1 << 5;
const LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// The TSS for VT-x, and the pins of an I/O APIC.
const TSS: usize = 0xfffb_d000;
const PINS: u64 = 24;
const SERIAL: u16 = 0x3f8;

fn main() -> Result<(), Box<dyn Error>> {
    let size: usize = env::args().nth(1).ok_or("the guest's MiB are missing")?.parse()?;
    let code = if env::args().nth(2).is_some() { DOT } else { DOTS };
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let ram = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), size << 20)])?;
    let memory = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: (size << 20) as u64,
        userspace_addr: ram.get_host_address(GuestAddress(0))? as u64,
    };
    // SAFETY: `ram` is a mapping of this length and lives longer than the VM is used.
    unsafe { vm.set_user_memory_region(memory) }?;
    vm.set_tss_address(TSS)?;
    let split = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [PINS, 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    vm.enable_cap(&split)?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    ram.write_slice(code, GuestAddress(BASE))?;
    ram.write_obj(PDPT | TABLE, GuestAddress(PML4))?;
    ram.write_obj(PD | TABLE, GuestAddress(PDPT))?;
    ram.write_obj(LARGE, GuestAddress(PD))?;
    enter_64_bit_mode(&vcpu)?;
    let mut stdout = std::io::stdout();
    loop {
        match vcpu.run()? {
            VcpuExit::IoOut(SERIAL, bytes) => {
                stdout.write_all(bytes)?;
                stdout.flush()?;
            }
            exit => return Err(format!("the guest did something else: {exit:?}").into()),
        }
    }
}

fn enter_64_bit_mode(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    // Execute and read, or read and write; 64-bit, or 32-bit as to its size.
    let segment = |selector, type_, long: bool| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        l: long.into(),
        db: (!long).into(),
        g: 1,
        ..kvm_segment::default()
    };
    sregs.cs = segment(0x8, 0xb, true);
    for data in [&mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
        *data = segment(0x10, 0x3, false);
    }
    sregs.cr3 = PML4;
    sregs.cr4 |= PAE;
    sregs.cr0 |= PROTECTED_PAGED;
    sregs.efer |= LONG_MODE;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    (regs.rip, regs.rflags) = (BASE, 0b10);
    vcpu.set_regs(&regs)
}
