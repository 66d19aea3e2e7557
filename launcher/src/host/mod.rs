//! The only place for system calls, files of the kernel, and commands.
//!
//! Every function does one thing to the host and knows nothing of sandboxes,
//! users or policy. Errors carry what was done and on what.

pub mod attributes;
pub mod cgroup_limits;
pub mod cgroups;
pub mod clock_source;
pub mod commands;
pub mod confinement;
pub mod covers;
pub mod directories;
pub mod fifo;
pub mod inside;
pub mod lock;
pub mod mounts;
pub mod namespaces;
pub mod nfnetlink;
pub mod nft_command;
pub mod processes;
pub mod removal;
pub mod shims;
pub mod trial;
pub mod users;
pub mod wrapper;

use std::{
    io,
    path::{Path, PathBuf},
};

/// A step on the host that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {verb} `{path}`")]
pub struct HostError {
    pub verb: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl HostError {
    pub fn new(verb: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self { verb, path: path.as_ref().to_owned(), source: source.into() }
    }
}

/// Attaches verb and path to an error of the operating system.
pub trait Attempt<T> {
    fn attempt(self, verb: &'static str, path: impl AsRef<Path>) -> Result<T, HostError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, verb: &'static str, path: impl AsRef<Path>) -> Result<T, HostError> {
        self.map_err(|source| HostError::new(verb, path, source))
    }
}

/// Success if the thing was already absent: undo steps tolerate absence.
pub fn tolerate_absence(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// An error with all its sources, each named once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = error.source();
    }
    text
}
