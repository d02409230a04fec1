//! Tiny hand-made guests on this host's KVM, whatever it is: exits, processors, the interrupt path.
//!
//! Each guest is a few instructions of 64-bit code at 1 MiB, entered as a kernel is.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};
use vmm::boot::Entry;
use vmm::bus::BusDevice;
use vmm::kvm::Hypervisor;
use vmm::memory::{self, GuestRam};
use vmm::outcome::{Outcome, OutcomeSlot};
use vmm::usage::Usage;
use vmm::vcpu::{Buses, Processors};
use vmm::x86::layout::HIGH_RAM;
use vmm::x86::regs;

/// A bound against hanging; the guests need microseconds.
const LIMIT: Duration = Duration::from_secs(20);
/// The port and the address behind which the [`Log`] is.
const PORT: u16 = 0x3f0;
const ADDRESS: u64 = 0xd000_0000;

/// A write of the guest: the offset and the bytes.
type Write = (u64, Vec<u8>);

/// What the guest wrote to the device; reads give 0xa5.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Write>>>);

impl BusDevice for Log {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0xa5);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.lock().unwrap().push((offset, data.to_vec()));
    }
}

impl Log {
    fn writes(&self) -> Vec<Write> {
        self.0.lock().unwrap().clone()
    }
}

/// A guest that runs.
struct Guest {
    processors: Processors,
    outcome: crossbeam_channel::Receiver<Outcome>,
    log: Log,
    ram: GuestRam,
}

impl Guest {
    fn start(code: &[u8]) -> Self {
        let log = Log::default();
        Self::with_device(code, log.clone(), log)
    }

    /// Starts it with `device` at the port and at the address.
    fn with_device(code: &[u8], device: impl BusDevice + 'static, log: Log) -> Self {
        let hypervisor = Hypervisor::open().unwrap_or_else(|error| panic!("{error}"));
        let ram = memory::map(16 << 20).unwrap();
        let vm = hypervisor.create_vm(&ram, &[]).unwrap();
        let [vcpu] = hypervisor.create_vcpus(&vm, 1).unwrap().try_into().unwrap();
        let cpuid = hypervisor.supported_cpuid().unwrap();
        hypervisor.set_up_vcpu(&vcpu, &cpuid, 0, 1).unwrap();
        ram.write_slice(code, GuestAddress(HIGH_RAM)).unwrap();
        regs::set_up(&vcpu, &ram, &Entry { rip: HIGH_RAM, boot_params: 0x7000 }).unwrap();
        let mut buses = Buses::default();
        let device = Arc::new(Mutex::new(device));
        buses.pio.insert(PORT.into(), 8, device.clone()).unwrap();
        buses.mmio.insert(ADDRESS, 0x1000, device).unwrap();
        let (slot, outcome) = OutcomeSlot::new();
        let mut processors = Processors::spawn(1, &slot, &Usage::default()).unwrap();
        processors.start(vec![vcpu], &Arc::new(buses), false);
        Self { processors, outcome, log, ram }
    }

    /// Waits for the guest's end.
    fn end(&self) -> Outcome {
        self.outcome.recv_timeout(LIMIT).expect("the guest ends")
    }

    /// Waits until the guest has written `count` times.
    fn writes(&self, count: usize) -> Vec<Write> {
        let deadline = Instant::now() + LIMIT;
        while self.log.writes().len() < count {
            assert!(Instant::now() < deadline, "the guest wrote only {:?}", self.log.writes());
            std::thread::yield_now();
        }
        self.log.writes()
    }
}

#[test]
fn a_guest_that_never_leaves_is_stopped_all_the_same() {
    // mov dx, PORT; out dx, al; jmp $
    let guest = Guest::start(&[0x66, 0xba, 0xf0, 0x03, 0xee, 0xeb, 0xfe]);
    guest.writes(1);
    let start = Instant::now();
    drop(guest.processors);
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn a_guest_that_halts_for_ever_is_stopped_all_the_same() {
    // mov dx, PORT; out dx, al; cli; hlt; jmp to hlt
    let guest = Guest::start(&[0x66, 0xba, 0xf0, 0x03, 0xee, 0xfa, 0xf4, 0xeb, 0xfd]);
    guest.writes(1);
    drop(guest.processors);
}

#[test]
fn port_accesses_arrive_at_their_offset_with_their_width() {
    let guest = Guest::start(&[
        0xb8, 0x44, 0x33, 0x22, 0x11, // mov eax, 0x11223344
        0x66, 0xba, 0xf0, 0x03, // mov dx, PORT
        0xee, // out dx, al
        0x66, 0xba, 0xf2, 0x03, // mov dx, PORT + 2
        0x66, 0xef, // out dx, ax
        0x66, 0xba, 0xf4, 0x03, // mov dx, PORT + 4
        0xef, // out dx, eax
        0xec, // in al, dx
        0xee, // out dx, al
        0x0f, 0x0b, // ud2: there is no handler, so this is a triple fault
    ]);
    assert_eq!(guest.end(), Outcome::TripleFault);
    assert_eq!(
        guest.log.writes(),
        [
            (0, vec![0x44]),
            (2, vec![0x44, 0x33]),
            (4, vec![0x44, 0x33, 0x22, 0x11]),
            (4, vec![0xa5]),
        ]
    );
}

#[test]
fn a_string_of_port_writes_is_one_write_an_item() {
    let guest = Guest::start(&[
        0xbe, 0x00, 0x00, 0x20, 0x00, // mov esi, 0x200000
        0xc7, 0x06, 0x01, 0x02, 0x03, 0x04, // mov dword [rsi], 0x04030201
        0xb9, 0x02, 0x00, 0x00, 0x00, // mov ecx, 2
        0x66, 0xba, 0xf0, 0x03, // mov dx, PORT
        0xf3, 0x66, 0x6f, // rep outsw
        0x0f, 0x0b, // ud2
    ]);
    assert_eq!(guest.end(), Outcome::TripleFault);
    assert_eq!(guest.log.writes(), [(0, vec![1, 2]), (0, vec![3, 4])]);
}

#[test]
fn memory_mapped_accesses_arrive_and_unbacked_ones_read_all_ones() {
    let guest = Guest::start(&[
        0xbb, 0x00, 0x00, 0x00, 0xd0, // mov ebx, ADDRESS
        0xc7, 0x43, 0x10, 0x78, 0x56, 0x34, 0x12, // mov dword [rbx + 0x10], 0x12345678
        0x8b, 0x83, 0x00, 0x10, 0x00, 0x00, // mov eax, [rbx + 0x1000]
        0x89, 0x43, 0x20, // mov [rbx + 0x20], eax
        0x0f, 0x0b, // ud2
    ]);
    assert_eq!(guest.end(), Outcome::TripleFault);
    assert_eq!(guest.log.writes(), [(0x10, vec![0x78, 0x56, 0x34, 0x12]), (0x20, vec![0xff; 4])]);
}

#[test]
fn the_entry_finds_its_boot_parameters_in_rsi() {
    let guest = Guest::start(&[
        0x89, 0x34, 0x25, 0x00, 0x00, 0x20, 0x00, // mov [0x200000], esi
        0x0f, 0x0b, // ud2
    ]);
    assert_eq!(guest.end(), Outcome::TripleFault);
    assert_eq!(guest.ram.read_obj::<u32>(GuestAddress(0x20_0000)).unwrap(), 0x7000);
}

#[test]
fn a_hundred_machines_come_and_go() {
    for _ in 0..100 {
        let guest = Guest::start(&[0x66, 0xba, 0xf0, 0x03, 0xee, 0x0f, 0x0b]);
        assert_eq!(guest.end(), Outcome::TripleFault);
        assert_eq!(guest.log.writes().len(), 1);
    }
}

#[test]
fn a_processor_whose_device_panics_ends_the_boot_instead_of_hanging_it() {
    struct Defect;
    impl BusDevice for Defect {
        fn read(&mut self, _offset: u64, _data: &mut [u8]) {}
        fn write(&mut self, _offset: u64, _data: &[u8]) {
            panic!("a defect");
        }
    }
    let code = [0x66, 0xba, 0xf0, 0x03, 0xee, 0xeb, 0xfe];
    let guest = Guest::with_device(&code, Defect, Log::default());
    let Outcome::InternalError(text) = guest.end() else { panic!("no error") };
    assert!(text.contains("vcpu0"), "{text}");
}
