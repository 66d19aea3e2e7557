//! Covers places in a home, inside a running sandbox, with empty directories that
//! nobody can write.
//!
//! Works in the tenant's directories as root and so must never follow a link, leave
//! the home, or cross a mount: each step goes from one descriptor to a name below it
//! (openat2(2)), what is made belongs to the home's owner, and what stands in the
//! way is renamed, never removed.

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, renameat2},
    sys::{
        stat::{Mode, mkdirat},
        statvfs::{FsFlags, fstatvfs},
    },
    unistd::{Gid, Uid, setfsgid, setfsuid},
};

use super::{
    Attempt as _, HostError,
    mounts::{attach_at, clone_tree, in_mount_namespace, set_attributes},
};

/// Somebody who swaps names while we look gives up before we do.
const TRIES: u32 = 16;

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The owner of a home.
#[derive(Clone, Copy, Debug)]
pub struct HomeOwner {
    pub uid: u32,
    pub gid: u32,
}

/// Puts an empty, read-only directory over each of `places` (paths below the home at
/// `home` in the mount namespace of `pid`). Directories on the way become mounts of
/// their own: a mount point cannot be renamed away.
pub fn cover(
    pid: u32,
    home: &Path,
    owner: HomeOwner,
    empty: &Path,
    places: &[&str],
) -> Result<(), HostError> {
    const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC;
    let source = super::directories::open_trusted(empty)?;
    let mut trees = Vec::new();
    for place in places {
        let tree = clone_tree(source.as_fd())
            .and_then(|tree| set_attributes(tree.as_fd(), READ_ONLY, None).map(|()| tree))
            .attempt("cover", home.join(place))?;
        trees.push((*place, tree));
    }
    in_mount_namespace(pid, || {
        become_owner(owner)?;
        let top = open(AT_FDCWD, home, ResolveFlag::empty())?;
        let mut pinned: BTreeMap<String, OwnedFd> = BTreeMap::new();
        for (place, tree) in &trees {
            let (folder, name) = place.rsplit_once('/').unwrap_or(("", place));
            let mut way = String::new();
            for part in folder.split('/').filter(|part| !part.is_empty()) {
                let above = pinned.get(&way).unwrap_or(&top);
                let path = format!("{way}/{part}");
                if !pinned.contains_key(&path) {
                    let pin = pin(above.as_fd(), part).map_err(|error| named(&path, &error))?;
                    pinned.insert(path.clone(), pin);
                }
                way = path;
            }
            let above = pinned.get(&way).unwrap_or(&top);
            directory_below(above.as_fd(), name)
                .and_then(|directory| attach_at(tree.as_fd(), directory.as_fd()))
                .map_err(|error| named(place, &error))?;
        }
        Ok(())
    })
    .attempt("cover the configuration in", home)
}

fn named(place: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{place}: {error}"))
}

/// New files belong to the owner, while the right to pass and write everywhere stays:
/// no mode the owner has set is in the way, and a full disk lends its reserve.
fn become_owner(owner: HomeOwner) -> io::Result<()> {
    const SECURE_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: takes numbers and touches no memory; it holds for this thread, which ends after the work.
    if unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECURE_NO_SETUID_FIXUP, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    setfsgid(Gid::from_raw(owner.gid));
    setfsuid(Uid::from_raw(owner.uid));
    // Both answer with what was before, and have no error: asked again, they tell.
    let now = (setfsgid(Gid::from_raw(u32::MAX)), setfsuid(Uid::from_raw(u32::MAX)));
    if (now.0.as_raw(), now.1.as_raw()) == (owner.gid, owner.uid) {
        Ok(())
    } else {
        Err(io::Error::other("the owner's ids cannot be had"))
    }
}

fn open(parent: BorrowedFd<'_>, path: &Path, more: ResolveFlag) -> nix::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS | more;
    openat2(parent, path, OpenHow::new().flags(DIRECTORY).resolve(resolve))
}

/// The directory of that name, made where it is missing. What is no directory is renamed.
fn directory_below(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_XDEV;
    for number in 0..TRIES {
        match open(parent, Path::new(name), beneath) {
            Ok(directory) => return Ok(directory),
            Err(Errno::ENOENT) => match mkdirat(parent, name, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            },
            Err(Errno::ELOOP | Errno::ENOTDIR) => {
                let ignored = format!("{name}.ignored-{number}");
                let flags = RenameFlags::RENAME_NOREPLACE;
                match renameat2(parent, name, parent, ignored.as_str(), flags) {
                    Ok(()) | Err(Errno::EEXIST | Errno::ENOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(Errno::EXDEV) => return Err(io::Error::other("it is a mount of the host")),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("it is being changed by somebody, or too much is in the way"))
}

/// Makes a directory a mount point of itself, as writable as it was.
fn pin(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let directory = directory_below(parent, name)?;
    let tree = clone_tree(directory.as_fd())?;
    set_attributes(tree.as_fd(), libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV, None)?;
    attach_at(tree.as_fd(), directory.as_fd())?;
    Ok(tree)
}

/// What is seen at a place, from inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenPlace {
    /// It is the empty directory that was put there.
    pub is_empty_cover: bool,
    pub is_read_only: bool,
}

/// Looks at each place as the sandbox's processes would. Absent: it cannot be reached.
pub fn observe(
    pid: u32,
    home: &Path,
    empty: &Path,
    places: &[&str],
) -> Result<BTreeMap<String, SeenPlace>, HostError> {
    let cover = std::fs::symlink_metadata(empty).attempt("read", empty)?;
    in_mount_namespace(pid, || {
        let mut seen = BTreeMap::new();
        for place in places {
            let Ok(found) = open(AT_FDCWD, &home.join(place), ResolveFlag::empty()) else {
                continue;
            };
            let flags = fstatvfs(&found)?.flags();
            let metadata = std::fs::File::from(found).metadata()?;
            let is_empty_cover = (metadata.dev(), metadata.ino()) == (cover.dev(), cover.ino());
            let is_read_only = flags.contains(FsFlags::ST_RDONLY);
            seen.insert((*place).to_owned(), SeenPlace { is_empty_cover, is_read_only });
        }
        Ok(seen)
    })
    .attempt("look at the configuration in", home)
}
