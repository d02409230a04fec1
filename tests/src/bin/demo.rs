//! The main job, start to end: a stock Debian kernel boots, three users are logged in, a logoff
//! leaves nobody. `cargo xtask demo` runs this where KVM can boot stock kernels.
//!
//! Every count is the guest's own: its `who`, asked over the serial console.

use serde_json::{Value, json};
use std::process::{Command, ExitCode, Stdio};
use tests::{Flavour, Machine, Recipe, vmm_bin};

const NAME: &str = "demo";

fn main() -> ExitCode {
    let json = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [format, json] if format == "--format" && json == "json" => true,
        arguments => {
            eprintln!("usage: demo [--format json], not {arguments:?}");
            return ExitCode::from(2);
        }
    };
    let path = std::env::var("VMM_PATH").unwrap_or_else(|_| "unknown".into());
    match play(json, &path) {
        Ok(document) => {
            if json {
                println!("{document}");
            }
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprintln!("the demo failed: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Plays the whole scene and gives its figures.
fn play(json: bool, path: &str) -> Result<Value, String> {
    let flavour = Flavour::BookwormCloud;
    say(&format!("booting {} ({path})", flavour.kernel().display()));
    let recipe = Recipe { echo: true, ..Recipe::new(NAME, flavour, "root,alice,bob") };
    let mut machine = Machine::boot(&recipe);
    let kernel = machine.console.run("uname -r");
    let before = machine.wait_for_who(3).len();

    say("vmm logoff demo");
    let logoff = logoff(json, 0)?;
    let after = machine.who().len();
    check("who still shows somebody", after == 0)?;

    say("vmm logoff demo, with nobody there");
    let second_logoff = self::logoff(json, 8)?;

    say("poweroff");
    let (status, stderr) = machine.power_off();
    check(&format!("vmm run ended with {status}: {stderr}"), status.success())?;
    Ok(json!({
        "before": before,
        "logoff": logoff,
        "after": after,
        "second_logoff": second_logoff,
        "path": path,
        "kernel": kernel,
    }))
}

/// Runs `vmm logoff`, its progress on standard error, and expects `code` of it.
///
/// Its document goes into ours where that is what is asked for; else it is shown as people see it.
fn logoff(json: bool, code: i32) -> Result<Value, String> {
    let mut command = Command::new(vmm_bin());
    command.args(["logoff", NAME]).stdin(Stdio::null()).stderr(Stdio::inherit());
    if json {
        command.args(["--format", "json"]);
    }
    let output = command.output().map_err(|error| format!("cannot run vmm logoff: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    print!("{}", if json { "" } else { &stdout });
    check(
        &format!("vmm logoff ended with {}: {stdout}", output.status),
        output.status.code() == Some(code),
    )?;
    if !json {
        return Ok(Value::Null);
    }
    serde_json::from_str(&stdout).map_err(|error| format!("no JSON document ({error}): {stdout}"))
}

fn check(otherwise: &str, holds: bool) -> Result<(), String> {
    holds.then_some(()).ok_or_else(|| otherwise.to_owned())
}

fn say(step: &str) {
    eprintln!("\n=== {step}");
}
