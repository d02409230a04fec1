//! Agents that are older or newer than the monitor.

use super::*;
use protocol::PROTOCOL;
use protocol::hello::{Hello, Versions};

/// The hello of an agent whose newest version is `newest`.
fn hello_of(newest: u32) -> AgentMessage {
    let AgentMessage::Hello(hello) = hello("boot", ALL) else { panic!("no hello") };
    let agent_version = format!("0.{newest}");
    AgentMessage::Hello(Hello { protocols: Versions::of(newest), agent_version, ..hello })
}

#[test]
fn an_agent_that_is_one_version_older_or_newer_logs_everyone_off() {
    for (ours, theirs) in [(2, 1), (1, 2), (5, 4), (4, 5), (3, 3)] {
        let host = Host::speaking(Versions::of(ours), Timing::default());
        let mut agent = host.connect();
        agent.say(&hello_of(theirs));
        let Some(HostMessage::Welcome(welcome)) = agent.hear() else { panic!("not welcome") };
        assert_eq!(welcome.protocol, ours.min(theirs));
        agent.pong();
        assert!(host.guest().wait_for_agent(PATIENCE));
        let (id, task) = host.begin(&mut agent, 2);
        agent.commit(id, 2);
        agent.succeed(id, 2);
        assert_eq!(end(&task), SUCCESS, "{ours} and {theirs}");
    }
}

#[test]
fn case_45_what_a_newer_agent_says_besides_is_passed_over_and_counted() {
    let host = Host::new();
    let mut agent = host.connect();
    agent.say_frame(
        r#"{"type":"hello","protocols":{"min":1,"max":2,"best":2},"agent_version":"0.2",
            "boot_id":"boot","services":{"logoff":7,"sessions":1,"levitation":1},"mood":"good"}"#,
    );
    assert!(matches!(agent.hear(), Some(HostMessage::Welcome(_))));
    agent.say_frame(r#"{"type":"levitating","height":3}"#);
    agent.pong();
    assert!(host.guest().wait_for_agent(PATIENCE));
    let (id, task) = host.begin(&mut agent, 1);
    agent.say_frame(format!(r#"{{"type":"levitating","id":{id},"height":9}}"#));
    agent.say_frame(format!(
        r#"{{"type":"progress","id":{id},"committed":true,"done":0,"eta_ms":5}}"#
    ));
    agent.say_frame(format!(
        r#"{{"type":"session","id":{id},"seat":"seat0","session":{{"id":"s0","uid":1000,
            "user":"alice","class":"user","type":"tty","tty":"tty1","remote_host":"","state":"active",
            "leader":1,"leader_start":1,"outcome":"terminated","milliseconds":7,"scope":"s0.scope"}}}}"#
    ));
    agent.say_frame(format!(
        r#"{{"type":"done","id":{id},"result":"Success","error":"0x00000000","text":"","advice":[]}}"#
    ));
    assert_eq!(end(&task), SUCCESS);
    let report = task.report().unwrap();
    assert_eq!(report.sessions[0].outcome, Some(Outcome::Terminated));
    assert_eq!(host.guest().agent().dropped, 2);
}

#[test]
fn an_agent_that_is_two_versions_away_is_no_agent_and_whoever_asks_is_told_both_versions() {
    for (ours, theirs, older) in [(3, 1, "agent"), (1, 3, "monitor")] {
        let host = Host::speaking(Versions::of(ours), Timing::default());
        let mut agent = host.connect();
        agent.say(&hello_of(theirs));
        assert!(matches!(agent.hear(), Some(HostMessage::Refuse(_))));
        agent.is_hung_up_on();
        let error = host.guest().logoff(LogoffOptions::default()).err().unwrap();
        assert_eq!(error.code, HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
        for words in [
            format!("(version 0.{theirs}) speaks {} of", Versions::of(theirs)),
            Versions::of(ours).to_string(),
            format!("the {older} needs an update"),
        ] {
            assert!(error.text.contains(&words), "{words}: {}", error.text);
        }
        let status = host.guest().agent();
        assert_eq!(status.refused, Some(error.text));
        let version = host.guest().integration_components_version().unwrap();
        assert_eq!((version, status.connected), (format!("0.{theirs}"), false));
        // One that fits makes that forgotten, and so does another boot.
        let agent = host.agent_saying(&hello_of(ours));
        assert_eq!(host.guest().agent().refused, None);
        drop(agent);
        host.wait_for_no_agent();
        let mut agent = host.connect();
        agent.say(&hello_of(theirs));
        agent.is_hung_up_on();
        assert!(host.guest().agent().refused.is_some());
        host.integration.boot_starts().wait();
        assert_eq!(host.guest().agent().refused, None);
    }
}

#[test]
fn this_build_speaks_its_version_and_the_one_before() {
    assert_eq!(PROTOCOL, Versions::of(PROTOCOL.max));
}
