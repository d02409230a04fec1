//! An initial RAM disk: a cpio archive in the form that Linux unpacks.

use crate::kernel::Module;
use anyhow::{Context, Result};
use cpio::newc::{Builder, trailer};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Whom a file belongs to.
pub(crate) const ROOT: u32 = 0;

/// An archive in the making.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<PathBuf>,
    inodes: u32,
}

impl Archive {
    /// Adds the host's `file` as `path`, executable if it is.
    pub(crate) fn copy(&mut self, file: &Path, path: &str) -> Result<()> {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mode = fs::metadata(file)?.permissions().mode() & 0o777;
        self.file(path, &bytes, mode)
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        self.entry(path, bytes, FILE | mode, ROOT)
    }

    /// Adds the host's `folder` as `path`, with all that is in it.
    pub(crate) fn copy_all(&mut self, folder: &Path, path: &str) -> Result<()> {
        if !folder.is_dir() {
            return self.copy(folder, path);
        }
        let entries = fs::read_dir(folder);
        for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            self.copy_all(&entry.path(), &format!("{path}/{}", name.to_string_lossy()))?;
        }
        Ok(())
    }

    /// Adds `modules` in `folder`, and a list of them in their order.
    pub(crate) fn modules(&mut self, folder: &str, modules: &[Module]) -> Result<()> {
        let mut order = String::new();
        for (name, bytes) in modules {
            self.file(&format!("{folder}/{name}.ko"), bytes, 0o644)?;
            order += &format!("{name}\n");
        }
        self.file(&format!("{folder}/order"), order.as_bytes(), 0o644)
    }

    /// Adds a symbolic link to `target`.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, target.as_bytes(), LINK | 0o777, ROOT)
    }

    /// Adds a folder that belongs to `owner`.
    pub(crate) fn folder(&mut self, path: &str, mode: u32, owner: u32) -> Result<()> {
        self.folders.insert(relative(path));
        self.entry(path, &[], FOLDER | mode, owner)
    }

    /// Adds the folders that `path` is in, as far as they are not there.
    fn parents(&mut self, path: &Path) -> Result<()> {
        let parents: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        for parent in parents.into_iter().rev().filter(|parent| parent.file_name().is_some()) {
            if !self.folders.contains(&parent) {
                let name = parent.to_string_lossy().into_owned();
                self.folder(&name, 0o755, ROOT)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, bytes: &[u8], mode: u32, owner: u32) -> Result<()> {
        let path = relative(path);
        self.parents(&path)?;
        self.inodes += 1;
        let name = path.to_string_lossy();
        let size = u32::try_from(bytes.len()).with_context(|| format!("{name} is too large"))?;
        let mut writer = Builder::new(&name)
            .ino(self.inodes)
            .mode(mode)
            .uid(owner)
            .gid(owner)
            .nlink(1)
            .write(&mut self.bytes, size);
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }

    /// The finished archive.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        Ok(trailer(self.bytes)?)
    }
}

/// `path` as an archive names it: without the leading slash.
fn relative(path: &str) -> PathBuf {
    Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect()
}
