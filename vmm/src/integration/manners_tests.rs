//! Guests without manners, and callers who come at the wrong moment.

use crate::integration::test_peer::{Agent, Host, PATIENCE, call, hello};
use crate::task::Task;
use protocol::HResult;
use protocol::frame;
use protocol::hello::LOGOFF;
use protocol::message::AgentMessage;
use protocol::task::LogoffOptions;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

fn bytes(messages: &[AgentMessage]) -> Vec<u8> {
    messages.iter().flat_map(|message| frame::encode(message).unwrap()).collect()
}

#[test]
fn case_46_a_connection_of_a_boot_that_has_ended_is_no_agent_of_the_next() {
    let host = Host::new();
    for _ in 0..50 {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let said = bytes(&[
            hello("boot", &[LOGOFF]),
            AgentMessage::Pong { seq: 1 },
            AgentMessage::Heartbeat,
        ]);
        ours.write_all(&said).unwrap();
        host.agents.send(theirs).unwrap();
        host.integration.boot_starts().wait();
        assert!(!host.guest().wait_for_agent(Duration::from_millis(2)));
        assert_eq!(host.guest().agent().version, None, "nothing is known of it either");
    }
}

#[test]
fn a_flood_of_bad_connections_keeps_no_agent_out() {
    let host = Host::new();
    let flood = bytes(&vec![AgentMessage::Heartbeat; 2_000]);
    for _ in 0..300 {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        // As much as there is room for; some are refused before they have said anything.
        let _ = ours.write(&flood);
        host.agents.send(theirs).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        host.agents.send(theirs).unwrap();
        // Refused while the bad ones are there; then it dials again.
        let _ = ours.write_all(&bytes(&[hello("boot", &[LOGOFF]), AgentMessage::Pong { seq: 1 }]));
        if host.guest().wait_for_agent(Duration::from_millis(100)) {
            return;
        }
        assert!(Instant::now() < deadline, "no agent gets in");
    }
}

#[test]
fn who_waits_for_an_agent_hears_of_the_machines_end_at_once() {
    let host = Host::new();
    let start = Instant::now();
    let waiting = call(&host, |guest| guest.wait_for_agent(10 * PATIENCE));
    while !waiting.is_finished() {
        host.integration.machine_ended();
        thread::sleep(Duration::from_millis(5));
    }
    assert!(!waiting.join().unwrap());
    assert!(start.elapsed() < PATIENCE);
}

/// A logoff that the guest has accepted and not begun.
fn accepted(host: &Host, agent: &mut Agent) -> (u64, Task) {
    let asking = call(host, |guest| guest.logoff(LogoffOptions::default()));
    let (id, _) = agent.request();
    agent.say(&AgentMessage::Accepted { id, backend: "test".into(), sessions: 1, managers: 0 });
    (id, asking.join().unwrap().unwrap())
}

#[test]
fn a_logoff_has_a_bounded_number_of_tasks() {
    let host = Host::new();
    let mut agent = host.agent(&[LOGOFF]);
    let (_, first) = accepted(&host, &mut agent);
    let refused = (0..1_000).find_map(|_| host.guest().logoff(LogoffOptions::default()).err());
    assert_eq!(refused.map(|error| error.code), Some(HResult::VM_E_OUT_OF_RESOURCE));
    assert!(host.tasks.list().len() < 100);
    assert!(!first.info().is_complete);
}
