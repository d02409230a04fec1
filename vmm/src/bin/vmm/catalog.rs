//! Changing the catalog: `vmm create`, `register`, `unregister`, `rm`.

use crate::args::{CreateArgs, Format, RegisterArgs, Wanted};
use crate::machines::once_off;
use crate::output::{Failure, Outcome, print, print_json};
use crate::run::unusable;
use protocol::HResult;
use serde_json::json;
use std::path::{Path, PathBuf};
use vmm::catalog::{AccessList, Catalog, CatalogError, Definition, Integration, Registered};
use vmm::config::{Console, Disk};
use vmm::error::CallError;

pub(crate) fn create(args: CreateArgs, format: Format) -> Outcome {
    let hardware = args.hardware;
    let definition = Definition {
        initrd: hardware.initrd.as_deref().map(absolute).transpose()?,
        append: hardware.append,
        memory: hardware.memory,
        hugepages: hardware.hugepages,
        share_kernel: hardware.share_kernel,
        cpus: hardware.cpus,
        oem_strings: hardware.oem_strings,
        kernel_entry: hardware.kernel_entry.into(),
        disks: hardware.disks.into_iter().map(at_absolute_path).collect::<Result<_, _>>()?,
        nets: hardware.nets,
        console: match &args.console {
            Console::File(path) => Some(absolute(path)?),
            _ => None,
        },
        console_device: hardware.console_device,
        notes: args.notes,
        access: AccessList { read: args.read, execute: args.execute },
        integration: Integration {
            host_time_sync: !args.no_time_sync,
            components: hardware.integration == Wanted::Auto,
        },
        ..Definition::new(args.name, absolute(&args.kernel)?)
    };
    definition.config(Path::new("/")).validate().map_err(|error| unusable(&error))?;
    let created = Catalog::of_user().create(&definition.name, &definition);
    let machine = created.map_err(|error| match error {
        // The definition is not there, and was not written by hand.
        CatalogError::Definition(error) => {
            CallError::new(error.code(), format!("cannot create a machine: {}", error.fault))
        }
        error => error.into(),
    })?;
    tell(&machine, format);
    Ok(0)
}

fn at_absolute_path(disk: Disk) -> Result<Disk, Failure> {
    Ok(Disk { path: absolute(&disk.path)?, ..disk })
}

pub(crate) fn register(args: &RegisterArgs, format: Format) -> Outcome {
    let machine = Catalog::of_user().register(args.name.as_deref(), &args.path);
    tell(&machine.map_err(CallError::from)?, format);
    Ok(0)
}

fn tell(machine: &Registered, format: Format) {
    match format {
        Format::Json => print_json(&json!({ "name": machine.name, "path": machine.path })),
        Format::Human => print(&format!("{}: {}\n", machine.name, machine.path.display())),
    }
}

pub(crate) fn unregister(name: &str, format: Format) -> Outcome {
    let catalog = Catalog::of_user();
    let kept = once_off(name, || Ok(catalog.unregister(name)?)).map_err(|e| fleeting(name, e))?;
    match format {
        Format::Json => print_json(&json!({ "name": name, "path": kept })),
        Format::Human => print(&format!("{name}: its definition is kept in {}\n", kept.display())),
    }
    Ok(0)
}

pub(crate) fn remove(name: &str, format: Format) -> Outcome {
    let catalog = Catalog::of_user();
    once_off(name, || Ok(catalog.delete(name)?)).map_err(|error| fleeting(name, error))?;
    if format == Format::Json {
        print_json(&json!({ "name": name }));
    }
    Ok(0)
}

/// A machine that runs and is in no catalog is not unknown.
fn fleeting(name: &str, error: CallError) -> CallError {
    match Catalog::of_user().runtime().find(name) {
        Some(name) if error.code == HResult::VM_E_VM_UNKNOWN => {
            let text = format!(
                "{name} is running and has no definition; `vmm stop {name}` turns it off, and then \
                 it is gone"
            );
            CallError::new(HResult::VM_E_VM_RUNNING, text)
        }
        _ => error,
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure {
        code: HResult::ERROR_BAD_PATHNAME,
        exit: crate::EXIT_USAGE,
        text: format!("{:?} is no path: {error}", path.display()),
    })
}
