//! A network namespace without a name, and threads that act in it, as somebody.
//!
//! It ends with its last process and descriptor: nothing to clean up.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::process::CommandExt as _,
    },
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// Whom a thread acts as. The thread alone: the process stays root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl User {
    pub const ROOT: Self = Self { uid: 0, gid: 0, groups: Vec::new() };
    /// The hub and the proxy of these tests.
    pub const NOBODY: Self = Self { uid: 65534, gid: 65534, groups: Vec::new() };

    /// An ordinary user of the host.
    pub fn other(uid: u32) -> Self {
        Self { uid, gid: uid, groups: Vec::new() }
    }

    fn become_in_this_thread(&self) -> io::Result<()> {
        if *self == Self::ROOT {
            return Ok(());
        }
        let check = |result| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: the raw calls change the credentials of this thread only, and
        // read `groups`, which outlives the call. libc's wrappers would change
        // every thread.
        unsafe {
            check(libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr()))?;
            check(libc::syscall(libc::SYS_setresgid, self.gid, self.gid, self.gid))?;
            check(libc::syscall(libc::SYS_setresuid, self.uid, self.uid, self.uid))
        }
    }
}

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// A fresh one with its loopback up.
    pub fn new() -> anyhow::Result<Self> {
        let made = thread::spawn(|| -> anyhow::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("failed to make a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("failed to open a network namespace")
        });
        let file = made.join().map_err(|_| anyhow!("a thread panicked"))??;
        let namespace = Self(Arc::new(file));
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// A command that runs in it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.0);
        // SAFETY: between fork and exec only setns(2) is called, on an open descriptor.
        unsafe {
            command.pre_exec(move || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
            });
        }
        command
    }

    /// The standard output of a command that must succeed.
    pub fn output(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self
            .command(program)
            .args(arguments)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .with_context(|| format!("failed to run `{program}`"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "`{program} {}` failed: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `ip` with these words.
    pub fn ip(&self, words: &str) -> anyhow::Result<String> {
        self.output("ip", &words.split_whitespace().collect::<Vec<_>>())
    }

    /// Joins the two by a pair of links, both up: `(name, address/prefix)` of each.
    pub fn join(&self, own: (&str, &str), other: &Self, peer: (&str, &str)) -> anyhow::Result<()> {
        let file = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.ip(&format!("link add {} type veth peer name {} netns {file}", own.0, peer.0))?;
        for (namespace, (name, address)) in [(self, own), (other, peer)] {
            namespace.ip(&format!("address add {address} dev {name}"))?;
            namespace.ip(&format!("link set {name} up"))?;
        }
        Ok(())
    }

    /// What `act` gives in a thread of this namespace that is `user`.
    pub fn within<T: Send + 'static>(
        &self,
        user: User,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let file = Arc::clone(&self.0);
        let acted = thread::spawn(move || -> anyhow::Result<T> {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                .context("failed to enter a network namespace")?;
            user.become_in_this_thread().context("failed to become another user")?;
            Ok(act())
        });
        acted.join().map_err(|_| anyhow!("a thread panicked"))?
    }
}
