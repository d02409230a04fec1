//! A network interface as its owner describes it: which tap of the host's, which address.

use super::parts::take_parts;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// The longest name of a network interface, in bytes: the kernel's limit.
const NAME_MAX: usize = 15;
/// The bit of an address that says that it stands for many interfaces.
const MULTICAST: u8 = 0x01;
/// The bit of an address that says that no manufacturer gave it.
const LOCAL: u8 = 0x02;

/// The address of one Ethernet interface: not that of a group, and not all zeroes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// What [`FromStr`] can read, as messages say it.
    pub const EXPECTED: &str = "six pairs of hexadecimal digits with colons between them, such as \
                                02:00:00:00:00:01, not all zeroes and no group's (its first pair \
                                is even)";

    /// The address of these bytes, if they can be one.
    #[must_use]
    pub fn new(bytes: [u8; 6]) -> Option<Self> {
        (bytes[0] & MULTICAST == 0 && bytes != [0; 6]).then_some(Self(bytes))
    }

    /// The address of interface `index` of the machine with that UUID, or, if it has none, with that
    /// name. It is the same for ever: guests know their interfaces by it.
    #[must_use]
    pub fn derived(uuid: Option<[u8; 16]>, name: &str, index: usize) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"vmm network interface\0");
        match uuid {
            Some(uuid) => {
                hash.update(b"id\0");
                hash.update(uuid);
            }
            None => {
                hash.update(b"name\0");
                hash.update(name.to_lowercase());
            }
        }
        hash.update((index as u64).to_le_bytes());
        let digest = hash.finalize();
        let mut bytes = [0; 6];
        bytes.iter_mut().zip(digest).for_each(|(byte, from)| *byte = from);
        bytes[0] = bytes[0] & !MULTICAST | LOCAL;
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {}", Mac::EXPECTED)]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or(MacError)?;
            let digits = pair.bytes().all(|digit| digit.is_ascii_hexdigit());
            *byte = u8::from_str_radix(pair, 16).ok().filter(|_| digits).ok_or(MacError)?;
        }
        match pairs.next() {
            None => Self::new(bytes).ok_or(MacError),
            Some(_) => Err(MacError),
        }
    }
}

/// A network interface of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// The tap of the host's that its packets go through: 1 to 15 characters, see [`is_tap_name`].
    pub tap: String,
    /// Its address; if it has none, it is [derived](Mac::derived).
    pub mac: Option<Mac>,
}

impl Net {
    /// What [`is_tap_name`] demands, as messages say it.
    pub const TAP_EXPECTED: &str =
        "the name of a tap: 1 to 15 letters, digits and signs, none of them /, :, % or a comma";

    /// An interface on `tap` with a derived address.
    #[must_use]
    pub fn new(tap: impl Into<String>) -> Self {
        Self { tap: tap.into(), mac: None }
    }
}

/// Whether a tap can be called so. The kernel takes a per cent sign for a pattern, and a comma cannot
/// be said on the command line.
#[must_use]
pub fn is_tap_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && !b"/:%,".contains(&byte);
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(fits) && !matches!(name, "." | "..")
}

/// Why a description of a network interface cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetTextError {
    /// There is no tap.
    #[error("no tap=NAME")]
    NoTap,
    /// No tap can have this name.
    #[error("{0:?} is not {expected}", expected = Net::TAP_EXPECTED)]
    Tap(String),
    /// No interface can have this address.
    #[error("{0:?} is no address")]
    Mac(String, #[source] MacError),
    /// Something else.
    #[error(
        "{0:?} is no part of a network interface: tap=NAME and mac=ADDRESS are, each once and with \
         a comma between them"
    )]
    Part(String),
}

/// Reads `tap=NAME[,mac=ADDRESS]`.
impl FromStr for Net {
    type Err = NetTextError;

    fn from_str(text: &str) -> Result<Self, NetTextError> {
        let (mut tap, mut mac) = (None, None);
        let take = |key: &str, value: Option<&str>| match (key, value) {
            ("tap", Some(name)) if is_tap_name(name) => Ok(tap.replace(name.to_owned()).is_none()),
            ("tap", Some(name)) => Err(NetTextError::Tap(name.to_owned())),
            ("mac", Some(text)) => {
                let address = text.parse().map_err(|error| NetTextError::Mac(text.into(), error));
                Ok(mac.replace(address?).is_none())
            }
            _ => Ok(false),
        };
        take_parts(text, take, NetTextError::Part)?;
        Ok(Self { tap: tap.ok_or(NetTextError::NoTap)?, mac })
    }
}

/// What is wrong with a machine's network interfaces taken together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetsError {
    /// A name that no tap can have.
    #[error("{0:?} is not {expected}", expected = Net::TAP_EXPECTED)]
    Tap(String),
    /// Two of them would be on the same tap.
    #[error("two network interfaces are on the tap {0}")]
    TapTwice(String),
    /// Two of them would have the same address.
    #[error("two network interfaces have the address {0}")]
    MacTwice(Mac),
}

/// Checks what can be checked of a machine's network interfaces without opening them.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_nets(nets: &[Net]) -> Result<(), NetsError> {
    for (index, net) in nets.iter().enumerate() {
        let mut others = nets.iter().take(index);
        if !is_tap_name(&net.tap) {
            return Err(NetsError::Tap(net.tap.clone()));
        }
        if others.clone().any(|other| other.tap == net.tap) {
            return Err(NetsError::TapTwice(net.tap.clone()));
        }
        if let Some(mac) = net.mac
            && others.any(|other| other.mac == Some(mac))
        {
            return Err(NetsError::MacTwice(mac));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Mac = Mac([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);

    #[test]
    fn a_description_says_tap_and_address_in_any_order() {
        let net = |tap: &str, mac| Ok(Net { tap: tap.into(), mac });
        for (text, expected) in [
            ("tap=tap0", net("tap0", None)),
            ("tap=vm-a.1,mac=52:54:00:ab:cd:ef", net("vm-a.1", Some(ADDRESS))),
            ("mac=52:54:00:AB:CD:EF,tap=a=b", net("a=b", Some(ADDRESS))),
            ("", Err(NetTextError::Part(String::new()))),
            ("tap", Err(NetTextError::Part("tap".into()))),
            ("tap0", Err(NetTextError::Part("tap0".into()))),
            ("tap=", Err(NetTextError::Tap(String::new()))),
            ("tap=a,tap=a", Err(NetTextError::Part("tap=a".into()))),
            ("tap=a,", Err(NetTextError::Part(String::new()))),
            ("tap=0123456789abcdef", Err(NetTextError::Tap("0123456789abcdef".into()))),
            ("mac=52:54:00:ab:cd:ef", Err(NetTextError::NoTap)),
            ("tap=a,mac=1", Err(NetTextError::Mac("1".into(), MacError))),
            ("tap=a,bridge=br0", Err(NetTextError::Part("bridge=br0".into()))),
        ] {
            assert_eq!(text.parse::<Net>(), expected, "{text}");
        }
    }

    #[test]
    fn names_that_no_tap_can_have_are_refused() {
        for name in ["t", "tap0", "0123456789abcde", "..."] {
            assert!(is_tap_name(name), "{name}");
        }
        for name in
            ["", "0123456789abcdef", ".", "..", "a/b", "a:1", "tap%d", "a b", "a\0", "é", "a,b"]
        {
            assert!(!is_tap_name(name), "{name:?}");
        }
    }

    #[test]
    fn addresses_of_groups_and_of_nobody_are_refused() {
        assert_eq!("52:54:00:ab:cd:ef".parse(), Ok(ADDRESS));
        assert_eq!(ADDRESS.to_string(), "52:54:00:ab:cd:ef");
        for text in [
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "03:00:00:00:00:00",
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
            "02-00-00-00-00-01",
            "0é:00:00:00:00:01",
            "0200:00:00:00:01",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacError), "{text}");
        }
    }

    #[test]
    fn derived_addresses_never_change() {
        // Guests have these in their own settings: a change of the algorithm takes their network.
        let id = std::array::from_fn(|index| index as u8);
        for (uuid, name, index, address) in [
            (Some(id), "web", 0, "92:ae:a8:f7:91:93"),
            (Some(id), "another name", 0, "92:ae:a8:f7:91:93"),
            (Some(id), "web", 1, "62:5f:49:e9:59:7c"),
            (None, "web", 0, "fa:55:6c:f6:64:8c"),
            (None, "WEB", 0, "fa:55:6c:f6:64:8c"),
            (None, "web2", 0, "82:c8:e4:af:0d:c4"),
        ] {
            assert_eq!(Mac::derived(uuid, name, index).to_string(), address);
        }
    }

    #[test]
    fn derived_addresses_are_local_ones_of_single_interfaces() {
        for index in 0..1000 {
            let Mac(bytes) = Mac::derived(None, "web", index);
            assert_eq!(bytes[0] & (LOCAL | MULTICAST), LOCAL);
        }
    }

    #[test]
    fn a_machine_has_each_tap_and_each_address_once() {
        let with = |tap: &str| Net { mac: Some(ADDRESS), ..Net::new(tap) };
        assert_eq!(check_nets(&[Net::new("a"), Net::new("b"), with("c")]), Ok(()));
        assert_eq!(check_nets(&[Net::new("a"), with("a")]), Err(NetsError::TapTwice("a".into())));
        assert_eq!(check_nets(&[with("a"), with("b")]), Err(NetsError::MacTwice(ADDRESS)));
        assert_eq!(check_nets(&[Net::new("a b")]), Err(NetsError::Tap("a b".into())));
    }
}
