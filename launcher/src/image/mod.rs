//! From an image to a mounted root file system.
//!
//! The topmost layer is a *skeleton* made here: every place the sandbox mounts
//! on or trusts (`/proc`, `/dev`, the home, the init, `/etc/resolv.conf`) is in
//! it as a real directory or file. A hostile image's links at those places are
//! covered and never followed.
//!
//! Must never use an image's USER, VOLUME, LABEL or entry point.

pub mod check;
mod credentials;
pub mod download;
pub mod registry;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::host::{Attempt as _, HostError, mounts};

/// The init's path inside every sandbox.
pub const INIT: &str = "/.adrastea/init";

/// Waits in a sandbox of the pool until somebody claims it. The init knows its place.
const WAITING_PROGRAM: &str = include_str!("waiting.py");

/// Directories that a sandbox mounts on.
const MOUNT_POINTS: &[&str] = &["proc", "sys", "dev", "run", "tmp", "etc", ".adrastea"];

/// What differs between skeletons.
#[derive(Clone, Debug)]
pub struct Skeleton<'content> {
    pub home: &'content Path,
    pub resolv_conf: &'content str,
    pub init: &'content Path,
}

impl Skeleton<'_> {
    /// The skeleton's directory below `parent`, made if it is not there. Its
    /// name is a hash of its content, so that a changed one is another one.
    pub fn ensure(&self, parent: &Path) -> Result<PathBuf, HostError> {
        let init = fs::read(self.init).attempt("read", self.init)?;
        let mut hash = Sha256::new();
        for part in [
            self.home.as_os_str().as_encoded_bytes(),
            self.resolv_conf.as_bytes(),
            HOSTS.as_bytes(),
            WAITING_PROGRAM.as_bytes(),
            &init,
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let name = hash
            .finalize()
            .iter()
            .take(8)
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let directory = parent.join(&name);
        if directory.is_dir() {
            return Ok(directory);
        }
        let unfinished = parent.join(format!(".{name}.{}", std::process::id()));
        let _ = fs::remove_dir_all(&unfinished);
        self.build(&unfinished, &init).attempt("build skeleton", &unfinished)?;
        match fs::rename(&unfinished, &directory) {
            Ok(()) => Ok(directory),
            // Somebody else was faster with the same content.
            Err(_) if directory.is_dir() => {
                fs::remove_dir_all(&unfinished).attempt("remove", &unfinished)?;
                Ok(directory)
            }
            Err(error) => Err(HostError::new("finish skeleton", directory, error)),
        }
    }

    fn build(&self, base: &Path, init: &[u8]) -> std::io::Result<()> {
        let make = |path: &Path| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(path)
                .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        };
        make(base)?;
        for name in MOUNT_POINTS {
            make(&base.join(name))?;
        }
        // Each part of the home's path as a real directory of its own.
        let mut path = base.to_owned();
        for part in self.home.components().skip(1) {
            path.push(part);
            make(&path)?;
        }
        let file = |name: &str, content: &[u8], mode: u32| {
            let path = base.join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        };
        file(".adrastea/init", init, 0o555)?;
        // For the init, which is told nothing else before its claim.
        file(".adrastea/home", self.home.as_os_str().as_encoded_bytes(), 0o444)?;
        file(".adrastea/waiting.py", WAITING_PROGRAM.as_bytes(), 0o444)?;
        file("etc/resolv.conf", self.resolv_conf.as_bytes(), 0o444)?;
        file("etc/hosts", HOSTS.as_bytes(), 0o444)?;
        file("etc/hostname", b"sandbox\n", 0o444)
    }
}

/// Removes what a launcher that died while it built a skeleton has left. Only where
/// nobody builds one now.
pub fn remove_unfinished(parent: &Path) -> Result<(), HostError> {
    for entry in fs::read_dir(parent).attempt("read", parent)?.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            fs::remove_dir_all(entry.path()).attempt("remove", entry.path())?;
        }
    }
    Ok(())
}

const HOSTS: &str = "127.0.0.1 localhost\n";

/// The resolver file for a sandbox: what policy names, or a comment that says why there is none.
pub fn resolv_conf(resolvers: &[std::net::Ipv4Addr]) -> String {
    if resolvers.is_empty() {
        return "# This sandbox may not resolve names.\n".into();
    }
    resolvers.iter().fold(String::from("options timeout:2 attempts:2\n"), |text, resolver| {
        text + &format!("nameserver {resolver}\n")
    })
}

/// Mounts the sandbox's root: skeleton over the image's layers, ids mapped by its user namespace.
pub fn mount(
    base: &Path,
    skeleton: &Path,
    layers: &[PathBuf],
    user_namespace: &Path,
) -> Result<PathBuf, HostError> {
    let mut all = Vec::with_capacity(layers.len() + 1);
    all.push(skeleton.to_owned());
    all.extend_from_slice(layers);
    mounts::mount_rootfs(base, &all, user_namespace)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_skeleton_is_made_once_and_named_by_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let init = directory.path().join("init");
        fs::write(&init, "binary").unwrap();
        let home = Path::new("/home/jovyan");
        let skeleton = Skeleton { home, resolv_conf: "a\n", init: &init };
        let first = skeleton.ensure(directory.path()).unwrap();
        assert_eq!(first, skeleton.ensure(directory.path()).unwrap());
        assert!(first.join("home/jovyan").is_dir());
        assert_eq!(
            fs::metadata(first.join(".adrastea/init")).unwrap().permissions().mode() & 0o7777,
            0o555
        );
        let other = Skeleton { resolv_conf: "b\n", ..skeleton }.ensure(directory.path()).unwrap();
        assert_ne!(first, other);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
        fs::create_dir_all(directory.path().join(".0123.99/etc")).unwrap();
        remove_unfinished(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }
}
