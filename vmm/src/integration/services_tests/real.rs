//! The real agent, over a socket pair, with services that touch nothing of this machine.

use super::*;
use guest_agent::info::Info;
use guest_agent::parameters::Store;
use guest_agent::power::{Init, Power, Stage};
use guest_agent::process::Scope;
use guest_agent::serve;
use guest_agent::services::Services;
use guest_agent::sessions::united::{Paths, UtmpProc};
use std::io;
use std::sync::Arc;

struct Obedient(Sender<(PowerAction, bool)>);

impl Init for Obedient {
    fn name(&self) -> &'static str {
        "obedient"
    }

    fn stage(&self) -> Stage {
        Stage::Unknown
    }

    fn ask(&self, action: PowerAction) -> io::Result<()> {
        self.0.send((action, false)).map_err(io::Error::other)
    }

    fn force(&self, action: PowerAction) -> io::Result<()> {
        self.0.send((action, true)).map_err(io::Error::other)
    }
}

#[test]
fn host_and_agent_agree_on_every_service() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::new();
    let (sender, told) = bounded(1);
    let info = Info::new(folder.path());
    let services = Services {
        power: Some(Power::new(Box::new(Obedient(sender)), info.clone())),
        info: Some(info),
        parameters: Some(Store::new(folder.path().join("vmm/parameters"))),
        clock: None,
        install: None,
    };
    let paths = Paths { utmp: vec![folder.path().join("utmp")], ..Paths::default() };
    // A process of this number has no descendants, so the agent sees nobody.
    let backend = UtmpProc::new(paths, Scope::DescendantsOf(u32::MAX));
    let agent = serve::Agent::new(Arc::new(backend), "boot").with_services(services);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let serving = thread::spawn(move || agent.serve(theirs));
    host.agents.send(ours).unwrap();
    let guest = host.guest();
    assert!(guest.wait_for_agent(PATIENCE));

    assert_eq!(guest.get_parameter("VirtualMachineName").unwrap(), "web");
    guest.set_parameter("a", "b").unwrap();
    assert_eq!(guest.get_parameter("a").unwrap(), "b");
    assert_eq!(code(guest.get_parameter("none")), HResult::E_INVALIDARG);
    let name = guest.computer_name().unwrap();
    assert_eq!(name, rustix::system::uname().nodename().to_string_lossy());
    assert_eq!(guest.os_name().unwrap(), "Linux", "it has no os-release");
    assert!(!guest.os_major_version().unwrap().is_empty());
    assert!(!guest.is_user_logged_on(1).unwrap());
    assert_eq!(code(guest.screen_locked()), HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL);
    assert_eq!(guest.can_shutdown(), Some(true));

    let task = guest.shutdown(false).unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), (PowerAction::Shutdown, false));
    let second = guest.restart(false).unwrap();
    let in_progress = HResult::ERROR_SHUTDOWN_IN_PROGRESS;
    assert_eq!(end(&second), (Some(TaskResult::UnexpectedError), in_progress));
    host.integration.powered_off();
    assert_eq!(end(&task), SUCCESS);
    // The host has hung up.
    let _ = serving.join().unwrap();
    assert_eq!(guest.agent().dropped, 0);
}
