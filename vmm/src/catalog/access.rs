//! Whom a definition grants what: users and groups, by name or by number.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;
use std::str::FromStr;

/// The longest name of a user or group, in bytes.
const NAME_MAX: usize = 256;

/// Whom a machine's owner lets in, and how far. The owner and root need no entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    /// Who may look at the machine.
    pub read: Vec<Principal>,
    /// Who may also start, stop and change it.
    pub execute: Vec<Principal>,
}

impl AccessList {
    /// Whether nobody is let in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read.is_empty() && self.execute.is_empty()
    }
}

/// A user or a group as a definition names it: `bob` or `1000`, `@staff` or `@1000`. Whether the
/// host knows it is another question.
///
/// ```
/// use vmm::catalog::Principal;
/// assert_eq!("@staff".parse(), Ok(Principal::Group("staff".into())));
/// assert_eq!(Principal::User("bob".into()).to_string(), "bob");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The user of this name or number.
    User(String),
    /// The members of the group of this name or number.
    Group(String),
}

/// What a [`Principal`] looks like, for messages.
pub(super) const EXPECTED_PRINCIPAL: &str = r#"a user such as "bob", or a group such as "@staff""#;

/// A text that names no user and no group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {EXPECTED_PRINCIPAL}")]
pub struct PrincipalError;

impl FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, PrincipalError> {
        let group = text.strip_prefix('@');
        let name = group.unwrap_or(text);
        // What can be in no name: these characters separate fields and entries where names are kept.
        let bad = |c: char| c.is_control() || matches!(c, ':' | ',');
        let odd = name.starts_with('@') || name.trim() != name || name.contains(bad);
        if name.is_empty() || name.len() > NAME_MAX || odd {
            return Err(PrincipalError);
        }
        let kind = if group.is_some() { Self::Group } else { Self::User };
        Ok(kind(name.to_owned()))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => f.write_str(name),
            Self::Group(name) => write!(f, "@{name}"),
        }
    }
}

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_read_as_they_are_written() {
        for text in
            ["bob", "@staff", "1000", "@1000", "bob@example.org", r"DOMAIN\bob smith", "bob$"]
        {
            let principal: Principal = text.parse().unwrap();
            assert_eq!(matches!(principal, Principal::Group(_)), text.starts_with('@'));
            let json = serde_json::to_string(&principal).unwrap();
            assert_eq!(json, serde_json::to_string(text).unwrap());
            assert_eq!(serde_json::from_str::<Principal>(&json).unwrap(), principal);
        }
    }

    #[test]
    fn what_can_be_no_name_is_refused() {
        let long = "x".repeat(NAME_MAX + 1);
        for text in ["", "@", "@@staff", "a:b", "a,b", "a\nb", " bob", "@ staff", &long] {
            assert_eq!(text.parse::<Principal>(), Err(PrincipalError), "{text:?}");
        }
    }
}
