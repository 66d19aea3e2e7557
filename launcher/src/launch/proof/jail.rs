//! The processes of the node that are the kernel of one sandbox: behind what they
//! stand, should the tenant ever get the better of that kernel. Pure.

use std::collections::BTreeMap;

use adrastea_runtimes::{Runtime, plan::Plan};
use oci_spec::runtime::Spec;

use super::{Broken, GroupLimits, NAMESPACES, files::has, groups, process};
use crate::host::{mounts::MountLine, processes::ProcessStatus};

/// What was seen of the jail, from the host.
#[derive(Clone, Debug)]
pub struct Jail {
    /// The task the engine knows.
    pub pid: u32,
    /// Every process of the control group.
    pub processes: Vec<Jailed>,
    /// Kinds of namespaces that a live neighbour is in, too, and its id.
    pub shared_with: Vec<(&'static str, String)>,
    pub host_namespaces: BTreeMap<&'static str, u64>,
    pub pinned_network: u64,
    pub limits: GroupLimits,
    pub core_cookie: Option<bool>,
}

#[derive(Clone, Debug)]
pub struct Jailed {
    pub pid: u32,
    /// What it calls itself.
    pub name: String,
    pub status: ProcessStatus,
    pub uid_map: String,
    pub gid_map: String,
    pub namespaces: BTreeMap<&'static str, u64>,
    pub cgroup: String,
    pub mounts: Vec<MountLine>,
    pub oom_score_adj: Option<i32>,
}

pub(super) fn check(
    seen: &Jail,
    runtime: &dyn Runtime,
    plan: &Plan,
    base: &Spec,
    broken: &mut Broken,
) {
    let task = seen.processes.iter().find(|process| process.pid == seen.pid);
    let network = task.and_then(|task| task.namespaces.get("net"));
    broken.unless(
        network == Some(&seen.pinned_network),
        "namespaces",
        "net is not the one that was prepared",
    );
    if let Some(name) = runtime.file_server() {
        let there = seen.processes.iter().any(|process| process.name == name);
        broken.unless(there, "jail", format!("there is no `{name}` in the control group"));
    }
    for (kind, neighbour) in &seen.shared_with {
        if !runtime.node_namespaces().contains(kind) {
            broken.add("namespaces", format!("{kind} is also that of {neighbour}"));
        }
    }
    for one in &seen.processes {
        // What is broken is told with the process it was seen on.
        let mut of_one = Broken(Vec::new());
        jailed(one, seen, runtime, plan, base, &mut of_one);
        let name = if one.name.is_empty() { "unnamed" } else { &one.name };
        broken.0.extend(of_one.0.into_iter().map(|what| format!("{what} ({name} {})", one.pid)));
    }
    groups::limits(&seen.limits, plan, broken);
    broken.unless(seen.core_cookie != Some(false), "core scheduling", "there is no cookie");
}

fn jailed(
    one: &Jailed,
    seen: &Jail,
    runtime: &dyn Runtime,
    plan: &Plan,
    base: &Spec,
    broken: &mut Broken,
) {
    broken.unless(process::same_map(&one.uid_map, &plan.uid_map), "uid map", "another one");
    broken.unless(process::same_map(&one.gid_map, &plan.gid_map), "gid map", "another one");
    let ProcessStatus { uids, gids, groups, .. } = &one.status;
    // The root of the sandbox's own user namespace is nobody on the node.
    for (what, ids, own) in
        [("uids", uids, plan.uid_map.to_host(0)), ("gids", gids, plan.gid_map.to_host(0))]
    {
        let stands = ids.len() == 4 && ids.iter().all(|id| Some(*id) == own);
        broken.unless(stands, "identity", format!("the host's {what} are {ids:?}"));
    }
    broken.unless(groups.is_empty(), "identity", format!("additional groups {groups:?}"));
    process::without_privilege(&one.status, runtime.jail_capabilities(), broken);
    let traced_by_own = |tracer| tracer == 0 || seen.processes.iter().any(|own| own.pid == tracer);
    let tracer = one.status.tracer;
    broken.unless(tracer.is_some_and(traced_by_own), "tracing", format!("by {tracer:?}"));
    for kind in NAMESPACES.iter().filter(|kind| !runtime.node_namespaces().contains(kind)) {
        match (one.namespaces.get(kind), seen.host_namespaces.get(kind)) {
            (Some(own), Some(host)) if own != host => {}
            _ => broken.add("namespaces", format!("{kind} is the host's")),
        }
    }
    groups::member(&one.cgroup, plan, broken);
    // The helpers without a name are the sentry's own affair: it ends if one of them does.
    if !one.name.is_empty() {
        process::oom_score(one.oom_score_adj, base, broken);
    }
    broken.unless(!one.mounts.is_empty(), "mounts", "none could be read");
    for mount in &one.mounts {
        let point = mount.point.display();
        broken.unless(!mount.propagates, "mounts", format!("`{point}` follows the host's mounts"));
        // An empty root of its own, or a part of the root file system as it was mounted.
        let is_empty_root = mount.file_system == "tmpfs" && mount.root == "/";
        let is_image = mount.file_system == "overlay"
            && ["ro", "nosuid", "nodev"].iter().all(|option| has(mount, option));
        broken.unless(is_empty_root || is_image, "mounts", format!("`{point}` was not planned"));
    }
}
