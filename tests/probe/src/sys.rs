//! System calls behind small functions, and the names of their errors.
//!
//! Raw calls on purpose: the C library would refuse or rewrite many of them.

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use crate::check::Argument;

/// What a raw call gave: a value, or an error number.
pub type Raw = Result<libc::c_long, i32>;

fn last_error() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn checked(value: libc::c_long) -> Raw {
    if value < 0 { Err(last_error()) } else { Ok(value) }
}

/// A raw system call with numbers.
pub fn raw(number: libc::c_long, arguments: [u64; 6]) -> Raw {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: every caller passes numbers, NULL, or pointers to memory that lives until the call
    // returns and is large enough for what the call reads or writes.
    checked(unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) })
}

pub fn call(number: libc::c_long, arguments: &[Argument]) -> Raw {
    let mut values = [0; 6];
    for (value, argument) in values.iter_mut().zip(arguments) {
        *value = match argument {
            Argument::Number(number) => number.cast_unsigned(),
            Argument::Text(text) => address(text.as_ptr()),
            Argument::Null => 0,
        };
    }
    raw(number, values)
}

pub fn address<T>(pointer: *const T) -> u64 {
    pointer as usize as u64
}

pub fn open(path: &CStr, flags: i32) -> Raw {
    let flags = flags | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: the path is a C string; no mode is needed without O_CREAT.
    checked(libc::c_long::from(unsafe { libc::open(path.as_ptr(), flags) }))
}

/// `ok`, or the error's name.
pub fn outcome(result: Raw) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error_name(error),
    }
}

pub fn io_outcome<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => io_error_name(&error),
    }
}

pub fn io_error_name(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), error_name)
}

/// A file's whole text, or the error's name.
pub fn text_of(path: &str) -> String {
    fs::read(path).map_or_else(
        |error| io_error_name(&error),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    )
}

pub fn fork() -> Option<i32> {
    // SAFETY: the probe has a single thread.
    let pid = unsafe { libc::fork() };
    (pid >= 0).then_some(pid)
}

pub fn exit_now() -> ! {
    // SAFETY: _exit does not return.
    unsafe { libc::_exit(0) }
}

pub fn kill(pid: i32, signal: i32) -> Raw {
    // SAFETY: kill takes numbers.
    checked(libc::c_long::from(unsafe { libc::kill(pid, signal) }))
}

/// Waits for a child; the signal that ended it, if one did.
pub fn wait(child: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

pub fn pipe() -> Option<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 fills the array; both descriptors are new and nobody else's.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) < 0 {
            return None;
        }
        Some((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

pub fn write_all(fd: &OwnedFd, bytes: &[u8]) {
    // SAFETY: pointer and length describe `bytes`; results fit into a pipe.
    unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
}

/// Whether something (or the end) can be read within the time.
pub fn wait_readable(fd: &OwnedFd, patience_ms: i32) -> bool {
    let mut wanted = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, and a count of one.
    unsafe { libc::poll(&raw mut wanted, 1, patience_ms) > 0 }
}

pub fn own_uid() -> u32 {
    // SAFETY: getuid has no preconditions.
    unsafe { libc::getuid() }
}

pub fn socket(family: i32, kind: i32, protocol: i32) -> Raw {
    // SAFETY: socket takes numbers.
    checked(libc::c_long::from(unsafe { libc::socket(family, kind, protocol) }))
}

pub fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGSYS => "SIGSYS".to_owned(),
        libc::SIGKILL => "SIGKILL".to_owned(),
        libc::SIGSEGV => "SIGSEGV".to_owned(),
        libc::SIGTRAP => "SIGTRAP".to_owned(),
        other => format!("signal {other}"),
    }
}

/// The errors a check may meet, by name.
pub fn error_name(error: i32) -> String {
    macro_rules! names {
        ($($name:ident)*) => {
            match error {
                $(libc::$name => stringify!($name).to_owned(),)*
                other => format!("errno {other}"),
            }
        };
    }
    names!(
        EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT
        ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG
        ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY
        ELOOP ENODATA EPROTO EOVERFLOW EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE ENOPROTOOPT
        EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE
        EADDRNOTAVAIL ENETDOWN ENETUNREACH ECONNREFUSED ECONNRESET ENOTCONN ETIMEDOUT EHOSTUNREACH
        EALREADY EINPROGRESS ESTALE EDQUOT ENOKEY
    )
}

/// The result of a 32-bit call, which returns its error as a negative number.
#[cfg(target_arch = "x86_64")]
pub fn value_of_int80(result: i32) -> String {
    if result < 0 { error_name(-result) } else { "ok".to_owned() }
}
