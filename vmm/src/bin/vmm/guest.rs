//! Working with a guest: `vmm users`, `logoff`, `shutdown`, `restart`, `param`.

use crate::args::{Format, LogoffArgs, ParamVerb, PowerArgs};
use crate::follow;
use crate::machines::connect;
use crate::output::{Outcome, exit_code, or_dash, print, print_json, print_table, print_value};
use protocol::HResult;
use protocol::task::LogoffOptions;
use serde_json::{Value, json};
use std::time::Duration;
use vmm::control::wire::Request;

pub(crate) fn users(name: &str, format: Format) -> Outcome {
    let sessions = connect(name)?.sessions()?;
    match format {
        Format::Json => print_json(&sessions),
        Format::Human if sessions.sessions.is_empty() => print("nobody is logged on\n"),
        Format::Human => {
            let rows: Vec<Vec<String>> = sessions
                .sessions
                .iter()
                .map(|session| {
                    vec![
                        session.user.clone(),
                        or_dash(&session.tty),
                        or_dash(&session.remote_host),
                        session.state.clone(),
                        session.id.clone(),
                    ]
                })
                .collect();
            print_table(&["USER", "TERMINAL", "FROM", "STATE", "SESSION"], &rows);
            if sessions.omitted > 0 {
                print(&format!("and {} more\n", sessions.omitted));
            }
        }
    }
    Ok(0)
}

pub(crate) fn logoff(args: &LogoffArgs, format: Format) -> Outcome {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let options = LogoffOptions {
        grace_ms: milliseconds(args.grace),
        notice_ms: milliseconds(args.notice),
        deadline_ms: milliseconds(args.deadline),
    };
    let code = follow::work(&args.name, Request::Logoff { options }, &args.work, format)?;
    let nobody = code == HResult::ERROR_NO_SUCH_LOGON_SESSION;
    Ok(if nobody && args.ok_if_none { 0 } else { exit_code(code) })
}

pub(crate) fn shutdown(args: &PowerArgs, format: Format) -> Outcome {
    let request = Request::Shutdown { forced: args.forced };
    Ok(exit_code(follow::work(&args.name, request, &args.work, format)?))
}

pub(crate) fn restart(args: &PowerArgs, format: Format) -> Outcome {
    let request = Request::Restart { forced: args.forced };
    Ok(exit_code(follow::work(&args.name, request, &args.work, format)?))
}

pub(crate) fn parameter(verb: &ParamVerb, format: Format) -> Outcome {
    match verb {
        ParamVerb::Get { name, key } => {
            let request = Request::GetParameter { name: key.clone() };
            let value = connect(name)?.value(request)?;
            match (format, &value) {
                (Format::Json, _) => print_json(&json!({ "name": key, "value": value })),
                (Format::Human, Value::String(text)) => print_value(text),
                (Format::Human, other) => print_value(&other.to_string()),
            }
        }
        ParamVerb::Set { name, key, value } => {
            let request = Request::SetParameter { name: key.clone(), value: value.clone() };
            connect(name)?.act(request)?;
            if format == Format::Json {
                print_json(&json!({ "name": key, "value": value }));
            }
        }
    }
    Ok(0)
}
