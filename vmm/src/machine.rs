//! The one wiring file: a configuration becomes a machine, and the machine runs one boot.
//!
//! The order is that of [`kvm`](crate::kvm): memory, irqchip, processors. Then come the devices, each at
//! its place in [`layout`]. Meanwhile another thread does what needs no VM: it fills RAM with the kernel
//! and the tables that tell of the machine, and asks what of the host's processors KVM can show, for which
//! KVM tries them: where this host is a guest itself, that takes as long as making a VM. A reboot makes a
//! new machine, so that nothing of the earlier boot is left.

use crate::boot::{self, BootError, Entry};
use crate::bus::{Bus, BusError, SharedDevice};
use crate::config::{
    Components, ConfigError, ConsoleDevice, DEVICES_OF_EVERY_MACHINE, MachineConfig,
};
use crate::confine::Role;
use crate::console::HostConsole;
use crate::console::port::SharedPort;
use crate::devices::i8042::{self, I8042};
use crate::devices::power::{self, Power};
use crate::devices::pvpanic::{self, Pvpanic};
use crate::devices::rtc::{self, Rtc};
use crate::devices::serial::{self, Serial};
use crate::io::{IoThread, Unstarted};
use crate::irq::IrqLine;
use crate::kvm::{Hypervisor, KvmError};
use crate::memory::{self, GuestRam, MemoryError};
use crate::notify::{self, Readiness};
use crate::outcome::{LastWord, Outcome, OutcomeSlot};
use crate::usage::Usage;
use crate::vcpu::{Buses, Processors};
use crate::virtio::VirtioDevice;
use crate::virtio::balloon::{Balloon, BalloonControl};
use crate::virtio::block::{Block, Drive};
use crate::virtio::console::{Input, VirtioConsole};
use crate::virtio::mmio::{INTERRUPT_ACK, MmioTransport, QUEUE_NOTIFY, USED_BUFFERS};
use crate::virtio::net::{Interface, Net};
use crate::virtio::registers::RegisterPage;
use crate::virtio::rng::Rng;
use crate::vsock::device::{Service, Vsock, VsockConfig};
use crate::x86::acpi::{self, AcpiError, Platform};
use crate::x86::ioapic::IoApic;
use crate::x86::layout;
use crate::x86::regs::{self, RegsError};
use crate::x86::smbios::{self, Identity, SmbiosError};
use crossbeam_channel::{Receiver, Sender};
use kvm_ioctls::{IoEventAddress, VcpuFd, VmFd};
use protocol::AGENT_PORT;
use std::borrow::Cow;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use vmm_sys_util::eventfd::EventFd;

/// The guest's context id: every machine has its own vsock, so all can have the same.
const GUEST_CID: u64 = 3;

/// What connects a machine to the rest of the monitor; it outlives the guest's reboots.
pub struct Links {
    /// Takes the host's ends of the agent's connections.
    pub agents: Sender<UnixStream>,
    /// Where host programs connect to reach the guest's vsock ports.
    pub vsock_listener: Option<UnixListener>,
    /// What the guest dials goes to the socket `<this>_<port>`.
    pub vsock_path: Option<PathBuf>,
    /// The console.
    pub console: HostConsole,
    /// The disks, in the order in which the guest sees them.
    pub drives: Vec<Arc<Drive>>,
    /// The network interfaces, in the order in which the guest sees them.
    pub interfaces: Vec<Interface>,
    /// What the host wants of the balloon.
    pub balloon: BalloonControl,
    /// The monitor's own words for the guest's programs, in its SMBIOS tables.
    pub own_strings: Vec<String>,
    /// Counts the time of the processors.
    pub usage: Usage,
    /// What the guest says of its boot.
    pub readiness: Readiness,
}

/// Why a machine could not be put together or run.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// KVM cannot be used, or refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// This host cannot have so many processors in a machine.
    #[error("{asked} processors were asked for, KVM here allows {most}")]
    Cpus {
        /// What the machine is to have.
        asked: u8,
        /// What is allowed.
        most: usize,
    },
    /// Guest RAM could not be made.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The kernel or the initrd could not be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The ACPI tables could not be written.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// The SMBIOS tables could not be written.
    #[error(transparent)]
    Smbios(#[from] SmbiosError),
    /// The boot processor could not be set up.
    #[error(transparent)]
    Regs(#[from] RegsError),
    /// Two devices want the same place; a defect of the monitor.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// KVM would not connect a device.
    #[error("KVM refused {what}")]
    Connect {
        /// What for.
        what: &'static str,
        /// What it said.
        source: kvm_ioctls::Error,
    },
    /// No descriptor or thread is left.
    #[error("cannot make {what}")]
    Resource {
        /// What.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn resource(what: &'static str) -> impl FnOnce(io::Error) -> MachineError {
    move |source| MachineError::Resource { what, source }
}

fn connect(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> MachineError {
    move |source| MachineError::Connect { what, source }
}

/// What can be done to a boot from outside.
#[derive(Clone)]
pub struct MachineControl {
    outcome: OutcomeSlot,
    button: PowerButton,
    processors: Arc<Processors>,
}

impl MachineControl {
    /// Stops the machine, as if its plug was pulled.
    pub fn stop(&self) {
        self.outcome.put(Outcome::Stopped);
    }

    /// Ends the boot, so that another one may begin.
    pub fn reset(&self) {
        self.outcome.put(Outcome::HostReset);
    }

    /// Lets the processors stand still; when this returns, they do.
    pub fn pause(&self) {
        self.processors.pause();
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.processors.resume();
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        self.button.press();
    }
}

/// The power button and its interrupt.
#[derive(Clone)]
struct PowerButton {
    power: Arc<Mutex<Power>>,
    line: IrqLine,
}

impl PowerButton {
    fn press(&self) {
        self.power.lock().unwrap_or_else(PoisonError::into_inner).press();
        if let Err(error) = self.line.trigger() {
            tracing::warn!(%error, "the power button's interrupt was not raised");
        }
    }
}

/// A machine that is ready to run.
///
/// Fields are dropped in this order: first who uses guest RAM, last the RAM.
pub struct Machine {
    vcpus: Vec<VcpuFd>,
    processors: Processors,
    parts: Parts,
}

/// What a machine has besides its processors.
///
/// Fields are dropped in this order: the devices and the console's last words, last the RAM.
struct Parts {
    buses: Arc<Buses>,
    io: IoThread,
    slot: OutcomeSlot,
    outcome: Receiver<Outcome>,
    button: PowerButton,
    output: crate::console::ConsoleOutput,
    _vm: Arc<VmFd>,
    _registers: Vec<Option<Arc<RegisterPage>>>,
    _ram: GuestRam,
}

/// A machine whose processors run. Dropping it stops them, as soon as no [control](MachineControl)
/// of it is left.
///
/// Fields are dropped in this order: first who uses guest RAM, last the RAM.
pub struct Boot {
    processors: Arc<Processors>,
    parts: Parts,
}

impl Boot {
    /// What can be done to it from outside.
    #[must_use]
    pub fn control(&self) -> MachineControl {
        MachineControl {
            outcome: self.parts.slot.clone(),
            button: self.parts.button.clone(),
            processors: self.processors.clone(),
        }
    }

    /// Waits for the boot's end, and says how it ended.
    #[must_use]
    pub fn wait(&self) -> Outcome {
        // The slot is ours, so somebody can always say how the boot ended.
        match self.parts.outcome.recv().unwrap_or(Outcome::Stopped) {
            // A kernel that panics resets at once: `MachineConfig::cmdline` asks it to.
            Outcome::Reset => match self.parts.output.panic() {
                Some(text) => Outcome::Panic(Some(text)),
                None => Outcome::Reset,
            },
            outcome => outcome,
        }
    }
}

impl Machine {
    /// Puts the machine that `config` describes together, and connects it through `links`.
    ///
    /// # Errors
    /// The configuration is not valid, a file cannot be loaded, or the host cannot do it.
    pub fn new(config: &MachineConfig, links: &Links) -> Result<Self, MachineError> {
        config.validate()?;
        let (slot, outcome) = OutcomeSlot::new();
        let mut io = Unstarted::new().map_err(resource("the io thread"))?;
        let hypervisor = Hypervisor::open()?;
        let most = hypervisor.max_vcpus();
        if usize::from(config.cpus) > most {
            return Err(MachineError::Cpus { asked: config.cpus, most });
        }
        let map = if config.hugepages { memory::map_huge } else { memory::map };
        let ram = map(config.memory)?;
        let input = match config.console_device {
            ConsoleDevice::Serial => None,
            ConsoleDevice::Virtio => Some(Input::new().map_err(resource("the console"))?),
        };
        let input = input.map(|input| Arc::new(Mutex::new(input)));
        let devices = virtio_devices(config, links, &mut io, &slot, input.clone())?;
        let readable = hypervisor.has_readonly_memory();
        let page_of = |device: &dyn VirtioDevice| {
            let page = (readable && device.config_is_fixed()).then(RegisterPage::new);
            page.transpose().map(|page| page.map(Arc::new))
        };
        let registers: Vec<_> = devices
            .iter()
            .map(|device| page_of(device.as_ref()))
            .collect::<Result<_, _>>()
            .map_err(resource("memory for registers"))?;
        let platform = Platform { cpus: config.cpus, virtio: devices.len() as u8 };

        let put_together = || {
            let vm = hypervisor.create_vm(&ram, &registers)?;
            // They get ready while the rest of the machine is made.
            let processors = Processors::spawn(config.cpus, &slot, &links.usage)
                .map_err(resource("the processors' threads"))?;
            let vcpus = hypervisor.create_vcpus(&vm, config.cpus)?;
            let mut board = Board { vm: &vm, pio: Bus::default(), mmio: Bus::default(), virtio: 0 };
            let ioapic = Arc::new(Mutex::new(IoApic::new(vm.clone())));
            board.mmio.insert(layout::IOAPIC, layout::IOAPIC_SIZE, ioapic)?;
            let button = board.platform(links, &mut io, &slot, input)?;
            let io = io
                .spawn(Role::Io, "io", LastWord::of("io", &slot))
                .map_err(resource("the io thread"))?;
            for (device, page) in devices.into_iter().zip(&registers) {
                board.virtio(device, page.clone(), &ram)?;
            }
            let buses = Arc::new(Buses { pio: board.pio, mmio: board.mmio });
            Ok::<_, MachineError>((vm, processors, vcpus, button, io, buses))
        };
        let own_strings = &links.own_strings;
        let fill = || {
            let cpuid = hypervisor.supported_cpuid()?;
            Ok::<_, MachineError>((cpuid, fill(&ram, config, &platform, own_strings)?))
        };
        let (put_together, filled) = meanwhile(put_together, fill);
        let (vm, processors, vcpus, button, io, buses) = put_together?;
        let (cpuid, entry) = filled?;

        for (index, vcpu) in (0..config.cpus).zip(&vcpus) {
            hypervisor.set_up_vcpu(vcpu, &cpuid, index, config.cpus)?;
        }
        if let Some(first) = vcpus.first() {
            regs::set_up(first, &ram, &entry)?;
        }
        links.console.output().boot_begins();
        let output = links.console.output().clone();
        let parts = Parts {
            buses,
            io,
            slot,
            outcome,
            button,
            output,
            _vm: vm,
            _registers: registers,
            _ram: ram,
        };
        Ok(Self { vcpus, processors, parts })
    }

    /// Lets the processors run; if the boot is to begin `paused`, only when they are resumed.
    #[must_use]
    pub fn start(self, paused: bool) -> Boot {
        let Self { vcpus, mut processors, parts } = self;
        parts.io.wait_until_ready();
        processors.start(vcpus, &parts.buses, paused);
        Boot { processors: Arc::new(processors), parts }
    }
}

/// Does `one`, and the `other` at the same time on another thread, if there is one to be had. That has the
/// filter of the calling one, and is done when this returns.
fn meanwhile<A, B: Send>(one: impl FnOnce() -> A, other: impl Fn() -> B + Sync) -> (A, B) {
    let mut found = None;
    let one = thread::scope(|scope| {
        let work = || found = Some(other());
        // Who joins a thread unmaps its stack. One that is not joined does that itself, while the machine
        // goes on.
        let _ = thread::Builder::new().name("fill".into()).spawn_scoped(scope, work);
        one()
    });
    (one, found.unwrap_or_else(other))
}

/// Writes what the guest's RAM begins with: the kernel and the initrd, and the tables that tell of the
/// machine.
fn fill(
    ram: &GuestRam,
    config: &MachineConfig,
    platform: &Platform,
    own_strings: &[String],
) -> Result<Entry, MachineError> {
    acpi::write(ram, platform)?;
    let oem_strings = match config.integration {
        Components::Off => Cow::Borrowed(config.oem_strings.as_slice()),
        _ => notify::with_address(&config.oem_strings),
    };
    let uuid = config.uuid.unwrap_or_default();
    smbios::write(ram, &Identity { uuid, oem_strings: &oem_strings, own_strings })?;
    Ok(boot::load(ram, config)?)
}

/// The virtio devices: those of every machine, then the console that reads `input`, the disks, and the
/// network interfaces.
fn virtio_devices(
    config: &MachineConfig,
    links: &Links,
    io: &mut Unstarted,
    outcome: &OutcomeSlot,
    input: Option<Arc<Mutex<Input>>>,
) -> Result<Vec<Box<dyn VirtioDevice>>, MachineError> {
    let programs = links.vsock_listener.as_ref().map(UnixListener::try_clone).transpose();
    let agents =
        Service { port: AGENT_PORT, privileged: true, accept: links.agents.clone(), bell: None };
    let (notify, listener) =
        notify::service(links.readiness.clone()).map_err(resource("the readiness service"))?;
    io.add(Box::new(listener)).map_err(resource("the readiness service"))?;
    let vsock = VsockConfig {
        guest_cid: GUEST_CID,
        listener: programs.map_err(resource("a descriptor of the vsock socket"))?,
        guest_sockets: links.vsock_path.clone(),
        services: vec![agents, notify],
    };
    let of_every_machine: [Box<dyn VirtioDevice>; DEVICES_OF_EVERY_MACHINE] = [
        Box::new(Vsock::new(vsock, io.handle())),
        Box::new(Rng::new(io.handle())),
        Box::new(Balloon::new(links.balloon.clone(), io.handle()).reporting(!config.hugepages)),
    ];
    let mut devices = Vec::from(of_every_machine);
    if let Some(input) = input {
        let (output, size) = (links.console.output().clone(), links.console.terminal_size());
        devices.push(Box::new(VirtioConsole::new(input, output, size, io.handle())));
    }
    for drive in &links.drives {
        devices.push(Box::new(Block::new(drive.clone(), outcome.clone())));
    }
    for interface in &links.interfaces {
        let net = Net::new(interface.clone(), outcome).map_err(resource("a network thread"))?;
        devices.push(Box::new(net));
    }
    Ok(devices)
}

/// The machine while devices are put on it.
struct Board<'a> {
    vm: &'a VmFd,
    pio: Bus,
    mmio: Bus,
    virtio: u8,
}

impl Board<'_> {
    /// An interrupt line that reaches pin `gsi` of the I/O APIC.
    fn line(&self, gsi: u32) -> Result<IrqLine, MachineError> {
        let line = IrqLine::new().map_err(resource("an interrupt line"))?;
        self.vm.register_irqfd(line.event(), gsi).map_err(connect("KVM_IRQFD"))?;
        Ok(line)
    }

    fn port(&mut self, base: u16, length: u64, device: SharedDevice) -> Result<(), BusError> {
        self.pio.insert(base.into(), length, device)
    }

    /// Puts on what every PC has. What is typed goes to the serial port, unless there is an `input`.
    fn platform(
        &mut self,
        links: &Links,
        io: &mut Unstarted,
        outcome: &OutcomeSlot,
        input: Option<Arc<Mutex<Input>>>,
    ) -> Result<PowerButton, MachineError> {
        let output = links.console.output().clone();
        let line = self.line(layout::SERIAL_GSI)?;
        let serial = Serial::new(line, output.clone()).map_err(resource("the serial port"))?;
        let serial = Arc::new(Mutex::new(serial));
        self.port(layout::SERIAL, serial::PORTS, serial.clone())?;
        let port: SharedPort = match input {
            Some(input) => input,
            None => serial,
        };
        io.add(links.console.connect(port, outcome.clone())).map_err(resource("the console"))?;

        let i8042 = I8042::new(outcome.clone());
        self.port(layout::I8042, i8042::PORTS, Arc::new(Mutex::new(i8042)))?;
        self.port(layout::RTC, rtc::PORTS, Arc::new(Mutex::new(Rtc::default())))?;

        let panicked = outcome.clone();
        let pvpanic = Pvpanic::new(move || panicked.put(Outcome::Panic(output.panic())));
        self.port(layout::PVPANIC, pvpanic::PORTS, Arc::new(Mutex::new(pvpanic)))?;

        let power = Arc::new(Mutex::new(Power::new(outcome.clone())));
        self.port(layout::POWER, power::PORTS, power.clone())?;
        Ok(PowerButton { power, line: self.line(layout::POWER_GSI)? })
    }

    /// Puts on a virtio device; KVM rings its queues' doorbells, and the guest reads its registers in
    /// `page`, if there is one, by itself.
    fn virtio(
        &mut self,
        device: Box<dyn VirtioDevice>,
        page: Option<Arc<RegisterPage>>,
        ram: &GuestRam,
    ) -> Result<(), MachineError> {
        let index = self.virtio;
        let base = layout::VIRTIO_MMIO + u64::from(index) * layout::VIRTIO_MMIO_SIZE;
        let line = self.line(layout::VIRTIO_GSI + u32::from(index))?;
        let mut transport =
            MmioTransport::new(ram.clone(), line, device).map_err(resource("a virtio device"))?;
        if let Some(page) = page {
            transport.show(page);
            // Nobody hears it: what it would change is shown as it was.
            let unheard = EventFd::new(libc::EFD_CLOEXEC).map_err(resource("a virtio device"))?;
            let acknowledge = IoEventAddress::Mmio(base + INTERRUPT_ACK);
            self.vm
                .register_ioevent(&unheard, &acknowledge, USED_BUFFERS)
                .map_err(connect("KVM_IOEVENTFD"))?;
        }
        let notify = IoEventAddress::Mmio(base + QUEUE_NOTIFY);
        for (queue, doorbell) in (0_u32..).zip(transport.doorbells()) {
            self.vm.register_ioevent(doorbell, &notify, queue).map_err(connect("KVM_IOEVENTFD"))?;
        }
        self.mmio.insert(base, layout::VIRTIO_MMIO_SIZE, Arc::new(Mutex::new(transport)))?;
        self.virtio += 1;
        Ok(())
    }
}
