//! Looks at a waiting sandbox from the host: what the proof is made from. Reads
//! only; decides nothing. What cannot be read is an error, or absent, which the
//! proof takes for a wall that does not stand.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use adrastea_runtimes::plan::Plan;
use oci_spec::runtime::Spec;

use super::{
    ground::Waiting,
    neighbours::{self, Namespaces, Neighbours},
    proof::{
        GroupLimits, Observed, WORLD_WRITABLE,
        jail::{Jail, Jailed},
    },
    sandbox::Sandbox,
};
use crate::host::{HostError, cgroups::Hierarchy, confinement, inside::Inside, mounts, processes};

pub fn observe(
    sandbox: &Sandbox,
    plan: &Plan,
    base: &Spec,
    waiting: &Waiting,
    cgroups: &Hierarchy,
    neighbours: &Neighbours,
) -> Result<Observed, HostError> {
    let Waiting { pid, said, .. } = waiting;
    let pid = *pid;
    let own = neighbours::namespaces(pid)?;
    let inside = Inside::of(pid)?;
    let modes = WORLD_WRITABLE
        .into_iter()
        .filter_map(|directory| {
            let metadata = inside.metadata(Path::new(directory)).ok()?;
            Some((directory, metadata.permissions().mode() & 0o7777))
        })
        .collect();
    Ok(Observed {
        status: processes::status(pid)?,
        uid_map: processes::read(pid, "uid_map")?,
        gid_map: processes::read(pid, "gid_map")?,
        shared_with: neighbours.sharing(sandbox.id(), &own, cgroups, &plan.cgroup),
        namespaces: own,
        host_namespaces: host_namespaces()?,
        pinned_user: processes::namespace_at(&sandbox.user_namespace())?,
        pinned_network: processes::namespace_at(&sandbox.network_namespace())?,
        program: processes::program(pid)?,
        environment: processes::environment(pid)?,
        guarded_by: processes::guarded_by(pid)?,
        rlimits: processes::limits(pid)?,
        oom_score_adj: processes::read(pid, "oom_score_adj")?.trim().parse().ok(),
        mounts: mounts::parse_mountinfo(&processes::read(pid, "mountinfo")?),
        present: present(&inside, base),
        modes,
        devices: inside.devices(Path::new("/dev"))?,
        descriptors: processes::open_descriptors(pid)?,
        cgroup: processes::read(pid, "cgroup")?,
        processes: cgroups.processes(&sandbox.cgroup),
        pid,
        limits: group_limits(cgroups, &sandbox.cgroup)?,
        landlock: said.landlock,
        landlock_offered: confinement::landlock(),
        label: confinement::label(pid),
        core_cookie: confinement::has_own_cores(pid),
    })
}

fn group_limits(cgroups: &Hierarchy, group: &str) -> Result<GroupLimits, HostError> {
    Ok(GroupLimits {
        memory: cgroups.memory(group)?,
        processes: cgroups.process_limit(group)?,
        cpu_millis: cgroups.cpu_millis(group)?,
    })
}

fn host_namespaces() -> Result<Namespaces, HostError> {
    neighbours::namespaces(std::process::id())
}

/// Looks at the jail of a sandbox with a kernel of its own: every process the node has of it.
pub fn observe_jail(
    sandbox: &Sandbox,
    plan: &Plan,
    pid: u32,
    cgroups: &Hierarchy,
    neighbours: &Neighbours,
) -> Result<Jail, HostError> {
    let mut processes = Vec::new();
    for one in cgroups.processes(&sandbox.cgroup) {
        match observe_jailed(one) {
            Ok(process) => processes.push(process),
            // Those that serve the tenant's come and go; its own two stay.
            Err(error) if one != pid && error.source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let own = neighbours::namespaces(pid)?;
    Ok(Jail {
        pid,
        processes,
        shared_with: neighbours.sharing(sandbox.id(), &own, cgroups, &plan.cgroup),
        host_namespaces: host_namespaces()?,
        pinned_network: processes::namespace_at(&sandbox.network_namespace())?,
        limits: group_limits(cgroups, &sandbox.cgroup)?,
        core_cookie: confinement::has_own_cores(pid),
    })
}

fn observe_jailed(pid: u32) -> Result<Jailed, HostError> {
    Ok(Jailed {
        pid,
        name: processes::name(pid)?,
        status: processes::status(pid)?,
        uid_map: processes::read(pid, "uid_map")?,
        gid_map: processes::read(pid, "gid_map")?,
        namespaces: neighbours::namespaces(pid)?,
        cgroup: processes::read(pid, "cgroup")?,
        mounts: mounts::parse_mountinfo(&processes::read(pid, "mountinfo")?),
        oom_score_adj: processes::read(pid, "oom_score_adj")?.trim().parse().ok(),
    })
}

/// Which of the paths that were to be covered exist. Whatever is no clear "no" counts as there.
fn present(inside: &Inside, base: &Spec) -> BTreeSet<PathBuf> {
    let linux = base.linux().as_ref();
    let masked = linux.and_then(|linux| linux.masked_paths().clone()).unwrap_or_default();
    let readonly = linux.and_then(|linux| linux.readonly_paths().clone()).unwrap_or_default();
    let paths = masked.into_iter().chain(readonly).map(PathBuf::from);
    let is_absent = |path: &PathBuf| {
        inside.metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    };
    paths.filter(|path| !is_absent(path)).collect()
}
