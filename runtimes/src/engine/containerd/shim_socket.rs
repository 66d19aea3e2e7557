//! The socket that a shim leaves behind when its machine did not start. Kata's finds its own by a
//! digest of where the sandbox belongs, and no shim of the same sandbox starts while it lies there.
//!
//! Must never take one away at which somebody listens.

use std::{
    fs,
    io::ErrorKind,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// Where Kata has them, whatever containerd's own directory is.
pub const ROOT: &str = "/run/containerd/s";

fn place(root: &Path, containerd: &Path, namespace: &str, id: &str) -> PathBuf {
    let whose = format!("{}/{namespace}/{id}", containerd.display());
    root.join(format!("{:X}", Sha256::digest(whose.as_bytes())))
}

/// Removes that of one sandbox, if its shim is gone. What cannot be removed is told by the next
/// start of the same sandbox, which has the shim's own words for it.
pub fn remove_left(root: &Path, containerd: &Path, namespace: &str, id: &str) {
    let place = place(root, containerd, namespace, id);
    let refused = |error: std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
    if UnixStream::connect(&place).is_err_and(refused)
        && let Err(error) = fs::remove_file(&place)
    {
        tracing::warn!(%error, path = %place.display(), "a shim's socket stays behind");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_the_sandboxs_own_goes_and_only_once_nobody_listens() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let containerd = Path::new("/run/katahand/containerd/containerd.sock");
        // As a shim of Kata 4.1.0 called it.
        let own = "E2247AF570FEA56285DBAC4A12876100C75A4AB8EBEAF29936E69AF835A80E18";
        let own = root.join(own);
        assert_eq!(place(root, containerd, "katahand", "selftest0000"), own);
        let other = place(root, containerd, "katahand", "selftest0001");
        for path in [&own, &other] {
            let listener = UnixListener::bind(path).unwrap();
            remove_left(root, containerd, "katahand", "selftest0000");
            assert!(path.exists(), "somebody listens");
            drop(listener);
        }
        remove_left(root, containerd, "katahand", "selftest0000");
        assert!(!own.exists() && other.exists());
        // Nothing to remove is nothing to tell.
        remove_left(root, containerd, "katahand", "selftest0000");
    }
}
