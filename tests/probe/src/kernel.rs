//! Calls into parts of the kernel that a tenant has no business with (E6).
//!
//! Arguments are wrong on purpose: where the call is permitted it answers
//! EFAULT, EBADF, EINVAL or ENOENT and nothing happens.

use crate::{
    check::{
        Argument::{Null, Number, Text},
        Check,
    },
    sys,
};

const NOWHERE: crate::check::Argument = Text(c"/adrastea-none");

pub const CHECKS: &[Check] = &[
    Check::call("bpf", libc::SYS_bpf, &[Number(0), Null, Number(0)]),
    Check::call(
        "perf_event_open",
        libc::SYS_perf_event_open,
        &[Null, Number(0), Number(-1), Number(-1), Number(0)],
    ),
    Check::call("init_module", libc::SYS_init_module, &[Null, Number(0), Text(c"")]),
    Check::call("finit_module", libc::SYS_finit_module, &[Number(-1), Text(c""), Number(0)]),
    Check::call("delete_module", libc::SYS_delete_module, &[Text(c"adrastea_none"), Number(0)]),
    Check::call("kexec_load", libc::SYS_kexec_load, &[Number(0), Number(0), Null, Number(0x40)]),
    Check::call(
        "kexec_file_load",
        libc::SYS_kexec_file_load,
        &[Number(-1), Number(-1), Number(0), Null, Number(0xff00)],
    ),
    Check::call("reboot", libc::SYS_reboot, &[Number(1), Number(2), Number(3), Null]),
    Check::call("acct", libc::SYS_acct, &[NOWHERE]),
    Check::call("swapon", libc::SYS_swapon, &[NOWHERE, Number(0)]),
    Check::call("swapoff", libc::SYS_swapoff, &[NOWHERE]),
    Check::call("syslog", libc::SYS_syslog, &[Number(10), Null, Number(0)]),
    Check::call("settimeofday", libc::SYS_settimeofday, &[Null, Null]),
    Check::call("clock_settime", libc::SYS_clock_settime, &[Number(0), Null]),
    Check::call("clock_adjtime", libc::SYS_clock_adjtime, &[Number(0), Null]),
    Check::call("adjtimex", libc::SYS_adjtimex, &[Null]),
    Check::call("quotactl", libc::SYS_quotactl, &[Number(0x8000_0400), NOWHERE, Number(0), Null]),
    Check::call("open_by_handle_at", libc::SYS_open_by_handle_at, &[Number(-1), Null, Number(0)]),
    Check::call(
        "name_to_handle_at",
        libc::SYS_name_to_handle_at,
        &[Number(-100), Text(c"/"), Null, Null, Number(0)],
    ),
    Check::call("io_uring_setup", libc::SYS_io_uring_setup, &[Number(1), Null]),
    Check::call("io_uring_enter", libc::SYS_io_uring_enter, &[Number(-1)]),
    Check::call("io_uring_register", libc::SYS_io_uring_register, &[Number(-1)]),
    Check::call("io_setup", libc::SYS_io_setup, &[Number(0), Null]),
    Check::call("userfaultfd", libc::SYS_userfaultfd, &[Number(1)]),
    Check::call("keyctl", libc::SYS_keyctl, &[Number(0), Number(-2), Number(0)]),
    Check::call(
        "add_key",
        libc::SYS_add_key,
        &[Text(c"user"), Text(c"adrastea"), Text(c"x"), Number(1), Number(-2)],
    ),
    Check::call("request_key", libc::SYS_request_key, &[Null, Null, Null, Number(0)]),
    Check::function("process_vm_readv", || of_parent(libc::SYS_process_vm_readv)),
    Check::function("process_vm_writev", || of_parent(libc::SYS_process_vm_writev)),
    Check::call("process_madvise", libc::SYS_process_madvise, &[Number(-1), Null]),
    Check::call("pidfd_getfd", libc::SYS_pidfd_getfd, &[Number(-1), Number(0), Number(0)]),
    Check::call("kcmp", libc::SYS_kcmp, &[Number(1), Number(1), Number(0), Number(0), Number(0)]),
    Check::call("ptrace.traceme", libc::SYS_ptrace, &[Number(0), Number(0), Null, Null]),
    // ADDR_NO_RANDOMIZE, and a foreign execution domain.
    Check::call("personality.no-randomize", libc::SYS_personality, &[Number(0x004_0000)]),
    Check::call("personality.read-implies-exec", libc::SYS_personality, &[Number(0x040_0000)]),
    Check::call("personality.ask", libc::SYS_personality, &[Number(0xffff_ffff)]),
    Check::call("memfd_secret", libc::SYS_memfd_secret, &[Number(0)]),
    Check::call("fanotify_init", libc::SYS_fanotify_init, &[Number(0), Number(0)]),
    Check::call("lookup_dcookie", libc::SYS_lookup_dcookie, &[Number(0), Null, Number(0)]),
    Check::call("vmsplice", libc::SYS_vmsplice, &[Number(-1), Null, Number(0), Number(0)]),
    Check::call("splice", libc::SYS_splice, &[Number(-1), Null, Number(-1), Null]),
    Check::call("tee", libc::SYS_tee, &[Number(-1), Number(-1), Number(0), Number(0)]),
    Check::call("sync", libc::SYS_sync, &[]),
    Check::call("mbind", libc::SYS_mbind, &[Null, Number(0), Number(99)]),
    Check::call("move_pages", libc::SYS_move_pages, &[Number(1), Number(0), Null, Null, Null]),
    Check::call("futex.requeue-pi", libc::SYS_futex, &[Null, Number(12), Number(0)]),
    Check::call("futex.requeue-pi-private", libc::SYS_futex, &[Null, Number(12 | 128), Number(0)]),
    Check::call("futex_waitv", libc::SYS_futex_waitv, &[Null, Number(0)]),
    Check::call("lsm_list_modules", 461, &[Null, Null, Number(0)]),
    Check::call("never-heard-of", 9999, &[]),
];

/// Nothing is moved: the lists are empty.
fn of_parent(number: libc::c_long) -> String {
    let parent = i64::from(std::os::unix::process::parent_id());
    let arguments = [Number(parent), Null, Number(0), Null, Number(0), Number(0)];
    sys::outcome(sys::call(number, &arguments))
}
