//! A start that waits until the guest says that it is ready. The scenes that follow are played on what
//! it has started.

use std::time::{Duration, Instant};
use tests::stage::Stage;
use tests::{Debian, vmm};

/// Nothing is done in the guest, and no agent is waited for, before the start has returned.
pub(crate) fn a_start_waits_until_the_guest_is_ready_and_show_says_when_that_was() -> Stage {
    let began = Instant::now();
    let mut stage = Stage::start_until_ready(Debian::Thirteen);
    let waited = began.elapsed();
    let shown = stage.machine.vmm(&["show"], &[]).json();
    let readiness = &shown["running"]["readiness"];
    assert_eq!(readiness["phase"], "ready", "{shown}");
    let ready = Duration::from_millis(readiness["ready_ms"].as_u64().expect("it says when"));
    assert!(!ready.is_zero() && ready <= waited, "{ready:?} of {waited:?}");
    let shown = vmm(["show", &stage.machine.name]);
    // In seconds or minutes, as it comes.
    let says_when = |line: &str| line.contains("ready, ") && line.contains(" after its boot began");
    assert!(shown.stdout.lines().any(says_when), "{shown:?}");
    // The guest is the judge of what it has said, and of what it could have said.
    stage.machine.wait_for_shell();
    assert_eq!(stage.run("systemctl is-active multi-user.target"), "active");
    let mut when = |what: &str, unit: &str| -> u64 {
        let said = stage.run(&format!("systemctl show -P {what}TimestampMonotonic {unit}"));
        said.parse().unwrap_or_else(|_| panic!("{unit}: {said}"))
    };
    let loaded = when("InactiveEnter", "modprobe@vmw_vsock_virtio_transport");
    let first = when("ActiveEnter", "sysinit.target");
    assert!(0 < loaded && loaded <= first, "it could be heard from {loaded} on, not from {first}");
    stage.get_agent();
    stage
}
