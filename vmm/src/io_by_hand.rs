//! What a thread does for its sources, one step at a time and without the thread.
//!
//! The fuzz targets are to do the same each time, and many times in a second: they serve whole devices
//! so. Tests look at what a single call of a source does.

#[cfg(test)]
use super::Source;
use super::{BATCH, Command, EventSet, IoHandle, Registry, Served, event_data};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::epoll::{Epoll, EpollEvent};

thread_local! {
    static WANTED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, in which every thread that serves descriptors is made without one.
pub(crate) fn without_threads<T>(work: impl FnOnce() -> T) -> T {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            WANTED.set(self.0);
        }
    }
    let _back = Back(WANTED.replace(true));
    work()
}

pub(super) fn is_wanted() -> bool {
    WANTED.get()
}

/// A thread that is none.
#[derive(Clone)]
pub(super) struct Hand(Arc<Mutex<Option<Kept>>>);

struct Kept {
    served: Served,
    _held: Box<dyn Send>,
}

impl Hand {
    pub(super) fn new(served: Served, held: impl Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(Kept { served, _held: Box::new(held) }))))
    }

    /// Without a thread there is nobody to wait for: what is commanded is done when this returns.
    pub(super) fn obey(&self, command: Command) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = kept.as_mut().is_some_and(|kept| kept.served.obey(command));
        if !goes_on {
            *kept = None;
        }
    }
}

impl IoHandle {
    /// Serves what is ready now.
    ///
    /// # Panics
    /// If there is a thread for that.
    pub(crate) fn step(&self) {
        let hand = self.hand.as_ref().expect("there is no thread");
        let mut kept = hand.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_mut() {
            assert!(kept.served.turn(0, |_| true), "the descriptors can be waited for");
        }
    }
}

/// The descriptors of something that is no source.
pub(crate) struct Watch {
    epoll: Epoll,
    watched: HashMap<RawFd, u32>,
    forgotten: HashSet<u64>,
}

impl Watch {
    /// None yet.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new()?;
        Ok(Self { epoll, watched: HashMap::new(), forgotten: HashSet::new() })
    }

    pub(crate) fn registry(&mut self) -> Registry<'_> {
        let Self { epoll, watched, forgotten } = self;
        Registry { epoll, source: 0, watched, forgotten }
    }

    /// Gives what is ready now to `serve`, and says how much that was.
    pub(crate) fn step(
        &mut self,
        mut serve: impl FnMut(u32, EventSet, &mut Registry<'_>),
    ) -> io::Result<usize> {
        let mut ready = [EpollEvent::default(); BATCH];
        let count = self.epoll.wait(0, &mut ready)?;
        self.forgotten.clear();
        for event in ready.iter().take(count) {
            let token = event.data() as u32;
            if !self.forgotten.contains(&event_data(0, token)) {
                serve(token, event.event_set(), &mut self.registry());
            }
        }
        Ok(count)
    }
}

/// A source that whoever has it calls.
#[cfg(test)]
pub(crate) struct ByHand<S> {
    pub(crate) source: S,
    watch: Watch,
}

#[cfg(test)]
impl<S: Source> ByHand<S> {
    /// Starts `source` as its thread would.
    pub(crate) fn start(mut source: S) -> Self {
        let mut watch = Watch::new().unwrap();
        source.start(&mut watch.registry()).unwrap();
        Self { source, watch }
    }

    /// The tokens of what is ready now; of what is watched for changes, each change once.
    pub(crate) fn ready(&mut self) -> Vec<u32> {
        let mut ready = Vec::new();
        self.watch.step(|token, _, _| ready.push(token)).unwrap();
        ready
    }

    /// Calls the source because `token` is ready.
    pub(crate) fn turn(&mut self, token: u32) {
        self.source.ready(token, EventSet::IN, &mut self.watch.registry());
    }

    /// Calls the source because its deadline has passed.
    pub(crate) fn expire(&mut self) {
        self.source.expired(&mut self.watch.registry());
    }
}
