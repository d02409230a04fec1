//! Why the catalog refuses, each with its documented code.

use super::fault::DefinitionError;
use crate::config::ConfigError;
use crate::error::code_of;
use crate::runtime::RuntimeError;
use protocol::HResult;
use std::io;
use std::path::{Path, PathBuf};

/// What the catalog could not do.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The name is not allowed.
    #[error(transparent)]
    Name(#[from] ConfigError),
    /// Another machine has the name, perhaps in other letters.
    #[error("there is a machine named {0} already; choose another name")]
    Duplicate(String),
    /// There is no such machine.
    #[error("there is no machine named {name}{}", did_you_mean(nearest.as_deref()))]
    Unknown {
        /// The name.
        name: String,
        /// The known name that is nearest to it.
        nearest: Option<String>,
    },
    /// The machine is running.
    #[error("{0} is running; turn it off first")]
    Running(String),
    /// It cannot be found out whether the machine is running.
    #[error(transparent)]
    Runtime(RuntimeError),
    /// The definition cannot be used.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// The file is the definition of a machine already, or would be in the way of one.
    #[error("{} exists already; register it, or remove it", .0.display())]
    Exists(PathBuf),
    /// The file is the definition of another machine.
    #[error("{} is the definition of {name} already", path.display())]
    Registered {
        /// The file.
        path: PathBuf,
        /// The machine.
        name: String,
    },
    /// Something else is where a file or directory should be, or others could have tampered with it.
    #[error("{} is not a {expected} of this user that nobody else can write to", path.display())]
    Unsafe {
        /// Where.
        path: PathBuf,
        /// What should be there: a directory or a regular file.
        expected: &'static str,
    },
    /// Another program is changing the catalog, and does not come to an end.
    #[error("another program has been changing {} for a long time; try again", .0.display())]
    Busy(PathBuf),
    /// The system refused.
    #[error("cannot use {}", path.display())]
    Io {
        /// What was to be used.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl CatalogError {
    /// The documented code of this error.
    #[must_use]
    pub fn code(&self) -> HResult {
        match self {
            Self::Name(error) => error.code(),
            Self::Duplicate(_) => HResult::VM_E_CONFIG_DUPLICATE_NAME,
            Self::Unknown { .. } => HResult::VM_E_VM_UNKNOWN,
            Self::Running(_) => HResult::VM_E_VM_RUNNING,
            Self::Runtime(error) => error.code(),
            Self::Definition(error) => error.code(),
            Self::Exists(_) | Self::Registered { .. } => HResult::ERROR_ALREADY_EXISTS,
            Self::Unsafe { .. } => HResult::ERROR_BAD_PATHNAME,
            Self::Busy(_) => HResult::ERROR_SHARING_VIOLATION,
            Self::Io { path, source } => code_of(source, path),
        }
    }

    /// A refusal of the system to use `path`.
    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Whether there is nothing at a path.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}
