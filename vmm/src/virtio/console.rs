//! virtio-console: a console that costs no exit a byte, `hvc0` in Linux guests (section 5.3).
//!
//! It has one port with a queue each way. What the guest prints goes where the serial port's output
//! goes. What is typed waits in a [bounded buffer](INPUT_LIMIT) until the driver offers room, also
//! before there is a driver. The guest never waits for whoever reads on the host: Linux spins, with
//! interrupts off, until what it prints has been taken.

use crate::console::port::{InputRoom, Port};
use crate::console::{ConsoleOutput, TerminalSize};
use crate::io::{IoHandle, Registry, Source, SourceId};
use crate::memory::GuestRam;
use crate::virtio::chain::Whole;
use crate::virtio::queue::{Broken, DeviceQueue, TURN};
use crate::virtio::{Activation, VirtioDevice, read_bytes};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

const DEVICE_TYPE: u32 = 3;
/// Receive and transmit.
const QUEUE_SIZES: [u16; 2] = [64, 64];
/// The configuration says how large the terminal is (`VIRTIO_CONSOLE_F_SIZE`).
const SIZE: u64 = 1 << 0;
/// Bytes of input that wait for the guest.
pub const INPUT_LIMIT: usize = 4096;
/// Bytes of output taken in one turn.
const OUTPUT_TURN: usize = 64 * 1024;
/// Bytes of output taken at once.
const PIECE: usize = 4096;

/// What is typed, between the console and the device.
pub struct Input {
    bytes: VecDeque<u8>,
    room: InputRoom,
    filled: Arc<EventFd>,
}

impl Input {
    /// No input.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        let filled = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { bytes: VecDeque::new(), room: InputRoom::new()?, filled: Arc::new(filled) })
    }

    /// Takes up to `count` bytes.
    fn take(&mut self, count: usize) -> Vec<u8> {
        let count = count.min(self.bytes.len());
        let taken = self.bytes.drain(..count).collect();
        if self.bytes.is_empty() {
            self.room.is_there();
        }
        taken
    }
}

impl Port for Input {
    fn room(&self) -> usize {
        INPUT_LIMIT.saturating_sub(self.bytes.len())
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.bytes.extend(&bytes[..count]);
        // The counter cannot become full: what is written to it is bounded by what is read.
        let _ = self.filled.write(1);
        count
    }

    fn input_room(&self) -> InputRoom {
        self.room.clone()
    }
}

/// The device.
pub struct VirtioConsole {
    input: Arc<Mutex<Input>>,
    output: ConsoleOutput,
    size: Option<TerminalSize>,
    io: IoHandle,
    active: Option<SourceId>,
}

impl VirtioConsole {
    /// A device, served on `io`, that prints to `output` and reads `input`; on a terminal of `size`,
    /// if that is known.
    #[must_use]
    pub fn new(
        input: Arc<Mutex<Input>>,
        output: ConsoleOutput,
        size: Option<TerminalSize>,
        io: IoHandle,
    ) -> Self {
        Self { input, output, size, io, active: None }
    }

    fn service(&self, activation: Activation) -> io::Result<Service> {
        let mut queues = activation.queues.into_iter();
        let (Some(receive), Some(transmit)) = (queues.next(), queues.next()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let filled = lock(&self.input).filled.clone();
        Ok(Service {
            ram: activation.ram,
            receive,
            transmit,
            input: self.input.clone(),
            filled,
            output: self.output.clone(),
            printing: None,
        })
    }
}

impl VirtioDevice for VirtioConsole {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        if self.size.is_some() { SIZE } else { 0 }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let TerminalSize { columns, rows } = self.size.unwrap_or_default();
        let size = [columns.to_le_bytes(), rows.to_le_bytes()].concat();
        read_bytes(&size, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let service = self.service(activation)?;
        self.active = Some(self.io.add(Box::new(service))?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(active) = self.active.take() {
            self.io.remove(active);
        }
    }
}

impl Drop for VirtioConsole {
    fn drop(&mut self) {
        self.reset();
    }
}

fn lock(input: &Mutex<Input>) -> MutexGuard<'_, Input> {
    input.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tokens.
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const FILLED: u32 = 2;

/// The device on the `io` thread.
struct Service {
    ram: GuestRam,
    receive: DeviceQueue,
    transmit: DeviceQueue,
    input: Arc<Mutex<Input>>,
    filled: Arc<EventFd>,
    output: ConsoleOutput,
    /// A chain of which a part has been printed: its head, and the rest.
    printing: Option<(u16, Text)>,
}

/// What a chain has to be printed: where it lies, and how many bytes it is; all of it is RAM.
type Text = VecDeque<(u64, usize)>;

impl Service {
    /// Prints for one turn.
    fn print(&mut self) -> Result<(), Broken> {
        let mut budget = OUTPUT_TURN;
        for _ in 0..TURN {
            let Some((head, mut text)) = self.printing.take() else {
                let Some(chain) = self.transmit.pop(&self.ram)? else {
                    if self.transmit.await_buffers()? {
                        continue;
                    }
                    return Ok(());
                };
                let head = chain.head_index();
                let chain = Whole::of(chain, self.transmit.size());
                let text = chain.map_or_else(|_| Text::new(), |chain| text_of(&chain, &self.ram));
                self.printing = Some((head, text));
                continue;
            };
            self.print_some(&mut text, &mut budget);
            if !text.is_empty() {
                self.printing = Some((head, text));
                break;
            }
            self.transmit.add_used(head, 0)?;
        }
        self.transmit.ring();
        Ok(())
    }

    /// Prints as much of `text` as the budget, in bytes, allows.
    fn print_some(&mut self, text: &mut Text, budget: &mut usize) {
        let mut piece = [0; PIECE];
        while *budget > 0
            && let Some((address, length)) = text.pop_front()
        {
            let count = length.min(PIECE).min(*budget);
            // It has been looked at: all of it can be read. Printing never fails.
            let _ = self.ram.read_slice(&mut piece[..count], GuestAddress(address));
            let _ = self.output.write(&piece[..count]);
            *budget -= count;
            if count < length {
                text.push_front((address + count as u64, length - count));
            }
        }
    }

    /// Gives the guest what was typed, as far as it has room.
    fn give(&mut self) -> Result<(), Broken> {
        let ram = self.ram.clone();
        for _ in 0..TURN {
            if lock(&self.input).bytes.is_empty() {
                return Ok(());
            }
            let Some(chain) = self.receive.pop(&ram)? else {
                if self.receive.await_buffers()? {
                    continue;
                }
                return Ok(());
            };
            let head = chain.head_index();
            // A chain that cannot be written goes back empty, and so does one without room.
            let chain = Whole::of(chain, self.receive.size()).ok();
            let writer = chain.and_then(|chain| chain.writer(&ram).ok());
            let written = writer.map_or(0, |mut writer| {
                let bytes = lock(&self.input).take(writer.available_bytes());
                // There is room for them.
                writer.write_all(&bytes).map_or(0, |()| bytes.len())
            });
            // No more than the input can hold.
            self.receive.add_used(head, written as u32)?;
        }
        self.receive.ring();
        Ok(())
    }
}

/// What lies in the chain's readable part; nothing if a piece of it is no RAM.
fn text_of(chain: &Whole, ram: &GuestRam) -> Text {
    let pieces = chain.readable().map(|part| (part.addr(), part.len() as usize));
    let pieces: Vec<(GuestAddress, usize)> = pieces.filter(|(_, length)| *length > 0).collect();
    if !pieces.iter().all(|(address, length)| ram.check_range(*address, *length)) {
        return Text::new();
    }
    pieces.into_iter().map(|(address, length)| (address.raw_value(), length)).collect()
}

impl Source for Service {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        registry.watch(self.receive.doorbell().as_ref(), RECEIVE, EventSet::IN)?;
        registry.watch(self.transmit.doorbell().as_ref(), TRANSMIT, EventSet::IN)?;
        registry.watch(self.filled.as_ref(), FILLED, EventSet::IN)?;
        // What was typed for the driver before.
        let _ = self.filled.write(1);
        Ok(())
    }

    fn ready(&mut self, token: u32, _events: EventSet, registry: &mut Registry<'_>) {
        let served = match token {
            TRANSMIT => {
                self.transmit.answer();
                let printed = self.print();
                self.transmit.notify();
                printed
            }
            _ => {
                self.receive.answer();
                // Non-blocking, and only this thread reads it.
                let _ = self.filled.read();
                let given = self.give();
                self.receive.notify();
                given
            }
        };
        if served.is_err() {
            registry.forget_all();
        }
    }
}

#[cfg(test)]
#[path = "console_tests.rs"]
mod tests;
