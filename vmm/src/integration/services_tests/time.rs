//! Heartbeats, the clock, and what a pause does to them.

use super::*;
use protocol::clock::{ClockAction, ClockReason, ClockReport};
use protocol::hello::{CLOCK, POWER};
use std::time::Instant;

#[test]
fn a_guest_has_no_heartbeat_before_its_agent_has_connected() {
    let host = Host::new();
    let none = HResult::VM_E_ADDITIONS_NOT_AVAIL;
    assert_eq!(code(host.guest().is_heartbeating()), none);
    assert_eq!(code(host.guest().integration_components_version()), none);
    let mut agent = host.agent(&[]);
    agent.say(&AgentMessage::Heartbeat);
    assert!(host.guest().is_heartbeating().unwrap());
    assert_eq!(host.guest().heartbeat_percentage().unwrap(), 100);
    assert_eq!(host.guest().integration_components_version().unwrap(), "1");
    host.integration.boot_starts().wait();
    assert_eq!(code(host.guest().heartbeat_percentage()), none, "it was of another boot");
}

#[test]
fn the_guest_is_told_the_time_with_the_reason_and_the_length_of_the_way() {
    let clock = Duration::from_millis(100);
    let host = Host::with(Timing { clock, ..Timing::default() });
    let mut agent = host.agent(&[CLOCK]);
    let began = Instant::now();
    let (id, time) = agent.time();
    assert_eq!(time.reason, ClockReason::Boot);
    assert!(u128::from(time.round_trip_ns) <= began.elapsed().as_nanos() + 1_000_000_000);
    assert!(time.host_ns > 1_700_000_000_000_000_000);
    let (again, time) = agent.time();
    assert_eq!(time.reason, ClockReason::Boot, "nobody has answered yet");
    assert!(again > id);
    let report = ClockReport { offset_ns: 5, action: ClockAction::Slewed };
    agent.say(&AgentMessage::Clock { id: again, report });
    // What was under way before each of these may come first.
    let mut until = |wanted| while agent.time().1.reason != wanted {};
    until(ClockReason::Periodic);
    assert_eq!(host.guest().clock(), Some(report));
    host.integration.resumed(|| ());
    until(ClockReason::Resume);
}

#[test]
fn a_guest_whose_time_is_not_the_hosts_business_is_not_told_it() {
    let clock = Duration::from_millis(50);
    let host = Host::with(Timing { clock, ..Timing::default() });
    assert!(host.guest().is_host_time_sync_enabled());
    host.guest().set_host_time_sync(false);
    let mut agent = host.agent(&[CLOCK]);
    agent.hears_nothing();
    host.guest().set_host_time_sync(true);
    agent.time();
}

#[test]
fn a_way_that_was_long_is_measured_again_and_the_time_is_told_in_the_end() {
    let host = Host::new();
    let mut agent = host.agent(&[CLOCK]);
    let mut pings = 0;
    let time = loop {
        match agent.hear() {
            Some(HostMessage::Ping { seq }) => {
                pings += 1;
                thread::sleep(Duration::from_millis(25));
                agent.say(&AgentMessage::Pong { seq });
            }
            Some(HostMessage::Request { request: Request::SetClock(time), .. }) => break time,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pings, 3);
    assert!(time.round_trip_ns >= 25_000_000);
}

#[test]
fn a_paused_guest_is_not_silent_and_keeps_its_connection_and_its_time() {
    let silence = Duration::from_secs(1);
    let power = Duration::from_secs(1);
    let host = Host::with(Timing { silence, power, ..Timing::default() });
    let mut agent = host.agent(&[POWER, CLOCK]);
    agent.time();
    let (_, task) = begin(&host, &mut agent, PowerAction::Shutdown);
    host.state.set(VmState::Paused);
    thread::sleep(Duration::from_millis(1_500));
    assert!(!task.info().is_complete);
    host.integration.resumed(|| host.state.set(VmState::Running));
    assert_eq!(agent.time().1.reason, ClockReason::Resume);
    assert!(host.guest().agent().connected);
    assert_eq!(end(&task).0, Some(TaskResult::TimeOutError), "now its time runs");
}
