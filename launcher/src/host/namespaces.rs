//! Kernel namespaces: made by one short-lived child, pinned as files, entered
//! on throw-away threads; and the `/proc/sys/net` settings of the network
//! namespace the caller is in.
//!
//! Must never change the namespace of a thread that does anything else, and
//! never leave its child behind: a pinned file is the only thing that stays.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns},
    sys::signal::{SigSet, SigmaskHow},
    sys::statfs::{FsType, fstatfs},
};

use super::{Attempt, HostError};

/// `NSFS_MAGIC` of linux/magic.h: only a namespace file lies on this file system.
const NAMESPACE_FILE_SYSTEM: FsType = FsType(0x6e73_6673);

/// More stacked mounts than this on one file are no accident.
const MOST_STACKED_MOUNTS: usize = 64;

/// Makes a user namespace with these maps and a network namespace owned by it,
/// and pins both on files that must not exist yet.
///
/// A network namespace owned by the sandbox's own user namespace is what lets a
/// sysfs be mounted inside that shows only the sandbox's devices.
pub fn create_pinned(
    user_namespace: &Path,
    network_namespace: &Path,
    uid_map: &str,
    gid_map: &str,
) -> Result<(), HostError> {
    let child = Child::spawn(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)
        .attempt("make namespaces for", user_namespace)?;
    child.write_map("uid_map", uid_map)?;
    child.write_map("gid_map", gid_map)?;
    child.pin("user", user_namespace)?;
    child.pin("net", network_namespace).inspect_err(|_| {
        // The error that counts is the pin's; a file left over shows at the next sweep.
        let _ = unpin(user_namespace);
    })
}

/// A number on disk, and as which one a mount shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub on_disk: u32,
    pub seen: u32,
}

/// A user namespace that nobody is in, for a mount: these numbers and no others.
pub fn id_map(uids: &[Shown], gids: &[Shown]) -> Result<OwnedFd, HostError> {
    let place = Path::new("/proc/self/ns/user");
    let child = Child::spawn(libc::CLONE_NEWUSER).attempt("make a map of ids by", place)?;
    let text = |ids: &[Shown]| {
        let lines = ids.iter().map(|id| format!("{} {} 1\n", id.on_disk, id.seen));
        lines.collect::<Vec<_>>().concat()
    };
    child.write_map("uid_map", &text(uids))?;
    child.write_map("gid_map", &text(gids))?;
    let path = PathBuf::from(format!("/proc/{}/ns/user", child.pid));
    Ok(fs::File::open(&path).attempt("open namespace", path)?.into())
}

/// Makes a network namespace owned by the caller's user namespace, pinned on a
/// new file; the directory is made where it is missing.
pub fn create_network_namespace(path: &Path) -> Result<(), HostError> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).attempt("create directory", directory)?;
    }
    Child::spawn(libc::CLONE_NEWNET).attempt("make a network namespace for", path)?.pin("net", path)
}

/// Takes away every mount stacked on the file, and the file. Absence is success.
pub fn unpin(path: &Path) -> Result<(), HostError> {
    for _ in 0..MOST_STACKED_MOUNTS {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point (any more), or no such file.
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(HostError::new("unpin namespace", path, error)),
        }
    }
    super::tolerate_absence(fs::remove_file(path)).attempt("remove namespace file", path)
}

/// Gives a pinned namespace a second name, by a link. What has the name is replaced, unless
/// something is mounted on it.
pub fn name(name: &Path, path: &Path) -> Result<(), HostError> {
    if fs::read_link(name).is_ok_and(|present| present == path) {
        return Ok(());
    }
    if let Some(directory) = name.parent() {
        fs::create_dir_all(directory).attempt("create directory", directory)?;
    }
    super::tolerate_absence(fs::remove_file(name)).attempt("replace", name)?;
    symlink(path, name).attempt("make link", name)
}

/// Takes the second name away. One that is somebody else's by now stays.
pub fn unname(name: &Path, path: &Path) -> Result<(), HostError> {
    if fs::read_link(name).is_ok_and(|present| present == path) {
        super::tolerate_absence(fs::remove_file(name)).attempt("remove link", name)?;
    }
    Ok(())
}

/// Opens a pinned namespace; refuses a file on which nothing is pinned.
pub fn open(path: &Path) -> Result<OwnedFd, HostError> {
    const VERB: &str = "open namespace";
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .attempt(VERB, path)?;
    let file_system = fstatfs(&file).attempt(VERB, path)?.filesystem_type();
    if file_system != NAMESPACE_FILE_SYSTEM {
        return Err(HostError::new(VERB, path, io::Error::other("no namespace is pinned there")));
    }
    Ok(file.into())
}

/// The network namespace the calling thread is in.
pub fn current_network_namespace() -> Result<OwnedFd, HostError> {
    let path = Path::new("/proc/thread-self/ns/net");
    Ok(fs::File::open(path).attempt("open namespace", path)?.into())
}

/// The number by which the kernel tells this pinned namespace from all others.
pub fn namespace_inode(path: &Path) -> Result<u64, HostError> {
    inode_of(&open(path)?).attempt("inspect namespace", path)
}

/// The same number for an open namespace.
pub fn inode_of(namespace: &OwnedFd) -> io::Result<u64> {
    Ok(fs::File::from(namespace.try_clone()?).metadata()?.ino())
}

/// Runs `work` in another network namespace, on a thread that ends with it.
pub fn in_network_namespace<T: Send>(
    namespace: impl AsFd,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let namespace = namespace.as_fd();
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("in-netns".into())
            .spawn_scoped(scope, || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

/// Reads a setting of the caller's network namespace, e.g. `ipv4/ip_forward`.
/// `None` where the kernel has no such setting.
pub fn read_network_setting(name: &str) -> Result<Option<String>, HostError> {
    let path = network_setting(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HostError::new("read network setting", path, error)),
    }
}

/// Writes a setting of the caller's network namespace.
pub fn write_network_setting(name: &str, value: &str) -> Result<(), HostError> {
    let path = network_setting(name);
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .attempt("write network setting", path)
}

/// `/proc/sys/net` shows the namespace of the *thread* that opens a file below it.
fn network_setting(name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(name)
}

/// What the child's few calls need, with room to spare; in words, so that it is aligned.
const CHILD_STACK_WORDS: usize = 4096;

/// A child that only holds new namespaces; killed and reaped when dropped.
struct Child {
    pid: libc::pid_t,
    handle: OwnedFd,
    /// The child stands on it until it is reaped.
    _stack: Vec<u128>,
}

impl Child {
    fn spawn(namespaces: libc::c_int) -> io::Result<Self> {
        let mut handle: libc::c_int = -1;
        // Sharing memory and the descriptor table spares a copy of both: copying the launcher's
        // memory, and giving the copy back, took longer than making the namespaces. No pipe or
        // lock of the launcher is held open by the child. No exit signal: only we reap it.
        let flags = namespaces | libc::CLONE_PIDFD | libc::CLONE_FILES | libc::CLONE_VM;
        let mut stack = vec![0_u128; CHILD_STACK_WORDS];
        let parent = std::process::id() as usize;
        // In shared memory a handler of the launcher's would run twice: the child takes no signal
        // but SIGKILL, and inherits that from this thread.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: the stack is aligned, grows down from its end, and lives until the child is
        // reaped; the handle is written before the call returns. The child shares this memory,
        // and the caller's thread-local storage: it makes nothing but system calls that do not
        // fail (an error would be written to this thread's `errno`), takes no lock, allocates
        // nothing, and never returns from `wait_to_be_killed`.
        let pid = unsafe {
            libc::clone(
                wait_to_be_killed,
                stack.as_mut_ptr_range().end.cast(),
                flags,
                std::ptr::without_provenance_mut(parent),
                &raw mut handle,
            )
        };
        let made = if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) };
        let restored = mask.thread_set_mask();
        let child = Self {
            pid: made?,
            // SAFETY: clone succeeded, so the kernel has put a new descriptor
            // there that nobody else knows; it is close-on-exec by definition.
            handle: unsafe { OwnedFd::from_raw_fd(handle) },
            _stack: stack,
        };
        restored?;
        Ok(child)
    }

    fn write_map(&self, file: &str, map: &str) -> Result<(), HostError> {
        let path = PathBuf::from(format!("/proc/{}/{file}", self.pid));
        // The kernel takes a map in one write, once (user_namespaces(7)).
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(map.as_bytes()))
            .attempt("write id map", path)
    }

    fn pin(&self, kind: &str, path: &Path) -> Result<(), HostError> {
        const VERB: &str = "pin namespace on";
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(path)
            .attempt(VERB, path)?;
        let source = format!("/proc/{}/ns/{kind}", self.pid);
        mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .and_then(|()| {
                mount(None::<&str>, path, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>)
            })
            .attempt(VERB, path)
            .inspect_err(|_| {
                let _ = unpin(path);
            })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: plain numbers and a pointer to zeroed memory of the right type
        // that outlives the call; the descriptor is ours.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.handle.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            );
            let mut information: libc::siginfo_t = std::mem::zeroed();
            let handle = self.handle.as_raw_fd().cast_unsigned();
            // __WALL: a child without an exit signal is not waited for otherwise.
            while libc::waitid(
                libc::P_PIDFD,
                handle,
                &raw mut information,
                libc::WEXITED | libc::__WALL,
            ) == -1
                && Errno::last() == Errno::EINTR
            {}
        }
    }
}

/// The child's whole life. System calls only, and none that can fail.
extern "C" fn wait_to_be_killed(parent: *mut libc::c_void) -> libc::c_int {
    let parent = libc::c_long::try_from(parent.addr()).unwrap_or(0);
    // SAFETY: system calls with numbers only; none touches memory or locks. No signal ends the
    // wait but one that ends the process.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // The parent may have died before the line above took effect.
        if libc::syscall(libc::SYS_getppid) == parent {
            loop {
                libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0);
            }
        }
        loop {
            libc::syscall(libc::SYS_exit_group, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const MAP: &str = "0 300000 1000\n1000 200001 1\n1001 301001 64535\n";

    /// In a private mount namespace, so that nothing outlives the test.
    fn in_private_mounts(test: impl FnOnce(&Path) + Send) {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let directory = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
                test(directory.path());
            });
        });
    }

    fn children() -> String {
        fs::read_to_string("/proc/thread-self/children").unwrap()
    }

    #[test]
    fn pinned_namespaces_are_entered_and_unpinned() {
        in_private_mounts(|directory| {
            let (user, network) = (directory.join("user.ns"), directory.join("network.ns"));
            create_pinned(&user, &network, MAP, MAP).unwrap();
            assert_eq!(children(), "", "the child must be gone");
            let own = inode_of(&current_network_namespace().unwrap()).unwrap();
            assert_ne!(namespace_inode(&network).unwrap(), own);
            let seen = in_network_namespace(open(&network).unwrap(), || {
                inode_of(&current_network_namespace().unwrap()).unwrap()
            });
            assert_eq!(seen.unwrap(), namespace_inode(&network).unwrap());
            // NS_GET_USERNS: the network namespace belongs to the new user namespace.
            let network_fd = open(&network).unwrap();
            // SAFETY: the request takes no argument and returns a new descriptor.
            let owner =
                unsafe { OwnedFd::from_raw_fd(libc::ioctl(network_fd.as_raw_fd(), 0xb701)) };
            assert_eq!(inode_of(&owner).unwrap(), namespace_inode(&user).unwrap());
            for path in [&user, &network] {
                unpin(path).unwrap();
                unpin(path).unwrap();
                assert!(!path.exists());
            }
        });
    }

    #[test]
    fn a_child_in_shared_memory_runs_no_handler_of_ours() {
        let child = Child::spawn(libc::CLONE_NEWUSER).unwrap();
        let read = |pid: &str| fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let masks = |status: &str| {
            let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.into());
            let blocked: &str = line("SigBlk:").unwrap();
            u64::from_str_radix(blocked.trim(), 16).unwrap()
        };
        let never = [libc::SIGKILL, libc::SIGSTOP].map(|signal| 1_u64 << (signal - 1));
        let pid = child.pid.to_string();
        // The C library keeps two signals for itself (32 and 33), and blocks them in nobody.
        let own_of_libc = 0b11_u64 << 31;
        assert_eq!(masks(&read(&pid)) | own_of_libc, !(never[0] | never[1]));
        assert_eq!(masks(&read("thread-self")) & (1 << (libc::SIGTERM - 1)), 0, "put back here");
        drop(child);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_failed_attempt_leaves_nothing() {
        in_private_mounts(|directory| {
            let (user, network) = (directory.join("user.ns"), directory.join("network.ns"));
            create_pinned(&user, &network, "0 300000 1\n0 300000 1\n", MAP).unwrap_err();
            assert!(!user.exists() && !network.exists());
            fs::write(&network, "").unwrap();
            create_pinned(&user, &network, MAP, MAP).unwrap_err();
            assert!(!user.exists(), "the first pin is taken back");
            assert_eq!(children(), "");
            let error = open(&network).unwrap_err();
            assert_eq!(error.source.to_string(), "no namespace is pinned there");
        });
    }

    #[test]
    fn stacked_mounts_are_all_taken_away() {
        in_private_mounts(|directory| {
            let path = directory.join("network.ns");
            create_network_namespace(&path).unwrap();
            let again = Some("/proc/thread-self/ns/net");
            mount(again, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            unpin(&path).unwrap();
            assert!(!path.exists());
        });
    }

    #[test]
    fn settings_are_those_of_the_threads_namespace() {
        in_private_mounts(|directory| {
            let path = directory.join("network.ns");
            create_network_namespace(&path).unwrap();
            let before = read_network_setting("ipv4/ip_forward").unwrap();
            in_network_namespace(open(&path).unwrap(), || {
                write_network_setting("ipv4/ip_forward", "1").unwrap();
                let inside = read_network_setting("ipv4/ip_forward").unwrap();
                assert_eq!(inside.as_deref(), Some("1"));
            })
            .unwrap();
            assert_eq!(read_network_setting("ipv4/ip_forward").unwrap(), before);
            assert_eq!(read_network_setting("ipv4/no_such_setting").unwrap(), None);
            unpin(&path).unwrap();
        });
    }
}
