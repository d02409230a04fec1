//! Can this host run machines, and stock kernels in them? And if not, why not?
//!
//! A `/dev/kvm` may be there and still not be enough: a KVM without VT-x or AMD-V interprets the
//! guest's kernel, and its interpreter does not know every instruction. So the probe runs a tiny
//! guest that executes, one after the other, instructions that every stock kernel uses early and
//! that such interpreters stop at.

use crate::boot::Entry;
use crate::bus::BusDevice;
use crate::error::chain;
use crate::kvm::{Hypervisor, KvmError};
use crate::memory::{self, MemoryError};
use crate::outcome::{Outcome, OutcomeSlot};
use crate::usage::Usage;
use crate::vcpu::{Buses, Processors};
use crate::x86::layout::HIGH_RAM;
use crate::x86::regs::{self, RegsError};
use serde::Serialize;
use std::io;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Each thing that was looked at, in order; after a failure come no more.
    pub checks: Vec<Check>,
    /// Whether machines can be made at all: tiny hand-made guests run.
    pub machines: bool,
    /// Whether stock kernels run.
    pub stock_kernels: bool,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What must hold.
    pub what: &'static str,
    /// Whether it does.
    pub holds: bool,
    /// What was found, and where it does not hold, what to do.
    pub found: String,
}

/// RAM of the tiny guest.
const RAM: u64 = 2 << 20;
/// The port to which it says how far it has come.
const PORT: u64 = 0xf4;
/// How long it may take: it needs microseconds.
const LIMIT: Duration = Duration::from_secs(2);
/// The instructions that it tries, in order.
const TRIES: [&str; 3] = ["cmpxchg16b", "int3", "xrstor"];

// The tiny guest. It is entered in 64-bit mode with the first 4 GiB mapped one to one, runs at any
// address, and uses RAM at 0x80000 and above: a stack below it, then a 16-byte operand, an
// interrupt descriptor table, its pointer, and an empty XSAVE area.
std::arch::global_asm!(
    ".pushsection .rodata.vmm_probe_guest, \"a\"",
    ".global vmm_probe_guest",
    "vmm_probe_guest:",
    "mov esp, 0x80000",
    // 16 bytes at once.
    "mov edi, 0x80000",
    "xor eax, eax",
    "xor edx, edx",
    "mov ebx, 1",
    "mov ecx, 2",
    "lock cmpxchg16b [rdi]",
    "mov al, 1",
    "out 0xf4, al",
    // An exception through a gate of our own: 3, in the segment that the guest was entered with.
    "lea rax, [rip + 3f]",
    "mov edi, 0x81030",
    "mov [rdi], ax",
    "mov word ptr [rdi + 2], cs",
    "mov word ptr [rdi + 4], 0x8e00",
    "shr rax, 16",
    "mov [rdi + 6], ax",
    "shr rax, 16",
    "mov [rdi + 8], eax",
    "mov edi, 0x82000",
    "mov word ptr [rdi], 0xfff",
    "mov qword ptr [rdi + 2], 0x81000",
    "lidt [rdi]",
    "int3",
    "mov al, 2",
    "out 0xf4, al",
    // The state of x87 and SSE, from an area that says that both are in their initial state.
    "mov rax, cr4",
    "or eax, 0x40600",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 3",
    "xsetbv",
    "mov edi, 0x83000",
    "xrstor [rdi]",
    "mov al, 3",
    "out 0xf4, al",
    "2: hlt",
    "jmp 2b",
    "3: iretq",
    ".global vmm_probe_guest_end",
    "vmm_probe_guest_end:",
    ".popsection",
);

unsafe extern "C" {
    safe static vmm_probe_guest: u8;
    safe static vmm_probe_guest_end: u8;
}

/// The tiny guest's program.
fn guest() -> &'static [u8] {
    let start = ptr::from_ref(&vmm_probe_guest);
    let end = ptr::from_ref(&vmm_probe_guest_end);
    // SAFETY: both are labels of the same section, the second after the first, and what lies
    // between them is read-only data of this program.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Looks at this host.
#[must_use]
pub fn probe() -> Report {
    let mut report = Report { checks: Vec::new(), machines: false, stock_kernels: false };
    let mut check = |what, outcome: Result<String, String>| {
        let holds = outcome.is_ok();
        let found = outcome.unwrap_or_else(|found| found);
        report.checks.push(Check { what, holds, found });
        holds
    };
    let hypervisor = match Hypervisor::open() {
        Ok(hypervisor) => hypervisor,
        Err(error) => {
            check("KVM can be used", Err(chain(&error)));
            return report;
        }
    };
    let most = hypervisor.max_vcpus();
    check("KVM can be used", Ok(format!("up to {most} processors a machine")));
    let ran = run(&hypervisor);
    let machines = check(
        "a machine can be made",
        ran.as_ref().map(|_| "a tiny guest ran".to_owned()).map_err(|error| chain(error)),
    );
    let Ok((steps, outcome)) = ran else { return report };
    let stock = check(
        "stock kernels run",
        match TRIES.get(usize::from(steps)) {
            None => Ok(format!("{} work", TRIES.join(", "))),
            Some(instruction) => Err(format!(
                "the guest stopped at {instruction} ({outcome:?}): this KVM interprets guest \
                 kernels, as one without VT-x or AMD-V does; run machines on a host, or in a \
                 virtual machine, that has hardware virtualization"
            )),
        },
    );
    report.machines = machines;
    report.stock_kernels = stock;
    report
}

/// Why the tiny guest did not run.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("cannot write the guest")]
    Write(#[source] vm_memory::GuestMemoryError),
    #[error(transparent)]
    Regs(#[from] RegsError),
    #[error("cannot put a device on the bus")]
    Bus(#[from] crate::bus::BusError),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Runs the tiny guest, and says how many of the instructions it executed, and how it ended.
fn run(hypervisor: &Hypervisor) -> Result<(u8, Outcome), ProbeError> {
    let ram = memory::map(RAM)?;
    let vm = hypervisor.create_vm(&ram, &[])?;
    let vcpus = hypervisor.create_vcpus(&vm, 1)?;
    let cpuid = hypervisor.supported_cpuid()?;
    ram.write_slice(guest(), GuestAddress(HIGH_RAM)).map_err(ProbeError::Write)?;
    for vcpu in &vcpus {
        hypervisor.set_up_vcpu(vcpu, &cpuid, 0, 1)?;
        regs::set_up(vcpu, &ram, &Entry { rip: HIGH_RAM, boot_params: 0 })?;
    }
    let (slot, outcome) = OutcomeSlot::new();
    let steps = Arc::new(AtomicU8::new(0));
    let mut buses = Buses::default();
    let port = Progress { steps: steps.clone(), outcome: slot.clone() };
    buses.pio.insert(PORT, 1, Arc::new(Mutex::new(port)))?;
    let mut processors =
        Processors::spawn(1, &slot, &Usage::default()).map_err(ProbeError::Thread)?;
    processors.start(vcpus, &Arc::new(buses), false);
    // The slot is ours, so the only error is that the time is over.
    let outcome = outcome.recv_timeout(LIMIT).unwrap_or(Outcome::Stopped);
    drop(processors);
    Ok((steps.load(Ordering::Acquire), outcome))
}

/// The port to which the tiny guest says how far it has come.
struct Progress {
    steps: Arc<AtomicU8>,
    outcome: OutcomeSlot,
}

impl BusDevice for Progress {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let &[step] = data else { return };
        self.steps.store(step, Ordering::Release);
        if usize::from(step) == TRIES.len() {
            self.outcome.put(Outcome::PowerOff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_agrees_with_its_checks() {
        let report = probe();
        println!("{report:#?}");
        let holds = |at: usize| report.checks.get(at).is_some_and(|check| check.holds);
        assert_eq!(report.machines, holds(1));
        assert_eq!(report.stock_kernels, holds(2));
        let last = report.checks.len() - 1;
        assert!(report.checks[..last].iter().all(|check| check.holds), "nothing after a failure");
    }
}
