//! The host's side of the balloon: how large it is to be, how large it is, and what the guest says of
//! its memory.

use crate::config::{MEMORY_MIN, Size};
use crate::error::CallError;
use crate::integration::guest::milliseconds;
use crate::memory::PAGE_SIZE;
use crate::virtio::read_bytes;
use protocol::HResult;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// What a guest says of its memory; what it does not say is none. The word of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// Bytes of memory that its kernel has.
    pub total: Option<u64>,
    /// Bytes of it that nothing is in.
    pub free: Option<u64>,
    /// Bytes that programs could have without swapping.
    pub available: Option<u64>,
    /// Bytes in which files are cached.
    pub caches: Option<u64>,
    /// Bytes swapped in since the guest booted.
    pub swapped_in: Option<u64>,
    /// Bytes swapped out since the guest booted.
    pub swapped_out: Option<u64>,
    /// Page faults for which a disk was read.
    pub major_faults: Option<u64>,
    /// Other page faults.
    pub minor_faults: Option<u64>,
}

/// A machine's balloon as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonInfo {
    /// Bytes that the balloon is to take from the guest.
    pub target: u64,
    /// Bytes that it has taken, as its driver says.
    pub actual: u64,
    /// Whether the guest has a driver for it.
    pub driver: bool,
    /// Bytes given back to the host since the machine was turned on: what the balloon took, and what
    /// the guest reported as free. Memory that was used in between counts again, and so do pages of a kernel
    /// that machines share.
    pub given_back: u64,
    /// What the guest says of its memory.
    pub stats: Option<MemoryStats>,
    /// Milliseconds since it said so.
    pub stats_age_ms: Option<u64>,
}

/// A balloon; it outlives the guest's reboots, and so does its target.
#[derive(Clone)]
pub struct BalloonControl {
    shared: Arc<Shared>,
}

struct Shared {
    /// Of the machine, in bytes.
    memory: u64,
    state: Mutex<State>,
    /// Something was heard of the driver.
    told: Condvar,
    /// Becomes readable when the device is to look here.
    bell: EventFd,
}

#[derive(Default)]
struct State {
    /// In pages, as the next is.
    target: u32,
    actual: u32,
    /// How often one of these has changed.
    generation: u32,
    /// The target that the driver has read last; none before it has.
    found: u32,
    /// The driver is there; with the statistics, or without.
    driver: Option<WithStats>,
    given_back: u64,
    /// Somebody waits for new statistics.
    wanted: bool,
    /// How often statistics have come.
    count: u64,
    stats: Option<(MemoryStats, Instant)>,
}

impl State {
    /// Changes what the driver reads.
    fn set_sizes(&mut self, target: u32, actual: u32) {
        if (self.target, self.actual) != (target, actual) {
            (self.target, self.actual) = (target, actual);
            self.generation = self.generation.wrapping_add(1);
        }
    }
}

/// Whether a driver tells of the guest's memory.
type WithStats = bool;

impl BalloonControl {
    /// The empty balloon of a machine with `memory` bytes of RAM.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(memory: u64) -> io::Result<Self> {
        let bell = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let shared = Shared { memory, state: Mutex::default(), told: Condvar::new(), bell };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sets how many bytes the balloon is to take from the guest. Its driver follows when it can.
    ///
    /// # Errors
    /// `E_INVALIDARG` if these are no whole pages, or would leave the guest less than the least that a
    /// machine can have.
    pub fn set_target(&self, bytes: u64) -> Result<(), CallError> {
        let most = self.shared.memory.saturating_sub(MEMORY_MIN);
        let pages = u32::try_from(bytes / PAGE_SIZE).ok();
        let fits = bytes <= most && bytes.is_multiple_of(PAGE_SIZE);
        let Some(pages) = pages.filter(|_| fits) else {
            let text = format!(
                "a balloon of {bytes} bytes: it must be a multiple of {PAGE_SIZE}, and at most {} of \
                 the machine's {}",
                Size(most),
                Size(self.shared.memory)
            );
            return Err(CallError::new(HResult::E_INVALIDARG, text));
        };
        let mut state = self.lock();
        let actual = state.actual;
        state.set_sizes(pages, actual);
        drop(state);
        self.ring();
        Ok(())
    }

    /// The balloon as it is now. What the guest says of its memory may be old.
    #[must_use]
    pub fn info(&self) -> BalloonInfo {
        info(&self.lock())
    }

    /// The same, with what the guest says now if it does within `patience`.
    #[must_use]
    pub fn fresh_info(&self, patience: Duration) -> BalloonInfo {
        let mut state = self.lock();
        let count = state.count;
        state.wanted = true;
        self.ring();
        let waits = |state: &mut State| state.count == count && state.driver == Some(true);
        let told = &self.shared.told;
        let waited = told.wait_timeout_while(state, patience, waits);
        info(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The driver reads at `offset`: the size that the balloon is to have and the one it has, in
    /// pages.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.lock();
        let sizes = [state.target.to_le_bytes(), state.actual.to_le_bytes()].concat();
        read_bytes(&sizes, offset, data);
        // Drivers read the field as a whole (section 4.2.2.2); another one may be told of a target
        // that it knows, but of each that it does not.
        if offset == 0 && data.len() >= size_of::<u32>() {
            state.found = state.target;
        }
    }

    /// The version of what the driver reads: another one after each change.
    pub(super) fn generation(&self) -> u32 {
        self.lock().generation
    }

    /// Whether the target is not the one that the driver has read last.
    pub(super) fn is_news(&self) -> bool {
        let state = self.lock();
        state.target != state.found
    }

    /// The driver says how large the balloon is, in pages.
    pub(super) fn set_actual(&self, pages: u32) {
        let mut state = self.lock();
        let target = state.target;
        state.set_sizes(target, pages);
    }

    /// The driver has come.
    pub(super) fn driver_came(&self, with_stats: bool) {
        self.lock().driver = Some(with_stats);
    }

    /// The driver has gone, and with it the balloon.
    pub(super) fn driver_left(&self) {
        let mut state = self.lock();
        state.driver = None;
        let target = state.target;
        state.set_sizes(target, 0);
        state.found = 0;
        state.stats = None;
        drop(state);
        self.shared.told.notify_all();
    }

    /// So many bytes more have been given back to the host.
    pub(super) fn gave_back(&self, bytes: u64) {
        let mut state = self.lock();
        state.given_back = state.given_back.saturating_add(bytes);
    }

    /// Whether somebody waits for new statistics; from then on nobody does.
    pub(super) fn take_wanted(&self) -> bool {
        std::mem::take(&mut self.lock().wanted)
    }

    /// The guest has told of its memory.
    pub(super) fn heard(&self, stats: MemoryStats) {
        let mut state = self.lock();
        state.stats = Some((stats, Instant::now()));
        state.count = state.count.wrapping_add(1);
        drop(state);
        self.shared.told.notify_all();
    }

    /// Becomes readable when the target has changed or statistics are wanted.
    pub(super) fn bell(&self) -> &EventFd {
        &self.shared.bell
    }

    fn ring(&self) {
        // Full means that it is readable, which is all that is wanted.
        let _ = self.shared.bell.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn info(state: &State) -> BalloonInfo {
    BalloonInfo {
        target: u64::from(state.target) * PAGE_SIZE,
        actual: u64::from(state.actual) * PAGE_SIZE,
        driver: state.driver.is_some(),
        given_back: state.given_back,
        stats: state.stats.map(|(stats, _)| stats),
        stats_age_ms: state.stats.map(|(_, time)| milliseconds(time.elapsed())),
    }
}
