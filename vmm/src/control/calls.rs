//! The threads for requests that may have to wait, for the guest say.
//!
//! To start and confine a thread takes longer than the guest takes to answer most of them. So one that
//! has nothing more to do is kept for the next request: who asks one thing after the other has it.

use crate::confine::{self, Role};
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::io;
use std::thread;

/// Requests at once that have a thread.
const MAX_CALLS: usize = 64;
/// Threads that are kept.
const KEPT: usize = 1;

/// What a thread does for one request.
type Job = Box<dyn FnOnce() + Send>;

/// Requests that have a thread.
pub(super) struct Calls {
    pub(super) all: usize,
    /// Those of clients that are not the owner.
    others: usize,
    /// Threads that wait for the next request.
    idle: usize,
    /// What they are to do; nothing tells one of them to end.
    jobs: (Sender<Option<Job>>, Receiver<Option<Job>>),
}

impl Default for Calls {
    fn default() -> Self {
        Self { all: 0, others: 0, idle: 0, jobs: unbounded() }
    }
}

impl Calls {
    /// Whether there may be one more.
    pub(super) fn has_room(&self, owner: bool) -> bool {
        self.all < MAX_CALLS && (owner || self.others < MAX_CALLS / 2)
    }

    /// Has a request, of the owner or somebody else, worked on by `job`, which does not panic.
    ///
    /// # Errors
    /// There is no thread left.
    pub(super) fn begin(
        &mut self,
        owner: bool,
        job: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        if self.idle > 0 {
            self.idle -= 1;
            self.tell(Some(Box::new(job)));
        } else {
            let jobs = self.jobs.1.clone();
            thread::Builder::new().name("call".into()).spawn(move || {
                confine::narrow(Role::Call);
                job();
                while let Ok(Some(job)) = jobs.recv() {
                    job();
                }
            })?;
        }
        self.all += 1;
        self.others += usize::from(!owner);
        Ok(())
    }

    /// A request has been answered, and its thread has nothing more to do.
    pub(super) fn end(&mut self, owner: bool) {
        self.all -= 1;
        self.others -= usize::from(!owner);
        if self.idle < KEPT {
            self.idle += 1;
        } else {
            self.tell(None);
        }
    }

    fn tell(&self, job: Option<Job>) {
        // Does not fail, since the other end is here, too.
        let _ = self.jobs.0.send(job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{RecvTimeoutError, bounded};
    use std::cell::RefCell;
    use std::thread::ThreadId;
    use std::time::Duration;

    /// Begins a call that says which thread it has, and waits for `go`.
    fn call(calls: &mut Calls, go: Receiver<()>) -> Receiver<ThreadId> {
        let (said, hears) = bounded(1);
        let job = move || {
            said.send(thread::current().id()).unwrap();
            let _ = go.recv();
        };
        calls.begin(true, job).unwrap();
        hears
    }

    #[test]
    fn a_thread_is_kept_for_the_next_call_and_calls_at_once_have_threads_of_their_own() {
        let mut calls = Calls::default();
        let (go, gate) = bounded::<()>(0);
        let both = [call(&mut calls, gate.clone()), call(&mut calls, gate.clone())];
        let both = both.map(|said| said.recv_timeout(Duration::from_secs(30)).unwrap());
        assert_ne!(both[0], both[1]);
        drop(go);
        (0..2).for_each(|_| calls.end(true));
        assert_eq!((calls.all, calls.idle), (0, KEPT), "the other one ends");
        let third = call(&mut calls, gate).recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(both.contains(&third));
        assert_eq!((calls.all, calls.idle), (1, 0));
    }

    thread_local! {
        /// Dropped when its thread ends.
        static LIFE: RefCell<Option<Sender<()>>> = const { RefCell::new(None) };
    }

    #[test]
    fn a_thread_that_is_kept_ends_with_the_calls() {
        let mut calls = Calls::default();
        let (life, death) = bounded(0);
        calls.begin(true, || LIFE.set(Some(life))).unwrap();
        calls.end(true);
        let brief = Duration::from_millis(50);
        assert_eq!(death.recv_timeout(brief), Err(RecvTimeoutError::Timeout));
        drop(calls);
        let long = Duration::from_secs(30);
        assert_eq!(death.recv_timeout(long), Err(RecvTimeoutError::Disconnected));
    }
}
