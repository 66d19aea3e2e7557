//! The control group: the right one, nobody else in it, and its limits.

use std::collections::BTreeSet;

use adrastea_runtimes::{Around, plan::Plan};

use super::{Broken, GroupLimits, Observed};

/// The kernel rounds memory to pages, whose size differs.
const LARGEST_PAGE: u64 = 64 << 10;

pub fn check(seen: &Observed, plan: &Plan, broken: &mut Broken) {
    member(&seen.cgroup, plan, broken);
    let alone = BTreeSet::from([seen.pid]);
    broken.unless(
        seen.processes == alone,
        "cgroup",
        format!("processes {:?} beside the init", seen.processes.difference(&alone)),
    );
    limits(&seen.limits, plan, broken);
}

/// That a process is in the sandbox's group, in every hierarchy that limits something.
pub(super) fn member(cgroup: &str, plan: &Plan, broken: &mut Broken) {
    member_of(cgroup, &plan.cgroup, broken);
}

/// The same of any group.
pub(super) fn member_of(cgroup: &str, group: &str, broken: &mut Broken) {
    if let Some(line) = foreign_group(cgroup, group) {
        broken.add("cgroup", format!("`{line}` instead of {group}"));
    }
}

/// The limits of the group around a machine.
pub(super) fn around(seen: &GroupLimits, around: &Around, broken: &mut Broken) {
    all(seen, around.memory_bytes, around.cpu_millis, around.processes, broken);
}

pub(super) fn limits(seen: &GroupLimits, plan: &Plan, broken: &mut Broken) {
    let limits = &plan.limits;
    all(seen, limits.memory_bytes, limits.cpu_millis, limits.processes, broken);
}

fn all(seen: &GroupLimits, memory: u64, cpu_millis: u64, processes: u32, broken: &mut Broken) {
    broken.unless(
        is_about(seen.memory.limit_bytes, memory),
        "limits",
        format!("memory is {:?} instead of {memory}", seen.memory.limit_bytes),
    );
    broken.unless(
        is_about(seen.memory.with_swap_bytes, memory),
        "limits",
        format!("memory with swap is {:?}", seen.memory.with_swap_bytes),
    );
    broken.unless(
        seen.processes == Some(processes.into()),
        "limits",
        format!("processes are {:?} instead of {processes}", seen.processes),
    );
    broken.unless(
        seen.cpu_millis == Some(cpu_millis),
        "limits",
        format!("cpu is {:?} thousandths instead of {cpu_millis}", seen.cpu_millis),
    );
}

fn is_about(found: Option<u64>, promised: u64) -> bool {
    found.is_some_and(|found| found <= promised && found + LARGEST_PAGE >= promised)
}

/// Version 1 names one group per controller; every one of them must be ours.
fn foreign_group<'seen>(cgroup: &'seen str, group: &str) -> Option<&'seen str> {
    let lines = cgroup.lines().count();
    if lines == 0 {
        return Some("nothing");
    }
    cgroup.lines().find(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) =
            (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        // In hybrid mode the unified hierarchy has no controllers.
        let limits_something = controllers.split(',').any(|controller| {
            ["memory", "pids", "cpu", "devices", "freezer"].contains(&controller)
        });
        let unified_alone = controllers.is_empty() && lines == 1;
        (limits_something || unified_alone) && path != group
    })
}
