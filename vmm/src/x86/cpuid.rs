//! What the guest's processors say of themselves.
//!
//! The base is what this host's KVM supports. On top of that each processor gets its own place in
//! a flat topology (one package, one thread a core), and what a guest has no use for is taken
//! away: nested virtualization, the power management and performance counters that KVM cannot
//! give it.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaf 1, ECX: the time-stamp counter can fire the local APIC's timer. KVM does that itself and
/// leaves it to us to say so. A guest that sees it need not calibrate the timer.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: somebody else has the hardware.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, ECX: VT-x.
const VMX: u32 = 1 << 5;
/// Leaf 1, EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 6, EAX: the local APIC's timer never stops, as KVM's does not. A guest that does not see it
/// looks for another timer that wakes idle processors, and without one keeps ticking: its timers end
/// with the next tick only, and idle processors are woken by each.
const ARAT: u32 = 1 << 2;
/// Leaf 0x8000_0001, ECX: AMD-V.
const SVM: u32 = 1 << 2;
/// Leaf 4, EAX: fields of the sharing of a cache, which we fill, and those of its type, which stay.
const CACHE_SHARING: u32 = 0xffff_c000;

/// The kinds of topology levels in leaves 0xb and 0x1f, in ECX bits 8 to 15.
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// `supported` as processor `index` of `count` is to show it.
#[must_use]
pub fn for_vcpu(supported: &CpuId, index: u8, count: u8, tsc_deadline: bool) -> CpuId {
    let mut cpuid = supported.clone();
    let apic_id = u32::from(index);
    // Bits of an APIC id that tell the processors of the package apart.
    let id_bits = u8::BITS - count.saturating_sub(1).leading_zeros();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            0x1 => {
                entry.ecx &= !VMX;
                entry.ecx |= HYPERVISOR;
                if tsc_deadline {
                    entry.ecx |= TSC_DEADLINE;
                }
                entry.ebx = (entry.ebx & 0xffff) | (u32::from(count) << 16) | (apic_id << 24);
                if count > 1 {
                    entry.edx |= HTT;
                }
            }
            // A cache of level 3 is shared by all; the others are each core's own.
            0x4 if entry.eax & 0x1f != 0 => {
                let level = (entry.eax >> 5) & 7;
                let sharing = if level == 3 { u32::from(count) - 1 } else { 0 };
                let cores = u32::from(count) - 1;
                entry.eax &= !CACHE_SHARING;
                entry.eax |= (sharing.min(0xfff) << 14) | (cores.min(0x3f) << 26);
            }
            // No other power management, no thermal sensors.
            0x6 => {
                let eax = entry.eax & ARAT;
                clear(entry);
                entry.eax = eax;
            }
            // No performance counters.
            0xa => clear(entry),
            0xb | 0x1f => topology(entry, apic_id, count, id_bits),
            0x8000_0001 => entry.ecx &= !SVM,
            0x8000_0008 => {
                entry.ecx = (u32::from(count) - 1) | (id_bits << 12);
            }
            // AMD: extended APIC id, core id with one thread a core, node 0 of 1.
            0x8000_001e => {
                entry.eax = apic_id;
                entry.ebx = apic_id;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    cpuid
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    entry.eax = 0;
    entry.ebx = 0;
    entry.ecx = 0;
    entry.edx = 0;
}

/// One level of the extended topology: a thread a core, then all cores, then nothing.
fn topology(entry: &mut kvm_cpuid_entry2, apic_id: u32, count: u8, id_bits: u32) {
    let (shift, processors, kind) = match entry.index {
        0 => (0, 1, LEVEL_THREAD),
        1 => (id_bits, u32::from(count), LEVEL_CORE),
        _ => (0, 0, 0),
    };
    entry.eax = shift;
    entry.ebx = processors;
    entry.ecx = entry.index & 0xff | kind;
    entry.edx = apic_id;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..kvm_cpuid_entry2::default()
        }
    }

    fn shown(function: u32, level: u32, index: u8, count: u8) -> kvm_cpuid_entry2 {
        let supported = CpuId::from_entries(&[leaf(function, level)]).unwrap();
        for_vcpu(&supported, index, count, true).as_slice()[0]
    }

    #[test]
    fn every_processor_has_its_own_apic_id() {
        for index in 0..3 {
            let id = u32::from(index);
            assert_eq!(shown(1, 0, index, 3).ebx >> 24, id);
            assert_eq!(shown(0xb, 0, index, 3).edx, id);
            assert_eq!(shown(0x8000_001e, 0, index, 3).eax, id);
        }
    }

    #[test]
    fn the_levels_of_the_topology_count_threads_and_cores() {
        let (thread, core, end) = (shown(0xb, 0, 0, 5), shown(0xb, 1, 0, 5), shown(0xb, 2, 0, 5));
        assert_eq!((thread.eax, thread.ebx, thread.ecx), (0, 1, 0x100));
        assert_eq!((core.eax, core.ebx, core.ecx), (3, 5, 0x201), "five ids need three bits");
        assert_eq!((end.eax, end.ebx, end.ecx), (0, 0, 2));
        assert_eq!(shown(0xb, 1, 0, 1).eax, 0, "one id needs none");
    }

    #[test]
    fn of_power_management_a_guest_sees_nothing_but_a_timer_that_never_stops() {
        let leaf = shown(6, 0, 0, 1);
        assert_eq!((leaf.eax, leaf.ebx, leaf.ecx, leaf.edx), (ARAT, 0, 0, 0));
    }

    #[test]
    fn case_29_nested_virtualization_is_not_offered() {
        assert_eq!(shown(1, 0, 0, 1).ecx & VMX, 0);
        assert_eq!(shown(0x8000_0001, 0, 0, 1).ecx & SVM, 0);
    }
}
