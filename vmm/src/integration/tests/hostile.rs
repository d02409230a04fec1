//! Messages that no agent would send, or so many of them.

use super::*;
use protocol::frame::{MAX_FRAME, encode};
use protocol::hello::Hello;
use protocol::message::MAX_TEXT;
use protocol::text::steers;
use std::io::{ErrorKind, Write};

#[test]
fn case_46_replies_to_nothing_that_was_asked_are_dropped_and_counted() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    let strangers = [0, id - 1, id + 100, u64::MAX];
    for id in strangers {
        agent.accept(id, 3);
        agent.row(id, row(0, Some(Outcome::Killed)));
        agent.progress(id, true, 1);
        agent.done(id, TaskResult::UnexpectedError, HResult::ERROR_ACCESS_DENIED);
        agent.answer_cancel(id, true);
        let error = HResult::ERROR_ACCESS_DENIED;
        agent.say(&AgentMessage::Rejected { id, error, text: String::new() });
        let (backend, sessions, omitted) = Default::default();
        agent.say(&AgentMessage::Sessions { id, backend, sessions, omitted, worked_us: 0 });
    }
    host.settle(&mut agent);
    assert_eq!(host.guest().agent().dropped, 7 * strangers.len() as u64);
    let info = task.info();
    assert!(!info.is_complete && info.is_cancelable && info.percent_completed == 0);

    // The answer to another request is none to this one, and what is over is over.
    let (backend, sessions, omitted) = Default::default();
    agent.say(&AgentMessage::Sessions { id, backend, sessions, omitted, worked_us: 0 });
    agent.commit(id, 1);
    agent.succeed(id, 1);
    assert_eq!(end(&task), SUCCESS);
    agent.succeed(id, 1);
    host.wait_for_dropped(7 * 4 + 1 + 2);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn case_46_what_comes_before_the_acceptance_is_out_of_order() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let asking = call(&host, |guest| guest.logoff(LogoffOptions::default()));
    let (id, _) = agent.logoff();
    agent.row(id, row(0, Some(Outcome::Terminated)));
    agent.progress(id, true, 1);
    agent.answer_cancel(id, true);
    agent.done(id, TaskResult::Success, HResult::S_OK);
    host.wait_for_dropped(4);
    agent.accept(id, 1);
    let task = asking.join().unwrap().unwrap();
    let info = task.info();
    assert!(info.is_cancelable && info.percent_completed == 0);
    assert!(task.report().unwrap().sessions.is_empty());
}

#[test]
fn case_44_lengths_that_no_frame_has_end_the_connection() {
    let host = Host::new();
    for length in [0, MAX_FRAME as u32 + 1, 1 << 31, u32::MAX] {
        let mut agent = host.ready_agent();
        let (_, task) = host.begin(&mut agent, 1);
        agent.say_bytes(&length.to_le_bytes());
        agent.is_hung_up_on();
        host.wait_for_no_agent();
        // Also as the first thing said.
        let mut stranger = host.connect();
        stranger.say_bytes(&length.to_le_bytes());
        stranger.is_hung_up_on();
        host.integration.boot_starts().wait();
        assert_eq!(end(&task), failed(HResult::DISP_E_EXCEPTION));
    }
    host.serves_the_next();
}

#[test]
fn case_45_documents_that_are_no_messages_are_counted_and_passed_over() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let deep = |open: &str, close: &str| {
        let depth = 5_000;
        format!("{}{}", open.repeat(depth), close.repeat(depth))
    };
    let nested = format!(r#"{{"type":"accepted","id":1,"backend":{}}}"#, deep("[", "]"));
    let unknown = format!(r#"{{"type":"levitate","height":{}}}"#, deep("{\"a\":", "}"));
    let garbage: Vec<Vec<u8>> = vec![
        deep("[", "]").into(),
        deep("{\"a\":[", "]}").into(),
        "[".repeat(MAX_FRAME).into(),
        nested.into(),
        unknown.into(),
        b"\xff\xfe{}".to_vec(),
        br#"{"type":"done","text":"\xff"}"#.to_vec(),
        b"\"".to_vec(),
        b"{}".to_vec(),
        b"null".to_vec(),
        b"[1,2,3]".to_vec(),
        b"NaN".to_vec(),
        br#"{"type":7}"#.to_vec(),
        br#"{"type":"progress"}"#.to_vec(),
        br#"{"type":"progress","id":-1,"committed":true,"done":1}"#.to_vec(),
        br#"{"type":"progress","id":1,"id":2,"committed":true,"done":1}"#.to_vec(),
        br#"{"type":"accepted","id":1,"backend":"x","sessions":1e999,"managers":0}"#.to_vec(),
        br#"{"type":"heartbeat"}{"type":"heartbeat"}"#.to_vec(),
        vec![b' '; MAX_FRAME],
    ];
    for document in &garbage {
        agent.say_frame(document);
    }
    host.settle(&mut agent);
    assert_eq!(host.guest().agent().dropped, garbage.len() as u64);
    // A newer agent may say what is not known yet.
    agent.say_frame(br#"{"type":"levitate","height":3,"id":1}"#);
    agent.say_frame(br#"{"type":"heartbeat","colour":"red"}"#);
    agent.say(&AgentMessage::Unknown);
    host.settle(&mut agent);
    assert_eq!(host.guest().agent().dropped, garbage.len() as u64 + 2);
}

#[test]
fn case_47_a_flood_is_not_hoarded_while_the_host_is_busy() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 1);
    agent.commit(id, 1);
    committed(&task);
    let guest = host.guest();
    let long = SessionReport {
        session: SessionSummary { user: "x".repeat(60_000), ..SessionSummary::default() },
        ..row(0, None)
    };
    let flood = encode(&AgentMessage::Session { id: id + 1, session: long }).unwrap();
    // The thread cannot count what it drops meanwhile.
    let busy = guest.status();
    agent.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut taken = 0;
    let stopped = loop {
        match agent.stream.write(&flood[taken % flood.len()..]) {
            Ok(count) => taken += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break true,
            Err(error) => panic!("{error}"),
        }
        if taken > 64 << 20 {
            break false;
        }
    };
    drop(busy);
    assert!(stopped, "{taken} bytes were taken from a guest that nobody listened to");
    agent.stream.set_write_timeout(Some(PATIENCE)).unwrap();
    agent.stream.write_all(&flood[taken % flood.len()..]).unwrap();
    agent.succeed(id, 1);
    assert_eq!(end(&task), SUCCESS);
}

#[test]
fn case_47_a_hundred_thousand_messages_leave_no_more_than_the_newest() {
    let host = Host::new();
    let mut agent = host.ready_agent();
    let (id, task) = host.begin(&mut agent, 3);
    agent.commit(id, 3);
    let mut flood = Vec::new();
    for number in 0..200 {
        flood.extend(encode(&AgentMessage::Heartbeat).unwrap());
        flood.extend(encode(&AgentMessage::Unknown).unwrap());
        flood.extend(encode(&AgentMessage::Pong { seq: u64::from(number) }).unwrap());
        let session = row(number, None);
        flood.extend(encode(&AgentMessage::Session { id, session }).unwrap());
        let progress = Progress { id, committed: true, done: number % 3 };
        flood.extend(encode(&AgentMessage::Progress(progress)).unwrap());
    }
    for _ in 0..100 {
        agent.say_bytes(&flood);
        // The host answers between two of them.
        assert!(host.guest().agent().connected);
    }
    host.settle(&mut agent);
    let info = task.info();
    assert_eq!((info.percent_completed, info.is_complete), (66, false));
    agent.succeed(id, 3);
    assert_eq!(end(&task), SUCCESS);
    assert_eq!(task.report().unwrap().sessions.len(), 3);
    assert_eq!(host.guest().agent().dropped, 200 * 100, "those that are not known");
}

/// Whether this is what a terminal may be given.
fn assert_clean(text: &str) {
    assert!(text.len() <= MAX_TEXT && !text.contains(steers), "{text:?}");
    assert!(text.starts_with("evil?[2J?"), "{text:?}");
}

#[test]
fn case_49_the_guests_words_are_bounded_and_cannot_steer_a_terminal_wherever_they_come_out() {
    let evil = format!("evil\x1b[2J\u{202e}\r\n\u{9b}{}", "ä".repeat(1_000));
    let session = || SessionSummary {
        id: evil.clone(),
        user: evil.clone(),
        class: evil.clone(),
        kind: evil.clone(),
        tty: evil.clone(),
        remote_host: evil.clone(),
        state: evil.clone(),
        ..SessionSummary::default()
    };
    let assert_session = |session: &SessionSummary| {
        let SessionSummary { id, user, class, kind, tty, remote_host, state, .. } = session;
        for text in [id, user, class, kind, tty, remote_host, state] {
            assert_clean(text);
        }
    };
    let host = Host::new();
    let mut agent = host.connect();
    agent.say(&AgentMessage::Hello(Hello {
        protocols: protocol::PROTOCOL,
        agent_version: evil.clone(),
        boot_id: evil.clone(),
        services: ALL.iter().map(|name| ((*name).to_owned(), 1)).collect(),
    }));
    assert!(matches!(agent.hear(), Some(HostMessage::Welcome(_))));
    agent.pong();
    assert!(host.guest().wait_for_agent(PATIENCE));
    let status = host.guest().agent();
    assert_clean(&status.version.unwrap());
    assert_clean(&status.boot_id.unwrap());

    let asking = call(&host, |guest| guest.logoff(LogoffOptions::default()).map(|_| ()));
    let (id, _) = agent.logoff();
    let error = HResult::ERROR_ACCESS_DENIED;
    agent.say(&AgentMessage::Rejected { id, error, text: evil.clone() });
    assert_clean(&asking.join().unwrap().unwrap_err().text);

    let asking = call(&host, |guest| guest.sessions());
    let (id, _) = agent.request();
    let backend = evil.clone();
    agent.say(&AgentMessage::Sessions {
        id,
        backend,
        sessions: vec![session()],
        omitted: 0,
        worked_us: 0,
    });
    let list = asking.join().unwrap().unwrap();
    assert_clean(&list.backend);
    assert_session(&list.sessions[0]);

    let asking = call(&host, |guest| guest.logoff(LogoffOptions::default()));
    let (id, _) = agent.logoff();
    let backend = evil.clone();
    agent.say(&AgentMessage::Accepted { id, backend, sessions: 1, managers: 0 });
    let task = asking.join().unwrap().unwrap();
    let survivors = vec![process(1, &evil)];
    agent.row(id, SessionReport { session: session(), survivors, ..row(0, None) });
    agent.progress(id, true, 0);
    let manager = protocol::task::ManagerReport {
        uid: 1,
        user: evil.clone(),
        stopped: false,
        reason: evil.clone(),
    };
    agent.say(&AgentMessage::Done(Done {
        managers: vec![manager],
        relogins: vec![session()],
        ignored: vec![session()],
        stale: vec![session()],
        ..Done::failed(id, TaskResult::TimeOutError, HResult::VM_E_TIMED_OUT, evil.clone())
    }));
    assert_eq!(end(&task), TIMED_OUT);
    assert_clean(&task.info().error_description);
    let report = task.report().unwrap();
    assert_clean(&report.backend);
    assert_clean(&report.boot_id);
    assert_session(&report.sessions[0].session);
    assert_clean(&report.sessions[0].survivors[0].comm);
    assert_clean(&report.managers[0].user);
    assert_clean(&report.managers[0].reason);
    for list in [&report.relogins, &report.ignored, &report.stale] {
        assert_session(&list[0]);
    }
}
