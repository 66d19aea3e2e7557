//! Raising one's own limits and priority (E14), and what the limits are.

use std::fs;

use crate::{
    check::{
        Argument::{Null, Number},
        Check,
    },
    sys,
};

macro_rules! raise {
    ($name:literal, $resource:expr) => {
        Check::function($name, || raise(u64::from($resource)))
    };
}

pub const CHECKS: &[Check] = &[
    Check::function("limit.core", || limit("Max core file size")),
    Check::function("limit.nofile", || limit("Max open files")),
    Check::function("limit.memlock", || limit("Max locked memory")),
    Check::function("limit.nice", || limit("Max nice priority")),
    Check::function("limit.rtprio", || limit("Max realtime priority")),
    Check::function("limit.sigpending", || limit("Max pending signals")),
    Check::function("limit.msgqueue", || limit("Max msgqueue size")),
    raise!("raise.core", libc::RLIMIT_CORE),
    raise!("raise.nofile", libc::RLIMIT_NOFILE),
    raise!("raise.memlock", libc::RLIMIT_MEMLOCK),
    raise!("raise.nice", libc::RLIMIT_NICE),
    raise!("raise.rtprio", libc::RLIMIT_RTPRIO),
    raise!("raise.sigpending", libc::RLIMIT_SIGPENDING),
    raise!("raise.msgqueue", libc::RLIMIT_MSGQUEUE),
    Check::call("nice.raise", libc::SYS_setpriority, &[Number(0), Number(0), Number(-5)]),
    Check::function("sched.fifo", || scheduler(1)),
    Check::function("sched.rr", || scheduler(2)),
    Check::call("ioprio.realtime", libc::SYS_ioprio_set, &[Number(1), Number(0), Number(1 << 13)]),
    Check::call("mlockall", libc::SYS_mlockall, &[Number(3)]),
    Check::function("oom.score", || sys::text_of("/proc/self/oom_score_adj")),
    Check::function("oom.lower", || sys::io_outcome(fs::write("/proc/self/oom_score_adj", "-500"))),
    // PR_SET_MM_EXE_FILE: a false name for the own program.
    Check::call("prctl.set-mm", libc::SYS_prctl, &[Number(35), Number(13), Number(-1), Null, Null]),
    Check::function("umask", || {
        sys::raw(libc::SYS_umask, [0; 6]).map_or_else(sys::error_name, |mask| format!("{mask:04o}"))
    }),
];

/// The soft and the hard value.
fn limit(name: &str) -> String {
    let text = sys::text_of("/proc/self/limits");
    text.lines().find_map(|line| line.strip_prefix(name)).map_or_else(
        || "absent".to_owned(),
        |values| values.split_whitespace().take(2).collect::<Vec<_>>().join(" "),
    )
}

/// One more than the hard limit.
fn raise(resource: u64) -> String {
    let mut values = [0_u64; 2];
    let get = [0, resource, 0, sys::address(values.as_mut_ptr()), 0, 0];
    if let Err(error) = sys::raw(libc::SYS_prlimit64, get) {
        return format!("read {}", sys::error_name(error));
    }
    let raised = [values[0], values[1].saturating_add(1)];
    let set = [0, resource, sys::address(raised.as_ptr()), 0, 0, 0];
    if values[1] == u64::MAX {
        "unlimited".to_owned()
    } else {
        sys::outcome(sys::raw(libc::SYS_prlimit64, set))
    }
}

fn scheduler(policy: u64) -> String {
    let priority = [1_i32];
    let arguments = [0, policy, sys::address(priority.as_ptr()), 0, 0, 0];
    sys::outcome(sys::raw(libc::SYS_sched_setscheduler, arguments))
}
