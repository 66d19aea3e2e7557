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

/// A way to keep homes.
pub trait HomeDriver: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether homes can be had at all; called at the launcher's start and by `doctor`.
    fn check(&self, root: &Path) -> Result<(), HostError>;

    /// The highest uid that owns a home, if there is one: such numbers are never given again.
    fn highest_owner(&self, root: &Path) -> Result<Option<u32>, HostError>;

    /// The owner's home, made if this is the first time. Safe against planted links.
    fn open(
        &self,
        root: &Path,
        name_on_disk: &str,
        uid: u32,
        gid: u32,
    ) -> Result<OwnedFd, HostError>;
}

/// The driver of that name.
pub fn driver(name: &str) -> Option<&'static dyn HomeDriver> {
    match name {
        "directory" => Some(&Directory),
        _ => None,
    }
}
