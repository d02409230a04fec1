//! What a guest's agent does besides logging off, played with a real guest by a Rust host tool.

use protocol::HResult;
use protocol::clock::ClockAction;
use protocol::task::{TaskInfo, TaskResult};
use std::thread;
use std::time::{Duration, Instant};
use tests::Flavour;
use vmm::config::Console;
use vmm::vm::End;
use vmm::{MachineConfig, Vm};

/// Longer than any boot or end of a guest; only a bound against hanging.
const PATIENCE: Duration = Duration::from_secs(180);

/// A machine whose agent has connected, with alice on its first terminal.
fn machine(name: &str) -> Vm {
    let flavour = Flavour::BookwormCloud;
    let mut config = MachineConfig::new(name, flavour.kernel());
    config.initrd = Some(flavour.initrd());
    config.append = "quiet logins=alice".into();
    config.memory = 256 << 20;
    config.console = Console::None;
    let vm = Vm::start(config, None).unwrap();
    assert!(vm.guest_os().wait_for_agent(PATIENCE), "no agent came");
    vm
}

/// Waits until `holds`.
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(100));
    }
}

fn succeeded(info: &TaskInfo) {
    assert_eq!(info.result, Some(TaskResult::Success), "{info:?}");
    assert_eq!(info.percent_completed, 100);
}

#[test]
fn a_guest_tells_of_itself_keeps_values_restarts_and_shuts_down() {
    let vm = machine("services");
    let guest = vm.guest_os();

    let info = guest.os_info().unwrap();
    assert_eq!(info.computer_name, "guest");
    assert!(info.kernel_release.contains("cloud"), "{info:?}");
    assert_eq!(info.name, "Linux", "it has no os-release");
    until("alice logs on", || guest.is_user_logged_on(1).unwrap());
    assert_eq!(guest.screen_locked().unwrap_err().code, HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
    assert_eq!(guest.heartbeat_percentage().unwrap(), 100);

    assert_eq!(guest.get_parameter("VirtualMachineName").unwrap(), "services");
    guest.set_parameter("Colour", "blue\ngreen").unwrap();
    assert_eq!(guest.get_parameter("Colour").unwrap(), "blue\ngreen");

    until("the guest has been told the time", || guest.clock().is_some());
    let clock = guest.clock().unwrap();
    assert!(!matches!(clock.action, ClockAction::LeftToDaemon | ClockAction::Unknown), "{clock:?}");
    println!("the guest's clock: {clock:?}");

    let before = guest.agent().boot_id;
    succeeded(&guest.restart(false).unwrap().wait(Some(PATIENCE)));
    assert!(guest.wait_for_agent(PATIENCE), "no agent came after the restart");
    assert_ne!(guest.agent().boot_id, before);
    assert_eq!(guest.get_parameter("Colour").unwrap_err().code, HResult::E_INVALIDARG);
    assert_eq!(guest.get_parameter("VirtualMachineName").unwrap(), "services");

    vm.pause().unwrap();
    assert_eq!(guest.get_parameter("Colour").unwrap_err().code, HResult::VM_E_VM_PAUSED);
    let error = guest.shutdown(false).map(|_| ()).unwrap_err();
    assert_eq!(error.code, HResult::VM_E_VM_NOT_RUNNING);
    thread::sleep(Duration::from_secs(25));
    vm.resume().unwrap();
    assert!(guest.agent().connected, "a paused guest is not silent");
    assert_eq!(guest.get_parameter("VirtualMachineName").unwrap(), "services");

    succeeded(&guest.shutdown(false).unwrap().wait(Some(PATIENCE)));
    assert_eq!(vm.wait(), End::PowerOff);
}

#[test]
fn a_guest_is_forced_to_restart_and_to_shut_down() {
    let vm = machine("forced");
    let guest = vm.guest_os();
    let before = guest.agent().boot_id;
    succeeded(&guest.restart(true).unwrap().wait(Some(PATIENCE)));
    assert!(guest.wait_for_agent(PATIENCE), "no agent came after the restart");
    assert_ne!(guest.agent().boot_id, before);
    succeeded(&guest.shutdown(true).unwrap().wait(Some(PATIENCE)));
    assert_eq!(vm.wait(), End::PowerOff);
}
