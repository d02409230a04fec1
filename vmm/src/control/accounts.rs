//! Users and groups of this host, by name or by number.

use crate::catalog::{AccessList, Principal};
use crate::control::access::{Access, Grant};
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::ptr;

/// Bytes that an entry may take at first; a group may have many members.
const ROOM: usize = 4096;
/// The most that an entry may take.
const ROOM_MAX: usize = 1 << 20;

impl Access {
    /// What `list` grants. Whoever this host does not know is granted nothing, which the log tells.
    #[must_use]
    pub fn of_list(list: &AccessList) -> Self {
        Self::granting(grants(&list.read), grants(&list.execute))
    }
}

fn grants(principals: &[Principal]) -> Vec<Grant> {
    let known = principals.iter().filter_map(|principal| {
        let grant = grant(principal);
        if grant.is_none() {
            tracing::warn!(%principal, "access for somebody whom this host does not know");
        }
        grant
    });
    known.collect()
}

fn grant(principal: &Principal) -> Option<Grant> {
    match principal {
        Principal::User(name) => name.parse().ok().or_else(|| user(name)).map(Grant::User),
        Principal::Group(name) => name.parse().ok().or_else(|| group(name)).map(Grant::Group),
    }
}

/// The number of the user `name`.
fn user(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    look_up(|buffer| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: the name is a C string; entry, buffer and result are valid for the call, which is
        // told how long the buffer is.
        let error = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        if found.is_null() {
            return Err(error);
        }
        // SAFETY: a result that is not null is the entry, which the call has then filled.
        Ok(unsafe { (*found).pw_uid })
    })
}

/// The number of the group `name`.
fn group(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    look_up(|buffer| {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: as for users.
        let error = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &raw mut found,
            )
        };
        if found.is_null() {
            return Err(error);
        }
        // SAFETY: as for users.
        Ok(unsafe { (*found).gr_gid })
    })
}

/// Calls `call` with more and more room, as long as that is what it lacks.
fn look_up(call: impl Fn(&mut [u8]) -> Result<u32, libc::c_int>) -> Option<u32> {
    let mut buffer = vec![0; ROOM];
    loop {
        match call(&mut buffer) {
            Ok(number) => return Some(number),
            Err(libc::ERANGE) if buffer.len() < ROOM_MAX => buffer.resize(buffer.len() * 2, 0),
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_known_by_name_or_number_is_granted_something() {
        let grants = |name: &str| grant(&name.parse().unwrap());
        assert_eq!(grants("root"), Some(Grant::User(0)));
        assert_eq!(grants("@root"), Some(Grant::Group(0)));
        assert_eq!(grants("4242"), Some(Grant::User(4242)));
        assert_eq!(grants("@4242"), Some(Grant::Group(4242)));
        assert_eq!(grants("no-such-user-here"), None);
        assert_eq!(grants("@no-such-group-here"), None);
    }
}
