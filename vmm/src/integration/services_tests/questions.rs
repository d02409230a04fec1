//! Questions that one message answers, and who may ask them when.

use super::*;
use protocol::hello::{INFO, PARAMETERS, POWER, SESSIONS};
use protocol::info::OsInfo;
use protocol::message::{Done, MAX_TEXT};
use protocol::parameters::MAX_VALUE;
use protocol::task::SessionSummary;

/// Every member that asks the guest, and the code of its refusal.
fn refusals(guest: &GuestOs) -> Vec<(&'static str, HResult)> {
    vec![
        ("shutdown", code(guest.shutdown(false).map(|_| ()))),
        ("restart", code(guest.restart(true).map(|_| ()))),
        ("os_info", code(guest.os_info())),
        ("os_version_info", code(guest.os_version_info())),
        ("computer_name", code(guest.computer_name())),
        ("csd_version", code(guest.csd_version())),
        ("suite_mask", code(guest.suite_mask())),
        ("multiple_user_sessions", code(guest.multiple_user_sessions_allowed())),
        ("screen_locked", code(guest.screen_locked())),
        ("os_platform_id", code(guest.os_platform_id())),
        ("terminal_services", code(guest.terminal_services_initialized())),
        ("terminal_server_port", code(guest.terminal_server_port())),
        ("is_user_logged_on 0", code(guest.is_user_logged_on(0))),
        ("is_user_logged_on 1", code(guest.is_user_logged_on(1))),
        ("get_parameter", code(guest.get_parameter("a"))),
        ("set_parameter", code(guest.set_parameter("a", ""))),
    ]
}

#[test]
fn without_an_agent_or_its_service_the_feature_is_not_available() {
    let host = Host::new();
    let missing = HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL;
    for (member, code) in refusals(&host.guest()) {
        assert_eq!(code, missing, "{member} without an agent");
    }
    let old = host.agent(&["logoff"]);
    for (member, code) in refusals(&host.guest()) {
        assert_eq!(code, missing, "{member} with an old agent");
    }
    assert_eq!(host.guest().can_shutdown(), Some(false));
    drop(old);
}

#[test]
fn a_machine_that_does_not_run_or_is_paused_refuses_with_its_own_codes() {
    let host = Host::new();
    let _agent = host.agent(&[POWER, INFO, SESSIONS]);
    assert_eq!(host.guest().can_shutdown(), Some(true));
    host.state.set(VmState::TurnedOff);
    for (member, code) in refusals(&host.guest()) {
        assert_eq!(code, HResult::VM_E_VM_NOT_RUNNING, "{member}");
    }
    assert_eq!(code(host.guest().heartbeat_percentage()), HResult::VM_E_VM_NOT_RUNNING);
    assert_eq!(host.guest().can_shutdown(), None);
    host.state.set(VmState::Paused);
    for (member, code) in refusals(&host.guest()) {
        let has_own = member.starts_with("is_user") || member.ends_with("parameter");
        let expected = if has_own { HResult::VM_E_VM_PAUSED } else { HResult::VM_E_VM_NOT_RUNNING };
        assert_eq!(code, expected, "{member}");
    }
}

#[test]
fn arguments_are_judged_before_anybody_is_asked() {
    let host = Host::new();
    let guest = host.guest();
    for kind in [-1, 2, i32::MAX] {
        assert_eq!(code(guest.is_user_logged_on(kind)), HResult::E_INVALIDARG);
    }
    for name in ["", "a\\b", "a/b", ".a", "a\0"] {
        assert_eq!(code(guest.get_parameter(name)), HResult::E_INVALIDARG, "{name:?}");
        assert_eq!(code(guest.set_parameter(name, "")), HResult::E_INVALIDARG, "{name:?}");
    }
    let mut agent = host.agent(&[PARAMETERS]);
    (0..4).for_each(|_| drop(agent.request()));
    for value in ["x".repeat(MAX_VALUE + 1), "\"".repeat(MAX_VALUE), "\x1b".into()] {
        assert_eq!(code(guest.set_parameter("a", &value)), HResult::E_INVALIDARG);
    }
    agent.hears_nothing();
}

#[test]
fn the_guest_is_given_its_start_up_values_and_parameters_are_read_and_set() {
    let host = Host::new();
    let mut agent = host.agent(&[PARAMETERS]);
    let mut names = Vec::new();
    for _ in 0..4 {
        let (id, Request::SetParameter { name, value }) = agent.request() else { panic!() };
        assert!(name != "VirtualMachineName" || value == "web");
        assert!(name != "PhysicalHostName" || !value.contains('.'));
        names.push(name);
        agent.say(&AgentMessage::ParameterSet { id });
    }
    names.sort();
    let start_up =
        ["HostName", "PhysicalHostName", "PhysicalHostNameFullyQualified", "VirtualMachineName"];
    assert_eq!(names, start_up);
    let setting = call(&host, |guest| guest.set_parameter("a", "two\nlines"));
    let (id, request) = agent.request();
    let value = "two\nlines".to_owned();
    assert_eq!(request, Request::SetParameter { name: "a".into(), value });
    agent.say(&AgentMessage::ParameterSet { id });
    setting.join().unwrap().unwrap();
    let getting = call(&host, |guest| guest.get_parameter("a"));
    let (id, _) = agent.request();
    agent.say(&AgentMessage::Parameter { id, value: "x\x1b\ny".into() });
    assert_eq!(getting.join().unwrap().unwrap(), "x?\ny", "it cannot steer a terminal");
    let getting = call(&host, |guest| guest.get_parameter("b"));
    let (id, _) = agent.request();
    let error = HResult::E_INVALIDARG;
    agent.say(&AgentMessage::Rejected { id, error, text: "none".into() });
    assert_eq!(code(getting.join().unwrap()), error);
    assert_eq!(host.guest().agent().dropped, 0);
}

#[test]
fn the_system_is_described_in_bounded_and_harmless_words() {
    let host = Host::new();
    let mut agent = host.agent(&[INFO]);
    let asking = call(&host, |guest| guest.os_info());
    let (id, request) = agent.request();
    assert_eq!(request, Request::OsInfo);
    let info =
        OsInfo { name: "x".repeat(60_000), computer_name: "a\x1b\n".into(), ..OsInfo::default() };
    agent.say(&AgentMessage::OsInfo { id, info });
    let info = asking.join().unwrap().unwrap();
    assert_eq!((info.name.len(), &*info.computer_name), (MAX_TEXT, "a??"));
    let guest = host.guest();
    assert_eq!(guest.csd_version().unwrap(), "");
    assert_eq!(guest.suite_mask().unwrap(), "0x00000000");
    assert!(guest.multiple_user_sessions_allowed().unwrap());
}

#[test]
fn somebody_is_logged_on_if_the_guest_has_a_session_and_never_in_a_seamless_one() {
    let host = Host::new();
    let mut agent = host.agent(&[SESSIONS]);
    assert!(!host.guest().is_user_logged_on(0).unwrap());
    for sessions in [Vec::new(), vec![SessionSummary::default()]] {
        let asking = call(&host, |guest| guest.is_user_logged_on(1));
        let (id, _) = agent.request();
        let somebody = !sessions.is_empty();
        agent.say(&AgentMessage::Sessions {
            id,
            backend: String::new(),
            sessions,
            omitted: 0,
            worked_us: 0,
        });
        assert_eq!(asking.join().unwrap().unwrap(), somebody);
    }
}

#[test]
fn an_answer_of_another_kind_and_one_to_no_question_do_no_harm() {
    let host = Host::new();
    let mut agent = host.agent(&[INFO, PARAMETERS]);
    (0..4).for_each(|_| drop(agent.request()));
    let asking = call(&host, |guest| guest.os_info());
    let (id, _) = agent.request();
    agent.say(&AgentMessage::ScreenLocked { id, locked: true });
    assert_eq!(code(asking.join().unwrap()), HResult::DISP_E_EXCEPTION);
    agent.say(&AgentMessage::ScreenLocked { id, locked: true });
    agent.say(&AgentMessage::PowerAccepted { id: 999, init: String::new() });
    agent.say(&AgentMessage::Done(Done::failed(999, TaskResult::Success, HResult::S_OK, "")));
    agent.say(&AgentMessage::Pong { seq: 999 });
    let asking = call(&host, |guest| guest.screen_locked());
    let (id, _) = agent.request();
    agent.say(&AgentMessage::ScreenLocked { id, locked: true });
    assert!(asking.join().unwrap().unwrap());
    assert_eq!(host.guest().agent().dropped, 3);
}
