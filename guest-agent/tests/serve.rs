//! A connection's manners: hello, pings, requests that are not understood, and how it ends.

mod world;

use guest_agent::serve::{Agent, ServeError};
use protocol::hello::{Refuse, Versions, Welcome};
use protocol::message::{AgentMessage, HostMessage, Request};
use protocol::{HResult, PROTOCOL, frame};
use std::io::Write;
use std::sync::Arc;
use world::{POLITE, World, within};

#[test]
fn the_agent_says_hello_first_and_what_it_can_do() {
    let world = World::new();
    let mut host = world.connect();
    let hello = host.hello();
    assert_eq!((hello.protocols, hello.boot_id.as_str()), (PROTOCOL, "boot"));
    assert_eq!(hello.services.keys().collect::<Vec<_>>(), ["logoff", "sessions"]);
    host.welcome();
    assert_eq!(host.hear(), Some(AgentMessage::Heartbeat), "it is alive from the beginning");
    host.hang_up().unwrap();
}

#[test]
fn pings_are_answered_with_their_number_before_and_after_the_welcome() {
    let world = World::new();
    let mut host = world.connect();
    host.hello();
    host.say(&HostMessage::Ping { seq: 41 });
    assert_eq!(host.next(), AgentMessage::Pong { seq: 41 });
    host.welcome();
    host.say(&HostMessage::Ping { seq: u64::MAX });
    assert_eq!(host.next(), AgentMessage::Pong { seq: u64::MAX });
}

#[test]
fn a_refusal_and_a_version_that_was_not_offered_end_the_connection() {
    let world = World::new();
    let mut host = world.connect();
    host.hello();
    host.say(&HostMessage::Refuse(Refuse { text: "too old\n".into() }));
    assert_eq!(host.hear(), None);
    assert!(matches!(host.hang_up(), Err(ServeError::Refused(text)) if text == "too old?"));

    let mut host = world.connect();
    host.hello();
    host.say(&HostMessage::Welcome(Welcome { protocol: 9, host_version: String::new() }));
    assert_eq!(host.hear(), None);
    assert!(matches!(host.hang_up(), Err(ServeError::Protocol(9))));
}

#[test]
fn a_request_before_the_welcome_is_not_carried_out() {
    let world = World::new();
    let mut login = world.login(POLITE);
    let mut host = world.connect();
    host.hello();
    host.request(1, Request::Logoff(within(0, 1_000)));
    assert_eq!(host.hear(), None);
    assert!(matches!(host.hang_up(), Err(ServeError::NoWelcome)));
    assert!(login.is_there());
}

#[test]
fn sessions_are_listed_and_an_unknown_verb_is_rejected() {
    let world = World::new();
    let login = world.login(POLITE);
    let mut host = world.host();
    host.request(1, Request::Sessions);
    let AgentMessage::Sessions { id: 1, backend, sessions, omitted: 0, .. } = host.next() else {
        panic!("no list")
    };
    assert_eq!((backend.as_str(), sessions.len()), ("utmp+proc", 1));
    assert_eq!((sessions[0].leader, &sessions[0].tty), (login.pid(), &login.tty));
    assert_eq!(sessions[0].uid, rustix::process::getuid().as_raw());
    host.request(2, Request::Unknown);
    let AgentMessage::Rejected { id: 2, error, .. } = host.next() else { panic!("not rejected") };
    assert_eq!(error, HResult::DISP_E_EXCEPTION);
}

#[test]
fn what_is_not_understood_is_passed_over_and_a_broken_stream_ends_it() {
    let world = World::new();
    let mut host = world.host();
    for document in [r#"{"type":"levitate"}"#, "[]", "nonsense"] {
        let mut bytes = (document.len() as u32).to_le_bytes().to_vec();
        bytes.extend(document.as_bytes());
        host.stream.write_all(&bytes).unwrap();
    }
    host.say(&HostMessage::Cancel { id: 77 });
    assert_eq!(host.next(), AgentMessage::CancelAnswer { id: 77, cancelled: false });
    host.stream.write_all(&u32::MAX.to_le_bytes()).unwrap();
    while host.hear().is_some() {}
    let end = host.hang_up();
    let length = |error: &ServeError| {
        matches!(error, ServeError::Stream(frame::FrameError::Length(u32::MAX)))
    };
    assert!(end.as_ref().is_err_and(length), "{end:?}");
}

#[test]
fn an_agent_works_with_hosts_that_are_one_version_older_or_newer_and_with_no_others() {
    for theirs in [1, 2, 3, 4] {
        let world = World::new();
        let mut login = world.login(POLITE);
        let agent = Agent::new(Arc::new(world.backend()), "boot").speaking(Versions::of(3));
        let mut host = world.connect_to(agent);
        let offered = host.hello().protocols;
        // A host that has nothing in common refuses; one that does not is no host to work with.
        let chosen = Versions::of(theirs).common(offered);
        assert_eq!(chosen.is_some(), theirs > 1);
        let protocol = chosen.unwrap_or(theirs);
        host.say(&HostMessage::Welcome(Welcome { protocol, host_version: String::new() }));
        if chosen.is_none() {
            assert_eq!(host.hear(), None);
            assert!(matches!(host.hang_up(), Err(ServeError::Protocol(1))));
            assert!(login.is_there());
            continue;
        }
        // A newer host may say more than is known here.
        let beside = r#"{"type":"request","id":1,"why":"shift","request":{"verb":"levitate"}}"#;
        let mut bytes = (beside.len() as u32).to_le_bytes().to_vec();
        bytes.extend(beside.as_bytes());
        host.stream.write_all(&bytes).unwrap();
        let AgentMessage::Rejected { id: 1, .. } = host.next() else { panic!("not rejected") };
        let ended = host.logoff(2, within(5_000, 20_000));
        assert_eq!(ended.done.error, HResult::S_OK, "{ended:?}");
        assert!(!login.is_there());
    }
}
