//! The waiting process itself: who it is, what it may, what it holds.

use std::{collections::BTreeMap, path::Path};

use adrastea_runtimes::plan::{IdMap, Plan};
use oci_spec::runtime::{PosixRlimitType, Process, Spec};

use super::{Broken, NAMESPACES, Observed};
use crate::host::processes::ProcessStatus;

pub fn check(seen: &Observed, plan: &Plan, base: &Spec, broken: &mut Broken) {
    identity(seen, plan, broken);
    privileges(&seen.status, broken);
    namespaces(seen, broken);
    init(seen, plan, base, broken);
    limits(&seen.rlimits, base, broken);
    oom_score(seen.oom_score_adj, base, broken);
    descriptors(&seen.descriptors, broken);
    broken.unless(
        seen.landlock >= seen.landlock_offered,
        "landlock",
        format!("version {} of {} holds", seen.landlock, seen.landlock_offered),
    );
    broken.unless(seen.core_cookie != Some(false), "core scheduling", "there is no cookie");
    let promised = base.process().as_ref().and_then(|process| process.apparmor_profile().as_ref());
    if let Some(profile) = promised {
        let label = seen.label.as_deref().unwrap_or("unreadable");
        let holds = label.strip_suffix(" (enforce)") == Some(profile);
        broken.unless(holds, "apparmor", format!("the label is `{label}`"));
    }
}

fn identity(seen: &Observed, plan: &Plan, broken: &mut Broken) {
    for (what, text, expected) in
        [("uid map", &seen.uid_map, &plan.uid_map), ("gid map", &seen.gid_map, &plan.gid_map)]
    {
        let found = text.split_whitespace().collect::<Vec<_>>().join(" ");
        broken.unless(same_map(text, expected), what, format!("it is `{found}`"));
    }
    let (uid, gid) = (plan.uid_map.to_host(plan.user.uid), plan.gid_map.to_host(plan.user.gid));
    let all_are = |ids: &[u32], expected: Option<u32>| {
        ids.len() == 4 && ids.iter().all(|id| Some(*id) == expected)
    };
    let ProcessStatus { uids, gids, groups, .. } = &seen.status;
    broken.unless(all_are(uids, uid), "identity", format!("the host's uids are {uids:?}"));
    broken.unless(all_are(gids, gid), "identity", format!("the host's gids are {gids:?}"));
    broken.unless(
        groups.iter().all(|group| Some(*group) == gid),
        "identity",
        format!("additional groups {groups:?}"),
    );
}

pub(super) fn same_map(text: &str, expected: &IdMap) -> bool {
    let lines = |text: &str| {
        text.lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect::<Vec<Vec<_>>>()
    };
    lines(text) == lines(&expected.to_proc_text())
}

fn privileges(status: &ProcessStatus, broken: &mut Broken) {
    without_privilege(status, 0, broken);
    broken.unless(status.tracer == Some(0), "tracing", format!("by {:?}", status.tracer));
}

/// No capability but those `allowed`, none that can be gained, and a filter.
pub(super) fn without_privilege(status: &ProcessStatus, allowed: u64, broken: &mut Broken) {
    const SETS: [&str; 5] = ["inheritable", "permitted", "effective", "bounding", "ambient"];
    for (set, held) in SETS.iter().zip(status.capabilities) {
        broken.unless(held & !allowed == 0, "capabilities", format!("the {set} set is {held:#x}"));
    }
    broken.unless(status.no_new_privileges, "no_new_privs", "not set");
    broken.unless(
        status.seccomp_mode == 2,
        "seccomp",
        format!("mode {} instead of 2 (filter)", status.seccomp_mode),
    );
}

fn namespaces(seen: &Observed, broken: &mut Broken) {
    for kind in NAMESPACES {
        match (seen.namespaces.get(kind), seen.host_namespaces.get(kind)) {
            (Some(own), Some(host)) if own != host => {}
            _ => broken.add("namespaces", format!("{kind} is the host's")),
        }
    }
    for (kind, pinned) in [("user", seen.pinned_user), ("net", seen.pinned_network)] {
        broken.unless(
            seen.namespaces.get(kind) == Some(&pinned),
            "namespaces",
            format!("{kind} is not the one that was prepared"),
        );
    }
    for (kind, neighbour) in &seen.shared_with {
        broken.add("namespaces", format!("{kind} is also that of {neighbour}"));
    }
    broken.unless(
        seen.status.pid_inside == Some(1),
        "namespaces",
        format!("the init is process {:?} inside", seen.status.pid_inside),
    );
}

/// That it is our init, with the constants it was to get, and that no tenant can look into it.
fn init(seen: &Observed, plan: &Plan, base: &Spec, broken: &mut Broken) {
    started(&seen.program, &seen.environment, plan, base, broken);
    // Files in /proc of a process that may not be inspected belong to its namespace's root.
    broken.unless(
        plan.uid_map.to_host(0) == Some(seen.guarded_by),
        "inspection",
        format!("{} may look into the init", seen.guarded_by),
    );
}

/// That the program is our init, with the constants it was to get.
pub(super) fn started(
    program: &str,
    environment: &[String],
    plan: &Plan,
    base: &Spec,
    broken: &mut Broken,
) {
    broken.unless(plan.init == Path::new(program), "init", format!("`{program}` runs"));
    let promised = base.process().as_ref().and_then(|process| process.env().clone());
    let mut promised = promised.unwrap_or_default();
    let mut found = environment.to_vec();
    promised.sort();
    found.sort();
    // Names alone: a value that nobody planned may be anybody's.
    let names: Vec<_> = found.iter().map(|line| line.split('=').next().unwrap_or("")).collect();
    broken.unless(found == promised, "environment", format!("it holds {names:?}"));
}

/// As the kernel calls them in `/proc/PID/limits`.
fn kernel_name(kind: PosixRlimitType) -> &'static str {
    match kind {
        PosixRlimitType::RlimitCore => "core file size",
        PosixRlimitType::RlimitNofile => "open files",
        PosixRlimitType::RlimitMemlock => "locked memory",
        PosixRlimitType::RlimitMsgqueue => "msgqueue size",
        PosixRlimitType::RlimitNice => "nice priority",
        PosixRlimitType::RlimitRtprio => "realtime priority",
        PosixRlimitType::RlimitSigpending => "pending signals",
        // One that is promised and has no name here cannot be seen, and so does not stand.
        _ => "unknown",
    }
}

pub(super) fn limits(found: &BTreeMap<String, (String, String)>, base: &Spec, broken: &mut Broken) {
    let Some(process) = base.process() else { return broken.add("rlimits", "none is promised") };
    for limit in process.rlimits().iter().flatten() {
        let name = kernel_name(limit.typ());
        let value = limit.hard().to_string();
        let found = found.get(name);
        let stands = found.is_some_and(|(soft, hard)| *soft == value && *hard == value);
        broken.unless(stands, "rlimits", format!("{name} is {found:?} instead of {value}"));
    }
}

pub(super) fn oom_score(found: Option<i32>, base: &Spec, broken: &mut Broken) {
    let promised = base.process().as_ref().and_then(Process::oom_score_adj);
    let stands = found.zip(promised).is_some_and(|(found, promised)| found >= promised);
    broken.unless(stands, "oom score", format!("{found:?} instead of {promised:?}"));
}

pub(super) fn descriptors(open: &[(u32, String)], broken: &mut Broken) {
    for (number, target) in open {
        if target.starts_with('/') && target != "/dev/null" {
            broken.add("descriptors", format!("{number} leads to `{target}`"));
        }
    }
}
