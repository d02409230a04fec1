//! KVM as this monitor uses it: what it must be able to do, and how a machine's VM is made.
//!
//! Order matters: memory is given to the VM before the irqchip is created. The other way round,
//! each region waits for a grace period of the interrupt routing, several milliseconds.

use crate::memory::{GuestRam, PAGE_SIZE};
use crate::virtio::registers::RegisterPage;
use crate::x86::cpuid;
use crate::x86::layout::{IOAPIC_PINS, VIRTIO_MMIO, VIRTIO_MMIO_SIZE};
use crate::x86::msr::{self, MsrError};
use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, KVM_MEM_READONLY,
    kvm_enable_cap, kvm_userspace_memory_region, kvm_xcrs,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use std::sync::Arc;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

/// CPUID leaf 1, ECX: XSAVE and XCR0.
const XSAVE: u32 = 1 << 26;

/// Where KVM is.
pub const DEVICE: &str = "/dev/kvm";

/// Three pages in the gap below 4 GiB that VT-x uses for itself.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// What KVM must be able to do, and what it is called.
const NEEDED: [(Cap, &str); 7] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
];

/// Why KVM cannot be used, or not for this.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is none.
    #[error(
        "there is no {DEVICE}: either this processor has no hardware virtualization, it is switched \
         off in the firmware, or the kernel module (kvm-intel, kvm-amd) is not loaded"
    )]
    Missing,
    /// It may not be opened.
    #[error(
        "no permission to open {DEVICE}: it needs read and write access, which on most systems the \
         members of the group `kvm` have"
    )]
    Permission,
    /// It cannot be opened.
    #[error("cannot open {DEVICE}")]
    Open(#[source] kvm_ioctls::Error),
    /// It is another interface.
    #[error("{DEVICE} speaks version {0} of the interface, {KVM_API_VERSION} is needed")]
    Version(i32),
    /// It cannot do what is needed.
    #[error("{DEVICE} lacks {0}: the host's kernel is too old or was built without it")]
    Capability(&'static str),
    /// It refused a call.
    #[error("KVM refused {what}")]
    Refused {
        /// Which call, or what it was for.
        what: &'static str,
        /// What it said.
        source: kvm_ioctls::Error,
    },
    /// A processor's registers could not be set.
    #[error(transparent)]
    Msr(#[from] MsrError),
}

fn refused(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::Refused { what, source }
}

/// An open KVM that can do what is needed.
pub struct Hypervisor {
    kvm: Kvm,
    tsc_deadline: bool,
}

impl Hypervisor {
    /// Opens [`DEVICE`].
    ///
    /// # Errors
    /// It is missing, may not be opened, or lacks something.
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
            libc::EACCES | libc::EPERM => KvmError::Permission,
            _ => KvmError::Open(error),
        })?;
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION as i32 {
            return Err(KvmError::Version(version));
        }
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(KvmError::Capability(name));
        }
        let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        Ok(Self { kvm, tsc_deadline })
    }

    /// What KVM can show guests of this host's processors.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(refused("KVM_GET_SUPPORTED_CPUID"))
    }

    /// The most processors that a machine may have here.
    #[must_use]
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// Whether guests can have memory that they can only read.
    #[must_use]
    pub fn has_readonly_memory(&self) -> bool {
        self.kvm.check_extension(Cap::ReadonlyMem)
    }

    /// A VM with `ram` and a split irqchip, without processors; the guest can read each page of
    /// `registers` where the virtio device with its index is. All must live as long as the VM:
    /// [`crate::machine::Machine`] sees to that.
    ///
    /// # Errors
    /// KVM refuses a step.
    pub fn create_vm(
        &self,
        ram: &GuestRam,
        registers: &[Option<Arc<RegisterPage>>],
    ) -> Result<Arc<VmFd>, KvmError> {
        let vm = self.kvm.create_vm().map_err(refused("KVM_CREATE_VM"))?;
        let of_ram = ram.iter().map(|region| kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        });
        let places = (VIRTIO_MMIO..).step_by(VIRTIO_MMIO_SIZE as usize);
        let of_registers = places.zip(registers).filter_map(|(place, page)| {
            Some(kvm_userspace_memory_region {
                slot: 0,
                flags: KVM_MEM_READONLY,
                guest_phys_addr: place,
                memory_size: PAGE_SIZE,
                userspace_addr: page.as_ref()?.as_ptr() as u64,
            })
        });
        for (slot, region) in (0..).zip(of_ram.chain(of_registers)) {
            let memory = kvm_userspace_memory_region { slot, ..region };
            // SAFETY: each is a mapping of exactly this length, which the caller keeps as long as the
            // VM, and slots and guest addresses are distinct.
            unsafe { vm.set_user_memory_region(memory) }
                .map_err(refused("KVM_SET_USER_MEMORY_REGION"))?;
        }
        vm.set_tss_address(TSS_ADDRESS).map_err(refused("KVM_SET_TSS_ADDR"))?;
        let split = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [IOAPIC_PINS.into(), 0, 0, 0],
            ..kvm_enable_cap::default()
        };
        vm.enable_cap(&split).map_err(refused("KVM_CAP_SPLIT_IRQCHIP"))?;
        Ok(Arc::new(vm))
    }

    /// `count` processors of `vm`, which cannot run yet.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn create_vcpus(&self, vm: &VmFd, count: u8) -> Result<Vec<VcpuFd>, KvmError> {
        let create = |index: u8| vm.create_vcpu(index.into());
        (0..count).map(create).collect::<Result<_, _>>().map_err(refused("KVM_CREATE_VCPU"))
    }

    /// Makes `vcpu` processor `index` of `count`, which shows the guest what it may use of
    /// [`cpuid`](Self::supported_cpuid).
    ///
    /// # Errors
    /// KVM refuses a step.
    pub fn set_up_vcpu(
        &self,
        vcpu: &VcpuFd,
        cpuid: &CpuId,
        index: u8,
        count: u8,
    ) -> Result<(), KvmError> {
        let cpuid = cpuid::for_vcpu(cpuid, index, count, self.tsc_deadline);
        vcpu.set_cpuid2(&cpuid).map_err(refused("KVM_SET_CPUID2"))?;
        enable_extended_states(vcpu, &cpuid)?;
        Ok(msr::set_up(vcpu)?)
    }
}

/// Sets XCR0 to all that the guest may enable, which every kernel does itself as soon as it can.
///
/// The value after reset would be 1. But where AMD-V itself is emulated, QEMU up to 7.2 does not
/// let KVM see the guest's `xsetbv`: KVM would go on with 1, tell the guest a size of its register
/// file that is too small, and save too little of it.
fn enable_extended_states(vcpu: &VcpuFd, cpuid: &CpuId) -> Result<(), KvmError> {
    let leaf = |function| {
        cpuid.as_slice().iter().find(|entry| entry.function == function && entry.index == 0)
    };
    let (Some(features), Some(states)) = (leaf(0x1), leaf(0xd)) else { return Ok(()) };
    if features.ecx & XSAVE == 0 {
        return Ok(());
    }
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
    xcrs.xcrs[0].value = u64::from(states.eax) | u64::from(states.edx) << 32;
    vcpu.set_xcrs(&xcrs).map_err(refused("KVM_SET_XCRS"))
}
