//! Who the tenant is: capabilities, no_new_privs, seccomp, ids, and whether it
//! can become somebody else (E1).

use crate::{
    check::{
        Argument::{Null, Number},
        Check,
    },
    sys,
};

pub const CHECKS: &[Check] = &[
    Check::function("cap.inheritable", || status("CapInh")),
    Check::function("cap.permitted", || status("CapPrm")),
    Check::function("cap.effective", || status("CapEff")),
    Check::function("cap.bounding", || status("CapBnd")),
    Check::function("cap.ambient", || status("CapAmb")),
    Check::function("own.no-new-privs", || status("NoNewPrivs")),
    Check::function("own.seccomp", || status("Seccomp")),
    Check::function("own.uid", || same(&status("Uid"))),
    Check::function("own.gid", || same(&status("Gid"))),
    Check::function("own.groups", || match status("Groups") {
        groups if groups.is_empty() => "none".to_owned(),
        groups => groups,
    }),
    Check::function("own.uid-map", || mapped("/proc/self/uid_map")),
    Check::function("own.gid-map", || mapped("/proc/self/gid_map")),
    Check::function("own.fds", open_descriptors),
    Check::function("own.cgroup", cgroup),
    Check::call("become.setuid-0", libc::SYS_setuid, &[Number(0)]),
    Check::call("become.setgid-0", libc::SYS_setgid, &[Number(0)]),
    Check::call("become.setresuid-0", libc::SYS_setresuid, &[Number(0), Number(0), Number(0)]),
    Check::call("become.setgroups", libc::SYS_setgroups, &[Number(0), Null]),
    Check::call("become.euid-0", libc::SYS_setresuid, &[Number(-1), Number(0), Number(-1)]),
    Check::function("become.capset", capset),
    // PR_CAP_AMBIENT_RAISE of CAP_NET_RAW, PR_SET_KEEPCAPS' dangerous cousin PR_SET_SECUREBITS.
    Check::call(
        "become.ambient",
        libc::SYS_prctl,
        &[Number(47), Number(2), Number(13), Number(0), Number(0)],
    ),
    Check::call("become.securebits", libc::SYS_prctl, &[Number(28), Number(1)]),
    Check::call("become.hostname", libc::SYS_sethostname, &[Null, Number(-1)]),
    Check::call("become.domainname", libc::SYS_setdomainname, &[Null, Number(-1)]),
];

fn status(field: &str) -> String {
    sys::text_of("/proc/self/status")
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map_or_else(|| "absent".to_owned(), |value| value.trim().to_owned())
}

/// Real, effective, saved and file system id in one, if they are one.
fn same(ids: &str) -> String {
    let mut parts = ids.split_whitespace();
    let first = parts.next().unwrap_or_default();
    if parts.all(|id| id == first) { first.to_owned() } else { ids.to_owned() }
}

/// Whether inside ids are other numbers outside.
fn mapped(path: &str) -> String {
    let text = sys::text_of(path);
    let identical = text.lines().any(|line| {
        let mut numbers = line.split_whitespace();
        numbers.next() == numbers.next()
    });
    if identical { "identity".to_owned() } else { format!("mapped {}", text.lines().count()) }
}

fn open_descriptors() -> String {
    let mut extra = Vec::new();
    // Up to here the kernel would hand out numbers; 3 and 4 are the pipe of this check.
    for descriptor in 3..1024_i64 {
        let target = std::fs::read_link(format!("/proc/self/fd/{descriptor}"));
        if let Ok(target) = target {
            let target = target.display().to_string();
            if !target.starts_with("pipe:") {
                extra.push(format!("{descriptor}={target}"));
            }
        }
    }
    if extra.is_empty() { "none".to_owned() } else { extra.join(" ") }
}

/// The paths of all hierarchies; with an own cgroup namespace all are `/`.
fn cgroup() -> String {
    let text = sys::text_of("/proc/self/cgroup");
    let mut paths: Vec<_> = text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    paths.sort_unstable();
    paths.dedup();
    paths.join(" ")
}

fn capset() -> String {
    // Version 3, own process; all of effective, permitted and inheritable (capset(2)).
    let header = [0x2008_0522_u32, 0];
    let data = [u32::MAX; 6];
    let arguments = [sys::address(header.as_ptr()), sys::address(data.as_ptr()), 0, 0, 0, 0];
    sys::outcome(sys::raw(libc::SYS_capset, arguments))
}
