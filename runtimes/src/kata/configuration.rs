//! The file that Kata reads for one sandbox alone: a pure function of its plan and of the paths of
//! what the machine is made of. Kata's shim in Rust reads it, of 3.x and of 4.x.
//!
//! Must never switch on an annotation: what is in here is all that Kata is told.

use toml::{Table, Value};

use super::MACHINE_MEBIBYTES;
use crate::{
    MachineFiles,
    plan::{IDS_PER_SANDBOX, IdMap, Plan},
};

/// QEMU's filter of its own system calls: no old ones, no other ids, no programs, no priorities.
const MONITOR_FILTER: &str =
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Seconds until the machine's agent must have made the container.
const CREATE_SECONDS: i64 = 60;

/// Milliseconds until a machine that boots must be heard of. Left to itself the shim gives up after
/// ten seconds; how long a start may take is the launcher's to say.
const BOOT_MILLISECONDS: i64 = 60_000;

/// What Kata gives the machine's kernel as it is shipped. Without it an image in
/// which the agent itself is the first process has control groups of the first version, and a
/// kernel that has left those behind then limits no memory inside.
/// The last word is not Kata's: what the launcher switches off in the sandbox's network namespace
/// says nothing to the machine's own kernel, which would give itself an address of IPv6.
const KERNEL_WORDS: &str =
    "cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1 ipv6.disable_ipv6=1";

/// One processor for the sandbox's own; the quota of the spec comes on top of it.
const LEAST_PROCESSORS: i64 = 1;

pub fn text(plan: &Plan, files: &MachineFiles) -> String {
    let mut hypervisor = Table::new();
    hypervisor.insert("qemu".into(), Value::Table(monitor(plan, files)));
    let mut agent = Table::new();
    agent.insert(
        "kata".into(),
        Value::Table(table([
            ("enable_debug", false.into()),
            ("enable_tracing", false.into()),
            ("debug_console_enabled", false.into()),
            // Here it takes no key that it does not know.
            ("create_container_timeout", CREATE_SECONDS.into()),
            ("reconnect_timeout_ms", BOOT_MILLISECONDS.into()),
        ])),
    );
    let runtime = table([
        ("name", "virt_container".into()),
        ("hypervisor_name", "qemu".into()),
        ("agent_name", "kata".into()),
        ("internetworking_model", "tcfilter".into()),
        ("enable_debug", false.into()),
        ("enable_tracing", false.into()),
        ("enable_pprof", false.into()),
        ("disable_new_netns", false.into()),
        ("disable_guest_seccomp", false.into()),
        // Everything of a sandbox in its own group, below the one that limits it.
        ("sandbox_cgroup_only", true.into()),
        // The machine's size is that of the limits from the start.
        ("static_sandbox_resource_mgmt", true.into()),
        ("sandbox_bind_mounts", Value::Array(Vec::new())),
        ("experimental", Value::Array(Vec::new())),
    ]);
    table([
        ("hypervisor", Value::Table(hypervisor)),
        ("agent", Value::Table(agent)),
        ("runtime", Value::Table(runtime)),
    ])
    .to_string()
}

fn table<const LENGTH: usize>(entries: [(&str, Value); LENGTH]) -> Table {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn monitor(plan: &Plan, files: &MachineFiles) -> Table {
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let only = |one: &std::path::Path| Value::Array(vec![path(one).into()]);
    let mebibytes = i64::try_from(MACHINE_MEBIBYTES).unwrap_or(i64::MAX);
    table([
        ("path", path(&files.monitor).into()),
        ("valid_hypervisor_paths", only(&files.monitor)),
        ("kernel", path(&files.kernel).into()),
        ("image", path(&files.image).into()),
        ("rootfs_type", "ext4".into()),
        ("kernel_params", KERNEL_WORDS.into()),
        ("machine_type", "q35".into()),
        ("enable_annotations", Value::Array(Vec::new())),
        ("seccomp_sandbox", MONITOR_FILTER.into()),
        ("default_vcpus", LEAST_PROCESSORS.into()),
        ("default_memory", mebibytes.into()),
        ("overhead_memory", mebibytes.into()),
        ("shared_fs", "virtio-fs".into()),
        ("virtio_fs_daemon", path(&files.file_server).into()),
        ("valid_virtio_fs_daemon_paths", only(&files.file_server)),
        ("virtio_fs_cache", "auto".into()),
        ("virtio_fs_cache_size", 0.into()),
        ("virtio_fs_extra_args", Value::Array(file_server(plan))),
        // The root file system is ours, mounted already: nothing is handed over as a device.
        ("disable_block_device_use", true.into()),
        ("disable_image_nvdimm", true.into()),
        ("enable_vhost_user_store", false.into()),
        ("enable_hugepages", false.into()),
        ("enable_debug", false.into()),
        ("disable_selinux", true.into()),
        ("disable_guest_selinux", true.into()),
        ("entropy_source", "/dev/urandom".into()),
        ("valid_entropy_sources", Value::Array(vec!["/dev/urandom".into()])),
        ("guest_hook_path", "".into()),
    ])
}

/// What virtiofsd is told: its own walls by name, and whose number on the node each of the
/// machine's is. Numbers that the sandbox does not have reach nothing.
fn file_server(plan: &Plan) -> Vec<Value> {
    let mut words = vec![
        "--thread-pool-size=1",
        "--announce-submounts",
        "--sandbox=namespace",
        "--seccomp=kill",
    ]
    .into_iter()
    .map(str::to_owned)
    .collect::<Vec<_>>();
    words.extend(translation("uid", &plan.uid_map));
    words.extend(translation("gid", &plan.gid_map));
    words.into_iter().map(Value::String).collect()
}

fn translation(kind: &str, map: &IdMap) -> Vec<String> {
    let mapped = map
        .mappings()
        .iter()
        .map(|one| format!("--translate-{kind}=map:{}:{}:{}", one.inside, one.outside, one.length));
    let beyond = u32::MAX - IDS_PER_SANDBOX;
    let rest = format!("--translate-{kind}=forbid-guest:{IDS_PER_SANDBOX}:{beyond}");
    mapped.chain(std::iter::once(rest)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::plan::tests::example;

    fn files() -> MachineFiles {
        MachineFiles {
            monitor: "/opt/kata/bin/qemu-system-x86_64".into(),
            file_server: "/opt/kata/libexec/virtiofsd".into(),
            kernel: "/opt/kata/share/kata-containers/vmlinux.container".into(),
            image: "/opt/kata/share/kata-containers/kata-containers.img".into(),
        }
    }

    /// Whose number on the node one of the machine's is, as virtiofsd reads its words.
    fn translated(words: &[String], inside: u64) -> Option<u64> {
        words.iter().find_map(|word| {
            let (kind, numbers) = word.split_once('=')?.1.split_once(':')?;
            let numbers: Vec<u64> = numbers.split(':').map(|text| text.parse().unwrap()).collect();
            match (kind, numbers.as_slice()) {
                ("map", [from, to, length]) if (*from..from + length).contains(&inside) => {
                    Some(to + inside - from)
                }
                ("forbid-guest", [from, length]) if (*from..from + length).contains(&inside) => {
                    None
                }
                _ => None,
            }
        })
    }

    #[test]
    fn each_number_inside_is_the_plans_and_no_other_reaches_anything() {
        let plan = example();
        for (kind, map) in [("uid", &plan.uid_map), ("gid", &plan.gid_map)] {
            let words = translation(kind, map);
            for inside in [0, 1, 99, 100, 101, 999, 1000, 1001, 65_534, 65_535] {
                let expected = map.to_host(inside).map(u64::from);
                assert_eq!(translated(&words, inside.into()), expected, "{kind} {inside}");
                assert!(expected.is_some());
            }
            assert_eq!(translated(&words, 65_536), None);
            // Every number but the one that means "leave it as it is".
            let last = words.last().unwrap();
            assert_eq!(last, &format!("--translate-{kind}=forbid-guest:65536:4294901759"));
        }
    }

    #[test]
    fn the_whole_file() {
        insta::assert_snapshot!("example", text(&example(), &files()));
        let mut small = example();
        small.limits.memory_bytes = 64 << 20;
        small.limits.cpu_millis = 100;
        small.uid_map = IdMap::with_hole(1_900_065_536, 1, 1_879_048_201);
        small.user.uid = 1;
        insta::assert_snapshot!("small", text(&small, &files()));
    }

    #[test]
    fn a_path_cannot_end_its_own_line() {
        let mut files = files();
        files.kernel = "/k\"\nenable_annotations = [\".*\"]\n#".into();
        let read: Table = text(&example(), &files).parse().unwrap();
        let qemu = &read["hypervisor"]["qemu"];
        assert_eq!(qemu["kernel"].as_str().map(Into::into), Some(files.kernel));
        assert_eq!(qemu["enable_annotations"], Value::Array(Vec::new()));
    }
}
