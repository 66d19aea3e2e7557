//! What stands in the place of each wall where a sandbox is a virtual machine: what such a spec
//! may have in another way is put back, so that everything else is compared as ever; and the file
//! that the runtime reads beside it says the rest, and nothing that nobody looked at.

use oci_spec::runtime::{LinuxNamespaceType, Mount, PosixRlimitType, Spec};
use toml::{Table, Value};

use super::{Breach, Wall};
use crate::plan::{IDS_PER_SANDBOX, IdMap, Plan};

/// The candidate as it would be on the node's kernel. What has to stand in the place of a wall
/// and does not is a breach.
pub fn as_if_shared(
    candidate: &Spec,
    base: &Spec,
    plan: &Plan,
    breaches: &mut Vec<Breach>,
) -> Spec {
    let mut candidate = candidate.clone();
    let mut mounts = candidate.mounts().clone().unwrap_or_default();
    mounts.retain(|mount| !is_home(mount, plan));
    candidate.set_mounts(Some(mounts));
    if let (Some(process), Some(base)) = (candidate.process_mut(), base.process()) {
        // The number of processes, which is no limit of the control group there.
        let limits = process.rlimits().clone().unwrap_or_default();
        let counted = limits.iter().any(|limit| {
            limit.typ() == PosixRlimitType::RlimitNproc
                && limit.soft() <= limit.hard()
                && (1..=u64::from(plan.limits.processes)).contains(&limit.hard())
        });
        if !counted {
            let detail = "no limit of processes for the user inside".to_owned();
            breaches.push(Breach { wall: Wall::Processes, detail });
        }
        // The machine's kernel knows no profile of the node.
        if process.apparmor_profile().is_none() {
            process.set_apparmor_profile(base.apparmor_profile().clone());
        }
    }
    let (Some(linux), Some(base)) = (candidate.linux_mut(), base.linux()) else {
        return candidate;
    };
    let all = base.namespaces().clone().unwrap_or_default();
    let without_user = all.iter().filter(|one| one.typ() != LinuxNamespaceType::User);
    if linux.namespaces().iter().flatten().eq(without_user) {
        linux.set_namespaces(Some(all));
    }
    // Below the group that has the limits.
    if linux.cgroups_path().as_ref().is_some_and(|path| *path == plan.machine_cgroup()) {
        linux.set_cgroups_path(base.cgroups_path().clone());
    }
    candidate
}

/// The home, bound before the start, from where the launcher has mounted it.
fn is_home(mount: &Mount, plan: &Plan) -> bool {
    *mount.destination() == plan.user.home
        && mount.source().as_ref() == Some(&plan.bound_home())
        && mount.typ().as_deref() == Some("bind")
        && mount.options().iter().flatten().eq(["bind", "nosuid", "nodev"])
        && mount.uid_mappings().is_none()
        && mount.gid_mappings().is_none()
}

/// What each key of the file must be.
enum Must {
    Be(Value),
    /// A path of the node, or a list of one.
    Path,
    /// A number of this range.
    Count(i64, i64),
}

fn rules(plan: &Plan) -> Vec<(Wall, &'static str, Must)> {
    use Must::{Be, Count, Path};
    let nothing = || Value::Array(Vec::new());
    let filter = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
    let kernel = "cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1 ipv6.disable_ipv6=1";
    let served =
        ["--thread-pool-size=1", "--announce-submounts", "--sandbox=namespace", "--seccomp=kill"];
    let served = served.map(str::to_owned).into_iter().chain(expected_translation(plan));
    let served = Value::Array(served.map(Value::String).collect());
    let qemu: [(Wall, &'static str, Must); 28] = [
        (Wall::Other, "hypervisor.qemu.path", Path),
        (Wall::Other, "hypervisor.qemu.valid_hypervisor_paths", Path),
        (Wall::Other, "hypervisor.qemu.kernel", Path),
        (Wall::Other, "hypervisor.qemu.image", Path),
        (Wall::Other, "hypervisor.qemu.rootfs_type", Be("ext4".into())),
        (Wall::Command, "hypervisor.qemu.kernel_params", Be(kernel.into())),
        (Wall::Other, "hypervisor.qemu.machine_type", Be("q35".into())),
        (Wall::Annotations, "hypervisor.qemu.enable_annotations", Be(nothing())),
        (Wall::Seccomp, "hypervisor.qemu.seccomp_sandbox", Be(filter.into())),
        (Wall::Cpu, "hypervisor.qemu.default_vcpus", Be(1.into())),
        (Wall::Memory, "hypervisor.qemu.default_memory", Count(64, 512)),
        (Wall::Memory, "hypervisor.qemu.overhead_memory", Count(64, 512)),
        (Wall::Mounts, "hypervisor.qemu.shared_fs", Be("virtio-fs".into())),
        (Wall::Other, "hypervisor.qemu.virtio_fs_daemon", Path),
        (Wall::Other, "hypervisor.qemu.valid_virtio_fs_daemon_paths", Path),
        (Wall::Mounts, "hypervisor.qemu.virtio_fs_cache", Be("auto".into())),
        (Wall::Mounts, "hypervisor.qemu.virtio_fs_cache_size", Be(0.into())),
        (Wall::IdMap, "hypervisor.qemu.virtio_fs_extra_args", Be(served)),
        (Wall::Devices, "hypervisor.qemu.disable_block_device_use", Be(true.into())),
        (Wall::Devices, "hypervisor.qemu.disable_image_nvdimm", Be(true.into())),
        (Wall::Devices, "hypervisor.qemu.enable_vhost_user_store", Be(false.into())),
        (Wall::Memory, "hypervisor.qemu.enable_hugepages", Be(false.into())),
        (Wall::Other, "hypervisor.qemu.enable_debug", Be(false.into())),
        (Wall::Other, "hypervisor.qemu.disable_selinux", Be(true.into())),
        (Wall::Other, "hypervisor.qemu.disable_guest_selinux", Be(true.into())),
        (Wall::Devices, "hypervisor.qemu.entropy_source", Be("/dev/urandom".into())),
        (
            Wall::Devices,
            "hypervisor.qemu.valid_entropy_sources",
            Be(Value::Array(vec!["/dev/urandom".into()])),
        ),
        (Wall::Hooks, "hypervisor.qemu.guest_hook_path", Be("".into())),
    ];
    let rest: [(Wall, &'static str, Must); 18] = [
        (Wall::Other, "agent.kata.enable_debug", Be(false.into())),
        (Wall::Other, "agent.kata.enable_tracing", Be(false.into())),
        (Wall::Command, "agent.kata.debug_console_enabled", Be(false.into())),
        (Wall::Other, "agent.kata.create_container_timeout", Count(1, 600)),
        (Wall::Other, "agent.kata.reconnect_timeout_ms", Count(1000, 600_000)),
        (Wall::Other, "runtime.name", Be("virt_container".into())),
        (Wall::Other, "runtime.hypervisor_name", Be("qemu".into())),
        (Wall::Other, "runtime.agent_name", Be("kata".into())),
        (Wall::Namespaces, "runtime.internetworking_model", Be("tcfilter".into())),
        (Wall::Namespaces, "runtime.disable_new_netns", Be(false.into())),
        (Wall::Other, "runtime.enable_debug", Be(false.into())),
        (Wall::Other, "runtime.enable_tracing", Be(false.into())),
        (Wall::Other, "runtime.enable_pprof", Be(false.into())),
        (Wall::Seccomp, "runtime.disable_guest_seccomp", Be(false.into())),
        (Wall::Cgroup, "runtime.sandbox_cgroup_only", Be(true.into())),
        (Wall::Memory, "runtime.static_sandbox_resource_mgmt", Be(true.into())),
        (Wall::Mounts, "runtime.sandbox_bind_mounts", Be(nothing())),
        (Wall::Other, "runtime.experimental", Be(nothing())),
    ];
    qemu.into_iter().chain(rest).collect()
}

/// What the file server must be told of ids, and nothing beside it: the plan's map, and that no
/// number beyond it reaches anything.
pub fn expected_translation(plan: &Plan) -> Vec<String> {
    let one = |kind: &str, map: &IdMap| {
        let mut words = Vec::new();
        for mapping in map.mappings() {
            let (inside, outside, length) = (mapping.inside, mapping.outside, mapping.length);
            words.push(format!("--translate-{kind}=map:{inside}:{outside}:{length}"));
        }
        let beyond = u32::MAX - IDS_PER_SANDBOX;
        words.push(format!("--translate-{kind}=forbid-guest:{IDS_PER_SANDBOX}:{beyond}"));
        words
    };
    [one("uid", &plan.uid_map), one("gid", &plan.gid_map)].concat()
}

/// Every key is one that is known, and is what it must be; none is missing.
pub fn check_configuration(text: &str, plan: &Plan, breaches: &mut Vec<Breach>) {
    let mut add = |wall, detail: String| breaches.push(Breach { wall, detail });
    let Ok(table) = text.parse::<Table>() else {
        return add(Wall::Other, "the runtime's own file cannot be read".into());
    };
    let mut found = Vec::new();
    leaves("", &table, &mut found);
    let rules = rules(plan);
    for (key, value) in &found {
        let Some((wall, _, must)) = rules.iter().find(|(_, known, _)| known == key) else {
            add(Wall::Other, format!("`{key}` in the runtime's own file is not known"));
            continue;
        };
        if !must.holds(value) {
            add(*wall, format!("`{key}` in the runtime's own file is {value}"));
        }
    }
    for (wall, known, _) in rules {
        if !found.iter().any(|(key, _)| key == known) {
            add(wall, format!("`{known}` is not in the runtime's own file"));
        }
    }
}

impl Must {
    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Be(expected) => value == expected,
            Self::Path => match value {
                Value::String(path) => path.starts_with('/') && !path.contains(['*', '?', '[']),
                // A list of patterns: one, of a path alone.
                Value::Array(list) => list.len() == 1 && list.iter().all(|one| self.holds(one)),
                _ => false,
            },
            Self::Count(least, most) => {
                value.as_integer().is_some_and(|count| (*least..=*most).contains(&count))
            }
        }
    }
}

fn leaves(above: &str, table: &Table, found: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let key = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match value {
            Value::Table(inner) => leaves(&key, inner, found),
            other => found.push((key, other.clone())),
        }
    }
}
