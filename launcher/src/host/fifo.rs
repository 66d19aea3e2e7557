//! The FIFOs of a sandbox's channel. A reader is opened before anybody writes,
//! because a FIFO without a reader blocks the engine for ever.

use std::{fs, path::Path};

use nix::sys::stat::Mode;
use tokio::net::unix::pipe;

use super::{Attempt as _, HostError, tolerate_absence};

/// Makes a FIFO that only root may open. The directory must be root's alone.
pub fn make(path: &Path) -> Result<(), HostError> {
    nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600)).attempt("create", path)
}

/// Opens for reading; open for writing too, so that it never reads an end
/// between two writers and never blocks.
pub fn open_receiver(path: &Path) -> Result<pipe::Receiver, HostError> {
    pipe::OpenOptions::new().read_write(true).open_receiver(path).attempt("open", path)
}

/// Opens for writing, likewise.
pub fn open_sender(path: &Path) -> Result<pipe::Sender, HostError> {
    pipe::OpenOptions::new().read_write(true).open_sender(path).attempt("open", path)
}

pub fn remove(path: &Path) -> Result<(), HostError> {
    tolerate_absence(fs::remove_file(path)).attempt("remove", path)
}
