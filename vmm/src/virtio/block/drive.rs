//! A disk in a machine: its image, and the thread that works on it. Both outlive the guest's
//! reboots, so that nobody else can take the image in between.
//!
//! The thread can be stuck in the kernel, as with a file on a server that has gone. Whoever waits
//! for it waits a bounded time: the thread is left behind then, and what it uses (the image, guest
//! RAM) lives until it comes back.

use crate::config::Disk;
use crate::confine::Role;
use crate::disk::{DiskError, DiskFault, Image, Traits};
use crate::io::{IoHandle, IoThread, Source, SourceId};
use crate::usage::Usage;
use crossbeam_channel::{Receiver, TryRecvError};
use std::fs::File;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// How long a disk may take to come back from a request that nobody waits for any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// The disk.
pub struct Drive {
    name: String,
    traits: Traits,
    /// The thread owns it, so that it is closed there: that can last too.
    image: Weak<Mutex<Image>>,
    handle: IoHandle,
    thread: Option<IoThread>,
    /// A service that the thread has not dropped yet.
    leaving: Mutex<Option<Receiver<()>>>,
    patience: Duration,
    /// Whether the log has heard of a request that failed; the guest could say it for ever.
    complained: Arc<AtomicBool>,
}

impl Drive {
    /// Opens the image of `disk`, the machine's disk number `index` from 0, and starts its thread.
    /// What the guest reads and writes is counted in `usage`.
    ///
    /// # Errors
    /// The image cannot be used, or no thread is left.
    pub fn open(index: usize, disk: &Disk, usage: &Usage) -> Result<Self, DiskError> {
        let mut image = Image::open(disk)?;
        image.count_in(usage);
        Self::start(format!("disk-{index}"), image, PATIENCE)
            .map_err(|error| DiskError { path: disk.path.clone(), fault: DiskFault::Thread(error) })
    }

    /// A disk called `name` of the raw image in `file`, which the guest can only read. What it
    /// reads is not counted.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub(crate) fn of_file(name: &str, file: File) -> Result<Self, DiskError> {
        let started = Image::of_file(file)
            .and_then(|image| Self::start(name.into(), image, PATIENCE).map_err(DiskFault::Thread));
        started.map_err(|fault| DiskError { path: name.into(), fault })
    }

    pub(super) fn start(name: String, image: Image, patience: Duration) -> io::Result<Self> {
        let traits = image.traits();
        let image = Arc::new(Mutex::new(image));
        let weak = Arc::downgrade(&image);
        let thread = IoThread::spawn_holding(Role::Disk, &name, image)?;
        let handle = thread.handle();
        Ok(Self {
            name,
            traits,
            image: weak,
            handle,
            thread: Some(thread),
            leaving: Mutex::default(),
            patience,
            complained: Arc::default(),
        })
    }

    /// What serves the device, to do so by hand.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn handle(&self) -> IoHandle {
        self.handle.clone()
    }

    /// What does not change of the image.
    #[must_use]
    pub fn traits(&self) -> Traits {
        self.traits
    }

    /// The name by which the guest can tell the disk from others, which is that of its thread.
    pub(super) fn id(&self) -> String {
        self.name.clone()
    }

    /// Whether the log has heard of a request that failed, for who sees that.
    pub(super) fn complained(&self) -> Arc<AtomicBool> {
        self.complained.clone()
    }

    /// The image, for who works on the thread.
    pub(super) fn image(&self) -> io::Result<Arc<Mutex<Image>>> {
        // It is closed only when the thread has ended.
        self.image.upgrade().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Puts `service` on the thread, which must be [free](Self::is_free): another one would have to
    /// wait.
    pub(super) fn add(&self, service: Box<dyn Source>) -> io::Result<SourceId> {
        if !self.is_free() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.handle.add(service)
    }

    /// Takes the service off the thread, or gives up waiting for that.
    pub(super) fn remove(&self, service: SourceId) {
        let removed = self.handle.begin_remove(service);
        if removed.recv_timeout(self.patience).is_err_and(|error| error.is_timeout()) {
            tracing::warn!(disk = self.name, "the disk does not come back from a request");
            *self.leaving.lock().unwrap_or_else(PoisonError::into_inner) = Some(removed);
        }
    }

    /// Whether no service that was taken off is left on the thread.
    pub(super) fn is_free(&self) -> bool {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.take_if(|removed| removed.try_recv() != Err(TryRecvError::Empty));
        leaving.is_none()
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        // Whoever has waited for it already need not wait again.
        let patience = if self.is_free() { self.patience } else { Duration::ZERO };
        if let Some(thread) = self.thread.take()
            && !thread.end_within(patience)
        {
            tracing::warn!(disk = self.name, "the disk's thread is left behind");
        }
    }
}
