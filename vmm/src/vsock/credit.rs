//! Credit: how much each side of a connection may send (section 5.10.6.3).
//!
//! Each side tells in every packet how much its receive buffer holds (`buf_alloc`) and how much it
//! has taken out of it since the beginning (`fwd_cnt`, modulo 2^32). A sender may have `buf_alloc`
//! bytes on the way at most: what it has sent minus the other's `fwd_cnt`.
//!
//! The guest's numbers are its own affair: whatever they are, nothing is sent that it has not
//! granted by them. Our buffer holds [`BUF_ALLOC`] bytes.

use crate::vsock::packet::Header;
use std::num::Wrapping;

/// Bytes that wait for a host program that does not read.
pub const BUF_ALLOC: u32 = 64 * 1024;
/// The guest is told of free room unasked when there is more than this that it does not know of.
const UNTOLD_MAX: u32 = BUF_ALLOC / 2;

/// The accounts of one connection.
#[derive(Debug, Default)]
pub struct Credit {
    /// Bytes that left our buffer.
    forwarded: Wrapping<u32>,
    /// The same, as the guest was told last.
    told: Wrapping<u32>,
    /// Bytes sent to the guest.
    sent: Wrapping<u32>,
    peer_alloc: u32,
    peer_forwarded: Wrapping<u32>,
}

impl Credit {
    /// Takes what a packet of the guest says of its buffer.
    pub fn hear(&mut self, header: &Header) {
        self.peer_alloc = header.buf_alloc.get();
        self.peer_forwarded = Wrapping(header.fwd_cnt.get());
    }

    /// Bytes that may be sent to the guest now.
    ///
    /// A guest that claims to have taken out more than it was sent, or that has shrunk its buffer
    /// below what is on the way, gets nothing.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.peer_alloc.saturating_sub((self.sent - self.peer_forwarded).0)
    }

    /// So many bytes more were sent to the guest.
    pub fn sent(&mut self, bytes: usize) {
        // The counter is modulo 2^32 by definition.
        self.sent += Wrapping(bytes as u32);
    }

    /// So many bytes more left our buffer.
    pub fn forwarded(&mut self, bytes: usize) {
        // The counter is modulo 2^32 by definition.
        self.forwarded += Wrapping(bytes as u32);
    }

    /// Whether the guest should be told of free room before it runs out of what it knows of.
    #[must_use]
    pub fn must_tell(&self) -> bool {
        (self.forwarded - self.told).0 > UNTOLD_MAX
    }

    /// The `fwd_cnt` of a packet that goes to the guest now.
    pub fn tell(&mut self) -> u32 {
        self.told = self.forwarded;
        self.forwarded.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(buf_alloc: u32, fwd_cnt: u32) -> Header {
        Header { buf_alloc: buf_alloc.into(), fwd_cnt: fwd_cnt.into(), ..Header::default() }
    }

    /// Accounts of a connection that has already moved so many bytes each way.
    fn started(sent: u32, forwarded: u32) -> Credit {
        Credit {
            sent: Wrapping(sent),
            peer_forwarded: Wrapping(sent),
            forwarded: Wrapping(forwarded),
            told: Wrapping(forwarded),
            ..Credit::default()
        }
    }

    #[test]
    fn a_guest_whose_numbers_are_lies_is_sent_nothing_it_did_not_grant() {
        let mut credit = started(1000, 0);
        credit.hear(&header(500, 900));
        assert_eq!(credit.available(), 400);
        credit.hear(&header(50, 900));
        assert_eq!(credit.available(), 0, "shrunk below what is on the way");
        credit.hear(&header(500, 1001));
        assert_eq!(credit.available(), 0, "taken out before it was sent");
        credit.hear(&header(0, 1000));
        assert_eq!(credit.available(), 0);
        credit.hear(&header(u32::MAX, 1000));
        assert_eq!(credit.available(), u32::MAX);
    }

    proptest! {
        #[test]
        fn an_honest_guest_never_has_more_on_the_way_than_its_buffer_holds(
            start: u32,
            alloc in 0_u32..200_000,
            steps in prop::collection::vec((0_u32..100_000, 0_u32..100_000), 1..60),
        ) {
            let mut credit = started(start, 0);
            let (mut held, mut taken) = (0_u32, Wrapping(start));
            for (wish, takes) in steps {
                credit.hear(&header(alloc, taken.0));
                prop_assert_eq!(credit.available(), alloc - held);
                let sends = wish.min(credit.available());
                credit.sent(sends as usize);
                held += sends;
                prop_assert!(held <= alloc);
                let takes = takes.min(held);
                held -= takes;
                taken += takes;
            }
        }

        #[test]
        fn no_numbers_grant_more_than_the_buffer(sent: u32, alloc: u32, fwd_cnt: u32) {
            let mut credit = started(sent, 0);
            credit.hear(&header(alloc, fwd_cnt));
            prop_assert!(credit.available() <= alloc);
        }

        /// The guest keeps to what it was told; whoever must be told, is. Then the buffer never
        /// overflows, and once it is empty the guest can send at least half a buffer.
        #[test]
        fn a_guest_that_keeps_to_its_credit_never_overflows_our_buffer_and_never_starves(
            start: u32,
            steps in prop::collection::vec((0_u32..100_000, 0_u32..100_000), 1..60),
        ) {
            let mut credit = started(0, start);
            let (mut held, mut sent, mut known) = (0_u32, Wrapping(start), Wrapping(start));
            for (wish, leaves) in steps {
                let sends = wish.min(BUF_ALLOC - (sent - known).0);
                sent += sends;
                held += sends;
                prop_assert!(held <= BUF_ALLOC);
                let leaves = leaves.min(held);
                held -= leaves;
                credit.forwarded(leaves as usize);
                if credit.must_tell() {
                    known = Wrapping(credit.tell());
                    prop_assert!(!credit.must_tell());
                }
            }
            credit.forwarded(held as usize);
            if credit.must_tell() {
                known = Wrapping(credit.tell());
            }
            prop_assert!(BUF_ALLOC - (sent - known).0 >= BUF_ALLOC / 2);
        }
    }
}
