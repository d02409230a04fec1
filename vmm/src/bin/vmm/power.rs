//! A running machine's plug, buttons and processors: `vmm stop`, `reset`, `pause`, `resume`.

use crate::args::{Format, NamedWork, StopArgs};
use crate::follow;
use crate::machines::connect;
use crate::output::{Outcome, exit_code, print, print_json};
use serde_json::json;
use vmm::control::wire::Request;
use vmm::state::VmState;

pub(crate) fn stop(args: &StopArgs, format: Format) -> Outcome {
    let request =
        if args.guest { Request::Shutdown { forced: args.forced } } else { Request::TurnOff };
    Ok(exit_code(follow::work(&args.name, request, &args.work, format)?))
}

pub(crate) fn reset(args: &NamedWork, format: Format) -> Outcome {
    Ok(exit_code(follow::work(&args.name, Request::Reset, &args.work, format)?))
}

pub(crate) fn pause(name: &str, format: Format) -> Outcome {
    act(name, Request::Pause, VmState::Paused, format)
}

pub(crate) fn resume(name: &str, format: Format) -> Outcome {
    act(name, Request::Resume, VmState::Running, format)
}

/// Asks for what is done at once, and says which state the machine is in by that.
fn act(name: &str, request: Request, state: VmState, format: Format) -> Outcome {
    let mut client = connect(name)?;
    client.act(request)?;
    match format {
        Format::Json => print_json(&json!({ "name": client.name(), "state": state })),
        Format::Human => print(&format!("{} is {}\n", client.name(), state.words())),
    }
    Ok(0)
}
