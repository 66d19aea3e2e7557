//! A control group with limits that the launcher itself sets, for runtimes that limit nothing on
//! the node: what they run goes into groups below it.
//!
//! Must never touch a group but those it is given, and those above only as far as the kernel
//! wants it before a group below can have limits.

use std::{
    fs,
    path::{Path, PathBuf},
};

use adrastea_runtimes::Around;

use super::{Attempt as _, HostError, cgroups::Hierarchy};

/// The kernel's default, in microseconds.
const PERIOD: u64 = 100_000;

fn write(path: PathBuf, value: &str) -> Result<(), HostError> {
    fs::write(&path, value).attempt("write", path)
}

/// Makes the group, sets its limits, and reads them back.
pub fn surround(cgroups: &Hierarchy, group: &str, limits: &Around) -> Result<(), HostError> {
    let quota = limits.cpu_millis.saturating_mul(PERIOD) / 1000;
    let (memory, processes) = (limits.memory_bytes.to_string(), limits.processes.to_string());
    let file = |controller: &str, name: &str| cgroups.controller(controller, group).join(name);
    match cgroups {
        Hierarchy::V1(_) => {
            cgroups.make(group)?;
            inherit_processors(cgroups, group)?;
            write(file("memory", "memory.limit_in_bytes"), &memory)?;
            let with_swap = file("memory", "memory.memsw.limit_in_bytes");
            // A kernel that does not count swap has no such file.
            if with_swap.exists() {
                write(with_swap, &memory)?;
            }
            write(file("cpu", "cpu.cfs_period_us"), &PERIOD.to_string())?;
            write(file("cpu", "cpu.cfs_quota_us"), &quota.to_string())?;
        }
        Hierarchy::V2(root) => {
            let parent = group.rsplit_once('/').map_or("", |(parent, _)| parent);
            for above in [root.clone(), root.join(parent.trim_start_matches('/'))] {
                enable(&above)?;
            }
            cgroups.make(group)?;
            enable(&root.join(group.trim_start_matches('/')))?;
            write(file("memory", "memory.max"), &memory)?;
            let swap = file("memory", "memory.swap.max");
            if swap.exists() {
                write(swap, "0")?;
            }
            write(file("cpu", "cpu.max"), &format!("{quota} {PERIOD}"))?;
        }
    }
    write(file("pids", "pids.max"), &processes)
}

/// Version 2: groups below this one can have limits.
fn enable(group: &Path) -> Result<(), HostError> {
    write(group.join("cgroup.subtree_control"), "+cpu +memory +pids")
}

/// Version 1: a new group may use no processor and no memory node until it is told.
fn inherit_processors(cgroups: &Hierarchy, group: &str) -> Result<(), HostError> {
    let parent = group.rsplit_once('/').map_or("", |(parent, _)| parent);
    for (above, own) in [("", parent), (parent, group)] {
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let path = |group: &str| cgroups.controller("cpuset", group).join(name);
            let Ok(now) = fs::read_to_string(path(own)) else { continue };
            if own.is_empty() || !now.trim().is_empty() {
                continue;
            }
            let all = fs::read_to_string(path(above)).attempt("read", path(above))?;
            write(path(own), all.trim())?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMITS: Around = Around { memory_bytes: 1 << 30, cpu_millis: 1500, processes: 77 };

    #[test]
    fn version_2_is_limited_and_so_is_what_is_below() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        fs::write(root.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::create_dir_all(root.join("a/s1")).unwrap();
        fs::write(root.join("a/s1/memory.swap.max"), "max").unwrap();
        surround(&Hierarchy::detect_at(root), "/a/s1", &LIMITS).unwrap();
        let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
        for group in ["", "a/", "a/s1/"] {
            assert_eq!(read(&format!("{group}cgroup.subtree_control")), "+cpu +memory +pids");
        }
        assert_eq!(read("a/s1/memory.max"), "1073741824");
        assert_eq!(read("a/s1/memory.swap.max"), "0");
        assert_eq!(read("a/s1/cpu.max"), "150000 100000");
        assert_eq!(read("a/s1/pids.max"), "77");
    }

    #[test]
    fn version_1_is_limited_and_may_use_what_the_groups_above_may() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        for controller in ["memory", "pids", "cpu,cpuacct", "cpuset"] {
            fs::create_dir_all(root.join(controller).join("a/s1")).unwrap();
            fs::write(root.join(controller).join("cgroup.procs"), "").unwrap();
        }
        for name in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(root.join("cpuset").join(name), "0-3\n").unwrap();
            fs::write(root.join("cpuset/a").join(name), "\n").unwrap();
            fs::write(root.join("cpuset/a/s1").join(name), "\n").unwrap();
        }
        surround(&Hierarchy::detect_at(root), "/a/s1", &LIMITS).unwrap();
        let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
        assert_eq!(read("memory/a/s1/memory.limit_in_bytes"), "1073741824");
        assert_eq!(read("cpu,cpuacct/a/s1/cpu.cfs_quota_us"), "150000");
        assert_eq!(read("pids/a/s1/pids.max"), "77");
        assert_eq!(read("cpuset/a/cpuset.cpus"), "0-3");
        assert_eq!(read("cpuset/a/s1/cpuset.mems"), "0-3");
        assert!(!root.join("memory/a/s1/memory.memsw.limit_in_bytes").exists());
    }
}
