//! A machine that other processes can find and control: itself, its place, its control socket.

use crate::config::MachineConfig;
use crate::control::access::Access;
use crate::control::server::Server;
use crate::error::{CallError, chain};
use crate::runtime::{Place, Runtime, RuntimeError};
use crate::task::Tasks;
use crate::vm::Vm;
use protocol::HResult;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

impl From<RuntimeError> for CallError {
    fn from(error: RuntimeError) -> Self {
        Self::new(error.code(), chain(&error))
    }
}

/// A machine in this process that others can find by its name.
///
/// Dropping it turns the machine off, answers whoever waits for that, and frees the name.
pub struct Host {
    // Dropped in this order: who is served is answered first.
    _server: Server,
    vm: Arc<Vm>,
    _place: Place,
}

impl Host {
    /// Gives a machine, which is turned off, its place in `runtime`, and serves it to whoever
    /// `access` admits.
    ///
    /// # Errors
    /// The configuration is not valid, the name is in use (`VM_E_VM_RUNNING`), or the place cannot
    /// be made.
    pub fn new(
        runtime: &Runtime,
        config: MachineConfig,
        access: Access,
    ) -> Result<Self, CallError> {
        let place = runtime.claim(&config.name)?;
        let ids = runtime.task_ids();
        let vm = Arc::new(Vm::with_tasks(config, Some(&place.vsock()), Tasks::numbered(ids))?);
        let failed = |error: io::Error| {
            let text = format!("cannot serve {}: {error}", place.control().display());
            CallError::new(HResult::DISP_E_EXCEPTION, text)
        };
        let listener = UnixListener::bind(place.control()).map_err(failed)?;
        if access.grants_anything() {
            place.open_to_others().map_err(failed)?;
        }
        let server = Server::start(listener, vm.clone(), access).map_err(failed)?;
        Ok(Self { _server: server, vm, _place: place })
    }

    /// The machine.
    #[must_use]
    pub fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Off already is as good. Clients see the end of their tasks while they are still served.
        if let Ok(task) = self.vm.turn_off() {
            task.wait(None);
        }
    }
}
