//! The catalog of machines: a directory each, with the definition of what the machine is made of.
//!
//! ```text
//! $VMM_DATA_DIR, $XDG_DATA_HOME/vmm, ~/.local/share/vmm or /var/lib/vmm
//! |-- LOCK                      held by whoever changes something; no machine has capital letters
//! |-- web/                      the name in lower case, for names differ only by their letters
//! |   `-- machine.toml          the definition: see [`Definition`]
//! |-- db/
//! |   `-- machine.toml -> …     a definition that is elsewhere and was registered
//! `-- old/
//!     `-- unregistered.toml     no machine any more, but kept, and can be registered again
//! ```
//!
//! - A machine is there if its `machine.toml` is. That file appears, changes and disappears in one
//!   step, so a reader never sees half of it, nor does the next one after a crash.
//! - One program at a time changes the catalog; readers wait for nobody.
//! - A machine that runs cannot be deleted or unregistered: while that happens its place in the
//!   [`Runtime`] is taken. Whoever starts a machine therefore takes the place first, and reads the
//!   definition then.
//! - What others could have written is not believed: see `files.rs`.
//! - Everything is for its owner alone. If a definition's `[access]` lists let somebody in, the
//!   definition can be read and the directories on the way to it can be passed through.

mod access;
mod change;
mod definition;
#[cfg(test)]
mod definition_tests;
mod disks;
mod error;
mod fault;
mod files;
#[cfg(test)]
mod hostile_tests;
mod id;
mod nets;
mod present;
#[cfg(test)]
mod race_tests;
mod reader;
#[cfg(test)]
mod tests;

pub use access::{AccessList, Principal, PrincipalError};
pub use definition::{Definition, FILE_MAX, Integration};
pub use error::CatalogError;
pub use fault::{DefinitionError, Fault, Hint};
pub use id::{MachineId, MachineIdError};

use crate::config::{ConfigError, check_name};
use crate::runtime::Runtime;
use files::{Folder, For, Kept};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that makes a directory a machine.
const DEFINITION: &str = "machine.toml";
/// What it becomes when the machine is unregistered.
const UNREGISTERED: &str = "unregistered.toml";
/// A definition that is being written.
const DRAFT: &str = "machine.toml.new";
/// What whoever changes the catalog holds. No machine has a directory of this name, for those are in
/// lower case.
const LOCK: &str = "LOCK";
/// How long a change waits for another one, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The machines of a user.
#[derive(Clone, Debug)]
pub struct Catalog {
    base: PathBuf,
    runtime: Runtime,
    /// How long a change waits for another one.
    patience: Duration,
}

/// A machine in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its name, in the letters of its definition.
    pub name: String,
    /// The path of its definition.
    pub path: PathBuf,
    /// Whether the definition is elsewhere, and only a link to it in the catalog.
    pub linked: bool,
    base: PathBuf,
}

/// A machine in the catalog, and what it is made of.
#[derive(Debug)]
pub struct Listed {
    /// The machine.
    pub machine: Registered,
    /// Its definition, or why that cannot be used.
    pub definition: Result<Definition, CatalogError>,
}

impl Catalog {
    /// The user's: `$VMM_DATA_DIR`, else `$XDG_DATA_HOME/vmm`, else `.local/share/vmm` in the home
    /// directory; root has `/var/lib/vmm` in place of the latter two. With it goes the user's
    /// [`Runtime`].
    #[must_use]
    pub fn of_user() -> Self {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let data = || {
            let home = || Some(absolute("HOME")?.join(".local/share"));
            let root = rustix::process::geteuid().is_root();
            Some(absolute("XDG_DATA_HOME").or_else(home).filter(|_| !root)?.join("vmm"))
        };
        let base = absolute("VMM_DATA_DIR").or_else(data);
        Self::at(base.unwrap_or_else(|| PathBuf::from("/var/lib/vmm")), Runtime::of_user())
    }

    /// The one in the directory `base`, whose machines run in `runtime`.
    #[must_use]
    pub fn at(base: impl Into<PathBuf>, runtime: Runtime) -> Self {
        Self { base: base.into(), runtime, patience: PATIENCE }
    }

    /// Where its machines run.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The machine `name`, in whatever letters, if there is one. Its definition may be broken.
    ///
    /// # Errors
    /// The name is not allowed, or what is there is not safe or cannot be looked at.
    pub fn find(&self, name: &str) -> Result<Option<Registered>, CatalogError> {
        check_name(name)?;
        let Some(base) = Folder::base(&self.base, For::Reading)? else { return Ok(None) };
        let key = name.to_lowercase();
        let Some((folder, kept)) = locate(&base, &key, For::Reading)? else { return Ok(None) };
        let path = folder.definition(&kept);
        let definition = read(&folder, &kept, &path);
        Ok(Some(self.registered(&key, path, &kept, definition.ok().as_ref())))
    }

    /// The machine `name`, in whatever letters.
    ///
    /// # Errors
    /// There is none; else as [`Catalog::find`].
    pub fn get(&self, name: &str) -> Result<Registered, CatalogError> {
        self.find(name)?.ok_or_else(|| self.unknown(name))
    }

    /// All machines, by name. A broken one is among them, with what is wrong.
    ///
    /// # Errors
    /// The catalog itself is not safe or cannot be looked at.
    pub fn list(&self) -> Result<Vec<Listed>, CatalogError> {
        let Some(base) = Folder::base(&self.base, For::Reading)? else { return Ok(Vec::new()) };
        let mut names: Vec<String> = base.names()?.into_iter().filter(|key| is_key(key)).collect();
        names.sort();
        Ok(names.iter().filter_map(|key| self.listed(&base, key)).collect())
    }

    fn listed(&self, base: &Folder, key: &str) -> Option<Listed> {
        let broken = |path, kept: &Kept, error| {
            let machine = self.registered(key, path, kept, None);
            Some(Listed { machine, definition: Err(error) })
        };
        match locate(base, key, For::Reading) {
            Ok(None) => None,
            Err(error) => broken(self.base.join(key).join(DEFINITION), &Kept::Here, error),
            Ok(Some((folder, kept))) => {
                let path = folder.definition(&kept);
                match read(&folder, &kept, &path) {
                    // Somebody deleted it just now.
                    Err(error) if error.is_not_found() && matches!(kept, Kept::Here) => None,
                    Err(error) => broken(path, &kept, error),
                    Ok(definition) => {
                        let machine = self.registered(key, path, &kept, Some(&definition));
                        let name = machine.name.clone();
                        Some(Listed { machine, definition: Ok(Definition { name, ..definition }) })
                    }
                }
            }
        }
    }

    /// The machine in the directory `key`. Its name is that of the directory, in the letters that
    /// the definition has for it.
    fn registered(
        &self,
        key: &str,
        path: PathBuf,
        kept: &Kept,
        definition: Option<&Definition>,
    ) -> Registered {
        let name = definition.map(|definition| definition.name.as_str());
        let name = name.filter(|name| name.to_lowercase() == key).unwrap_or(key).to_owned();
        let linked = matches!(kept, Kept::Elsewhere(_));
        Registered { name, path, linked, base: self.base.clone() }
    }

    fn unknown(&self, name: &str) -> CatalogError {
        unknown(&self.base, name)
    }
}

impl Registered {
    /// Reads the definition. Its name is the one that the machine is registered under.
    ///
    /// # Errors
    /// The machine is not there any more, or its definition cannot be read or has a fault.
    pub fn load(&self) -> Result<Definition, CatalogError> {
        self.load_for(For::Reading)
    }

    /// As [`load`](Self::load), for whoever is about to run the machine with this user's rights: a
    /// definition names files that are written.
    pub(crate) fn load_to_run(&self) -> Result<Definition, CatalogError> {
        self.load_for(For::Running)
    }

    fn load_for(&self, purpose: For) -> Result<Definition, CatalogError> {
        let key = self.name.to_lowercase();
        let base = Folder::base(&self.base, purpose)?;
        let located = base.map(|base| locate(&base, &key, purpose)).transpose()?.flatten();
        let (folder, kept) = located.ok_or_else(|| unknown(&self.base, &self.name))?;
        let path = folder.definition(&kept);
        match read(&folder, &kept, &path) {
            Err(error) if error.is_not_found() && matches!(kept, Kept::Here) => {
                Err(unknown(&self.base, &self.name))
            }
            definition => Ok(Definition { name: self.name.clone(), ..definition? }),
        }
    }

    /// The directory of the definition, which its paths are relative to.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

/// Whether a machine's directory may have this name.
fn is_key(name: &str) -> bool {
    // A lower-case name can be longer than the name as it was written.
    matches!(check_name(name), Ok(()) | Err(ConfigError::NameTooLong(_)))
        && name.to_lowercase() == name
}

/// The directory of the machine `key` and where its definition is, if there is such a machine.
fn locate(base: &Folder, key: &str, purpose: For) -> Result<Option<(Folder, Kept)>, CatalogError> {
    let Some(folder) = base.folder(key, purpose)? else { return Ok(None) };
    let kept = folder.kept()?;
    Ok(kept.map(|kept| (folder, kept)))
}

fn read(folder: &Folder, kept: &Kept, path: &Path) -> Result<Definition, CatalogError> {
    Ok(Definition::parse(&folder.read(kept)?.text, path)?)
}

/// There is no machine `name` in the catalog at `base`; perhaps another one was meant.
fn unknown(base: &Path, name: &str) -> CatalogError {
    // Only a hint: without one the error is as true.
    let base = Folder::base(base, For::Reading).ok().flatten();
    let names = base.and_then(|base| {
        let names = base.names().ok()?;
        let there =
            |key: &String| is_key(key) && matches!(locate(&base, key, For::Reading), Ok(Some(_)));
        Some(names.into_iter().filter(there).collect::<Vec<_>>())
    });
    let names = names.unwrap_or_default();
    let nearest = fault::nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
    CatalogError::Unknown { name: name.to_owned(), nearest }
}
