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
mod netlink_socket;
pub mod nfnetlink;
pub mod nft_command;
pub mod processes;
pub mod removal;
pub mod routing_socket;
pub mod shims;
pub mod trial;
pub mod users;
pub mod wrapper;

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// What a file of the kernel rarely exceeds; a longer one is read all the same.
const KERNEL_FILE: usize = 8 * 1024;

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

/// All of a file of the kernel. These say that they are empty, so what is made for files of a known
/// length begins with tiny pieces and asks the kernel several times as often.
pub fn read_kernel_file(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(KERNEL_FILE);
    File::open(path)?.take(u64::MAX).read_to_string(&mut text)?;
    Ok(text)
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
