//! The sandbox's own PID 1: whether the tenant can stop, trace, read or deceive
//! it (E15). No signal is used that would end or disturb a PID 1 that obeys.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{
    check::{
        Argument::{Null, Number},
        Check,
    },
    sys,
};

/// PTRACE_SEIZE: unlike PTRACE_ATTACH it stops nobody, and ends with this process.
const SEIZE: i64 = 0x4206;

pub const CHECKS: &[Check] = &[
    Check::function("pid1.is-init", || sys::text_of("/proc/1/comm")),
    Check::read("pid1.environ", c"/proc/1/environ"),
    Check::read("pid1.mem", c"/proc/1/mem"),
    Check::read("pid1.maps", c"/proc/1/maps"),
    Check::function("pid1.fd", || sys::io_outcome(fs::read_dir("/proc/1/fd"))),
    Check::function("pid1.fd-0", || sys::io_outcome(fs::read_link("/proc/1/fd/0"))),
    Check::write("pid1.fd-1", c"/proc/1/fd/1"),
    Check::function("pid1.exe", || sys::io_outcome(fs::read_link("/proc/1/exe"))),
    Check::function("pid1.cwd", || sys::io_outcome(fs::read_link("/proc/1/cwd"))),
    Check::function("pid1.root", || sys::io_outcome(fs::read_link("/proc/1/root"))),
    Check::function("pid1.ns", || sys::io_outcome(fs::read_link("/proc/1/ns/pid"))),
    Check::write("pid1.oom_score_adj", c"/proc/1/oom_score_adj"),
    Check::write("pid1.clear_refs", c"/proc/1/clear_refs"),
    Check::call("pid1.ptrace", libc::SYS_ptrace, &[Number(SEIZE), Number(1), Null, Null]),
    Check::call(
        "pid1.process_vm_readv",
        libc::SYS_process_vm_readv,
        &[Number(1), Null, Number(0), Null, Number(0), Number(0)],
    ),
    Check::function("pid1.stop", || after_signal(libc::SIGSTOP)),
    Check::function("pid1.kill", || after_signal(libc::SIGKILL)),
    Check::function("pid1.forwards-kill", || forwarded(plain)),
    Check::function("pid1.forwards-forged", || forwarded(forge)),
];

fn state() -> String {
    let stat = sys::text_of("/proc/1/stat");
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap_or("gone")
        .to_owned()
}

/// Whether PID 1 goes on after a signal no process can catch.
fn after_signal(signal: i32) -> String {
    if std::process::id() == 1 {
        return "is this process".to_owned();
    }
    let sent = sys::outcome(sys::kill(1, signal));
    thread::sleep(Duration::from_millis(100));
    let state = state();
    if state == "T" {
        sys::kill(1, libc::SIGCONT).ok();
        return "stopped".to_owned();
    }
    if state == "gone" { state } else { format!("no effect ({sent})") }
}

static ARRIVED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    ARRIVED.store(true, Ordering::SeqCst);
}

/// Whether a signal to PID 1 comes back to this process, which is in the server's process group.
fn forwarded(send: fn()) -> String {
    let handler: extern "C" fn(libc::c_int) = note;
    // SAFETY: the handler only stores into an atomic.
    unsafe { libc::signal(libc::SIGWINCH, handler as libc::sighandler_t) };
    send();
    for _ in 0..20 {
        thread::sleep(Duration::from_millis(10));
        if ARRIVED.load(Ordering::SeqCst) {
            return "forwarded".to_owned();
        }
    }
    "not forwarded".to_owned()
}

fn plain() {
    sys::kill(1, libc::SIGWINCH).ok();
}

/// SIGWINCH to PID 1 that claims to come from outside the namespace (sender 0).
fn forge() {
    // siginfo_t: signal, errno, code (SI_QUEUE), then sender and uid.
    let mut info = [0_i32; 32];
    info[0] = libc::SIGWINCH;
    info[2] = -1;
    let signal = u64::from(libc::SIGWINCH.unsigned_abs());
    let arguments = [1, signal, sys::address(info.as_ptr()), 0, 0, 0];
    sys::raw(libc::SYS_rt_sigqueueinfo, arguments).ok();
}
