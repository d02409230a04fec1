//! Taps: network interfaces of the host whose other end is a descriptor (the kernel's
//! `Documentation/networking/tuntap.rst`).
//!
//! Each read takes a packet that the host has sent out of the interface, each write is a packet that
//! comes in there. In front of each is a `virtio_net_hdr` of [`HEADER`] bytes, by which checksums and
//! the cutting of long packets are left to whoever does them best. What a guest writes there, the
//! kernel checks.

use crate::config::{Net, is_tap_name};
use bitflags::bitflags;
use protocol::HResult;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of the header in front of each packet.
pub const HEADER: usize = 12;

/// What makes taps.
pub(crate) const DEVICE: &str = "/dev/net/tun";

bitflags! {
    /// What the reader of a tap does with packets itself, so that the host need not.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Offloads: libc::c_uint {
        /// Checksums.
        const CSUM = libc::TUN_F_CSUM;
        /// Cutting TCP over IPv4.
        const TSO4 = libc::TUN_F_TSO4;
        /// Cutting TCP over IPv6.
        const TSO6 = libc::TUN_F_TSO6;
        /// Cutting TCP with congestion notices.
        const ECN = libc::TUN_F_TSO_ECN;
    }
}

/// Where packets go to and come from: a tap, one packet for each call of `readv` and `writev`.
pub trait Wire: AsRawFd + Send + Sync {
    /// Says what is done here with packets from now on.
    ///
    /// # Errors
    /// The host cannot leave that out.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;
}

/// Why a tap cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the tap {name}")]
pub struct TapError {
    /// Its name.
    pub name: String,
    /// What is wrong.
    #[source]
    pub fault: TapFault,
}

/// What is wrong with a tap.
#[derive(Debug, thiserror::Error)]
pub enum TapFault {
    /// No tap can be called so.
    #[error("it is not {expected}", expected = Net::TAP_EXPECTED)]
    Name,
    /// The host has none.
    #[error("this host has no working {DEVICE}; `modprobe tun`, as root, loads its driver")]
    Missing(#[source] io::Error),
    /// What makes taps cannot be opened.
    #[error("{DEVICE} cannot be opened")]
    Open(#[source] io::Error),
    /// Somebody else has it.
    #[error("it is in use, by another machine or program")]
    InUse,
    /// There is none, and this user may not make one.
    #[error(
        "there is none, and only root may make one: `ip tuntap add dev {0} mode tap user $USER`, \
         then `ip link set {0} up`"
    )]
    Nothing(String),
    /// There is one, for somebody else.
    #[error(
        "it is not this user's: `ip tuntap del dev {0} mode tap`, then `ip tuntap add dev {0} mode \
         tap user $USER`, both as root, make it so"
    )]
    NotOurs(String),
    /// Something else has the name.
    #[error("there is an interface of that name, but it is no tap with one queue")]
    Kind,
    /// The kernel refuses something else.
    #[error("the kernel refuses {what}")]
    Setup {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl TapError {
    /// The documented code that fits best.
    #[must_use]
    pub fn code(&self) -> HResult {
        match &self.fault {
            TapFault::Name | TapFault::Kind => HResult::E_INVALIDARG,
            TapFault::Missing(_) | TapFault::Nothing(_) => HResult::ERROR_FILE_NOT_FOUND,
            TapFault::NotOurs(_) => HResult::ERROR_ACCESS_DENIED,
            TapFault::Open(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                HResult::ERROR_ACCESS_DENIED
            }
            TapFault::InUse => HResult::ERROR_SHARING_VIOLATION,
            TapFault::Open(_) | TapFault::Setup { .. } => HResult::DISP_E_EXCEPTION,
        }
    }
}

/// A tap. Closing it frees it, and removes it unless it was made to stay.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Takes the tap `name`, or makes it if there is none and this process may. Reading and writing
    /// never block.
    ///
    /// # Errors
    /// The host has no taps, somebody else has this one, or it cannot be made.
    pub fn open(name: &str) -> Result<Self, TapError> {
        Self::attach(name).map_err(|fault| TapError { name: name.to_owned(), fault })
    }

    fn attach(name: &str) -> Result<Self, TapFault> {
        if !is_tap_name(name) {
            return Err(TapFault::Name);
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open(DEVICE).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapFault::Missing(error),
            _ => TapFault::Open(error),
        })?;
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            // The flags are those of 16 bits.
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short },
        };
        // A name leaves room for the final NUL.
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: the kernel reads and writes one `ifreq`, which `request` is.
        let taken = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        said("to attach to it", taken).map_err(|fault| explain(fault, name))?;
        let length = HEADER as libc::c_int;
        // SAFETY: the kernel reads an `int`, which `length` is.
        let set =
            unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const length) };
        said("headers of 12 bytes", set)?;
        let tap = Self { file };
        tap.set_offloads(Offloads::empty())
            .map_err(|source| TapFault::Setup { what: "to set its offloads", source })?;
        Ok(tap)
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Wire for Tap {
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let bits = libc::c_ulong::from(offloads.bits());
        // SAFETY: the argument is a number; the kernel reads and writes no memory.
        let set = unsafe { libc::ioctl(self.as_raw_fd(), libc::TUNSETOFFLOAD, bits) };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// What the kernel said to a request.
fn said(what: &'static str, result: libc::c_int) -> Result<(), TapFault> {
    if result < 0 {
        return Err(TapFault::Setup { what, source: io::Error::last_os_error() });
    }
    Ok(())
}

/// What a refusal to attach to the tap `name` means.
fn explain(fault: TapFault, name: &str) -> TapFault {
    let TapFault::Setup { source, .. } = &fault else { return fault };
    let exists = Path::new("/sys/class/net").join(name).exists();
    match source.raw_os_error() {
        Some(libc::EBUSY) => TapFault::InUse,
        Some(libc::EPERM) if exists => TapFault::NotOurs(name.to_owned()),
        Some(libc::EPERM) => TapFault::Nothing(name.to_owned()),
        Some(libc::EINVAL) if exists => TapFault::Kind,
        _ => fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    /// Whether a test can make taps; it says so if not.
    fn may_make_taps() -> bool {
        let may = rustix::process::geteuid().is_root() && Path::new(DEVICE).exists();
        if !may {
            ::tests::not_tested(&format!("only root, on a host with {DEVICE}, can make taps"));
        }
        may
    }

    fn name() -> String {
        format!("vmmtap{}", std::process::id() % 1_000_000)
    }

    #[test]
    fn a_tap_is_one_users_alone_and_free_again_when_it_is_closed() {
        if !may_make_taps() {
            return;
        }
        let name = name();
        let tap = Tap::open(&name).unwrap();
        let error = Tap::open(&name).unwrap_err();
        assert!(matches!(error.fault, TapFault::InUse), "{error:?}");
        assert_eq!(error.code(), HResult::ERROR_SHARING_VIOLATION);
        for offloads in [Offloads::all(), Offloads::CSUM, Offloads::empty()] {
            tap.set_offloads(offloads).unwrap();
        }
        drop(tap);
        let tap = Tap::open(&name).unwrap();
        // One that was made to stay, as `ip tuntap add` does, is attached to.
        let stay = |tap: &Tap, stays: libc::c_ulong| {
            // SAFETY: the argument is a number; the kernel reads and writes no memory.
            let set = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETPERSIST, stays) };
            assert_eq!(set, 0);
        };
        stay(&tap, 1);
        drop(tap);
        assert!(Path::new("/sys/class/net").join(&name).exists());
        let tap = Tap::open(&name).unwrap();
        stay(&tap, 0);
        drop(tap);
        assert!(!Path::new("/sys/class/net").join(&name).exists());
    }

    #[test]
    fn what_is_no_tap_is_left_alone() {
        for name in ["", "tap%d", "a/b", "0123456789abcdef"] {
            assert!(matches!(Tap::open(name).unwrap_err().fault, TapFault::Name));
        }
        if may_make_taps() {
            let error = Tap::open("lo").unwrap_err();
            assert!(matches!(error.fault, TapFault::Kind), "{error:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_was_found_and_what_to_do() {
        let refused = |errno, name: &str| {
            let source = io::Error::from_raw_os_error(errno);
            let fault = explain(TapFault::Setup { what: "to attach to it", source }, name);
            TapError { name: name.to_owned(), fault }
        };
        for (errno, name, code, word) in [
            (
                libc::EPERM,
                "none0",
                HResult::ERROR_FILE_NOT_FOUND,
                "ip tuntap add dev none0 mode tap",
            ),
            (libc::EPERM, "lo", HResult::ERROR_ACCESS_DENIED, "ip tuntap add dev lo mode tap"),
            (libc::EBUSY, "lo", HResult::ERROR_SHARING_VIOLATION, "in use"),
            (libc::EINVAL, "lo", HResult::E_INVALIDARG, "no tap with one queue"),
            (libc::EINVAL, "none0", HResult::DISP_E_EXCEPTION, "attach"),
        ] {
            let error = refused(errno, name);
            assert_eq!(error.code(), code);
            assert_eq!(error.to_string(), format!("cannot use the tap {name}"));
            let fault = error.source().unwrap().to_string();
            assert!(fault.contains(word), "{fault}");
        }
    }
}
