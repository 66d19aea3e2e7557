//! Looks at a waiting sandbox from the host: what the proof is made from. Reads
//! only; decides nothing. What cannot be read is an error, or absent, which the
//! proof takes for a wall that does not stand.

use std::{
    collections::BTreeSet,
    fs,
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
        machine::{Machine, Part, Programs},
    },
    sandbox::Sandbox,
};
use crate::host::{
    Attempt as _, HostError, cgroups::Hierarchy, confinement, inside::Inside, mounts, processes,
};

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

/// Looks at a virtual machine: every process the node has of it.
pub fn observe_machine(
    configuration: &Path,
    plan: &Plan,
    pid: u32,
    cgroups: &Hierarchy,
) -> Result<Machine, HostError> {
    let configuration = fs::read_to_string(configuration).attempt("read", configuration)?;
    let parts = machine_processes(plan, cgroups)?.into_iter().map(observe_part);
    let parts = parts.collect::<Result<_, _>>()?;
    Ok(Machine {
        pid,
        programs: programs(&configuration)?,
        configuration,
        parts,
        beside: cgroups.processes(&plan.cgroup),
        pinned_network: processes::namespace_at(&plan.network_namespace)?,
        limits: group_limits(cgroups, &plan.cgroup)?,
        core_cookie: confinement::has_own_cores(pid),
    })
}

/// The processes of a machine, without what the kernel runs for it in their group.
pub fn machine_processes(plan: &Plan, cgroups: &Hierarchy) -> Result<Vec<u32>, HostError> {
    let mut own = Vec::new();
    for pid in cgroups.processes(&plan.machine_cgroup()) {
        if !processes::is_of_kernel(pid)? {
            own.push(pid);
        }
    }
    Ok(own)
}

/// As the kernel names what runs: without links.
fn programs(configuration: &str) -> Result<Programs, HostError> {
    let table: toml::Table = configuration.parse().unwrap_or_default();
    let qemu = table.get("hypervisor").and_then(|hypervisor| hypervisor.get("qemu"));
    let program = |key: &str| {
        let path = qemu.and_then(|qemu| qemu.get(key)?.as_str()).unwrap_or_default();
        let found = fs::canonicalize(path).attempt("look at", path)?;
        Ok::<_, HostError>(found.display().to_string())
    };
    Ok(Programs { monitor: program("path")?, file_server: program("virtio_fs_daemon")? })
}

fn observe_part(pid: u32) -> Result<Part, HostError> {
    Ok(Part {
        pid,
        program: processes::program(pid)?,
        words: processes::words(pid)?,
        status: processes::status(pid)?,
        network: processes::namespace(pid, "net")?,
        cgroup: processes::read(pid, "cgroup")?,
        oom_score_adj: processes::read(pid, "oom_score_adj")?.trim().parse().ok(),
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use adrastea_runtimes::{Runtime as _, kata::Kata};

    use super::*;
    use crate::launch::proof;

    /// Control groups as files, in which this very process is the whole machine: what is seen of
    /// it is what it is, and what it is not is named.
    #[test]
    fn a_machine_is_looked_at_where_it_is() {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        let mut plan = proof::test_plan();
        plan.network_namespace = "/proc/self/ns/net".into();
        let group = root.join(plan.cgroup.trim_start_matches('/'));
        fs::create_dir_all(group.join("machine")).unwrap();
        let around = Kata.around(&plan).unwrap();
        let own = std::process::id();
        for (file, text) in [
            ("cgroup.procs", String::new()),
            ("machine/cgroup.procs", format!("{own}\n")),
            ("memory.max", around.memory_bytes.to_string()),
            ("memory.swap.max", "0".into()),
            ("memory.current", "0".into()),
            ("memory.events", String::new()),
            ("pids.max", around.processes.to_string()),
            ("cpu.max", format!("{} 100000", around.cpu_millis * 100)),
        ] {
            fs::write(group.join(file), text).unwrap();
        }
        fs::write(root.join("cgroup.controllers"), "cpu memory pids").unwrap();
        let program = std::env::current_exe().unwrap();
        let configuration = root.join("runtime.toml");
        let text = format!(
            "[hypervisor.qemu]\npath = {program:?}\nvirtio_fs_daemon = \"/proc/self/exe\"\n"
        );
        fs::write(&configuration, text).unwrap();

        let cgroups = Hierarchy::detect_at(root);
        let seen = observe_machine(&configuration, &plan, own, &cgroups).unwrap();
        let program = program.display().to_string();
        assert_eq!((&seen.programs.monitor, &seen.programs.file_server), (&program, &program));
        let [part] = seen.parts.as_slice() else { unreachable!("{:?}", seen.parts) };
        assert_eq!((part.pid, &part.program), (own, &program));
        assert_eq!(part.words, std::env::args().collect::<Vec<_>>());
        assert_eq!(part.network, seen.pinned_network);
        assert!(part.cgroup.contains(':') && part.oom_score_adj.is_some());
        let base = adrastea_runtimes::spec::base(&plan).unwrap();
        let broken = proof::broken_walls_of_machine(&seen, None, &Kata, &plan, &base);
        let names = |wall: &str| broken.iter().any(|line| line.starts_with(wall));
        for wall in
            ["machine: its file", "machine: the monitor's filter", "id translation", "cgroup: `"]
        {
            assert!(names(wall), "{wall}: {broken:?}");
        }
        for wall in ["limits", "namespaces", "cgroup: the task", "cgroup: processes"] {
            assert!(!names(wall), "{wall}: {broken:?}");
        }

        fs::write(group.join("cgroup.procs"), format!("{own}\n")).unwrap();
        fs::write(group.join("pids.max"), "max").unwrap();
        let seen = observe_machine(&configuration, &plan, own, &cgroups).unwrap();
        let broken = proof::broken_walls_of_machine(&seen, None, &Kata, &plan, &base);
        for wall in ["limits: processes", "cgroup: processes"] {
            assert!(broken.iter().any(|line| line.starts_with(wall)), "{wall}: {broken:?}");
        }
        // What cannot be read is an error, not a wall that stands.
        assert!(observe_machine(&root.join("absent"), &plan, own, &cgroups).is_err());
        fs::write(group.join("machine/cgroup.procs"), "4194304\n").unwrap();
        assert!(observe_machine(&configuration, &plan, own, &cgroups).is_err());
    }
}
