//! Connections that come to nothing: handshakes, crowds, and guests that do not listen.

use super::*;
use protocol::frame::encode;
use protocol::hello::{Hello, Versions};
use rustix::net::sockopt::set_socket_send_buffer_size;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

#[test]
fn case_44_a_handshake_that_is_not_finished_in_time_ends() {
    let handshake = Duration::from_millis(300);
    let host = Host::with(Timing { handshake, ..Timing::default() });
    let nothing: fn(&mut Agent) = |_| {};
    let half_a_length: fn(&mut Agent) = |agent| agent.say_bytes(&[9, 0]);
    let half_a_frame: fn(&mut Agent) = |agent| {
        let frame = encode(&hello("boot", ALL)).unwrap();
        agent.say_bytes(&frame[..frame.len() / 2]);
    };
    let no_pong: fn(&mut Agent) = |agent| agent.say(&hello("boot", ALL));
    let garbage: fn(&mut Agent) = |agent| agent.say_frame("garbage");
    for beginning in [nothing, half_a_length, half_a_frame, no_pong, garbage] {
        let mut stranger = host.connect();
        beginning(&mut stranger);
        stranger.is_hung_up_on();
    }
    assert!(!host.guest().agent().connected);
}

#[test]
fn case_44_a_handshake_cannot_be_drawn_out_by_talking_of_something_else() {
    let handshake = Duration::from_millis(300);
    let host = Host::with(Timing { handshake, ..Timing::default() });
    let mut stranger = host.connect();
    stranger.say(&hello("boot", ALL));
    stranger.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let until = Instant::now() + PATIENCE;
    // It fails when the host has hung up.
    while frame_is_taken(&mut stranger, &AgentMessage::Heartbeat) {
        assert!(Instant::now() < until, "it is still listened to");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!host.guest().agent().connected);
}

fn frame_is_taken(agent: &mut Agent, message: &AgentMessage) -> bool {
    agent.stream.write_all(&encode(message).unwrap()).is_ok()
}

#[test]
fn who_does_not_keep_to_the_handshake_is_hung_up_on() {
    let host = Host::new();
    let twice: fn(&mut Agent) = |agent| {
        agent.say(&hello("boot", ALL));
        agent.say(&hello("boot", ALL));
    };
    let heartbeat: fn(&mut Agent) = |agent| agent.say(&AgentMessage::Heartbeat);
    let done: fn(&mut Agent) = |agent| agent.done(1, TaskResult::Success, HResult::S_OK);
    let wrong_pong: fn(&mut Agent) = |agent| {
        agent.say(&hello("boot", ALL));
        agent.say(&AgentMessage::Pong { seq: 2 });
    };
    let early_pong: fn(&mut Agent) = |agent| {
        agent.say(&AgentMessage::Pong { seq: 1 });
    };
    let early_answer: fn(&mut Agent) = |agent| {
        agent.say(&hello("boot", ALL));
        agent.accept(1, 1);
    };
    for beginning in [twice, heartbeat, done, wrong_pong, early_pong, early_answer] {
        let mut stranger = host.connect();
        beginning(&mut stranger);
        stranger.is_hung_up_on();
        assert!(!host.guest().agent().connected);
    }
    // Nor is it better later.
    let mut agent = host.ready_agent();
    agent.say(&hello("boot", ALL));
    agent.is_hung_up_on();
    host.wait_for_no_agent();
    host.serves_the_next();
}

#[test]
fn case_45_an_agent_of_another_protocol_is_told_why_it_is_not_served() {
    let host = Host::new();
    for (min, max) in [(2, 9), (0, 0), (u32::MAX, u32::MAX), (9, 0)] {
        let mut agent = host.connect();
        agent.say(&AgentMessage::Hello(Hello {
            protocols: Versions { min, max },
            agent_version: "9".into(),
            boot_id: "boot".into(),
            services: BTreeMap::new(),
        }));
        match agent.hear() {
            Some(HostMessage::Refuse(refuse)) => {
                let older = if max == 0 { "agent" } else { "monitor" };
                let told = [Versions { min, max }.to_string(), format!("{older} needs an update")];
                assert!(told.iter().all(|words| refuse.text.contains(words)), "{}", refuse.text);
            }
            other => panic!("{other:?}"),
        }
        agent.is_hung_up_on();
    }
    assert!(!host.guest().agent().connected);
    host.serves_the_next();
}

/// A thousand connect and say nothing; all but the last few are hung up on.
fn crowd(host: &Host) -> VecDeque<Agent> {
    let mut crowd = VecDeque::new();
    for _ in 0..1_000 {
        crowd.push_back(host.connect());
        if crowd.len() > 16 {
            crowd.pop_front().unwrap().is_hung_up_on();
        }
    }
    crowd
}

#[test]
fn a_thousand_connections_that_say_nothing_neither_stay_nor_keep_the_agent_out() {
    // Nobody is sent away for being late.
    let handshake = Duration::from_secs(3600);
    let host = Host::with(Timing { handshake, ..Timing::default() });
    let _before = crowd(&host);
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    agent.commit(id, 1);
    // One that is there is not pushed out either.
    let _after = crowd(&host);
    host.settle(&mut agent);
    agent.succeed(id, 1);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn a_storm_of_connections_that_break_off_leaves_the_host_as_it_was() {
    let host = Host::new();
    for count in 0..500 {
        let mut stranger = host.connect();
        // Whoever has been sent away cannot say anything.
        let _ = stranger.stream.write_all(&encode(&hello("boot", ALL)).unwrap()[..count % 60]);
    }
    host.serves_the_next();
}

#[test]
fn a_guest_that_does_not_read_is_hung_up_on_and_holds_up_nobody() {
    let host = Host::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    set_socket_send_buffer_size(&theirs, 0).unwrap();
    host.agents.send(theirs).unwrap();
    let mut agent = Agent::new(ours);
    agent.say(&hello("boot", ALL));
    assert!(matches!(agent.hear(), Some(HostMessage::Welcome(_))));
    agent.pong();
    assert!(host.guest().wait_for_agent(PATIENCE));
    let (id, task) = host.begin(&mut agent, 1);
    agent.commit(id, 1);
    // It reads no more of what it is asked from here on.
    let asking: Vec<_> = (0..64).map(|_| call(&host, |guest| guest.sessions())).collect();
    for asking in asking {
        let code = code(asking.join().unwrap());
        assert_eq!(code, HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL, "it is not waited for");
    }
    agent.is_hung_up_on();
    let mut agent = host.ready_agent();
    let (id, _) = agent.logoff();
    agent.succeed(id, 1);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn a_guest_that_half_closes_is_gone() {
    let host = Host::new();
    let agent = host.ready_agent();
    agent.stream.shutdown(Shutdown::Write).unwrap();
    host.wait_for_no_agent();
    host.serves_the_next();
}
