//! How many bytes of answers all clients together have not taken yet.
//!
//! A client is answered as fast as it reads, and what it has not read waits in this process. Each
//! has one answer waiting at the most, but they can be long (a report has many sessions) and the
//! clients many. So long answers share a bounded room, half of which is the owner's alone; who finds
//! none is refused. A [short](SHORT) answer is always given: it is what a refusal is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of long answers that may wait for all clients together.
pub(super) const ROOM: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// Bytes that any client may be told.
const SHORT: usize = 4096;

/// The room.
#[derive(Clone, Default)]
pub(super) struct Unsent {
    taken: Arc<Taken>,
}

/// Bytes that are taken. Only the thread that serves the clients counts.
#[derive(Default)]
struct Taken {
    all: AtomicUsize,
    /// By clients that are not the owner.
    others: AtomicUsize,
}

/// A client's share of the room. It is given back when this is dropped.
pub(super) struct Share {
    room: Unsent,
    owner: bool,
    bytes: usize,
}

impl Unsent {
    /// The share of a client, which has nothing waiting yet.
    pub(super) fn share(&self, owner: bool) -> Share {
        Share { room: self.clone(), owner, bytes: 0 }
    }
}

impl Share {
    /// Takes room for an answer of so many bytes; false if there is not enough.
    #[must_use]
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        if bytes <= SHORT {
            return true;
        }
        let taken = &self.room.taken;
        let (all, others) = (load(&taken.all), load(&taken.others));
        if all + bytes > ROOM || (!self.owner && others + bytes > ROOM / 2) {
            return false;
        }
        self.bytes += bytes;
        taken.all.fetch_add(bytes, Ordering::Relaxed);
        if !self.owner {
            taken.others.fetch_add(bytes, Ordering::Relaxed);
        }
        true
    }

    /// Nothing waits any more.
    pub(super) fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let taken = &self.room.taken;
        taken.all.fetch_sub(bytes, Ordering::Relaxed);
        if !self.owner {
            taken.others.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn load(count: &AtomicUsize) -> usize {
    count.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_answers_share_the_room_half_of_it_is_the_owners_and_short_ones_need_none() {
        let room = Unsent::default();
        let (mut owner, mut other, mut third) =
            (room.share(true), room.share(false), room.share(false));
        assert!(other.take(ROOM / 2));
        assert!(!third.take(SHORT + 1), "the others' half is full");
        assert!(third.take(SHORT), "but a refusal can be told");
        assert!(!owner.take(ROOM / 2 + 1));
        assert!(owner.take(ROOM / 2));
        assert_eq!(load(&room.taken.all), ROOM);
        other.give_back();
        assert!(third.take(ROOM / 2));
        drop((owner, other, third));
        assert_eq!((load(&room.taken.all), load(&room.taken.others)), (0, 0));
    }
}
