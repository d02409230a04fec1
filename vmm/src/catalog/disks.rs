//! The disks of a definition.
//!
//! ```toml
//! [[disk]]
//! path = "root.qcow2"
//! format = "qcow2"                # raw if nothing is said: it is never guessed
//! readonly = true
//! ```

use super::fault::{DefinitionError, Fault, shown};
use super::reader::{Known, Section};
use crate::config::{DISKS_MAX, Disk, DiskFormat};
use serde::Serialize;
use std::path::{Path, PathBuf};
use toml::de::DeValue;

pub(super) static DISK: Known = Known { table: "disk", keys: &["path", "readonly", "format"] };

/// Reads the disks, of which `sections` are the tables; `file` reads a path.
pub(super) fn read(
    sections: &[Section<'_>],
    file: impl Fn(&DeValue<'_>) -> Option<PathBuf>,
) -> Result<Vec<Disk>, DefinitionError> {
    let mut disks: Vec<Disk> = Vec::new();
    for section in sections {
        let refused = |key: &str, expected: String, found: String| {
            let fault = Fault::Value { key: key.to_owned(), expected, found };
            Err(section.error(section.span("path"), fault))
        };
        if disks.len() == DISKS_MAX {
            return refused("disk", format!("at most {DISKS_MAX} of them"), "one more".into());
        }
        let path = section.need("path", super::definition::PATH, &file)?;
        if disks.iter().any(|disk| disk.path == path) {
            let found = format!("the text {:?}", shown(&path.to_string_lossy()));
            return refused("disk.path", "a file that no other disk has".into(), found);
        }
        disks.push(Disk {
            path,
            readonly: section
                .get("readonly", "true or false", |value| value.as_bool())?
                .unwrap_or(false),
            format: section
                .get("format", DiskFormat::EXPECTED, |value| DiskFormat::of_name(value.as_str()?))?
                .unwrap_or_default(),
        });
    }
    Ok(disks)
}

/// A disk as it is written.
#[derive(Serialize)]
pub(super) struct Written<'a> {
    path: &'a Path,
    readonly: bool,
    format: &'static str,
}

impl<'a> From<&'a Disk> for Written<'a> {
    fn from(disk: &'a Disk) -> Self {
        Self { path: &disk.path, readonly: disk.readonly, format: disk.format.name() }
    }
}
