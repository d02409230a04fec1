//! What the guest's operating system says of itself, in the terms of the Virtual PC API.
//!
//! That API describes Windows. What Linux has is answered from the guest's os-release and kernel;
//! what it has not is the documented nothing: an empty text, or 0. Where no nothing is documented
//! it is `VM_E_ADDITIONS_FEATURE_NOT_AVAIL`. No value is made up.

use crate::error::CallError;
use crate::integration::guest::GuestOs;
use crate::integration::heartbeat::no_agent_yet;
use crate::state::{Verb, admit};
use protocol::HResult;
use protocol::hello::{INFO, SESSIONS};
use protocol::info::OsInfo;
use protocol::message::{AgentMessage, Request};
use serde::{Deserialize, Serialize};

/// The size of `GUESTOSVERSIONINFOEX` in bytes, with its 32-bit numbers and 16-bit characters.
const SIZE: u32 = 284;
/// Product types.
const WORKSTATION: u8 = 1;
const SERVER: u8 = 3;

/// The guest's version: `GUESTOSVERSIONINFOEX` of the Virtual PC API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsVersionInfo {
    /// The structure's size in that API.
    pub os_version_info_size: u32,
    /// The first number of the system's version; 0 if it has none.
    pub major_version: u32,
    /// The second number of the system's version; 0 if it has none.
    pub minor_version: u32,
    /// The number of the image that the system was made from; 0 if it has none.
    pub build_number: u32,
    /// 2 is Windows NT, and no other number has a meaning: 0.
    pub platform_id: u32,
    /// The service pack: empty.
    pub csd_version: String,
    /// The service pack's version: 0.
    pub service_pack_major: u16,
    /// The service pack's version: 0.
    pub service_pack_minor: u16,
    /// The suites of Windows: 0.
    pub suite_mask: u16,
    /// 1 for a workstation, 3 for a server, 0 if the system does not say.
    pub product_type: u8,
}

impl From<&OsInfo> for OsVersionInfo {
    fn from(info: &OsInfo) -> Self {
        let number = |text: &str| text.parse().unwrap_or(0);
        Self {
            os_version_info_size: SIZE,
            major_version: number(part(&info.version, 0)),
            minor_version: number(part(&info.version, 1)),
            build_number: number(&info.build),
            platform_id: 0,
            csd_version: String::new(),
            service_pack_major: 0,
            service_pack_minor: 0,
            suite_mask: 0,
            product_type: product_type(info).unwrap_or(0),
        }
    }
}

/// A number of a version `12.5-rc1`, as its digits; empty if it has not so many.
fn part(version: &str, index: usize) -> &str {
    let part = version.split('.').nth(index).unwrap_or_default();
    let digits = part.bytes().take_while(u8::is_ascii_digit).count();
    &part[..digits]
}

fn product_type(info: &OsInfo) -> Option<u8> {
    match &*info.variant {
        "workstation" | "desktop" => Some(WORKSTATION),
        "server" => Some(SERVER),
        _ => None,
    }
}

impl GuestOs {
    /// What the guest's operating system says of itself. All of it is the guest's claim.
    ///
    /// # Errors
    /// `VM_E_VM_NOT_RUNNING`; `VM_E_ADDITIONS_FEATURE_NOT_AVAIL` without an agent that can say it;
    /// `VM_E_TIMED_OUT`.
    pub fn os_info(&self) -> Result<OsInfo, CallError> {
        self.ask(INFO, Request::OsInfo, |answer| match answer {
            AgentMessage::OsInfo { info, .. } => Some(info),
            _ => None,
        })
    }

    /// The guest's version in numbers: `IVMGuestOS::GetOsVersionInfo`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info), and so are those of all that follow here.
    pub fn os_version_info(&self) -> Result<OsVersionInfo, CallError> {
        Ok(OsVersionInfo::from(&self.os_info()?))
    }

    /// The guest's host name: `IVMGuestOS::ComputerName`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info).
    pub fn computer_name(&self) -> Result<String, CallError> {
        Ok(self.os_info()?.computer_name)
    }

    /// The system's full name: `IVMGuestOS::OSName`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info).
    pub fn os_name(&self) -> Result<String, CallError> {
        Ok(self.os_info()?.name)
    }

    /// The system's version: `IVMGuestOS::OSVersion`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info).
    pub fn os_version(&self) -> Result<String, CallError> {
        Ok(self.os_info()?.version)
    }

    /// The first number of the version, empty if it has none: `IVMGuestOS::OSMajorVersion`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info).
    pub fn os_major_version(&self) -> Result<String, CallError> {
        Ok(part(&self.os_info()?.version, 0).into())
    }

    /// The second number of the version, empty if it has none: `IVMGuestOS::OSMinorVersion`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info).
    pub fn os_minor_version(&self) -> Result<String, CallError> {
        Ok(part(&self.os_info()?.version, 1).into())
    }

    /// The image that the system was made from, empty if it does not say:
    /// `IVMGuestOS::OSBuildNumber`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info).
    pub fn os_build_number(&self) -> Result<String, CallError> {
        Ok(self.os_info()?.build)
    }

    /// `IVMGuestOS::OSPlatformId`: "2" is Windows NT, and there is no other.
    ///
    /// # Errors
    /// Always: `VM_E_VM_NOT_RUNNING`, or `VM_E_ADDITIONS_FEATURE_NOT_AVAIL`.
    pub fn os_platform_id(&self) -> Result<String, CallError> {
        Err(self.only_windows("a platform number"))
    }

    /// What the system was made for, `0x0000001` for a workstation and `0x0000003` for a server:
    /// `IVMGuestOS::ProductType`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info); `VM_E_ADDITIONS_FEATURE_NOT_AVAIL` also if the system
    /// does not say.
    pub fn product_type(&self) -> Result<String, CallError> {
        let kind = product_type(&self.os_info()?);
        kind.map(|kind| format!("0x{kind:07x}")).ok_or_else(|| {
            let text = "the guest's os-release says neither workstation nor server";
            CallError::new(HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL, text)
        })
    }

    /// The service pack, of which Linux has none, so it is empty: `IVMGuestOS::CSDVersion`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info).
    pub fn csd_version(&self) -> Result<String, CallError> {
        self.offered(INFO).map(|()| String::new())
    }

    /// The service pack's version, `0`: `IVMGuestOS::ServicePackMajor`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info).
    pub fn service_pack_major(&self) -> Result<String, CallError> {
        self.offered(INFO).map(|()| "0".into())
    }

    /// The service pack's version, `0`: `IVMGuestOS::ServicePackMinor`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info).
    pub fn service_pack_minor(&self) -> Result<String, CallError> {
        self.offered(INFO).map(|()| "0".into())
    }

    /// The suites of Windows that are installed, which are none: `IVMGuestOS::SuiteMask`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info).
    pub fn suite_mask(&self) -> Result<String, CallError> {
        self.offered(INFO).map(|()| "0x00000000".into())
    }

    /// Whether several users can be logged on at once, as Linux lets them:
    /// `IVMGuestOS::MultipleUserSessionsAllowed`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info).
    pub fn multiple_user_sessions_allowed(&self) -> Result<bool, CallError> {
        self.offered(INFO).map(|()| true)
    }

    /// Whether a user has locked their screen, as the guest's logind knows it:
    /// `IVMGuestOS::ScreenLocked`.
    ///
    /// # Errors
    /// As for [`os_info`](Self::os_info); `VM_E_ADDITIONS_FEATURE_NOT_AVAIL` also in a guest
    /// without logind.
    pub fn screen_locked(&self) -> Result<bool, CallError> {
        self.ask(INFO, Request::ScreenLocked, |answer| match answer {
            AgentMessage::ScreenLocked { locked, .. } => Some(locked),
            _ => None,
        })
    }

    /// `IVMGuestOS::TerminalServicesInitialized`: they are a part of Windows.
    ///
    /// # Errors
    /// Always: `VM_E_VM_NOT_RUNNING`, or `VM_E_ADDITIONS_FEATURE_NOT_AVAIL`.
    pub fn terminal_services_initialized(&self) -> Result<bool, CallError> {
        Err(self.only_windows("Remote Desktop Services"))
    }

    /// `IVMGuestOS::TerminalServerPort`: they are a part of Windows.
    ///
    /// # Errors
    /// Always: `VM_E_VM_NOT_RUNNING`, or `VM_E_ADDITIONS_FEATURE_NOT_AVAIL`.
    pub fn terminal_server_port(&self) -> Result<u16, CallError> {
        Err(self.only_windows("Remote Desktop Services"))
    }

    /// Whether anybody is logged on in a session of this kind, 0 for seamless applications, which
    /// Linux does not have, and 1 for a desktop or a terminal: `IVMGuestOS::IsUserLoggedOn`.
    ///
    /// # Errors
    /// `E_INVALIDARG` for any other kind; `VM_E_VM_NOT_RUNNING`; `VM_E_VM_PAUSED`;
    /// `VM_E_ADDITIONS_FEATURE_NOT_AVAIL`; `VM_E_TIMED_OUT`.
    pub fn is_user_logged_on(&self, kind: i32) -> Result<bool, CallError> {
        if !matches!(kind, 0 | 1) {
            let text = format!("{kind} is no kind of session; 0 and 1 are");
            return Err(CallError::new(HResult::E_INVALIDARG, text));
        }
        self.unpaused()?;
        if kind == 0 {
            return self.offered(SESSIONS).map(|()| false);
        }
        let list = self.sessions()?;
        Ok(!list.sessions.is_empty() || list.omitted > 0)
    }

    /// The agent's version, or that of the last one in this boot:
    /// `IVMGuestOS::IntegrationComponentsVersion`.
    ///
    /// # Errors
    /// `VM_E_ADDITIONS_NOT_AVAIL` if none has connected in this boot.
    pub fn integration_components_version(&self) -> Result<String, CallError> {
        self.agent().version.ok_or_else(|| no_agent_yet(&self.status()))
    }

    fn only_windows(&self, what: &str) -> CallError {
        let text = format!("the guest is no Windows and has not got {what}");
        let error = CallError::new(HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL, text);
        admit(Verb::GuestWork, self.state()).err().unwrap_or(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_numbers_are_what_the_system_says_or_nothing() {
        let parts = |version| (part(version, 0), part(version, 1));
        assert_eq!(parts("12"), ("12", ""));
        assert_eq!(parts("22.04"), ("22", "04"));
        assert_eq!(parts("6.1.0-35-cloud-amd64"), ("6", "1"));
        assert_eq!(parts("3.20rc1"), ("3", "20"));
        assert_eq!(parts("rolling"), ("", ""));
        assert_eq!(parts(""), ("", ""));
        assert_eq!(parts("٣.١"), ("", ""), "digits of other scripts are none here");
    }

    #[test]
    fn the_structure_holds_nothing_that_the_guest_has_not_said() {
        let info = OsInfo { version: "99999999999.7".into(), ..OsInfo::default() };
        let version = OsVersionInfo::from(&info);
        assert_eq!((version.major_version, version.minor_version), (0, 7));
        assert_eq!((version.build_number, version.platform_id), (0, 0));
        assert_eq!((version.product_type, &*version.csd_version), (0, ""));
        let info = OsInfo { variant: "server".into(), build: "20260101".into(), ..info };
        let version = OsVersionInfo::from(&info);
        assert_eq!((version.product_type, version.build_number), (SERVER, 20_260_101));
    }
}
