//! Mounts: idmapped layers, the overlay of a root file system, and the late
//! attach of a home into a running sandbox (mount_setattr(2), move_mount(2)).
//!
//! Must never follow a path inside a tenant's directory: callers hand over file
//! descriptors or paths below directories that only root can write.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
};

use super::{Attempt as _, HostError, namespaces, removal};

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned_fd(result: io::Result<libc::c_long>) -> io::Result<OwnedFd> {
    let number = i32::try_from(result?).map_err(io::Error::other)?;
    // SAFETY: the system call has just returned this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A detached copy of the mount at `directory`, of that directory alone (open_tree(2), OPEN_TREE_CLONE).
pub(super) fn clone_tree(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH.unsigned_abs();
    // SAFETY: the descriptor is borrowed for the call and the path is a constant C string.
    owned_fd(checked(unsafe {
        libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), c"".as_ptr(), flags)
    }))
}

/// Sets attributes on a detached mount, and maps its ids if a user namespace is given.
pub(super) fn set_attributes(
    tree: BorrowedFd<'_>,
    set: u64,
    user_namespace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    if let Some(namespace) = user_namespace {
        attributes.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = u64::from(namespace.as_raw_fd().unsigned_abs());
    }
    // SAFETY: `attributes` lives through the call and its true size is passed with it.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(|_| ())
}

/// Puts a detached mount onto the directory behind `target`.
pub(super) fn attach_at(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both descriptors are borrowed for the call and both paths are constant C strings.
    checked(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    })
    .map(|_| ())
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let c_path = c_string(path)?;
    // SAFETY: `c_path` is a valid C string for the whole call.
    owned_fd(checked(libc::c_long::from(unsafe {
        libc::open(
            c_path.as_ptr(),
            libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NOFOLLOW,
        )
    })))
}

fn open_to_read(path: &Path) -> io::Result<OwnedFd> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    Ok(fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?.into())
}

const LAYER_ATTRIBUTES: u64 =
    libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// Runs `work` on a thread of its own that shares neither working directory nor
/// anything set by `setns` with the rest of the process.
fn on_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).map_err(io::Error::from)?;
                work()
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
    })
}

/// Mounts a read-only root file system on `<base>/rootfs` from `layers` (topmost
/// first, at least two), each seen through the ids of the user namespace.
///
/// An overlay itself cannot be idmapped, its layers can. The options of an
/// overlay end at one page: layers are mounted at `<base>/layers/0`, `1`, … and
/// named relative to that directory, so that dozens of layers fit.
pub fn mount_rootfs(
    base: &Path,
    layers: &[PathBuf],
    user_namespace: &Path,
) -> Result<PathBuf, HostError> {
    let rootfs = base.join("rootfs");
    let folder = base.join("layers");
    for directory in [&rootfs, &folder] {
        fs::create_dir_all(directory).attempt("create", directory)?;
    }
    let namespace = File::open(user_namespace).attempt("open", user_namespace)?;
    let mut names = Vec::with_capacity(layers.len());
    for (index, layer) in layers.iter().enumerate() {
        let mount_point = folder.join(index.to_string());
        fs::create_dir_all(&mount_point).attempt("create", &mount_point)?;
        let mounted = (|| {
            let tree = clone_tree(open_directory(layer)?.as_fd())?;
            set_attributes(tree.as_fd(), LAYER_ATTRIBUTES, Some(namespace.as_fd()))?;
            attach_at(tree.as_fd(), open_directory(&mount_point)?.as_fd())
        })();
        mounted.attempt("mount layer", layer)?;
        names.push(index.to_string());
    }
    let options = format!("lowerdir={}", names.join(":"));
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    on_own_thread(|| {
        nix::unistd::chdir(&folder)?;
        mount(Some("overlay"), &rootfs, Some("overlay"), flags, Some(options.as_str()))?;
        mount(None::<&str>, &rootfs, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)?;
        Ok(())
    })
    .attempt("mount", &rootfs)?;
    // The overlay holds private copies of its layers.
    for name in names {
        unmount_all(&folder.join(name))?;
    }
    Ok(rootfs)
}

/// Unmounts whatever is mounted on exactly this path, also when it is stacked. Absence is success.
pub fn unmount_all(path: &Path) -> Result<(), HostError> {
    // A crashed run can leave the same mount point twice; a bound keeps a bug from spinning here.
    for _ in 0..64 {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(HostError::new("unmount", path, error)),
        }
    }
    Ok(())
}

/// Undoes [`mount_rootfs`], and takes a home away that was bound beside it. Never recursive: a
/// directory that is still busy is an error, not a deletion.
pub fn unmount_rootfs(base: &Path) -> Result<(), HostError> {
    for point in ["home", "rootfs"].map(|name| base.join(name)) {
        unmount_all(&point)?;
        super::tolerate_absence(fs::remove_dir(&point)).attempt("remove", &point)?;
    }
    let folder = base.join("layers");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(HostError::new("read", &folder, error)),
    };
    for entry in entries {
        let path = entry.attempt("read", &folder)?.path();
        unmount_all(&path)?;
        fs::remove_dir(&path).attempt("remove", &path)?;
    }
    fs::remove_dir(&folder).attempt("remove", &folder)
}

/// Runs `work` in the mount namespace and under the root directory of a process, on a thread
/// that ends with it.
pub(super) fn in_mount_namespace<T: Send>(
    pid: u32,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    // The kernel's own link, which leads to the directory itself.
    let root = File::open(format!("/proc/{pid}/root"))?;
    on_own_thread(|| {
        nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNS)?;
        nix::unistd::fchdir(&root)?;
        nix::unistd::chroot(".")?;
        work()
    })
}

/// Attaches `directory` at `target` inside the mount namespace of process `pid`,
/// nosuid and nodev, while the sandbox runs.
///
/// `target` is resolved inside that namespace without following any link. With a user namespace,
/// ids on disk are seen as that namespace maps them.
pub fn attach_into(
    pid: u32,
    directory: BorrowedFd<'_>,
    target: &Path,
    ids: Option<BorrowedFd<'_>>,
) -> Result<(), HostError> {
    let tree = clone_tree(directory).attempt("clone mount for", target)?;
    set_attributes(tree.as_fd(), libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV, ids)
        .attempt("set attributes for", target)?;
    in_mount_namespace(pid, || {
        let mount_point = open_without_links(target)?;
        attach_at(tree.as_fd(), mount_point.as_fd())
    })
    .attempt("attach", target)
}

/// Puts `directory` at `target`, nosuid and nodev, where nobody but root can write above it.
pub fn attach_here(directory: BorrowedFd<'_>, target: &Path) -> Result<(), HostError> {
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    clone_tree(directory)
        .and_then(|tree| {
            set_attributes(tree.as_fd(), attributes, None)?;
            attach_at(tree.as_fd(), open_directory(target)?.as_fd())
        })
        .attempt("attach", target)
}

/// Removes a directory on which, and below which, something may be mounted: a home, for one. First
/// nothing is mounted there any more, then it is removed; what cannot be unmounted keeps all of it.
/// What is no directory stays: a link could lead anywhere.
pub fn remove_with_mounts(directory: &Path) -> Result<(), HostError> {
    if !fs::symlink_metadata(directory).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    unmount_below(directory)?;
    // Should anything be mounted there that was not seen, it is not entered.
    let left = open_to_read(directory).and_then(removal::empty).attempt("remove", directory)?;
    if !left.is_empty() {
        return Err(HostError::new("remove", directory, io::Error::other(left.join("; "))));
    }
    super::tolerate_absence(fs::remove_dir(directory)).attempt("remove", directory)
}

/// Unmounts everything on and below a directory, and says so if anything stays.
fn unmount_below(directory: &Path) -> Result<(), HostError> {
    let below = || -> Result<Vec<PathBuf>, HostError> {
        let mut points = mount_points().attempt("read", "/proc/self/mountinfo")?;
        points.retain(|point| point.starts_with(directory));
        Ok(points)
    };
    // What was mounted last lies on top.
    for point in below()?.iter().rev() {
        unmount_all(point)?;
    }
    match below()?.first() {
        None => Ok(()),
        Some(point) => {
            Err(HostError::new("unmount", point, io::Error::from(io::ErrorKind::ResourceBusy)))
        }
    }
}

/// Makes what is mounted on `target`, and nothing below it, read-only inside the mount
/// namespace of process `pid`. Nothing mounted there is an error.
pub fn make_read_only_inside(pid: u32, target: &Path) -> Result<(), HostError> {
    in_mount_namespace(pid, || {
        set_attributes(open_without_links(target)?.as_fd(), libc::MOUNT_ATTR_RDONLY, None)
    })
    .attempt("make read-only", target)
}

/// Whether what lies topmost on `point` is read-only as a mount.
pub fn is_read_only(mounts: &[MountLine], point: &Path) -> bool {
    let topmost = mounts.iter().rev().find(|mount| mount.point == point);
    topmost.is_some_and(|mount| mount.options.iter().any(|option| option == "ro"))
}

/// A directory by its path, with no link on the way.
fn open_without_links(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let no_links = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    Ok(openat2(AT_FDCWD, path, OpenHow::new().flags(flags).resolve(no_links))?)
}

/// Whether what is mounted at `directory` can be seen through mapped ids.
pub fn can_be_mapped(directory: &Path) -> Result<(), HostError> {
    let other = [namespaces::Shown { on_disk: 65_536, seen: 65_537 }];
    let ids = namespaces::id_map(&other, &other)?;
    open_directory(directory)
        .and_then(|open| clone_tree(open.as_fd()))
        .and_then(|tree| set_attributes(tree.as_fd(), 0, Some(ids.as_fd())))
        .attempt("map the ids of", directory)
}

/// Makes `path` a private mount of its own, so that nothing mounted below it
/// spreads to other namespaces.
pub fn make_private(path: &Path) -> Result<(), HostError> {
    let is_mounted =
        mount_points().attempt("read", "/proc/self/mountinfo")?.iter().any(|point| point == path);
    if !is_mounted {
        mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .attempt("bind", path)?;
    }
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
        .attempt("make private", path)
}

/// Every mount point of this thread.
pub fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(parse_mountinfo(&fs::read_to_string("/proc/thread-self/mountinfo")?)
        .into_iter()
        .map(|mount| mount.point)
        .collect())
}

/// One line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountLine {
    /// What of the file system is mounted: `/`, or a file or directory in it.
    pub root: String,
    pub point: PathBuf,
    pub options: Vec<String>,
    /// Whether mounts made elsewhere appear here, or the other way round.
    pub propagates: bool,
    pub file_system: String,
    /// Options of the file system itself: size, inodes, mode.
    pub super_options: Vec<String>,
}

pub fn parse_mountinfo(text: &str) -> Vec<MountLine> {
    text.lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut fields = before.split(' ').skip(3);
            let mut after = after.split(' ');
            let list = |text: &str| text.split(',').map(str::to_owned).collect();
            Some(MountLine {
                root: unescape(fields.next()?),
                point: PathBuf::from(unescape(fields.next()?)),
                options: list(fields.next()?),
                propagates: fields.any(|tag| !tag.is_empty()),
                file_system: after.next()?.to_owned(),
                super_options: list(after.nth(1)?),
            })
        })
        .collect()
}

/// The kernel writes blanks in paths as octal escapes.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_whole() {
        let text = "36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n";
        let expected = MountLine {
            root: "/mnt1".into(),
            point: "/mnt two".into(),
            options: vec!["rw".into(), "noatime".into()],
            propagates: true,
            file_system: "ext3".into(),
            super_options: vec!["rw".into(), "errors=continue".into()],
        };
        assert_eq!(parse_mountinfo(text), vec![expected]);
    }

    #[test]
    fn what_lies_topmost_says_whether_it_can_be_written() {
        let line = |options: &str| format!("1 2 0:5 / /dev {options} - tmpfs tmpfs ro,mode=755\n");
        let is = |text: &str| is_read_only(&parse_mountinfo(text), Path::new("/dev"));
        assert!(is(&line("ro,nosuid")));
        // The file system's own option is no wall: a mount of it elsewhere may be writable.
        assert!(!is(&line("rw,nosuid")));
        assert!(!is(&(line("ro") + &line("rw"))) && is(&(line("rw") + &line("ro"))));
        assert!(!is(""), "nothing is mounted there");
    }
}
