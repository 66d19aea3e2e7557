//! Empties a directory tree that a tenant has filled, with the tenant's own rights
//! and no others: a child of the launcher becomes the owner of the tree before it
//! looks at it.
//!
//! The launcher must never walk inside a home as root. Whatever lies in the tree
//! (links, deep or huge directories, odd modes), the child can do no more to the
//! host than its owner could. It holds a handful of descriptors however deep the
//! tree, follows no link, crosses no mount, and can be killed at any moment: what
//! is gone is gone, and the next run goes on with the rest.

use std::{
    collections::HashSet,
    ffi::CString,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2},
    sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat},
    unistd::{Gid, Uid, UnlinkatFlags, setgroups, setresgid, setresuid, unlinkat},
};

use super::{Attempt as _, HostError};

/// The hidden command of the launcher's command line that the child runs.
pub const COMMAND: &str = "empty-directory";

/// How long one run may take; the next one goes on where it stopped.
const RUN: Duration = Duration::from_secs(600);
/// What is kept of the child's words.
const WORDS: u64 = 2048;
/// Problems that are told by name.
const TOLD: usize = 3;
/// Things that cannot be removed; with more the run is given up.
const MOST_LEFT: usize = 10_000;
/// From so deep on, fewer subdirectories are remembered at once.
const DEEP: usize = 64;

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC).union(OFlag::O_RDONLY);

/// Empties the directory with its owner's rights, in a child. Blocks.
pub fn empty_as_owner(directory: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), HostError> {
    let tree = format!("the tree of {uid}");
    let failed = |why: String| HostError::new("empty", &tree, io::Error::other(why));
    let stdin = directory.try_clone_to_owned().attempt("empty", &tree)?;
    let mut child = Command::new("/proc/self/exe")
        .args([COMMAND, &uid.to_string(), &gid.to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .attempt("empty", &tree)?;
    let deadline = Instant::now() + RUN;
    let status = loop {
        match child.try_wait().attempt("wait for the end of", &tree)? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed("it is large; the next run goes on".into()));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut words = String::new();
    if let Some(said) = child.stderr.take() {
        // The child says little, so that it never waits for a reader.
        let _ = said.take(WORDS).read_to_string(&mut words);
    }
    let words = words.trim();
    Err(failed(if words.is_empty() { format!("the child ended: {status}") } else { words.into() }))
}

/// In the child: becomes the owner, for good, then empties the directory that is
/// its standard input. Returns what could not be removed, in words.
pub fn empty_standard_input(uid: u32, gid: u32) -> io::Result<Vec<String>> {
    become_owner(uid, gid)?;
    empty(io::stdin().as_fd().try_clone_to_owned()?)
}

fn become_owner(uid: u32, gid: u32) -> io::Result<()> {
    if uid == 0 || gid == 0 {
        return Err(io::Error::other("the owner is root"));
    }
    let parent = nix::unistd::getppid();
    let (user, group, root) = (Uid::from_raw(uid), Gid::from_raw(gid), Uid::from_raw(0));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    nix::sys::prctl::set_no_new_privs()?;
    // After the change of ids, which would take it back: the child never outlives the launcher.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    if nix::unistd::getppid() != parent {
        return Err(io::Error::other("the launcher has ended"));
    }
    // SAFETY: takes three numbers and touches no memory; that it may fail is of no matter.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    if setresuid(root, root, root).is_ok() {
        return Err(io::Error::other("root's rights could be had again"));
    }
    Ok(())
}

/// What tells a directory from any other.
type Identity = (u64, u64);

fn identity(directory: &OwnedFd) -> io::Result<Identity> {
    let metadata = File::from(directory.try_clone()?).metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A directory on the way from the top to where we are.
struct Level {
    /// The one above, and the name in it.
    above: Identity,
    name: CString,
    /// Its siblings that are still to be emptied.
    siblings: Vec<CString>,
}

/// What could not be removed.
#[derive(Default)]
struct Left {
    known: HashSet<(Identity, CString)>,
    words: Vec<String>,
}

impl Left {
    fn note(&mut self, place: Identity, name: &CString, error: Errno) -> io::Result<()> {
        if self.known.insert((place, name.clone())) && self.words.len() < TOLD {
            let shown: String = name.to_string_lossy().chars().take(64).collect();
            let line = format!("failed to remove `{}`: {}", shown.escape_debug(), error.desc());
            self.words.push(line);
        }
        if self.known.len() > MOST_LEFT {
            return Err(io::Error::other("too many things in it cannot be removed"));
        }
        Ok(())
    }
}

/// Removes everything below `top`, with the caller's rights.
pub(super) fn empty(top: OwnedFd) -> io::Result<Vec<String>> {
    let mut left = Left::default();
    let mut levels: Vec<Level> = Vec::new();
    let mut here = top;
    let _ = fchmod(&here, Mode::S_IRWXU);
    let mut full = pass(&here, 0, &mut left)?;
    loop {
        let place = identity(&here)?;
        if let Some(name) = full.pop() {
            match enter(&here, &name) {
                Ok(below) => {
                    levels.push(Level { above: place, name, siblings: full });
                    here = below;
                    full = pass(&here, levels.len(), &mut left)?;
                }
                Err(Errno::ENOENT) => {}
                Err(error) => left.note(place, &name, error)?,
            }
            continue;
        }
        // A pass remembers so many only: is there more?
        full = pass(&here, levels.len(), &mut left)?;
        if !full.is_empty() {
            continue;
        }
        let Some(Level { above, name, siblings }) = levels.pop() else { break };
        let up = openat(&here, "..", DIRECTORY, Mode::empty())?;
        // Somebody who moves the tree about while it is emptied leads us nowhere.
        if identity(&up)? != above {
            return Err(io::Error::other("the tree was changed meanwhile"));
        }
        match unlinkat(&up, name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => left.note(above, &name, error)?,
        }
        here = up;
        full = siblings;
    }
    Ok(left.words)
}

/// Removes every entry that can go at once; returns some of the subdirectories that
/// are not empty. All files first: on a full disk that makes room.
fn pass(directory: &OwnedFd, depth: usize, left: &mut Left) -> io::Result<Vec<CString>> {
    let most = if depth < DEEP { 1024 } else { 16 };
    let place = identity(directory)?;
    let mut full = Vec::new();
    for entry in Dir::openat(directory, ".", DIRECTORY, Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let remove = |flag| unlinkat(directory, name.as_c_str(), flag);
        let removed = match entry.file_type() {
            Some(Type::Directory) => remove(UnlinkatFlags::RemoveDir),
            // The file system does not tell.
            None => match remove(UnlinkatFlags::NoRemoveDir) {
                Err(Errno::EISDIR | Errno::EPERM) => remove(UnlinkatFlags::RemoveDir),
                other => other,
            },
            Some(_) => remove(UnlinkatFlags::NoRemoveDir),
        };
        match removed {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                if full.len() < most && !left.known.contains(&(place, name.clone())) {
                    full.push(name);
                }
            }
            Err(error) => left.note(place, &name, error)?,
        }
    }
    Ok(full)
}

/// Opens a subdirectory: no link, no other file system, whatever mode its owner gave it.
fn enter(parent: &OwnedFd, name: &CString) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new().flags(DIRECTORY).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    );
    let opened = match openat2(parent, name.as_c_str(), how) {
        Err(Errno::EACCES) => {
            // Would it be swapped for a link now, only the owner's own could be changed.
            fchmodat(parent, name.as_c_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            openat2(parent, name.as_c_str(), how)?
        }
        other => other?,
    };
    // Without the right to write, nothing in it could be removed.
    fchmod(&opened, Mode::S_IRWXU)?;
    Ok(opened)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    fn emptied(path: &Path) -> Vec<String> {
        empty(File::open(path).unwrap().into()).unwrap()
    }

    #[test]
    fn a_hostile_tree_goes_and_what_its_links_lead_to_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (victim, tree) = (directory.path().join("victim"), directory.path().join("tree"));
        fs::create_dir_all(victim.join("kept")).unwrap();
        fs::create_dir_all(tree.join("a/b")).unwrap();
        symlink(&victim, tree.join("a/link")).unwrap();
        symlink("..", tree.join("a/b/up")).unwrap();
        symlink("loop", tree.join("loop")).unwrap();
        nix::unistd::mkfifo(&tree.join("fifo"), Mode::S_IRWXU).unwrap();
        fs::write(tree.join("a/b/odd \u{1b}[31m\n"), "x").unwrap();
        for number in 0..3000 {
            fs::create_dir_all(tree.join(format!("wide/{number}/full"))).unwrap();
        }
        fs::set_permissions(tree.join("a/b"), std::os::unix::fs::PermissionsExt::from_mode(0o000))
            .unwrap();
        assert_eq!(emptied(&tree), Vec::<String>::new());
        assert_eq!(fs::read_dir(&tree).unwrap().count(), 0);
        assert!(victim.join("kept").is_dir());
    }

    #[test]
    fn no_depth_is_too_deep() {
        let directory = tempfile::tempdir().unwrap();
        let mut here: OwnedFd = File::open(directory.path()).unwrap().into();
        // Far beyond what a path or a stack of descriptors could hold.
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&here, "deep", Mode::S_IRWXU).unwrap();
            here = openat(&here, "deep", DIRECTORY, Mode::empty()).unwrap();
        }
        assert_eq!(emptied(directory.path()), Vec::<String>::new());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
