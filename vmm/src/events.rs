//! Events: what happens to a machine, told to whoever subscribes.
//!
//! Numbers and names are those of `IVMVirtualMachineEvents` and `IVMVirtualPCEvents` of the Virtual PC
//! API. What cannot happen here has no number: a configuration changes only while nobody serves the
//! machine (6), there is no video (7), and no agent says that it is being removed (8). The room that
//! disks have is not watched (12).
//!
//! Each subscriber has a queue of its own. One that does not take its events loses the oldest and is
//! told how many; it slows down nobody, and above all not the machine.

use crate::state::VmState;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use vmm_sys_util::eventfd::EventFd;

/// Events that wait for a subscriber; the oldest is dropped for one more.
pub const QUEUE: usize = 256;

/// Why somebody's session ended: `VMLogoffType` of the Virtual PC API, whose numbers these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum LogoffType {
    /// The user left.
    Normal = 0,
    /// The guest's system ended it.
    Forced = 1,
    /// The host asked for it.
    External = 2,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name")]
pub enum EventKind {
    /// The machine's state changed.
    OnStateChange {
        /// What it is now.
        state: VmState,
    },
    /// The machine is about to be turned off.
    OnRequestShutdown,
    /// The machine boots anew.
    OnReset,
    /// A processor of the guest triple-faulted.
    OnTripleFault,
    /// The agent fell silent without a word.
    OnHeartbeatStopped,
    /// An agent is connected and has answered.
    OnAdditionsAvailable,
    /// The guest's init says that the boot is complete: see [`notify`](crate::notify). The API has
    /// no such event.
    GuestReady,
    /// The guest has shut down.
    OnGuestShutdown,
    /// A session ended.
    OnGuestLogoff {
        /// Why.
        logoff_type: LogoffType,
        /// Whose it was, as the guest says.
        user: String,
        /// Which one it was, as the guest names it.
        session: String,
    },
}

impl EventKind {
    /// The documented number; those from 1,000 on are ours.
    #[must_use]
    pub fn number(&self) -> u32 {
        match self {
            Self::OnStateChange { .. } => 1,
            Self::OnRequestShutdown => 2,
            Self::OnReset => 3,
            Self::OnTripleFault => 4,
            Self::OnHeartbeatStopped => 5,
            Self::OnAdditionsAvailable => 9,
            Self::OnGuestShutdown => 10,
            Self::GuestReady => 1000,
            Self::OnGuestLogoff { .. } => 11,
        }
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The machine.
    pub machine: String,
    /// Counts the machine's events from 1, so that gaps show.
    pub sequence: u64,
    /// The documented number.
    pub number: u32,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// A machine's state has changed: `OnVMStateChange` of `IVMVirtualPCEvents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStateChange {
    /// The machine.
    pub machine: String,
    /// What it is now.
    pub state: VmState,
}

impl VmStateChange {
    /// The documented number.
    pub const NUMBER: u32 = 2;
    /// The documented name.
    pub const NAME: &str = "OnVMStateChange";
}

/// What a subscriber takes from its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An event.
    Event(Event),
    /// So many events were dropped here, because they were not taken in time.
    Lost(u64),
}

/// The events of one machine.
#[derive(Clone)]
pub struct Events {
    hub: Arc<Mutex<Hub>>,
}

struct Hub {
    machine: String,
    sequence: u64,
    queues: Vec<Weak<Queue>>,
}

struct Queue {
    waiting: Mutex<Waiting>,
    waker: Arc<EventFd>,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    lost: u64,
}

impl Events {
    /// The events of the machine `name`; nobody has subscribed yet.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let hub = Hub { machine: name.to_owned(), sequence: 0, queues: Vec::new() };
        Self { hub: Arc::new(Mutex::new(hub)) }
    }

    /// Tells all subscribers.
    pub fn publish(&self, kind: EventKind) {
        let mut hub = lock(&self.hub);
        hub.sequence += 1;
        let machine = hub.machine.clone();
        let event = Event { machine, sequence: hub.sequence, number: kind.number(), kind };
        hub.queues.retain(|queue| match queue.upgrade() {
            Some(queue) => {
                queue.push(event.clone());
                true
            }
            None => false,
        });
    }

    /// A queue for what happens from now on. `waker` is written to whenever there is something in
    /// it; several queues may share one.
    #[must_use]
    pub fn subscribe(&self, waker: Arc<EventFd>) -> Subscription {
        let queue = Arc::new(Queue { waiting: Mutex::default(), waker });
        let mut hub = lock(&self.hub);
        hub.queues.retain(|queue| queue.strong_count() > 0);
        hub.queues.push(Arc::downgrade(&queue));
        Subscription { queue }
    }
}

impl Queue {
    fn push(&self, event: Event) {
        let mut waiting = lock(&self.waiting);
        if waiting.events.len() == QUEUE {
            waiting.events.pop_front();
            waiting.lost += 1;
        }
        waiting.events.push_back(event);
        drop(waiting);
        // Full means that it is readable, which is all that is wanted.
        let _ = self.waker.write(1);
    }
}

/// A subscriber's queue. Dropping it ends the subscription.
pub struct Subscription {
    queue: Arc<Queue>,
}

impl Subscription {
    /// Takes the next event, or how many were lost before it; none if nothing waits.
    #[must_use]
    pub fn take(&self) -> Option<Notice> {
        let mut waiting = lock(&self.queue.waiting);
        match std::mem::take(&mut waiting.lost) {
            0 => waiting.events.pop_front().map(Notice::Event),
            lost => Some(Notice::Lost(lost)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waker() -> Arc<EventFd> {
        Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())
    }

    #[test]
    fn a_slow_subscriber_loses_the_oldest_and_is_told_how_many() {
        let events = Events::of("web");
        let (slow, quick) = (events.subscribe(waker()), events.subscribe(waker()));
        for _ in 0..QUEUE + 7 {
            events.publish(EventKind::OnReset);
            assert!(matches!(quick.take(), Some(Notice::Event(_))));
        }
        assert_eq!(quick.take(), None);
        assert_eq!(slow.take(), Some(Notice::Lost(7)));
        let Some(Notice::Event(first)) = slow.take() else { panic!("no event") };
        assert_eq!((first.sequence, first.machine.as_str()), (8, "web"));
        assert_eq!(std::iter::from_fn(|| slow.take()).count(), QUEUE - 1);
    }

    #[test]
    fn a_subscriber_is_woken_and_one_that_has_gone_is_forgotten() {
        let events = Events::of("web");
        let bell = waker();
        let subscription = events.subscribe(bell.clone());
        assert!(bell.read().is_err(), "nothing has happened");
        events.publish(EventKind::OnTripleFault);
        assert_eq!(bell.read().unwrap(), 1);
        drop(subscription);
        events.publish(EventKind::OnTripleFault);
        assert!(bell.read().is_err());
        assert!(lock(&events.hub).queues.is_empty());
    }

    #[test]
    fn an_event_is_one_flat_document_with_its_documented_number_and_name() {
        let events = Events::of("web");
        let subscription = events.subscribe(waker());
        events.publish(EventKind::OnStateChange { state: VmState::Running });
        let Some(Notice::Event(event)) = subscription.take() else { panic!("no event") };
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(
            json,
            r#"{"machine":"web","sequence":1,"number":1,"name":"OnStateChange","state":"Running"}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }
}
