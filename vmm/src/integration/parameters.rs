//! Parameters: values by name that the guest keeps, and its programs can read.

use crate::error::CallError;
use crate::integration::guest::GuestOs;
use crate::integration::worker::{Reply, Worker};
use protocol::HResult;
use protocol::frame;
use protocol::hello::PARAMETERS;
use protocol::message::{AgentMessage, HostMessage, Request};
use protocol::parameters::{
    HOST_NAME, MAX_VALUE, PHYSICAL_HOST_NAME, PHYSICAL_HOST_NAME_FULLY_QUALIFIED,
    VIRTUAL_MACHINE_NAME, is_name, is_value,
};

impl Worker {
    /// Gives the guest the values that it has from the start.
    pub(super) fn set_start_up_values(&mut self, number: u64) {
        if self.agent(PARAMETERS).is_err() {
            return;
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let short = host.split('.').next().unwrap_or_default().to_owned();
        let values = [
            (PHYSICAL_HOST_NAME, short),
            (PHYSICAL_HOST_NAME_FULLY_QUALIFIED, host.clone()),
            (HOST_NAME, host),
            (VIRTUAL_MACHINE_NAME, self.name.clone()),
        ];
        for (name, value) in values.into_iter().filter(|(_, value)| !value.is_empty()) {
            let request = Request::SetParameter { name: name.into(), value };
            self.ask_at(number, request, Reply::Nobody);
        }
    }
}

impl GuestOs {
    /// The value of a parameter: `IVMGuestOS::GetParameter`. The guest has `HostName`,
    /// `PhysicalHostName`, `PhysicalHostNameFullyQualified` and `VirtualMachineName` from the
    /// start. Names are told apart by their letters' case.
    ///
    /// # Errors
    /// `E_INVALIDARG` if there is no such parameter, or the name is not 1 to 255 characters without
    /// `\`, `/`, control characters and a dot at the beginning; `VM_E_VM_NOT_RUNNING`;
    /// `VM_E_VM_PAUSED`; `VM_E_ADDITIONS_FEATURE_NOT_AVAIL` without an agent that can do it;
    /// `VM_E_TIMED_OUT`.
    pub fn get_parameter(&self, name: &str) -> Result<String, CallError> {
        check_name(name)?;
        self.unpaused()?;
        self.ask(PARAMETERS, Request::GetParameter { name: name.into() }, |answer| match answer {
            AgentMessage::Parameter { value, .. } => Some(value),
            _ => None,
        })
    }

    /// Gives a parameter a value: `IVMGuestOS::SetParameter`.
    ///
    /// # Errors
    /// As for [`get_parameter`](Self::get_parameter); `E_INVALIDARG` also if the value has more
    /// than 32 KiB, or control characters other than line feed and tab.
    pub fn set_parameter(&self, name: &str, value: &str) -> Result<(), CallError> {
        check_name(name)?;
        let request = Request::SetParameter { name: name.into(), value: value.into() };
        // Whatever its number will be.
        let message = HostMessage::Request { id: u64::MAX, request: request.clone() };
        if !is_value(value) || frame::encode(&message).is_err() {
            let text = format!(
                "the value has {} bytes; at most {MAX_VALUE} are possible, fewer if many are \
                 quotes, and no control characters but line feed and tab",
                value.len()
            );
            return Err(CallError::new(HResult::E_INVALIDARG, text));
        }
        self.unpaused()?;
        self.ask(PARAMETERS, request, |answer| {
            matches!(answer, AgentMessage::ParameterSet { .. }).then_some(())
        })
    }
}

fn check_name(name: &str) -> Result<(), CallError> {
    if is_name(name) {
        return Ok(());
    }
    let text = "a parameter's name has 1 to 255 characters, no backslash, slash or control \
                character, and no dot at its beginning";
    Err(CallError::new(HResult::E_INVALIDARG, text))
}
