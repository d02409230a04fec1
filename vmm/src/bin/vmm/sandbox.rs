//! What a machine's process gives up before its guest runs, as the command line says.

use crate::args::{Sandbox, SandboxArgs};
use crate::signals::Blocked;
use protocol::HResult;
use tracing::Level;
use vmm::config::MachineConfig;
use vmm::confine::jail::{self, JailError};
use vmm::confine::{self, ConfineError, Confinement, Landlocked, Manner};
use vmm::error::{CallError, chain, code_of_causes};
use vmm::runtime::Place;

/// Confines this process, which has one thread, `signals` blocked, and runs the machine of `config`.
/// With a jail it returns in another process than it was called in.
pub(crate) fn enter(
    args: SandboxArgs,
    config: &MachineConfig,
    place: &mut Place,
    signals: &Blocked,
) -> Result<(), CallError> {
    let manner = match args.sandbox {
        Sandbox::On => Some(Manner::Kill),
        Sandbox::Log => Some(Manner::Log),
        Sandbox::Off => None,
    };
    if manner.is_none() && args.jail.is_none() {
        return Ok(());
    }
    let mut confinement = Confinement::new().machine(config).place(place.directory());
    if let Some(prisoner) = args.jail {
        jail::enter(prisoner, &mut confinement, place, signals.signals())
            .map_err(|error| unjailed(&error))?;
    }
    let Some(manner) = manner else { return Ok(()) };
    // Who is confined may not ask Landlock any more, and asking takes time.
    let missing = tracing::enabled!(Level::INFO).then(|| confine::offer().missing.join(", "));
    match confinement.manner(manner).enter().map_err(|error| unconfined(&error))? {
        Landlocked::Fully => {}
        // Nothing that could be mended here, and told by `vmm doctor`: no warning at each start.
        Landlocked::Partly => tracing::info!(
            "this kernel's Landlock is older than Linux 6.12's: it does not restrict {}",
            missing.unwrap_or_default()
        ),
        Landlocked::Not => tracing::warn!(
            "this kernel has no Landlock: what files the machine's process may open is bounded by its \
             user's rights alone; `vmm doctor` says more"
        ),
    }
    Ok(())
}

fn unjailed(error: &JailError) -> CallError {
    let code = match error {
        JailError::NotRoot | JailError::Unusable { .. } | JailError::Unfit { .. } => {
            HResult::ERROR_ACCESS_DENIED
        }
        JailError::Root => HResult::E_INVALIDARG,
        JailError::Step { .. } | JailError::Bring { .. } => code_of_causes(error),
    };
    CallError::new(code, format!("no jail: {}", chain(error)))
}

fn unconfined(error: &ConfineError) -> CallError {
    let text = format!(
        "the machine's process cannot be confined: {}; `--sandbox off` runs it all the same",
        chain(error)
    );
    CallError::new(HResult::VM_E_UNSUPPORTED_HARDWARE, text)
}
