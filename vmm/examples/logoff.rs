//! Starts a machine of the catalog in this process, logs everyone off, and turns it off again.
//!
//! ```console
//! $ vmm create web --kernel vmlinuz --initrd initrd.img
//! $ cargo run --example logoff -- web
//! ```
//!
//! If another process runs the machine already, that one is asked, and the machine stays on.

use std::error::Error;
use std::time::{Duration, Instant};
use vmm::error::CallError;
use vmm::state::VmState;
use vmm::virtual_pc::Task;
use vmm::{HResult, LogoffOptions, VirtualMachine, VirtualPc};

/// How long the guest may take until its agent is there.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("the name of a machine is missing")?;
    let machine = VirtualPc::of_user()
        .find_virtual_machine(&name)?
        .ok_or_else(|| format!("there is no machine named {name}"))?;
    if machine.state()? == VmState::TurnedOff {
        follow(&machine.startup()?)?;
    }
    let task = log_off_when_ready(&machine)?;
    follow(&task)?;
    for session in task.report()?.into_iter().flat_map(|report| report.sessions) {
        println!("{} on {}: {:?}", session.session.user, session.session.tty, session.outcome);
    }
    Ok(())
}

/// Asks until there is an agent to ask.
fn log_off_when_ready(machine: &VirtualMachine) -> Result<Task, CallError> {
    let deadline = Instant::now() + BOOT_LIMIT;
    loop {
        match machine.guest_os().logoff(LogoffOptions::default()) {
            Err(error)
                if error.code == HResult::VM_E_ADDITIONS_FEATURE_NOT_AVAIL
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(200));
            }
            answer => return answer,
        }
    }
}

/// Waits for `task`, and tells of it.
fn follow(task: &Task) -> Result<(), CallError> {
    let end = task.wait_watching(-1, |task| {
        println!("{}: {}%", task.description, task.percent_completed);
    })?;
    println!("{}: {:?} {:?} {}", end.description, end.result, end.error, end.error_description);
    Ok(())
}
