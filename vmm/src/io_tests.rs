//! The thread with sources that count, swap, fail and panic.

use super::*;
use crate::outcome::{LastWord, Outcome, OutcomeSlot};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

const LIMIT: Duration = Duration::from_secs(10);

/// Counts how often its eventfd became ready.
struct Counter {
    event: Arc<EventFd>,
    count: Arc<AtomicU32>,
    told: Sender<()>,
}

impl Source for Counter {
    fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
        registry.watch(self.event.as_ref(), 7, EventSet::IN)
    }

    fn ready(&mut self, token: u32, _events: EventSet, _registry: &mut Registry<'_>) {
        assert_eq!(token, 7);
        self.event.read().unwrap();
        self.count.fetch_add(1, Ordering::SeqCst);
        self.told.send(()).unwrap();
    }
}

#[test]
fn a_source_is_called_until_it_is_taken_off() {
    let thread = IoThread::spawn("io").unwrap();
    let event = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let count = Arc::new(AtomicU32::new(0));
    for round in 0..3 {
        let (told, hears) = unbounded();
        let counter = Counter { event: event.clone(), count: count.clone(), told };
        let id = thread.handle().add(Box::new(counter)).unwrap();
        event.write(1).unwrap();
        hears.recv_timeout(LIMIT).unwrap();
        thread.handle().remove(id);
        assert!(hears.recv_timeout(LIMIT).is_err(), "the source was dropped");
        event.write(1).unwrap();
        assert_eq!(count.load(Ordering::SeqCst), round + 1, "nobody is called any more");
        event.read().unwrap();
    }
}

#[test]
fn a_source_that_cannot_start_is_refused() {
    struct Bad;
    impl Source for Bad {
        fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
            registry.watch(&-1, 0, EventSet::IN)
        }
        fn ready(&mut self, _: u32, _: EventSet, _: &mut Registry<'_>) {}
    }
    let thread = IoThread::spawn("io").unwrap();
    assert!(thread.handle().add(Box::new(Bad)).is_err());
    let handle = thread.handle();
    drop(thread);
    assert!(handle.add(Box::new(Bad)).is_err(), "after its end the thread takes none");
}

#[test]
fn a_deadline_calls_its_source() {
    struct Alarm(Option<Instant>, Arc<Mutex<Option<Sender<()>>>>);
    impl Source for Alarm {
        fn start(&mut self, _: &mut Registry<'_>) -> io::Result<()> {
            Ok(())
        }
        fn ready(&mut self, _: u32, _: EventSet, _: &mut Registry<'_>) {}
        fn deadline(&self) -> Option<Instant> {
            self.0
        }
        fn expired(&mut self, _: &mut Registry<'_>) {
            self.0 = None;
            self.1.lock().unwrap().take().unwrap().send(()).unwrap();
        }
    }
    let thread = IoThread::spawn("io").unwrap();
    let (told, hears) = unbounded();
    let soon = Instant::now() + Duration::from_millis(5);
    let alarm = Alarm(Some(soon), Arc::new(Mutex::new(Some(told))));
    thread.handle().add(Box::new(alarm)).unwrap();
    hears.recv_timeout(LIMIT).unwrap();
    assert!(Instant::now() >= soon);
}

#[test]
fn an_event_of_a_forgotten_descriptor_does_not_reach_the_next_one_with_its_token() {
    /// Two eventfds that are ready at once: whichever is called first replaces the other by
    /// one that is not ready.
    struct Swap {
        events: [EventFd; 2],
        spare: EventFd,
        calls: u32,
        told: Sender<u32>,
    }
    impl Source for Swap {
        fn start(&mut self, registry: &mut Registry<'_>) -> io::Result<()> {
            registry.watch(&self.events[0], 0, EventSet::IN)?;
            registry.watch(&self.events[1], 1, EventSet::IN)
        }
        fn ready(&mut self, token: u32, _: EventSet, registry: &mut Registry<'_>) {
            self.calls += 1;
            self.events[token as usize].read().expect("it was reported ready");
            if self.calls == 1 {
                registry.forget(&self.events[1 - token as usize]);
                registry.watch(&self.spare, 1 - token, EventSet::IN).unwrap();
            }
            self.told.send(token).unwrap();
        }
    }
    let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let thread = IoThread::spawn("io").unwrap();
    let (told, hears) = unbounded();
    let events = [event(), event()];
    events.iter().for_each(|event| event.write(1).unwrap());
    let again = [events[0].try_clone().unwrap(), events[1].try_clone().unwrap()];
    let swap = Swap { events, spare: event(), calls: 0, told };
    thread.handle().add(Box::new(swap)).unwrap();
    let first = hears.recv_timeout(LIMIT).unwrap();
    again[first as usize].write(1).unwrap();
    assert_eq!(hears.recv_timeout(LIMIT).unwrap(), first, "the other one is not called");
}

#[test]
fn a_source_that_panics_ends_the_thread_and_leaves_nobody_waiting() {
    struct Bomb;
    impl Source for Bomb {
        fn start(&mut self, _: &mut Registry<'_>) -> io::Result<()> {
            panic!("a defect");
        }
        fn ready(&mut self, _: u32, _: EventSet, _: &mut Registry<'_>) {}
    }
    let (slot, outcome) = OutcomeSlot::new();
    let thread = IoThread::spawn_holding(Role::Io, "io", LastWord::of("io", &slot)).unwrap();
    let (told, hears) = unbounded();
    let event = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let other = Counter { event, count: Arc::default(), told };
    let id = thread.handle().add(Box::new(other)).unwrap();
    assert!(thread.handle().add(Box::new(Bomb)).is_err());
    thread.handle().remove(id);
    assert!(hears.recv_timeout(LIMIT).is_err(), "the other source was dropped");
    assert!(thread.handle().add(Box::new(Bomb)).is_err());
    let outcome = outcome.recv_timeout(LIMIT).unwrap();
    assert!(matches!(outcome, Outcome::InternalError(text) if text.contains("io")));
}
