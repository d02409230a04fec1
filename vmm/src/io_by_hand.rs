//! A source without a thread, for tests: whoever has it calls it, and looks at what one call did.

use super::*;

/// The source, and what it watches.
pub(crate) struct ByHand<S> {
    pub(crate) source: S,
    epoll: Epoll,
    watched: HashMap<RawFd, u32>,
    forgotten: HashSet<u64>,
}

impl<S: Source> ByHand<S> {
    /// Starts `source` as its thread would.
    pub(crate) fn start(source: S) -> Self {
        let epoll = Epoll::new().unwrap();
        let (watched, forgotten) = (HashMap::new(), HashSet::new());
        let mut by_hand = Self { source, epoll, watched, forgotten };
        by_hand.call(|source, registry| source.start(registry)).unwrap();
        by_hand
    }

    /// The tokens of what is ready now; of what is watched for changes, each change once.
    pub(crate) fn ready(&mut self) -> Vec<u32> {
        let mut ready = [EpollEvent::default(); BATCH];
        let count = self.epoll.wait(0, &mut ready).unwrap();
        ready[..count].iter().map(|event| event.data() as u32).collect()
    }

    /// Calls the source because `token` is ready.
    pub(crate) fn turn(&mut self, token: u32) {
        self.call(|source, registry| source.ready(token, EventSet::IN, registry));
    }

    /// Calls the source because its deadline has passed.
    pub(crate) fn expire(&mut self) {
        self.call(|source, registry| source.expired(registry));
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut S, &mut Registry<'_>) -> T) -> T {
        let Self { source, epoll, watched, forgotten } = self;
        call(source, &mut Registry { epoll, source: 1, watched, forgotten })
    }
}
