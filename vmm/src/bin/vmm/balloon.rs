//! `vmm balloon`: how much of its memory a guest leaves to the host.

use crate::args::{BalloonArgs, Format};
use crate::machines::connect;
use crate::output::{Outcome, print_json, print_properties, time};
use serde_json::Value;
use vmm::HResult;
use vmm::config::Size;
use vmm::control::wire::Request;
use vmm::error::CallError;
use vmm::virtio::balloon::BalloonInfo;

pub(crate) fn balloon(args: &BalloonArgs, format: Format) -> Outcome {
    let mut client = connect(&args.name)?;
    if let Some(bytes) = args.size {
        client.act(Request::SetBalloon { bytes })?;
    }
    let value = client.value(Request::Balloon)?;
    match format {
        Format::Json => print_json(&named(client.name(), value)),
        Format::Human => {
            let info: BalloonInfo = serde_json::from_value(value).map_err(|error| {
                let text = format!("the machine's process says of its balloon: {error}");
                CallError::new(HResult::DISP_E_EXCEPTION, text)
            })?;
            print_properties(&rows(client.name(), &info));
        }
    }
    Ok(0)
}

/// The document: what the machine says, and its name.
fn named(name: &str, mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.insert("name".into(), name.into());
    }
    value
}

fn rows(name: &str, info: &BalloonInfo) -> Vec<(&'static str, String)> {
    let size = |bytes: u64| Size(bytes).to_string();
    let said = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let stats = info.stats.unwrap_or_default();
    let bytes = |value: Option<u64>| said(value.map(size));
    let count = |value: Option<u64>| said(value.map(|value| value.to_string()));
    vec![
        ("name", name.to_owned()),
        ("target", size(info.target)),
        ("actual", size(info.actual)),
        ("driver", if info.driver { "yes" } else { "no" }.into()),
        ("given back", size(info.given_back)),
        ("total", bytes(stats.total)),
        ("free", bytes(stats.free)),
        ("available", bytes(stats.available)),
        ("caches", bytes(stats.caches)),
        ("swapped in", bytes(stats.swapped_in)),
        ("swapped out", bytes(stats.swapped_out)),
        ("major faults", count(stats.major_faults)),
        ("minor faults", count(stats.minor_faults)),
        ("said", said(info.stats_age_ms.map(|age| format!("{} ago", time(age))))),
    ]
}
