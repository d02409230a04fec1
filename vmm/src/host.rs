//! A machine that other processes can find and control: itself, its place, its control socket.

use crate::catalog::{Catalog, CatalogError};
use crate::config::{Console, MachineConfig};
use crate::control::access::Access;
use crate::control::server::Server;
use crate::error::{CallError, chain, code_of_causes};
use crate::runtime::{Place, Runtime, RuntimeError};
use crate::sockets::Bound;
use crate::task::{Task, Tasks};
use crate::vm::{StartError, Vm};
use std::io;
use std::sync::Arc;

impl From<RuntimeError> for CallError {
    fn from(error: RuntimeError) -> Self {
        Self::new(error.code(), chain(&error))
    }
}

impl From<CatalogError> for CallError {
    fn from(error: CatalogError) -> Self {
        Self::new(error.code(), chain(&error))
    }
}

/// A machine in this process that others can find by its name.
///
/// Its vsock socket is there all the time: who connects while the machine is off waits until it is on.
/// Dropping it turns the machine off, answers whoever waits for that, and frees the name.
pub struct Host {
    // Dropped in this order: who is served is answered first.
    _server: Server,
    vm: Arc<Vm>,
    _place: Place,
}

impl Host {
    /// Gives a machine its place in `runtime`, turns it on, and serves it to whoever `access` admits;
    /// with it comes the task of the start. It is for a process that ends with the machine, so nobody
    /// can start the machine again. Before the machine has any thread, and when its place is this
    /// process's and has its sockets, `confine` is called: what it does to the process holds for all
    /// of them.
    ///
    /// # Errors
    /// The configuration is not valid, the name is in use (`VM_E_VM_RUNNING`), or the place cannot
    /// be made.
    pub fn launch(
        runtime: &Runtime,
        config: MachineConfig,
        access: Access,
        confine: impl FnOnce(&MachineConfig, &mut Place) -> Result<(), CallError>,
    ) -> Result<(Self, Task), CallError> {
        let place = runtime.claim(&config.name)?;
        Self::at(place, runtime, config, access, confine, Vm::startup_once)
    }

    /// The machine `name` of `catalog`, which is turned off, as its definition has it. Where that
    /// names no file for the console, people can [attach](crate::console::hub) to it.
    ///
    /// # Errors
    /// There is no such machine, its definition has a fault, or as for [`launch`](Self::launch).
    pub fn registered(catalog: &Catalog, name: &str) -> Result<Self, CallError> {
        let confine = |_: &_, _: &mut _| Ok(());
        Ok(Self::of_definition(catalog, name, Console::Attach, || (), confine, |_| Ok(()))?.0)
    }

    /// As [`launch`](Self::launch), for the machine `name` of `catalog`, with this console where its
    /// definition names no file. As soon as the name is this process's, `claimed` is called.
    ///
    /// # Errors
    /// As for [`registered`](Self::registered).
    pub fn launch_registered(
        catalog: &Catalog,
        name: &str,
        console: Console,
        claimed: impl FnOnce(),
        confine: impl FnOnce(&MachineConfig, &mut Place) -> Result<(), CallError>,
    ) -> Result<(Self, Task), CallError> {
        Self::of_definition(catalog, name, console, claimed, confine, Vm::startup_once)
    }

    fn of_definition<T>(
        catalog: &Catalog,
        name: &str,
        console: Console,
        claimed: impl FnOnce(),
        confine: impl FnOnce(&MachineConfig, &mut Place) -> Result<(), CallError>,
        begin: impl FnOnce(&Vm) -> Result<T, CallError>,
    ) -> Result<(Self, T), CallError> {
        let machine = catalog.get(name)?;
        // From here on the definition stays what it is.
        let place = catalog.runtime().claim(&machine.name)?;
        claimed();
        let definition = machine.load_to_run()?;
        definition.check_files(&machine.path).map_err(CatalogError::from)?;
        let mut config = definition.config(machine.directory());
        if config.console == Console::None {
            config.console = console;
        }
        let access = Access::of_list(&definition.access);
        Self::at(place, catalog.runtime(), config, access, confine, |vm| {
            vm.guest_os().set_host_time_sync(definition.integration.host_time_sync);
            begin(vm)
        })
    }

    /// Does `begin` with the machine before others can reach it.
    fn at<T>(
        mut place: Place,
        runtime: &Runtime,
        config: MachineConfig,
        access: Access,
        confine: impl FnOnce(&MachineConfig, &mut Place) -> Result<(), CallError>,
        begin: impl FnOnce(&Vm) -> Result<T, CallError>,
    ) -> Result<(Self, T), CallError> {
        let (control, vsock) = (place.control(), place.vsock());
        let failed = |error: io::Error| {
            let text = format!("cannot serve {}: {error}", control.display());
            CallError::new(code_of_causes(&error), text)
        };
        let tasks = Tasks::numbered(runtime.task_ids()?);
        // Whoever connects is refused until they listen.
        let unbound = |source| StartError::Socket { path: vsock.clone(), source };
        let vsock_socket = Bound::to(&vsock).map_err(unbound)?;
        let control_socket = Bound::to(&control).map_err(failed)?;
        if access.grants_anything() {
            place.open_to_others().map_err(failed)?;
        }
        confine(&config, &mut place)?;
        let vm = Arc::new(Vm::with_tasks(config, Some(&vsock), tasks)?);
        vm.keep_socket(vsock_socket.listen().map_err(unbound)?);
        let begun = begin(&vm)?;
        let listener = control_socket.listen().map_err(failed)?;
        let server = Server::start(listener, vm.clone(), access).map_err(failed)?;
        Ok((Self { _server: server, vm, _place: place }, begun))
    }

    /// The machine.
    #[must_use]
    pub fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Nothing of the machine is left when its name is free. Clients see the end of their tasks
        // while they are still served.
        self.vm.turn_off_and_wait();
    }
}
