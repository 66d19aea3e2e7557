//! The one directory outside ours: shims put their sockets into
//! `/run/containerd/s`, whatever the configuration says.
//!
//! Must never remove what was there before us, or what is not empty.

use std::{fs, io, path::Path};

const PARENT: &str = "/run/containerd";
const SOCKETS: &str = "/run/containerd/s";
const MARKER: &str = "made-shim-sockets";

/// Before containerd starts: would the directory be ours?
pub(super) fn remember(run: &Path) -> io::Result<()> {
    if Path::new(PARENT).exists() {
        return Ok(());
    }
    fs::write(run.join(MARKER), "")
}

/// After it has stopped. Another containerd may use it by now: then it stays.
pub(super) fn remove_ours(run: &Path) {
    if fs::remove_file(run.join(MARKER)).is_ok() {
        // Only what is empty can be removed so.
        let _ = fs::remove_dir(SOCKETS);
        let _ = fs::remove_dir(PARENT);
    }
}
