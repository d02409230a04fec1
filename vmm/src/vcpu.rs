//! The virtual processors: they run the guest and fold KVM's exits into a few steps.

use crate::bus::Bus;
use crate::confine::{self, Role};
use crate::kick::{self, AllBlocked};
use crate::outcome::{LastWord, Outcome, OutcomeSlot};
use crate::usage::Usage;
use crossbeam_channel::{Sender, bounded};
use kvm_bindings::{
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// The two buses of the machine.
#[derive(Default)]
pub struct Buses {
    /// Ports.
    pub pio: Bus,
    /// Physical addresses that are not RAM.
    pub mmio: Bus,
}

/// What one exit comes to.
enum Step {
    /// The guest goes on.
    Continue,
    /// KVM was interrupted: look whether to go on.
    Interrupted,
    /// The boot is over.
    End(Outcome),
}

/// What the processors are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Run the guest.
    Run,
    /// Stand still.
    Pause,
    /// End.
    Stop,
}

/// Where the processors look between two entries to the guest.
struct Gate {
    /// Whether the order is [`Order::Run`], to be seen without the lock.
    open: AtomicBool,
    watch: Mutex<Watch>,
    changed: Condvar,
}

struct Watch {
    order: Order,
    /// Processors that have not ended.
    alive: usize,
    /// Those of them that stand still.
    parked: usize,
}

impl Gate {
    /// One that is closed.
    fn new() -> Self {
        Self {
            open: AtomicBool::new(false),
            watch: Mutex::new(Watch { order: Order::Pause, alive: 0, parked: 0 }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        let mut watch = self.lock();
        watch.order = order;
        self.open.store(order == Order::Run, Ordering::Release);
        self.changed.notify_all();
    }

    /// Holds a processor as long as it is to stand still; none if it is to end.
    fn pass(&self) -> Option<Pass> {
        if self.open.load(Ordering::Acquire) {
            return Some(Pass::AtOnce);
        }
        let mut watch = self.lock();
        let mut pass = Pass::AtOnce;
        watch.parked += 1;
        self.changed.notify_all();
        while watch.order == Order::Pause {
            pass = Pass::AfterPause;
            watch = self.changed.wait(watch).unwrap_or_else(PoisonError::into_inner);
        }
        watch.parked -= 1;
        (watch.order == Order::Run).then_some(pass)
    }
}

/// How a processor came through the gate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    AtOnce,
    AfterPause,
}

/// A processor's membership of those that are alive.
struct Alive(Arc<Gate>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.lock().alive -= 1;
        self.0.changed.notify_all();
    }
}

/// The processors of a machine, a thread each. Dropping it stops them.
pub struct Processors {
    gate: Arc<Gate>,
    /// Where each of those that do not run yet waits for what it is to run with.
    waiting: Vec<Sender<(VcpuFd, Arc<Buses>)>>,
    threads: Vec<JoinHandle<()>>,
}

impl Processors {
    /// Starts the threads of `count` processors, which get ready and wait for [`start`](Self::start). How
    /// the boot ends is said through `outcome`, and their time goes into `usage`.
    ///
    /// # Errors
    /// A thread cannot be started; those that were have been stopped again.
    pub fn spawn(count: u8, outcome: &OutcomeSlot, usage: &Usage) -> io::Result<Self> {
        // The threads inherit the mask: no signal that the process handles ends up in them.
        let _mask = AllBlocked::new();
        let mut processors =
            Self { gate: Arc::new(Gate::new()), waiting: Vec::new(), threads: Vec::new() };
        for index in 0..count {
            processors.gate.lock().alive += 1;
            let alive = Alive(processors.gate.clone());
            let name = format!("vcpu{index}");
            let last_word = LastWord::of(&name, outcome);
            let (usage, outcome) = (usage.clone(), outcome.clone());
            // Nobody is started before having got ready.
            let (starter, start) = bounded(0);
            let run = move || {
                confine::narrow(Role::Vcpu);
                let _last_word = last_word;
                let _counted = usage.count_this_thread();
                // A machine that could not be put together starts none.
                if let Ok((fd, buses)) = start.recv() {
                    Vcpu { fd, buses, outcome, alive }.run();
                }
            };
            let thread = thread::Builder::new().name(name).spawn(run)?;
            processors.waiting.push(starter);
            processors.threads.push(thread);
        }
        Ok(processors)
    }

    /// Has them run `vcpus`, one each, that reach devices through `buses`. If they are to start `paused`,
    /// they wait for [`resume`](Self::resume).
    pub fn start(&mut self, vcpus: Vec<VcpuFd>, buses: &Arc<Buses>, paused: bool) {
        if !paused {
            self.gate.order(Order::Run);
        }
        // The boot processor is the last one: the others wait in KVM until it wakes them, so no guest runs
        // beside a thread that is not confined yet.
        for (starter, vcpu) in self.waiting.drain(..).zip(vcpus).rev() {
            // A thread that has ended before has said so.
            let _ = starter.send((vcpu, buses.clone()));
        }
    }

    /// Lets all processors stand still; when this returns, they do. A device access that one of
    /// them is in the middle of is finished first.
    pub fn pause(&self) {
        self.gate.order(Order::Pause);
        self.threads.iter().for_each(kick::kick);
        let mut watch = self.gate.lock();
        while watch.order == Order::Pause && watch.parked < watch.alive {
            watch = self.gate.changed.wait(watch).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.gate.order(Order::Run);
    }
}

impl Drop for Processors {
    fn drop(&mut self) {
        self.waiting.clear();
        self.gate.order(Order::Stop);
        self.threads.iter().for_each(kick::kick);
        for thread in self.threads.drain(..) {
            // A panic of that thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// A virtual processor.
struct Vcpu {
    fd: VcpuFd,
    buses: Arc<Buses>,
    outcome: OutcomeSlot,
    alive: Alive,
}

impl Vcpu {
    /// Runs the guest until it ends or the machine stops. All signals must be blocked.
    fn run(mut self) {
        if let Err(error) = kick::admit(&self.fd) {
            self.outcome
                .put(Outcome::InternalError(format!("KVM_SET_SIGNAL_MASK failed: {error}")));
            return;
        }
        while let Some(pass) = self.alive.0.pass() {
            if pass == Pass::AfterPause {
                // Tells the guest's watchdogs that time has passed without it. A guest that does
                // not use kvm-clock has nowhere to be told.
                let _ = self.fd.kvmclock_ctrl();
            }
            match self.step() {
                Step::Continue => {}
                Step::Interrupted => kick::take(),
                Step::End(outcome) => {
                    self.outcome.put(outcome);
                    return;
                }
            }
        }
    }

    /// Runs the guest to its next exit, and does what it asks for.
    fn step(&mut self) -> Step {
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                return Step::Interrupted;
            }
            Err(error) => return failed(format!("KVM_RUN failed: {error}")),
        };
        match exit {
            VcpuExit::IoOut(port, data) => {
                let data = ptr::from_ref(data);
                let size = io_size(self.fd.get_kvm_run());
                // SAFETY: KVM has put the data into the page after the vCPU's `kvm_run`, which
                // stays mapped as long as the vCPU, and does not change before the next run.
                let data = unsafe { &*data };
                // A string instruction gives several items of one size at once.
                for item in data.chunks(size) {
                    self.buses.pio.write(port.into(), item);
                }
                Step::Continue
            }
            VcpuExit::IoIn(port, data) => {
                let data = ptr::from_mut(data);
                let size = io_size(self.fd.get_kvm_run());
                // SAFETY: as above; nobody else refers to the data until the next run.
                let data = unsafe { &mut *data };
                for item in data.chunks_mut(size) {
                    self.buses.pio.read(port.into(), item);
                }
                Step::Continue
            }
            VcpuExit::MmioWrite(address, data) => {
                self.buses.mmio.write(address, data);
                Step::Continue
            }
            VcpuExit::MmioRead(address, data) => {
                self.buses.mmio.read(address, data);
                Step::Continue
            }
            VcpuExit::Shutdown => Step::End(Outcome::TripleFault),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Step::End(Outcome::Reset),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Step::End(Outcome::PowerOff),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => Step::End(Outcome::Panic(None)),
            VcpuExit::Intr => Step::Interrupted,
            // All lines are edge-triggered: an end of interrupt changes nothing.
            VcpuExit::IoapicEoi(_) => Step::Continue,
            VcpuExit::InternalError => {
                let text = internal_error(self.fd.get_kvm_run());
                let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
                failed(format!(
                    "{text} at rip {rip:#x}; `vmm doctor` tells whether this host runs stock kernels"
                ))
            }
            VcpuExit::FailEntry(reason, _) => {
                failed(format!("the processor refused to enter the guest (reason {reason:#x})"))
            }
            other => failed(format!("KVM gave an exit that was not asked for: {other:?}")),
        }
    }
}

fn failed(text: String) -> Step {
    Step::End(Outcome::InternalError(text))
}

/// Bytes of each item of a port access.
fn io_size(run: &kvm_run) -> usize {
    // SAFETY: only called after an exit for port I/O, for which KVM fills this part of the union;
    // it is plain data.
    let io = unsafe { run.__bindgen_anon_1.io };
    usize::from(io.size).max(1)
}

/// What KVM says of an internal error.
fn internal_error(run: &kvm_run) -> String {
    // SAFETY: only called after an exit for an internal error, for which KVM fills this part of the
    // union; it is plain data.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    match internal.suberror {
        kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => {
            "KVM cannot emulate the guest's instruction".into()
        }
        kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV => {
            "KVM failed while it delivered an event to the guest".into()
        }
        suberror => format!("KVM failed internally (suberror {suberror})"),
    }
}
