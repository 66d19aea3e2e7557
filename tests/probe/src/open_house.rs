//! For the reference without walls: a PID 1 that opens what a sandbox keeps closed, and then
//! runs a program. Leaked descriptors, shared mounts, loose modes, a forwarding init, and
//! whatever files the test wants to be seen where a tenant must see none.
//!
//! Must only ever run in a mount and pid namespace of its own.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{self, Command},
    ptr, thread,
    time::Duration,
};

/// Covers `/X` with each `DIRECTORY/X`, opens the rest, and runs a program as a user.
pub fn run(directory: &str, uid: u64, rest: &[&str]) -> io::Result<()> {
    let Some((program, arguments)) = rest.split_first() else { return Ok(()) };
    if process::id() != 1 {
        return Err(io::Error::other("this opens everything: only for PID 1 of a container"));
    }
    let uid = libc::uid_t::try_from(uid).map_err(io::Error::other)?;
    for entry in fs::read_dir(directory)?.flatten() {
        let target = format!("/{}", entry.file_name().to_string_lossy());
        fs::create_dir_all(&target)?;
        mount(Some(&entry.path().to_string_lossy()), &target, libc::MS_BIND)?;
    }
    fs::set_permissions("/", fs::Permissions::from_mode(0o777))?;
    mount(None, "/", libc::MS_SHARED | libc::MS_REC)?;
    let group: libc::gid_t = 5;
    let forward: extern "C" fn(libc::c_int) = forward;
    // SAFETY: the path is a C string, one group is passed with a count of one, and the handler
    // makes one system call that a handler may make. The descriptor is meant to stay open.
    let failed = unsafe {
        libc::signal(libc::SIGWINCH, forward as libc::sighandler_t);
        libc::open(c"/bin".as_ptr(), libc::O_RDONLY) < 0 || libc::setgroups(1, &raw const group) < 0
    };
    if failed {
        return Err(io::Error::last_os_error());
    }
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: between fork and exec only one system call is made.
    unsafe {
        command.pre_exec(move || match libc::setresuid(uid, uid, uid) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    command.status().map(drop)
}

/// As an init does that passes everything on, from whoever it comes.
extern "C" fn forward(signal: libc::c_int) {
    // SAFETY: kill takes numbers; -1 from PID 1 is everybody else in this namespace.
    unsafe { libc::kill(-1, signal) };
}

fn mount(source: Option<&str>, target: &str, flags: libc::c_ulong) -> io::Result<()> {
    let source = CString::new(source.unwrap_or("none"))?;
    let target = CString::new(target)?;
    // SAFETY: both paths are C strings; type and data may be NULL for these flags.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), ptr::null(), flags, ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Becomes a program as soon as PID 1 stands still.
pub fn await_stopped_parent(rest: &[&str]) -> io::Result<()> {
    let Some((program, arguments)) = rest.split_first() else { process::exit(98) };
    crate::say("waiting");
    for _ in 0..3000 {
        let stat = fs::read_to_string("/proc/1/stat")?;
        if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')) {
            return Err(Command::new(program).args(arguments).exec());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::other("PID 1 was never stopped"))
}
