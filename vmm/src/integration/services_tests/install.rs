//! Installations: what makes them succeed, and what does not.

use super::*;
use crate::kit::KitState;
use protocol::hello::{Hello, INSTALL, LOGOFF, POWER};
use protocol::message::Done;
use protocol::task::LogoffOptions;

/// A host whose machine has the disk.
fn host_with_disk(timing: Timing) -> Host {
    let host = Host::with(timing);
    host.integration.set_kit(KitState::Attached { version: Some("2.0.0".into()) });
    host
}

/// The agent takes it on, and the task is there.
fn begin_install(host: &Host, agent: &mut Agent) -> (u64, Task) {
    let asking = call(host, |guest| guest.install_integration_components());
    let (id, request) = agent.request();
    assert_eq!(request, Request::Install);
    agent.say(&AgentMessage::Installing { id, version: "2.0.0".into() });
    (id, asking.join().unwrap().unwrap())
}

/// An agent of this version connects.
fn come_back(host: &Host, version: &str) -> Agent {
    let mut agent = host.connect();
    agent.say(&AgentMessage::Hello(Hello {
        protocols: protocol::PROTOCOL,
        agent_version: version.into(),
        boot_id: "boot".into(),
        services: [(INSTALL.to_owned(), 1)].into(),
    }));
    assert!(matches!(agent.hear(), Some(HostMessage::Welcome(_))));
    agent.pong();
    agent
}

#[test]
fn an_installation_succeeds_when_the_installed_agent_has_connected() {
    let host = host_with_disk(Timing::default());
    let mut agent = host.agent(&[INSTALL]);
    assert!(host.guest().integration_components().newer, "the one that is there is 1");
    let (id, task) = begin_install(&host, &mut agent);
    let info = task.info();
    assert!(!info.is_complete && !info.is_cancelable && info.percent_completed > 0);
    agent.say(&AgentMessage::Installed { id });
    let info = task.wait(Some(Duration::from_millis(100)));
    assert!(!info.is_complete, "saying so is not enough");
    drop(agent);
    let _agent = come_back(&host, "2.0.0");
    assert_eq!(end(&task), SUCCESS);
    assert_eq!(host.guest().integration_components_version().unwrap(), "2.0.0");
    assert!(!host.guest().integration_components().newer);
}

#[test]
fn another_agent_than_the_installed_one_is_no_success() {
    let host = host_with_disk(Timing::default());
    let mut agent = host.agent(&[INSTALL]);
    let (id, task) = begin_install(&host, &mut agent);
    agent.say(&AgentMessage::Installed { id });
    let _agent = come_back(&host, "1.9.9");
    assert_eq!(end(&task), (Some(TaskResult::UnexpectedError), HResult::DISP_E_EXCEPTION));
    assert!(task.info().error_description.contains("1.9.9 has come back"));
    assert!(host.guest().integration_components().newer);
}

#[test]
fn the_guests_reasons_lost_agents_and_ended_boots_fail_the_task() {
    type Ending = fn(&Host, u64, Agent);
    let said: Ending = |_, id, mut agent| {
        let (result, error) = (TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION);
        agent.say(&AgentMessage::Done(Done::failed(id, result, error, "read-only")));
    };
    let claimed: Ending = |_, id, mut agent| {
        let (result, error) = (TaskResult::Success, HResult::S_OK);
        agent.say(&AgentMessage::Done(Done::failed(id, result, error, "")));
    };
    let installed: Ending = |host, id, mut agent| {
        let (result, error) = (TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION);
        agent.say(&AgentMessage::Installed { id });
        agent.say(&AgentMessage::Done(Done::failed(id, result, error, "does not run")));
        assert!(host.tasks.list().iter().all(|task| {
            let info = task.wait(None);
            info.error_description.contains("does not run")
        }));
    };
    let lost: Ending = |_, _, agent| drop(agent);
    let again: Ending = |host, _, _agent| host.integration.boot_starts().wait();
    let off: Ending = |host, _, _agent| host.integration.machine_ended();
    for (ending, error) in [
        (said, HResult::DISP_E_EXCEPTION),
        (claimed, HResult::DISP_E_EXCEPTION),
        (installed, HResult::DISP_E_EXCEPTION),
        (lost, HResult::DISP_E_EXCEPTION),
        (again, HResult::DISP_E_EXCEPTION),
        (off, HResult::VM_E_VM_NOT_RUNNING),
    ] {
        let host = host_with_disk(Timing::default());
        let mut agent = host.agent(&[INSTALL]);
        let (id, task) = begin_install(&host, &mut agent);
        ending(&host, id, agent);
        assert_eq!(end(&task), (Some(TaskResult::UnexpectedError), error));
    }
}

#[test]
fn an_installation_that_lasts_too_long_has_failed_wherever_it_is() {
    // Who goes on has to be heard before the time is over.
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(4));
    let late = (Some(TaskResult::TimeOutError), HResult::VM_E_TIMED_OUT);
    for (goes_on, install, words) in
        [(false, short, "has not installed"), (true, long, "no agent has come back")]
    {
        let host = host_with_disk(Timing { install, ..Timing::default() });
        let mut agent = host.agent(&[INSTALL]);
        let (id, task) = begin_install(&host, &mut agent);
        if goes_on {
            agent.say(&AgentMessage::Installed { id });
        }
        assert_eq!(end(&task), late);
        let text = task.info().error_description;
        assert!(text.contains(words), "{text}");
        agent.say(&AgentMessage::Installed { id });
        host.wait_for_dropped(1);
    }
}

#[test]
fn the_installed_agent_has_its_time_when_what_goes_on_meanwhile_is_over() {
    let install = Duration::from_secs(2);
    type Begin = fn(&Host, &mut Agent) -> u64;
    let shutdown: Begin = |host, agent| begin(host, agent, PowerAction::Shutdown).0;
    let logoff: Begin = |host, agent| {
        let asking = call(host, |guest| guest.logoff(LogoffOptions::default()));
        let (id, _) = agent.request();
        agent.say(&AgentMessage::Accepted { id, backend: "".into(), sessions: 1, managers: 0 });
        asking.join().unwrap().unwrap();
        id
    };
    for (meanwhile, comes_back) in [(shutdown, true), (logoff, false)] {
        let host = host_with_disk(Timing { install, ..Timing::default() });
        let mut agent = host.agent(&[INSTALL, POWER, LOGOFF]);
        let (id, task) = begin_install(&host, &mut agent);
        agent.say(&AgentMessage::Installed { id });
        let other = meanwhile(&host, &mut agent);
        let info = task.wait(Some(install + install / 2));
        assert!(!info.is_complete, "{info:?}");
        let (result, error) = (TaskResult::UnexpectedError, HResult::DISP_E_EXCEPTION);
        agent.say(&AgentMessage::Done(Done::failed(other, result, error, "over")));
        if comes_back {
            let _agent = come_back(&host, "2.0.0");
            assert_eq!(end(&task), SUCCESS);
        } else {
            let late = (Some(TaskResult::TimeOutError), HResult::VM_E_TIMED_OUT);
            assert_eq!(end(&task), late);
        }
    }
}

#[test]
fn what_the_host_can_tell_is_refused_without_asking_the_guest() {
    let host = Host::new();
    let install = || code(host.guest().install_integration_components().map(drop));
    assert_eq!(install(), HResult::VM_E_DRIVE_INVALID);
    host.integration.set_kit(KitState::NoRoom);
    assert_eq!(install(), HResult::VM_E_DRIVE_INVALID);
    host.integration.set_kit(KitState::Missing { reason: "none".into() });
    assert_eq!(install(), HResult::ERROR_FILE_NOT_FOUND);
    host.integration.set_kit(KitState::Attached { version: None });
    for services in [None, Some(&[][..])] {
        let _agent = services.map(|services| host.agent(services));
        let refused = host.guest().install_integration_components().map(drop).unwrap_err();
        assert_eq!(refused.code, HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
        assert!(refused.text.contains("/mnt/install"), "{}", refused.text);
    }
    for state in [VmState::Paused, VmState::TurnedOff] {
        host.state.set(state);
        assert_eq!(install(), HResult::VM_E_VM_NOT_RUNNING);
    }
    assert!(host.tasks.list().is_empty());
}

#[test]
fn a_refusal_of_the_guests_and_its_silence_refuse_the_call_and_a_second_waits_for_nothing() {
    let answer = Duration::from_millis(300);
    let host = host_with_disk(Timing { answer, ..Timing::default() });
    let mut agent = host.agent(&[INSTALL]);
    let asking = call(&host, |guest| guest.install_integration_components().map(drop));
    let (id, _) = agent.request();
    let second = host.guest().install_integration_components().map(drop);
    assert_eq!(code(second), HResult::ERROR_NOT_READY);
    let error = HResult::ERROR_FILE_NOT_FOUND;
    agent.say(&AgentMessage::Rejected { id, error, text: "no disk".into() });
    assert_eq!(code(asking.join().unwrap()), error);
    let asking = call(&host, |guest| guest.install_integration_components().map(drop));
    let (id, _) = agent.request();
    assert_eq!(code(asking.join().unwrap()), HResult::VM_E_TIMED_OUT);
    agent.say(&AgentMessage::Installing { id, version: "2.0.0".into() });
    host.wait_for_dropped(1);
    assert!(host.tasks.list().is_empty());
}
