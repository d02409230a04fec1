//! What the log has heard of an interface, from the machine's start to its end.
//!
//! The guest could say each of these things for ever, so each is said once; and what the guest does
//! keeps nobody from hearing of what the host has to mend.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// What has been said.
#[derive(Debug)]
pub(super) struct Told {
    interface: String,
    lost: AtomicBool,
    down: AtomicBool,
    removed: AtomicBool,
    failed: AtomicBool,
}

impl Told {
    /// Nothing yet, of the interface of this name.
    pub(super) fn of(interface: &str) -> Self {
        let not = || AtomicBool::new(false);
        let (lost, down, removed, failed) = (not(), not(), not(), not());
        Self { interface: interface.to_owned(), lost, down, removed, failed }
    }

    /// A packet is lost because of the guest's driver.
    pub(super) fn guest_has_lost(&self, why: &str) {
        if is_first(&self.lost) {
            tracing::warn!(interface = self.interface, why, "a packet is lost");
        }
    }

    /// The tap has failed with this error.
    pub(super) fn host_has_failed(&self, error: &io::Error) {
        let (said, text) = match error.raw_os_error() {
            Some(libc::EIO) => (
                &self.down,
                "the tap is down; `ip link set TAP up`, as root, brings it up".to_owned(),
            ),
            Some(libc::EBADFD) => {
                (&self.removed, "the tap has been removed; the guest has no network".to_owned())
            }
            _ => (&self.failed, format!("the tap has lost a packet: {error}")),
        };
        if is_first(said) {
            tracing::warn!(interface = self.interface, "{text}");
        }
    }
}

/// Whether `said` was not so yet; it is from now on.
fn is_first(said: &AtomicBool) -> bool {
    !said.swap(true, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::test_warnings::Warnings;

    #[test]
    fn the_log_hears_of_each_trouble_once_whatever_else_there_was_before() {
        let warnings = Warnings::default();
        tracing::subscriber::with_default(warnings.clone(), || {
            let told = Told::of("net-0");
            for _ in 0..3 {
                told.guest_has_lost("nonsense");
                told.guest_has_lost("other nonsense");
            }
            assert_eq!(warnings.count(), 1);
            for (count, error) in [(2, libc::EIO), (3, libc::EBADFD), (4, libc::ENOBUFS)] {
                for _ in 0..3 {
                    told.host_has_failed(&io::Error::from_raw_os_error(error));
                }
                assert_eq!(warnings.count(), count);
            }
        });
    }
}
