//! The environment of who started the machine, which may hold what is nobody else's business.

use crate::kit::agent;
use std::env;
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;

/// What is looked at later: where the agent is, and how words are shown.
const KEPT: [&str; 3] = [agent::VARIABLE, "NO_COLOR", "TERM"];

/// Forgets the environment, and wipes its values where the process was given them: they would still be
/// there to be read. What was copied of them before stays wherever that is. The process must have one
/// thread.
pub(super) fn forget() {
    let kept = KEPT.map(|name| (name, env::var_os(name)));
    for (name, _) in env::vars_os() {
        let Ok(name) = CString::new(name.into_vec()) else { continue };
        // SAFETY: the name ends with a NUL, and no other thread changes the environment.
        let value = unsafe { libc::getenv(name.as_ptr()) };
        if value.is_null() {
            continue;
        }
        // SAFETY: a value ends with a NUL.
        let length = unsafe { libc::strlen(value) };
        // SAFETY: these bytes are the value's, in memory of the process that can be written, and
        // nobody holds a reference into them.
        unsafe { value.write_bytes(0, length) };
    }
    // SAFETY: there is no other thread that could read the environment.
    unsafe { libc::clearenv() };
    for (name, value) in kept {
        if let Some(value) = value {
            // SAFETY: as before.
            unsafe { env::set_var(name, value) };
        }
    }
}
