//! Which backend a guest has: logind where it answers, else utmp and `/proc`.

use super::logind::Logind;
use super::united::{Paths, UtmpProc};
use super::{Backend, Backends, Listing};
use crate::logind::LoginManager;
use crate::process::Scope;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The backends of a guest.
#[derive(Clone, Debug)]
pub struct Guest {
    root: PathBuf,
    plain: UtmpProc,
    scope: Scope,
    log: fn(&str),
    /// The connection to its login manager that was used last.
    kept: Kept,
}

type Kept = Arc<Mutex<Option<Arc<LoginManager>>>>;

impl Guest {
    /// Those of the guest that this program runs in; `log` is told when logind cannot be used.
    #[must_use]
    pub fn here(log: fn(&str)) -> Self {
        Self::new(Path::new("/"), Paths::default(), Scope::Everyone, log)
    }

    /// Those of a guest whose files are below `root`, and those that need no logind at `paths`.
    #[must_use]
    pub fn new(root: &Path, paths: Paths, scope: Scope, log: fn(&str)) -> Self {
        Self {
            root: root.to_owned(),
            plain: UtmpProc::new(paths, scope),
            scope,
            log,
            kept: Kept::default(),
        }
    }

    /// Over the connection that was used last, if it still serves, else over a new one.
    fn logind(&self) -> io::Result<(Arc<dyn Backend>, Listing)> {
        let kept = self.kept().take().filter(|manager| !manager.is_lost());
        if let Some(manager) = kept {
            match self.listed(manager) {
                // Whoever is slow is not asked twice.
                Err(error) if error.kind() != ErrorKind::TimedOut => {}
                other => return other,
            }
        }
        self.listed(Arc::new(LoginManager::connect(&self.root)?))
    }

    fn listed(&self, manager: Arc<LoginManager>) -> io::Result<(Arc<dyn Backend>, Listing)> {
        let logind = Logind::over(Arc::clone(&manager), &self.root, self.scope);
        let listing = logind.list()?;
        *self.kept() = Some(manager);
        Ok((Arc::new(logind), listing))
    }

    fn kept(&self) -> MutexGuard<'_, Option<Arc<LoginManager>>> {
        // Every change is one assignment.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backends for Guest {
    fn choose(&self) -> io::Result<(Arc<dyn Backend>, Listing)> {
        match self.logind() {
            Ok(chosen) => return Ok(chosen),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                (self.log)(&format!("sessions are told without logind: {error}"));
            }
        }
        let plain: Arc<dyn Backend> = Arc::new(self.plain.clone());
        plain.choose()
    }
}
