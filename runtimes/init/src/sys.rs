//! The system calls of the init, each behind a safe function.
//!
//! The only module with `unsafe`. Must never decide anything.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// The highest signal number of Linux on the architectures we build for.
const LAST_SIGNAL: i32 = 64;

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// No core, no ptrace, and `/proc/PID/{environ,fd,mem}` closed to the same uid (prctl(2)).
pub fn forbid_inspection() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes plain numbers and touches no memory of ours.
    checked(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// Closes every descriptor above the three standard ones.
pub fn close_inherited() -> io::Result<()> {
    // No descriptor is higher; gVisor refuses a larger number.
    // SAFETY: called first in main, before anything of ours owns a descriptor above 2.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, i32::MAX, 0_u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a call of which all arguments are plain numbers, and says how the kernel refused it;
/// 0 if it did not. A descriptor that it gave is closed.
pub fn error_of_call(number: libc::c_long, arguments: [i64; 4], gives_descriptor: bool) -> i32 {
    let [a, b, c, d] = arguments;
    // SAFETY: the callers' calls name no memory but the null pointer, no descriptor that is open,
    // and make no process: see `filter.rs`, where each is.
    let result = unsafe { libc::syscall(number, a, b, c, d) };
    if result < 0 {
        return io::Error::last_os_error().raw_os_error().unwrap_or(0);
    }
    if gives_descriptor && let Ok(number) = RawFd::try_from(result) {
        // SAFETY: the call has just given this descriptor, so nobody else owns it.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
    0
}

/// Sets what new files deny (umask(2)).
pub fn set_file_mode_mask(mask: u32) {
    // SAFETY: umask takes a number, touches no memory and cannot fail.
    unsafe { libc::umask(mask) };
}

/// Whether no program can give this process more than it has (prctl(2)).
pub fn has_no_new_privileges() -> bool {
    // SAFETY: PR_GET_NO_NEW_PRIVS takes no arguments and touches no memory.
    unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 }
}

/// Soft and hard resource limits that a sandbox is promised, by the kernel's name.
pub fn resource_limits() -> BTreeMap<String, (String, String)> {
    [
        ("core file size", libc::RLIMIT_CORE),
        ("open files", libc::RLIMIT_NOFILE),
        ("locked memory", libc::RLIMIT_MEMLOCK),
        ("msgqueue size", libc::RLIMIT_MSGQUEUE),
        ("nice priority", libc::RLIMIT_NICE),
        ("realtime priority", libc::RLIMIT_RTPRIO),
        ("processes", libc::RLIMIT_NPROC),
        ("pending signals", libc::RLIMIT_SIGPENDING),
    ]
    .into_iter()
    .filter_map(|(name, kind)| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is ours and lives through the call.
        checked(unsafe { libc::getrlimit(kind, &raw mut limit) }).ok()?;
        Some((name.to_owned(), (limit.rlim_cur.to_string(), limit.rlim_max.to_string())))
    })
    .collect()
}

/// The process id as the process itself sees it.
pub fn own_pid() -> i32 {
    // SAFETY: getpid has no preconditions.
    unsafe { libc::getpid() }
}

fn full_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the whole set and cannot fail on a valid pointer.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// One signal as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub signal: i32,
    /// How it was sent (`SI_USER`, …); the sender cannot claim a code ≥ 0 that is not true.
    pub code: i32,
    /// The sender as seen from our pid namespace; 0 for one outside of it.
    pub sender: u32,
}

/// All signals, blocked and read from a descriptor instead.
pub struct Signals(OwnedFd);

impl Signals {
    pub fn block_all() -> io::Result<Self> {
        let set = full_set();
        // SAFETY: `set` is initialised; the old mask is not asked for.
        checked(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) })?;
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let fd = checked(unsafe {
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next pending signal, if there is one.
    pub fn next(&self) -> Option<Received> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is `size` bytes, and every bit pattern is a valid siginfo.
        let info = unsafe {
            if libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) != size.cast_signed()
            {
                return None;
            }
            info.assume_init()
        };
        Some(Received {
            signal: info.ssi_signo.cast_signed(),
            code: info.ssi_code,
            sender: info.ssi_pid,
        })
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A descriptor to wait for.
pub fn interest(fd: &impl AsRawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }
}

/// Waits until one of them is ready; `None` waits for ever.
pub fn poll(descriptors: &mut [libc::pollfd], timeout_ms: Option<i32>) -> io::Result<()> {
    let count = libc::nfds_t::try_from(descriptors.len()).unwrap_or(0);
    // SAFETY: pointer and count describe the caller's slice.
    let result = unsafe { libc::poll(descriptors.as_mut_ptr(), count, timeout_ms.unwrap_or(-1)) };
    match checked(result) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// A pipe: the end to read, the end to write.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 fills the two-element array.
    checked(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both descriptors are new and nobody else's.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Two ends of one connection; none of them survives an exec.
pub fn connection() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: socketpair fills the two-element array.
    checked(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    // SAFETY: both descriptors are new and nobody else's.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL take and give numbers.
    unsafe {
        let flags = checked(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
        checked(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}

/// Makes the standard descriptor `number` (0, 1 or 2) another name of `fd`.
pub fn become_standard(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: the standard descriptors are owned by no Rust object; replacing one is sound.
    checked(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// The child's process id, or `None` in the child.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the init has a single thread, so the child's memory is consistent.
    let pid = checked(unsafe { libc::fork() })?;
    Ok((pid != 0).then_some(pid))
}

/// Ends the process without running anything else.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return.
    unsafe { libc::_exit(code) }
}

/// A session and a process group of its own, default signals, nothing blocked.
pub fn start_afresh() -> io::Result<()> {
    for signal in 1..=LAST_SIGNAL {
        // By the system call itself: the C library's function refuses the two signals it keeps.
        // All zeros are: the default action, no flags, nothing blocked.
        let default = [0_usize; 4];
        // SAFETY: the kernel reads a `struct sigaction` of at most four words from `default`, with
        // a signal set of 8 bytes. SIGKILL and SIGSTOP answer EINVAL, which changes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<libc::c_void>(),
                8_usize,
            );
        }
    }
    // SAFETY: setsid has no preconditions.
    checked(unsafe { libc::setsid() })?;
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before sigprocmask reads it.
    checked(unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut())
    })
    .map(drop)
}

/// Replaces the process; returns only with the reason why it could not.
pub fn execute(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let arguments = pointers(arguments);
    let environment = pointers(environment);
    // SAFETY: both lists end in NULL and point into strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Sends a signal to the process group led by `leader`, or to it alone while it has no group yet.
pub fn signal_group(leader: i32, signal: i32) {
    // SAFETY: kill takes numbers; `leader` is a child that has not been reaped.
    unsafe {
        if libc::kill(-leader, signal) < 0 {
            libc::kill(leader, signal);
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signalled(i32),
}

/// Reaps one child that has ended, if there is one.
pub fn reap() -> Option<(i32, Ended)> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Signalled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
    };
    Some((pid, ended))
}
