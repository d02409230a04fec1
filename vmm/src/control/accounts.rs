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
    // SAFETY: getpwnam_r is such a function.
    unsafe { number_of(name, libc::getpwnam_r, |user: &libc::passwd| user.pw_uid) }
}

/// The number of the group `name`.
fn group(name: &str) -> Option<u32> {
    // SAFETY: getgrnam_r is such a function.
    unsafe { number_of(name, libc::getgrnam_r, |group: &libc::group| group.gr_gid) }
}

/// A function of the C library that looks a name up: it fills an entry of type `T`, whose strings go
/// into the buffer, and sets the last argument to that entry, or to null. It returns an error number.
type LookUp<T> = unsafe extern "C" fn(
    *const libc::c_char,
    *mut T,
    *mut libc::c_char,
    libc::size_t,
    *mut *mut T,
) -> libc::c_int;

/// The number in the entry of `name`, which is looked up with more and more room as long as that is
/// what it lacks.
///
/// # Safety
/// `look_up` does what is said of [`LookUp`].
unsafe fn number_of<T>(name: &str, look_up: LookUp<T>, number: fn(&T) -> u32) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let mut buffer: Vec<libc::c_char> = vec![0; ROOM];
    loop {
        let mut entry = MaybeUninit::uninit();
        let (room, length) = (buffer.as_mut_ptr(), buffer.len());
        let mut found = ptr::null_mut();
        // SAFETY: the name is a C string; entry, buffer and result are valid for the call, which is
        // told how long the buffer is.
        let error =
            unsafe { look_up(name.as_ptr(), entry.as_mut_ptr(), room, length, &raw mut found) };
        // SAFETY: a result that is not null is the entry, which the call has then filled.
        if let Some(entry) = unsafe { found.as_ref() } {
            return Some(number(entry));
        }
        if error != libc::ERANGE || length >= ROOM_MAX {
            return None;
        }
        buffer.resize(length * 2, 0);
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
