//! A request of every verb that is answered once: for those who race through all pairs of them, here
//! with a machine that is none, and in the tests from outside, which include this file, with one in a
//! process of its own. Numbers are as bad as can be.

use super::{LogoffOptions, Property, Request};

pub(super) fn every_verb() -> Vec<Request> {
    let options = LogoffOptions { grace_ms: u64::MAX, notice_ms: u64::MAX, deadline_ms: u64::MAX };
    vec![
        Request::Machine,
        Request::Startup,
        Request::TurnOff,
        Request::Reset,
        Request::Pause,
        Request::Resume,
        Request::PressPowerButton,
        Request::Balloon,
        Request::SetBalloon { bytes: u64::MAX },
        Request::Sessions,
        Request::Property { property: Property::ComputerName },
        Request::IsUserLoggedOn { kind: i32::MIN },
        Request::GetParameter { name: "HostName".into() },
        Request::SetParameter { name: "HostName".into(), value: String::new() },
        Request::Shutdown { forced: true },
        Request::Restart { forced: false },
        Request::Logoff { options },
        Request::Tasks,
        Request::Task { id: 1 },
        Request::Wait { id: u32::MAX },
        Request::Cancel { id: 1 },
    ]
}
