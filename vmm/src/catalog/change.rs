//! What changes the catalog: one program at a time, each change in one step.

use super::access::AccessList;
use super::definition::Definition;
use super::error::CatalogError;
use super::fault::{DefinitionError, Fault};
use super::files::{self, Folder, For, Kept, replace};
use super::id::MachineId;
use super::{Catalog, DEFINITION, DRAFT, LOCK, Registered, UNREGISTERED, locate, read};
use crate::config::check_name;
use crate::lock::{is_at, open_lock, take_lock};
use crate::runtime::{self, RuntimeError};
use rustix::fs::CWD;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a change looks whether another one is over.
const LOOK: Duration = Duration::from_millis(2);

/// The right to change the catalog, until it is dropped.
struct Change {
    base: Folder,
    _lock: File,
}

impl Catalog {
    /// Creates the machine `name` from `definition`, with a new identity. Relative paths in it are
    /// relative to the machine's directory in the catalog.
    ///
    /// # Errors
    /// The name is not allowed or taken, the definition has a fault or names files that are not
    /// there, or the catalog cannot be written. Nothing is left behind.
    pub fn create(&self, name: &str, definition: &Definition) -> Result<Registered, CatalogError> {
        check_name(name)?;
        let key = name.to_lowercase();
        let path = self.base.join(&key).join(DEFINITION);
        let id = MachineId::random().map_err(CatalogError::io(Path::new("getrandom")))?;
        let definition = Definition { name: name.to_owned(), id: Some(id), ..definition.clone() };
        let text = text_of(&definition, &path)?;
        definition.check_files(&path)?;
        let change = self.change()?;
        self.refuse_taken(&change, name)?;
        let folder = change.folder(&key, &definition.access)?;
        let mode = if definition.access.is_empty() { 0o600 } else { 0o644 };
        let written = replace(&folder.fd, DEFINITION.as_ref(), DRAFT.as_ref(), &text, mode)
            .map_err(CatalogError::io(&path));
        change.settle(&key, &folder, written)?;
        Ok(self.registered(&key, path, &Kept::Here, Some(&definition)))
    }

    /// Makes the definition at `path` a machine of the catalog, under `name` or, without one, under
    /// the name that it has itself. It stays where it is, unless it is one that [`unregister`] left.
    ///
    /// [`unregister`]: Self::unregister
    ///
    /// # Errors
    /// There is no such file, it has a fault or names files that are not there, it is that of
    /// another machine, others can write it, the name is not allowed or taken, or the catalog cannot
    /// be written. Nothing is left behind.
    pub fn register(&self, name: Option<&str>, path: &Path) -> Result<Registered, CatalogError> {
        let path = std::fs::canonicalize(path).map_err(CatalogError::io(path))?;
        let contents = files::read(CWD, &path, &path)?;
        contents.trust_own(&path)?;
        let definition = Definition::parse(&contents.text, &path)?;
        definition.check_files(&path)?;
        let name = name.filter(|name| !name.is_empty()).unwrap_or(&definition.name);
        check_name(name)?;
        let key = name.to_lowercase();
        let change = self.change()?;
        // What `unregister` left goes back to where it was.
        let returning = change.base.folder(&key, For::Writing)?.filter(|folder| {
            matches!(folder.kept(), Ok(None)) && is_same(&path, &folder.path.join(UNREGISTERED))
        });
        if returning.is_none() {
            self.refuse_taken(&change, name)?;
        }
        let machines = self.list()?;
        if let Some(other) = machines.into_iter().find(|other| is_same(&path, &other.machine.path))
        {
            return Err(CatalogError::Registered { path, name: other.machine.name });
        }
        if let Some(folder) = returning {
            folder.rename(UNREGISTERED, DEFINITION)?;
            let path = folder.path.join(DEFINITION);
            return Ok(self.registered(&key, path, &Kept::Here, Some(&definition)));
        }
        let folder = change.folder(&key, &definition.access)?;
        let linked = folder.link(&path);
        change.settle(&key, &folder, linked)?;
        let kept = Kept::Elsewhere(path.clone());
        Ok(self.registered(&key, path, &kept, Some(&definition)))
    }

    /// Takes the machine `name` out of the catalog, but keeps its definition, and answers where that
    /// is: where it was, or beside the rest of a machine that was created.
    ///
    /// # Errors
    /// There is no such machine, it is running, or the catalog cannot be written.
    pub fn unregister(&self, name: &str) -> Result<PathBuf, CatalogError> {
        let (change, key, folder, kept) = self.change_machine(name)?;
        let _stopped = self.hold(name)?;
        match kept {
            Kept::Here => {
                let path = folder.path.join(UNREGISTERED);
                if folder.has(UNREGISTERED)? {
                    return Err(CatalogError::Exists(path));
                }
                folder.rename(DEFINITION, UNREGISTERED)?;
                Ok(path)
            }
            Kept::Elsewhere(path) => {
                folder.remove(DEFINITION)?;
                change.base.remove_folder(&key, &folder)?;
                Ok(path)
            }
        }
    }

    /// Deletes the machine `name` and its definition, wherever that is, if it is a file of this user.
    /// Files that somebody else put into the machine's directory stay.
    ///
    /// # Errors
    /// There is no such machine, it is running, or the catalog cannot be written.
    pub fn delete(&self, name: &str) -> Result<(), CatalogError> {
        let (change, key, folder, kept) = self.change_machine(name)?;
        let stopped = self.hold(name)?;
        if let Kept::Elsewhere(path) = kept {
            remove_own(&path).map_err(CatalogError::io(&path))?;
        }
        folder.remove(DEFINITION)?;
        if let Some(place) = &stopped {
            place.remove_log();
        }
        change.base.remove_folder(&key, &folder)
    }

    /// Writes the definition of `machine` anew; the name in it may differ from that of the machine
    /// by its letters only, else it is replaced.
    ///
    /// # Errors
    /// The machine is not there any more, the definition has a fault, or it cannot be written; then
    /// the old one is there still.
    pub fn save(&self, machine: &Registered, definition: &Definition) -> Result<(), CatalogError> {
        let (change, key, folder, kept) = self.change_machine(&machine.name)?;
        let path = folder.definition(&kept);
        if path != machine.path {
            return Err(self.unknown(&machine.name));
        }
        let mut definition = definition.clone();
        if definition.name.to_lowercase() != key {
            definition.name.clone_from(&machine.name);
        }
        let text = text_of(&definition, &path)?;
        let granted = !definition.access.is_empty();
        change.open_for(&folder, &definition.access)?;
        let written = match &kept {
            Kept::Here => {
                let mode = if granted { 0o644 } else { 0o600 };
                replace(&folder.fd, DEFINITION.as_ref(), DRAFT.as_ref(), &text, mode)
            }
            Kept::Elsewhere(path) => {
                let contents = folder.read(&kept)?;
                let mode = contents.stat.st_mode & 0o777 | if granted { 0o444 } else { 0 };
                replace_elsewhere(path, &text, mode)
            }
        };
        written.map_err(CatalogError::io(&path))
    }

    /// Waits for the right to change the catalog, which is made if it is not there.
    fn change(&self) -> Result<Change, CatalogError> {
        let failed = CatalogError::io(&self.base);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.base).map_err(&failed)?;
        let base = Folder::base(&self.base, For::Writing)?
            .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let path = self.base.join(LOCK);
        let failed = CatalogError::io(&path);
        let deadline = Instant::now() + self.patience;
        loop {
            let lock = open_lock(&path).map_err(&failed)?;
            // Unless somebody removed the file in between.
            if take_lock(&lock).map_err(&failed)? && is_at(&lock, &path) {
                return Ok(Change { base, _lock: lock });
            }
            if Instant::now() > deadline {
                return Err(CatalogError::Busy(self.base.clone()));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The right to change the catalog, and the machine `name` in it.
    fn change_machine(&self, name: &str) -> Result<(Change, String, Folder, Kept), CatalogError> {
        check_name(name)?;
        // A catalog that is not there is not made to see that it is empty.
        if Folder::base(&self.base, For::Reading)?.is_none() {
            return Err(self.unknown(name));
        }
        let change = self.change()?;
        let key = name.to_lowercase();
        match locate(&change.base, &key, For::Writing)? {
            Some((folder, kept)) => Ok((change, key, folder, kept)),
            None => Err(self.unknown(name)),
        }
    }

    /// Keeps the machine `name` from being started.
    fn hold(&self, name: &str) -> Result<Option<runtime::Place>, CatalogError> {
        match self.runtime.claim(name) {
            Ok(place) => Ok(Some(place)),
            // No machine of this name has ever run there.
            Err(RuntimeError::TooLong(_)) => Ok(None),
            Err(RuntimeError::InUse(name)) => Err(CatalogError::Running(name)),
            Err(error) => Err(CatalogError::Runtime(error)),
        }
    }

    /// Refuses the name of a machine that is there, or whose definition was kept.
    fn refuse_taken(&self, change: &Change, name: &str) -> Result<(), CatalogError> {
        let key = name.to_lowercase();
        let Some(folder) = change.base.folder(&key, For::Writing)? else { return Ok(()) };
        if let Some(kept) = folder.kept()? {
            let path = folder.definition(&kept);
            let definition = read(&folder, &kept, &path).ok();
            let machine = self.registered(&key, path, &kept, definition.as_ref());
            return Err(CatalogError::Duplicate(machine.name));
        }
        if folder.has(UNREGISTERED)? {
            return Err(CatalogError::Exists(folder.path.join(UNREGISTERED)));
        }
        Ok(())
    }
}

impl Change {
    /// The directory for a new machine, open to those whom `access` lets in.
    fn folder(&self, key: &str, access: &AccessList) -> Result<Folder, CatalogError> {
        let folder = self.base.make(key)?;
        let opened = self.open_for(&folder, access);
        self.settle(key, &folder, opened)?;
        Ok(folder)
    }

    /// Opens `folder` to those whom `access` lets in, and closes it to everybody else.
    fn open_for(&self, folder: &Folder, access: &AccessList) -> Result<(), CatalogError> {
        if access.is_empty() {
            return folder.set_mode(0o700);
        }
        self.base.open_to_passers()?;
        folder.set_mode(0o711)
    }

    /// Sees to it that a new machine is on the disk or, if something failed, not there at all.
    fn settle(
        &self,
        key: &str,
        folder: &Folder,
        done: Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        let settled = done.and_then(|()| self.base.sync());
        if settled.is_err() {
            // The first error is the one to tell.
            let _ = folder.remove(DEFINITION);
            let _ = self.base.remove_folder(key, folder);
        }
        settled
    }
}

/// The text of `definition`, which is to be at `path`. What could not be read again is refused here.
fn text_of(definition: &Definition, path: &Path) -> Result<String, CatalogError> {
    let text = definition.to_toml();
    let text = text.map_err(|error| DefinitionError { file: path.to_owned(), ..error })?;
    if Definition::parse(&text, path)? == *definition {
        return Ok(text);
    }
    let fault = Fault::Unwritable("it would not be read as it is".into());
    Err(DefinitionError::new(path, None, fault).into())
}

/// Replaces the definition at `path`, outside of the catalog, where programs with other catalogs may
/// do so at the same time.
fn replace_elsewhere(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let directory = File::open(directory)?;
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(format!(".{}", MachineId::random()?));
    replace(&directory, name, OsStr::new(&draft), text, mode)
}

/// Removes the file at `path` if it is a regular one of this user. If it is gone, that is as good.
fn remove_own(path: &Path) -> io::Result<()> {
    let removed = std::fs::symlink_metadata(path).and_then(|metadata| {
        let own = metadata.uid() == rustix::process::geteuid().as_raw();
        if own && metadata.is_file() { std::fs::remove_file(path) } else { Ok(()) }
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Whether two paths name the same file.
fn is_same(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity(a).is_some_and(|a| identity(b) == Some(a))
}
