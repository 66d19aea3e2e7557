//! Directories and files made without races: every step goes through a file
//! descriptor, and no link is ever followed (openat2(2)).

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::Path,
};

use nix::{
    fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, renameat2},
    sys::stat::{Mode, fchmod, fstatat, mkdirat},
    unistd::{Gid, Uid, fchown, fsync},
};

use super::{Attempt as _, HostError};

/// Opens a directory by a path whose every part must be a real directory.
pub fn open_trusted(path: &Path) -> Result<OwnedFd, HostError> {
    nix::fcntl::open(
        path,
        OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_RDONLY,
        Mode::empty(),
    )
    .attempt("open", path)
}

/// Opens `name` below `parent`: never through a link, never outside, never across a mount.
pub fn open_below(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let c_name =
        std::ffi::CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: an all-zero `open_how` is valid: no flags, no mode, no restriction.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_RDONLY).unsigned_abs());
    how.resolve = libc::RESOLVE_BENEATH
        | libc::RESOLVE_NO_SYMLINKS
        | libc::RESOLVE_NO_MAGICLINKS
        | libc::RESOLVE_NO_XDEV;
    // SAFETY: name and `how` live through the call, and the true size of `how` is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            parent.as_raw_fd(),
            c_name.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let number = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the system call has just returned this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes (or adopts) the directory `name` below `parent` for one owner, mode 0700.
///
/// It is born 0700 and root's; only the descriptor that was opened without links
/// is given away, so nobody can slip another directory in between. An existing
/// one that belongs to somebody else is an error, never taken over.
pub fn make_owned(parent: &Path, name: &str, uid: u32, gid: u32) -> Result<OwnedFd, HostError> {
    let path = parent.join(name);
    let folder = open_trusted(parent)?;
    let parent_fd = std::os::fd::AsFd::as_fd(&folder);
    let created = match mkdirat(parent_fd, name, Mode::from_bits_truncate(0o700)) {
        Ok(()) => true,
        Err(nix::errno::Errno::EEXIST) => false,
        Err(error) => return Err(HostError::new("create", path, error)),
    };
    let directory = open_below(parent_fd, name).attempt("open", &path)?;
    let metadata = File::from(directory.try_clone().attempt("open", &path)?)
        .metadata()
        .attempt("read", &path)?;
    let owner = (
        std::os::unix::fs::MetadataExt::uid(&metadata),
        std::os::unix::fs::MetadataExt::gid(&metadata),
    );
    // Root's own means: made here before, and interrupted before it was given away.
    if created || owner == (0, 0) {
        fchown(&directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .attempt("give away", &path)?;
    } else if owner != (uid, gid) {
        return Err(HostError::new(
            "adopt",
            path,
            io::Error::other(format!("it belongs to {}:{}, not to {uid}:{gid}", owner.0, owner.1)),
        ));
    }
    if metadata.permissions().mode() & 0o7777 != 0o700 {
        fchmod(&directory, Mode::from_bits_truncate(0o700)).attempt("set mode of", &path)?;
    }
    Ok(directory)
}

/// Whether `name` below `parent` is a directory of that user's. One of root's own
/// passes, too: it was made, and interrupted before it was given away.
pub fn is_owned(parent: BorrowedFd<'_>, name: &str, uid: u32) -> io::Result<()> {
    let owner = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if owner.st_mode & libc::S_IFMT != libc::S_IFDIR {
        return Err(io::Error::other("it is no directory"));
    }
    if owner.st_uid != uid && owner.st_uid != 0 {
        return Err(io::Error::other(format!("it belongs to {}, not to {uid}", owner.st_uid)));
    }
    Ok(())
}

/// Makes (or adopts) a directory of root's that nobody else can pass.
pub fn make_root_directory_below(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = open_below(parent, name)?;
    let metadata = File::from(directory.try_clone()?).metadata()?;
    if std::os::unix::fs::MetadataExt::uid(&metadata) != 0 {
        return Err(io::Error::other("it does not belong to root"));
    }
    fchmod(&directory, Mode::S_IRWXU)?;
    Ok(directory)
}

/// Moves a directory entry, never over another one, and has it on disk before it returns.
pub fn move_between(
    from: BorrowedFd<'_>,
    name: &str,
    to: BorrowedFd<'_>,
    new_name: &str,
) -> io::Result<()> {
    renameat2(from, name, to, new_name, RenameFlags::RENAME_NOREPLACE)?;
    fsync(to)?;
    Ok(fsync(from)?)
}

/// Makes a root-owned directory with exactly this mode and group. A new one is nobody
/// else's until it has them.
pub fn make_root_directory(path: &Path, mode: u32, gid: u32) -> Result<(), HostError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).attempt("create", parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        outcome => outcome.attempt("create", path)?,
    }
    let directory = open_trusted(path)?;
    fchown(&directory, Some(Uid::from_raw(0)), Some(Gid::from_raw(gid))).attempt("own", path)?;
    fchmod(&directory, Mode::from_bits_truncate(mode)).attempt("set mode of", path)
}

/// The names in a directory; none if it is not there.
pub fn names(path: &Path) -> Result<Vec<String>, HostError> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(HostError::new("read", path, error)),
    }
}

/// Removes a directory of files. Not what is below: a directory in it is an error.
pub fn remove_flat(path: &Path) -> Result<(), HostError> {
    for name in names(path)? {
        let file = path.join(name);
        super::tolerate_absence(fs::remove_file(&file)).attempt("remove", &file)?;
    }
    super::tolerate_absence(fs::remove_dir(path)).attempt("remove", path)
}

/// Writes a file that others see whole or not at all.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), HostError> {
    let temporary = path.with_extension("new");
    let written = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.attempt("write", path)
}

/// Changes the mode of a socket or file that was just made in a directory only root can write.
pub fn set_owner_and_mode(path: &Path, uid: u32, gid: u32, mode: u32) -> Result<(), HostError> {
    nix::unistd::fchownat(
        AT_FDCWD,
        path,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .attempt("own", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).attempt("set mode of", path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_link_is_never_followed() {
        let base = tempfile::tempdir().unwrap();
        let victim = base.path().join("victim");
        let homes = base.path().join("homes");
        fs::create_dir(&victim).unwrap();
        fs::create_dir(&homes).unwrap();
        std::os::unix::fs::symlink(&victim, homes.join("u-1")).unwrap();
        let before = fs::metadata(&victim).unwrap();
        assert!(make_owned(&homes, "u-1", 12345, 12345).is_err());
        let after = fs::metadata(&victim).unwrap();
        assert_eq!(before.permissions(), after.permissions());
        assert_eq!(
            std::os::unix::fs::MetadataExt::uid(&before),
            std::os::unix::fs::MetadataExt::uid(&after)
        );
        let folder = open_trusted(&homes).unwrap();
        for escape in ["..", "../victim", "/etc", "u-1"] {
            assert!(open_below(std::os::fd::AsFd::as_fd(&folder), escape).is_err(), "{escape}");
        }
    }
}
