//! Homes as directories below one root-owned directory. No quota of their own:
//! the file system's fullness is the limit.

use std::{
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
};

use super::HomeDriver;
use crate::host::{Attempt as _, HostError, directories};

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

    fn highest_owner(&self, root: &Path) -> Result<Option<u32>, HostError> {
        let homes = std::fs::read_dir(root).attempt("read home root", root)?;
        // The homes themselves, never what is in them.
        Ok(homes.filter_map(|home| Some(home.ok()?.metadata().ok()?.uid())).max())
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
}
