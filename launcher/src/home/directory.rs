//! Homes as directories below one root-owned directory. No quota of their own:
//! the file system's fullness is the limit.
//!
//! Homes of forgotten users lie in a directory of the same file system that only
//! root can pass, so that moving one is one rename.

use std::{
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use super::{HomeDriver, OwnedHome};
use crate::host::{Attempt as _, HostError, directories, removal};

/// Below the home root; no home's name begins with a dot.
const ASIDE: &str = ".set-aside";

pub struct Directory;

impl HomeDriver for Directory {
    fn name(&self) -> &'static str {
        "directory"
    }

    fn check(&self, root: &Path) -> Result<(), HostError> {
        let metadata = std::fs::symlink_metadata(root).attempt("open home root", root)?;
        let refuse = |why: &str| {
            Err(HostError::new("use home root", root, std::io::Error::other(why.to_owned())))
        };
        if !metadata.is_dir() {
            return refuse("it is no directory");
        }
        // Whoever may write here could plant something under the next user's name.
        if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            return refuse("it must belong to root and be writable by root alone");
        }
        Ok(())
    }

    fn owners(&self, root: &Path) -> Result<Vec<OwnedHome>, HostError> {
        let homes = std::fs::read_dir(root).attempt("read home root", root)?;
        // The homes themselves, never what is in them; and no link's target.
        let aside = std::fs::read_dir(root.join(ASIDE)).into_iter().flatten();
        let owned = homes.chain(aside).flatten().filter_map(|home| {
            let metadata = home.metadata().ok().filter(std::fs::Metadata::is_dir)?;
            Some(OwnedHome {
                name_on_disk: home.file_name().to_string_lossy().into_owned(),
                uid: metadata.uid(),
                gid: metadata.gid(),
            })
        });
        Ok(owned.collect())
    }

    fn open(
        &self,
        root: &Path,
        name_on_disk: &str,
        uid: u32,
        gid: u32,
    ) -> Result<OwnedFd, HostError> {
        self.check(root)?;
        directories::make_owned(root, name_on_disk, uid, gid)
    }

    fn is_there(&self, root: &Path, name_on_disk: &str) -> Result<bool, HostError> {
        let path = root.join(name_on_disk);
        match std::fs::symlink_metadata(&path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(HostError::new("look for", path, error)),
        }
    }

    fn set_aside(
        &self,
        root: &Path,
        name_on_disk: &str,
        aside: &str,
        uid: u32,
    ) -> Result<bool, HostError> {
        self.check(root)?;
        let folder = root.join(ASIDE);
        if !self.is_there(root, name_on_disk)? {
            return Ok(folder.join(aside).is_dir());
        }
        let (from, path) = (directories::open_trusted(root)?, root.join(name_on_disk));
        directories::is_owned(from.as_fd(), name_on_disk, uid).attempt("set aside", &path)?;
        let to = directories::make_root_directory_below(from.as_fd(), ASIDE)
            .attempt("create", &folder)?;
        directories::move_between(from.as_fd(), name_on_disk, to.as_fd(), aside)
            .attempt("set aside", &path)?;
        Ok(true)
    }

    fn bring_back(&self, root: &Path, aside: &str, name_on_disk: &str) -> Result<(), HostError> {
        self.check(root)?;
        let folder = root.join(ASIDE);
        if !folder.join(aside).exists() && self.is_there(root, name_on_disk)? {
            return Ok(());
        }
        let (from, to) = (directories::open_trusted(&folder)?, directories::open_trusted(root)?);
        directories::move_between(from.as_fd(), aside, to.as_fd(), name_on_disk)
            .attempt("bring back", folder.join(aside))
    }

    fn purge(&self, root: &Path, aside: &str, uid: u32, gid: u32) -> Result<(), HostError> {
        let folder = root.join(ASIDE);
        let path = folder.join(aside);
        if !self.is_there(&folder, aside)? {
            return Ok(());
        }
        let parent = directories::open_trusted(&folder)?;
        directories::is_owned(parent.as_fd(), aside, uid).attempt("purge", &path)?;
        let home = directories::open_below(parent.as_fd(), aside).attempt("open", &path)?;
        // Nearly always there is something; and one that is empty must not wait for a child.
        if std::fs::remove_dir(&path).is_ok() {
            return Ok(());
        }
        removal::empty_as_owner(home.as_fd(), uid, gid)?;
        std::fs::remove_dir(&path).attempt("remove", &path)
    }
}
