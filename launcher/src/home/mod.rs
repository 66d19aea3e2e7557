//! Homes: where a user's files live. One trait, one list, one file per driver.
//!
//! Only the user's own directory is ever handed out, as a descriptor. The
//! launcher must never walk inside a home.

mod directory;

use std::{os::fd::OwnedFd, path::Path};

use crate::host::HostError;

pub use directory::Directory;

/// The drivers' names, as in configuration.
pub const DRIVERS: &[&str] = &["directory"];

/// A home as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedHome {
    pub name_on_disk: String,
    pub uid: u32,
    pub gid: u32,
}

/// A way to keep homes.
pub trait HomeDriver: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether homes can be had at all; called at the launcher's start and by `doctor`.
    fn check(&self, root: &Path) -> Result<(), HostError>;

    /// Every home that is there and whose it is, by number.
    fn owners(&self, root: &Path) -> Result<Vec<OwnedHome>, HostError>;

    /// The owner's home, made if this is the first time. Safe against planted links.
    fn open(
        &self,
        root: &Path,
        name_on_disk: &str,
        uid: u32,
        gid: u32,
    ) -> Result<OwnedFd, HostError>;

    /// Whether there is a home of that name.
    fn is_there(&self, root: &Path, name_on_disk: &str) -> Result<bool, HostError>;

    /// Moves the home of a user who is forgotten to those set aside, under another
    /// name. False if there was none. Repeating it is harmless. A home that belongs
    /// to somebody else than `uid` is an error and stays.
    fn set_aside(
        &self,
        root: &Path,
        name_on_disk: &str,
        aside: &str,
        uid: u32,
    ) -> Result<bool, HostError>;

    /// Moves a home that was set aside back. Repeating it is harmless; never over another one.
    fn bring_back(&self, root: &Path, aside: &str, name_on_disk: &str) -> Result<(), HostError>;

    /// Removes a home that was set aside with all that is in it, never as root.
    /// Blocks; killed in the middle, the next call goes on. Absence is success.
    fn purge(&self, root: &Path, aside: &str, uid: u32, gid: u32) -> Result<(), HostError>;
}

/// The driver of that name.
pub fn driver(name: &str) -> Option<&'static dyn HomeDriver> {
    match name {
        "directory" => Some(&Directory),
        _ => None,
    }
}
