//! What a machine brings along for its guest: `vmm integration show`, `vmm integration install`.

use crate::args::{Format, IntegrationVerb};
use crate::follow;
use crate::machines::connect;
use crate::output::{Outcome, exit_code, print_json, print_properties, time};
use protocol::HResult;
use vmm::control::wire::{Property, Request};
use vmm::error::CallError;
use vmm::integration::install::IntegrationInfo;
use vmm::kit::KitState;

pub(crate) fn integration(verb: &IntegrationVerb, format: Format) -> Outcome {
    match verb {
        IntegrationVerb::Show(machine) => show(&machine.name, format),
        IntegrationVerb::Install(install) => {
            let request = Request::InstallIntegrationComponents;
            Ok(exit_code(follow::work(&install.name, request, &install.work, format)?))
        }
    }
}

fn show(name: &str, format: Format) -> Outcome {
    let request = Request::Property { property: Property::IntegrationComponents };
    let value = connect(name)?.value(request)?;
    if format == Format::Json {
        print_json(&value);
        return Ok(0);
    }
    let info: IntegrationInfo = serde_json::from_value(value).map_err(|error| {
        let text = format!("the machine's process gave a value of another kind: {error}");
        CallError::new(HResult::DISP_E_EXCEPTION, text)
    })?;
    let disk = match &info.disk {
        KitState::Attached { version: Some(version) } => format!("attached, with agent {version}"),
        KitState::Attached { version: None } => "attached".to_owned(),
        KitState::Missing { reason } => format!("none: {reason}"),
        KitState::NoRoom => "none: the other devices have all the interrupt lines".to_owned(),
        KitState::Off => "off".to_owned(),
    };
    let agent = match (info.agent.version, info.agent.heard_ms) {
        (Some(version), _) if info.agent.connected => format!("{version}, connected"),
        (Some(version), Some(heard)) => format!("{version}, last heard {} ago", time(heard)),
        (Some(version), None) => version,
        (None, _) => "none has connected in this boot".to_owned(),
    };
    let mut rows = vec![("agent", agent), ("disk", disk)];
    rows.extend(info.agent.refused.map(|refused| ("refused", refused)));
    if info.newer {
        rows.push(("newer", format!("`vmm integration install {name}` installs it")));
    }
    print_properties(&rows);
    Ok(0)
}
