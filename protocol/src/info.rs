//! The info service: what the guest's operating system says of itself.

use serde::{Deserialize, Serialize};

/// A guest's operating system. Whatever it does not say of itself is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OsInfo {
    /// The guest's host name.
    pub computer_name: String,
    /// The system's name with its version, for people: `PRETTY_NAME` of os-release(5), else `NAME`,
    /// else the kernel's name.
    pub name: String,
    /// The system's name for programs, in lower case: `ID` of os-release.
    pub id: String,
    /// The system's version: `VERSION_ID` of os-release; without an os-release the kernel's release.
    pub version: String,
    /// The image that the system was made from: `BUILD_ID` of os-release.
    pub build: String,
    /// What the system was made for, `server` say: `VARIANT_ID` of os-release.
    pub variant: String,
    /// The kernel's release: `uname -r`.
    pub kernel_release: String,
    /// The kernel's build: `uname -v`.
    pub kernel_version: String,
    /// The kernel's architecture: `uname -m`.
    pub architecture: String,
}
