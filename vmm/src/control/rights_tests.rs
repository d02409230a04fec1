//! Case 43: what each verb needs, as a second list of them beside that of the verbs themselves.

use super::*;
use crate::control::every_verb::every_verb;

/// Whether a verb changes the machine, its guest, or what somebody else has begun. A verb that is added
/// has to be put here, too.
fn changes(request: &Request) -> bool {
    match request {
        // Looking at the machine.
        Request::Machine | Request::Balloon | Request::Events => false,
        // Looking at the guest.
        Request::Sessions
        | Request::Property { .. }
        | Request::IsUserLoggedOn { .. }
        | Request::GetParameter { .. } => false,
        // Looking at what has been begun.
        Request::Tasks | Request::Task { .. } | Request::Wait { .. } => false,
        // The machine.
        Request::Startup | Request::TurnOff | Request::Reset => true,
        Request::Pause | Request::Resume | Request::PressPowerButton => true,
        Request::SetBalloon { .. } => true,
        // The guest: who is at its console can type.
        Request::Console | Request::SetParameter { .. } => true,
        Request::Logoff { .. } | Request::Shutdown { .. } | Request::Restart { .. } => true,
        Request::InstallIntegrationComponents => true,
        Request::Cancel { .. } => true,
    }
}

#[test]
fn case_43_who_may_only_look_is_refused_every_verb_that_changes_something_and_no_other() {
    let peer = |user| Peer { user, groups: Vec::new() };
    let (reader, operator, stranger) = (peer(1001), peer(1002), peer(1003));
    let access =
        Access { owner: 1000, read: vec![Grant::User(1001)], execute: vec![Grant::User(1002)] };
    let mut verbs = every_verb();
    verbs.extend([Request::Console, Request::Events, Request::InstallIntegrationComponents]);
    assert_eq!(verbs.iter().filter(|verb| changes(verb)).count(), 14);
    for verb in verbs {
        let code = |peer| access.check(peer, &verb, "web").err().map(|error| error.code);
        let denied = changes(&verb).then_some(HResult::ERROR_ACCESS_DENIED);
        assert_eq!(code(&reader), denied, "{verb:?}");
        assert_eq!(code(&operator), None, "{verb:?}");
        assert_eq!(code(&stranger), Some(HResult::VM_E_VM_UNKNOWN), "{verb:?}");
    }
}
