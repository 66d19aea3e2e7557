//! Which namespaces the tenant is in, and whether it can make or join others (E2, E3).

use crate::{
    check::{
        Argument::{Null, Number},
        Check,
    },
    sys,
};

/// SIGCHLD, in the low byte of clone's flags.
const CHILD_SIGNAL: i64 = libc::SIGCHLD as i64;
const NEW_TIME: i64 = 0x80;

pub const CHECKS: &[Check] = &[
    Check::function("ns.cgroup", || inode("cgroup")),
    Check::function("ns.ipc", || inode("ipc")),
    Check::function("ns.mnt", || inode("mnt")),
    Check::function("ns.net", || inode("net")),
    Check::function("ns.pid", || inode("pid")),
    Check::function("ns.user", || inode("user")),
    Check::function("ns.uts", || inode("uts")),
    unshare("unshare.user", &[Number(libc::CLONE_NEWUSER as i64)]),
    unshare("unshare.mnt", &[Number(libc::CLONE_NEWNS as i64)]),
    unshare("unshare.net", &[Number(libc::CLONE_NEWNET as i64)]),
    unshare("unshare.pid", &[Number(libc::CLONE_NEWPID as i64)]),
    unshare("unshare.ipc", &[Number(libc::CLONE_NEWIPC as i64)]),
    unshare("unshare.uts", &[Number(libc::CLONE_NEWUTS as i64)]),
    unshare("unshare.cgroup", &[Number(libc::CLONE_NEWCGROUP as i64)]),
    unshare("unshare.time", &[Number(NEW_TIME)]),
    Check::function("clone.user", || clone(libc::CLONE_NEWUSER as i64)),
    Check::function("clone.mnt", || clone(libc::CLONE_NEWNS as i64)),
    Check::function("clone.net", || clone(libc::CLONE_NEWNET as i64)),
    Check::function("clone.pid", || clone(libc::CLONE_NEWPID as i64)),
    Check::function("clone.user-upper-half", || clone(libc::CLONE_NEWUSER as i64 | 1 << 40)),
    Check::function("clone.plain", || clone(0)),
    Check::function("clone3.user", || clone3(libc::CLONE_NEWUSER as u64)),
    Check::function("clone3.plain", || clone3(0)),
    Check::function("setns.own-uts", || setns(c"/proc/self/ns/uts")),
    Check::function("setns.own-user", || setns(c"/proc/self/ns/user")),
    Check::function("setns.init-mnt", || setns(c"/proc/1/ns/mnt")),
    Check::call("setns.bad-fd", libc::SYS_setns, &[Number(-1), Number(0)]),
];

const fn unshare(name: &'static str, arguments: &'static [crate::check::Argument]) -> Check {
    Check::call(name, libc::SYS_unshare, arguments)
}

fn inode(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}"))
        .map_or_else(|error| sys::io_error_name(&error), |target| target.display().to_string())
}

/// Forks with flags; the child, if there is one, ends at once.
fn clone(flags: i64) -> String {
    let result = sys::call(libc::SYS_clone, &[Number(flags | CHILD_SIGNAL), Null]);
    finish(result)
}

fn clone3(flags: u64) -> String {
    // struct clone_args, version 0: flags first, exit_signal fifth.
    let arguments = [flags, 0, 0, 0, CHILD_SIGNAL.cast_unsigned(), 0, 0, 0];
    let size = size_of_val(&arguments) as u64;
    finish(sys::raw(libc::SYS_clone3, [sys::address(arguments.as_ptr()), size, 0, 0, 0, 0]))
}

fn finish(result: sys::Raw) -> String {
    if result == Ok(0) {
        sys::exit_now();
    }
    sys::outcome(result)
}

fn setns(path: &std::ffi::CStr) -> String {
    match sys::open(path, libc::O_RDONLY) {
        Ok(descriptor) => {
            sys::outcome(sys::call(libc::SYS_setns, &[Number(descriptor), Number(0)]))
        }
        Err(error) => format!("open {}", sys::error_name(error)),
    }
}
