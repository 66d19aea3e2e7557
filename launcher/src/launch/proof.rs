//! The walls that are seen to stand before a sandbox is claimed: what the
//! kernel says from outside, compared with what was promised. Pure.
//!
//! A check must never pass for want of information: what could not be read
//! counts as a wall that does not stand.

use std::{collections::BTreeMap, path::Path};

use adrastea_runtimes::plan::{IdMap, Plan};

use crate::host::{cgroups::Memory, mounts::MountLine, processes::ProcessStatus};

/// What was seen of a waiting sandbox, from the host.
#[derive(Clone, Debug)]
pub struct Observed {
    pub status: ProcessStatus,
    pub uid_map: String,
    pub gid_map: String,
    /// By kind (`user`, `net`, …): of the sandbox, and of the launcher itself.
    pub namespaces: BTreeMap<&'static str, u64>,
    pub host_namespaces: BTreeMap<&'static str, u64>,
    /// The inodes that were pinned beforehand.
    pub pinned_user: u64,
    pub pinned_network: u64,
    pub mounts: Vec<MountLine>,
    /// Modes of `/tmp`, `/dev/shm` and the like, as they came out.
    pub modes: BTreeMap<&'static str, u32>,
    pub descriptors: Vec<(u32, String)>,
    pub cgroup: String,
    pub memory: Memory,
    pub process_limit: Option<u64>,
    pub cpu_millis: Option<u64>,
}

/// The kinds of namespaces, all of which must be the sandbox's own.
pub const NAMESPACES: [&str; 7] = ["user", "net", "pid", "mnt", "ipc", "uts", "cgroup"];

/// The device nodes a sandbox has.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Directories whose mode runtimes got wrong before.
pub const WORLD_WRITABLE: [&str; 2] = ["/tmp", "/dev/shm"];

/// Every promised wall that does not stand, in words; empty if all do.
pub fn broken_walls(seen: &Observed, plan: &Plan) -> Vec<String> {
    let mut broken = Vec::new();
    identity(seen, plan, &mut broken);
    privileges(&seen.status, &mut broken);
    namespaces(seen, &mut broken);
    mounts(seen, &mut broken);
    limits(seen, plan, &mut broken);
    for (number, target) in &seen.descriptors {
        if target.starts_with('/') && target != "/dev/null" {
            broken.push(format!("descriptors: {number} leads to `{target}`"));
        }
    }
    broken
}

fn identity(seen: &Observed, plan: &Plan, broken: &mut Vec<String>) {
    for (what, text, expected) in
        [("uid map", &seen.uid_map, &plan.uid_map), ("gid map", &seen.gid_map, &plan.gid_map)]
    {
        if !same_map(text, expected) {
            broken.push(format!(
                "{what}: it is `{}`",
                text.split_whitespace().collect::<Vec<_>>().join(" ")
            ));
        }
    }
    let (uid, gid) = (plan.uid_map.to_host(plan.user.uid), plan.gid_map.to_host(plan.user.gid));
    let all_are = |ids: &[u32], expected: Option<u32>| {
        ids.len() == 4 && ids.iter().all(|id| Some(*id) == expected)
    };
    if !all_are(&seen.status.uids, uid) {
        broken.push(format!("identity: the host's uids are {:?}", seen.status.uids));
    }
    if !all_are(&seen.status.gids, gid) {
        broken.push(format!("identity: the host's gids are {:?}", seen.status.gids));
    }
    if seen.status.groups.iter().any(|group| Some(*group) != gid) {
        broken.push(format!("identity: additional groups {:?}", seen.status.groups));
    }
}

fn same_map(text: &str, expected: &IdMap) -> bool {
    let lines = |text: &str| {
        text.lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect::<Vec<Vec<_>>>()
    };
    lines(text) == lines(&expected.to_proc_text())
}

fn privileges(status: &ProcessStatus, broken: &mut Vec<String>) {
    const SETS: [&str; 5] = ["inheritable", "permitted", "effective", "bounding", "ambient"];
    for (set, held) in SETS.iter().zip(status.capabilities) {
        if held != 0 {
            broken.push(format!("capabilities: the {set} set is {held:#x}"));
        }
    }
    if !status.no_new_privileges {
        broken.push("no_new_privs: not set".into());
    }
    if status.seccomp_mode != 2 {
        broken.push(format!("seccomp: mode {} instead of 2 (filter)", status.seccomp_mode));
    }
}

fn namespaces(seen: &Observed, broken: &mut Vec<String>) {
    for kind in NAMESPACES {
        match (seen.namespaces.get(kind), seen.host_namespaces.get(kind)) {
            (Some(own), Some(host)) if own != host => {}
            _ => broken.push(format!("namespaces: {kind} is the host's")),
        }
    }
    for (kind, pinned) in [("user", seen.pinned_user), ("net", seen.pinned_network)] {
        if seen.namespaces.get(kind) != Some(&pinned) {
            broken.push(format!("namespaces: {kind} is not the one that was prepared"));
        }
    }
}

fn mounts(seen: &Observed, broken: &mut Vec<String>) {
    let has =
        |mount: &MountLine, option: &str| mount.options.iter().any(|present| present == option);
    let Some(root) = seen.mounts.iter().rev().find(|mount| mount.point == Path::new("/")) else {
        broken.push("mounts: there is no root".into());
        return;
    };
    for option in ["ro", "nosuid", "nodev"] {
        if !has(root, option) {
            broken.push(format!("mounts: the root is not {option}"));
        }
    }
    for required in ["/proc", "/dev", "/dev/pts", "/dev/shm", "/tmp", "/run", "/sys"] {
        if !seen.mounts.iter().any(|mount| mount.point == Path::new(required)) {
            broken.push(format!("mounts: {required} is not mounted"));
        }
    }
    for mount in &seen.mounts {
        let point = mount.point.display().to_string();
        // Single device nodes are bound from the host in a user namespace: the one of that
        // name in /dev, or /dev/null over a file that is masked. They are no file systems.
        let device = mount.file_system == "devtmpfs" || mount.file_system == "tmpfs";
        let node = DEVICES
            .iter()
            .any(|name| mount.root == format!("/{name}") && point == format!("/dev/{name}"));
        let mask = mount.root == "/null"
            && ["/proc", "/sys"].iter().any(|base| mount.point.starts_with(base));
        if device && (node || mask) {
            continue;
        }
        let below = ["/proc", "/sys", "/dev", "/tmp", "/run"]
            .iter()
            .any(|base| mount.point.starts_with(base));
        if !below && point != "/" {
            broken.push(format!("mounts: `{point}` was not planned"));
        }
        // /dev must allow the device nodes bound below it, and nothing else must.
        if has(mount, "rw")
            && !(has(mount, "nosuid")
                && (has(mount, "nodev") || point == "/dev" || point == "/dev/pts"))
        {
            broken.push(format!("mounts: `{point}` is writable without nosuid,nodev"));
        }
    }
    for directory in WORLD_WRITABLE {
        match seen.modes.get(directory) {
            Some(0o1777) => {}
            Some(mode) => broken.push(format!("modes: {directory} has {mode:o} instead of 1777")),
            None => broken.push(format!("modes: {directory} could not be read")),
        }
    }
}

fn limits(seen: &Observed, plan: &Plan, broken: &mut Vec<String>) {
    // Version 1 names one group per controller; every one of them must be ours.
    let foreign = seen.cgroup.lines().find(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) =
            (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        // In hybrid mode the unified hierarchy has no controllers.
        let limits_something = controllers.split(',').any(|controller| {
            ["memory", "pids", "cpu", "devices", "freezer"].contains(&controller)
        });
        let unified_alone = controllers.is_empty() && seen.cgroup.lines().count() == 1;
        (limits_something || unified_alone) && path != plan.cgroup
    });
    if let Some(line) = foreign {
        broken.push(format!("cgroup: `{line}` instead of {}", plan.cgroup));
    }
    // The kernel rounds to pages.
    let page = 64 << 10;
    if seen.memory.limit_bytes.is_none_or(|limit| {
        limit > plan.limits.memory_bytes || limit + page < plan.limits.memory_bytes
    }) {
        broken.push(format!(
            "limits: memory is {:?} instead of {}",
            seen.memory.limit_bytes, plan.limits.memory_bytes
        ));
    }
    if seen.process_limit != Some(plan.limits.processes.into()) {
        broken.push(format!(
            "limits: processes are {:?} instead of {}",
            seen.process_limit, plan.limits.processes
        ));
    }
    if seen.cpu_millis != Some(plan.limits.cpu_millis) {
        broken.push(format!(
            "limits: cpu is {:?} thousandths instead of {}",
            seen.cpu_millis, plan.limits.cpu_millis
        ));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use adrastea_runtimes::plan::{ImageUser, Limits};

    use super::*;

    fn plan() -> Plan {
        Plan {
            id: "saaaaaaaaaaa".parse().unwrap(),
            hostname: "sandbox".into(),
            rootfs: "/r".into(),
            init: "/.adrastea/init".into(),
            user_namespace: "/u".into(),
            network_namespace: "/n".into(),
            uid_map: IdMap::with_hole(2_000_000, 1000, 70_000),
            gid_map: IdMap::with_hole(2_000_000, 100, 70_000),
            user: ImageUser { uid: 1000, gid: 100, home: "/home/jovyan".into() },
            cgroup: "/adrastea/saaaaaaaaaaa".into(),
            limits: Limits {
                memory_bytes: 1 << 30,
                cpu_millis: 1000,
                processes: 512,
                open_files: 4096,
                tmp_bytes: 1 << 20,
                shm_bytes: 1 << 20,
            },
        }
    }

    fn line(point: &str, options: &str) -> MountLine {
        MountLine {
            root: "/".into(),
            point: point.into(),
            options: options.split(',').map(str::to_owned).collect(),
            file_system: "x".into(),
        }
    }

    fn standing() -> Observed {
        let numbers = |first: u64| NAMESPACES.into_iter().zip(first..).collect::<BTreeMap<_, _>>();
        Observed {
            status: ProcessStatus {
                uids: vec![70_000; 4],
                gids: vec![70_000; 4],
                groups: vec![],
                no_new_privileges: true,
                seccomp_mode: 2,
                capabilities: [0; 5],
            },
            uid_map: "         0    2000000       1000\n      1000      70000          1\n      1001    2001001      64535\n".into(),
            gid_map: plan().gid_map.to_proc_text(),
            namespaces: numbers(10),
            host_namespaces: numbers(100),
            pinned_user: 10,
            pinned_network: 11,
            mounts: vec![
                line("/", "ro,nosuid,nodev"),
                line("/proc", "rw,nosuid,nodev,noexec"),
                line("/dev", "rw,nosuid,noexec"),
                line("/dev/pts", "rw,nosuid,noexec"),
                MountLine { root: "/null".into(), file_system: "devtmpfs".into(), ..line("/dev/null", "rw") },
                MountLine { root: "/null".into(), file_system: "devtmpfs".into(), ..line("/proc/kcore", "rw") },
                line("/dev/shm", "rw,nosuid,nodev,noexec"),
                line("/tmp", "rw,nosuid,nodev"),
                line("/run", "rw,nosuid,nodev"),
                line("/sys", "ro,nosuid,nodev,noexec"),
            ],
            modes: BTreeMap::from([("/tmp", 0o1777), ("/dev/shm", 0o1777)]),
            descriptors: vec![(0, "pipe:[1]".into()), (3, "anon_inode:[signalfd]".into())],
            cgroup: "8:pids:/adrastea/saaaaaaaaaaa\n4:memory:/adrastea/saaaaaaaaaaa\n0::/\n".into(),
            memory: Memory { limit_bytes: Some(1 << 30), used_bytes: 0, kills: 0 },
            process_limit: Some(512),
            cpu_millis: Some(1000),
        }
    }

    #[test]
    fn all_walls_stand() {
        assert_eq!(broken_walls(&standing(), &plan()), Vec::<String>::new());
    }

    #[test]
    fn each_broken_wall_is_named() {
        type Break = fn(&mut Observed);
        let cases: [(&str, Break); 24] = [
            ("uid map", |seen| seen.uid_map = "0 0 4294967295\n".into()),
            ("gid map", |seen| seen.gid_map.clear()),
            ("identity", |seen| seen.status.uids = vec![0; 4]),
            ("identity", |seen| seen.status.gids = vec![]),
            ("identity", |seen| seen.status.groups = vec![27]),
            ("capabilities", |seen| seen.status.capabilities[3] = 1),
            ("no_new_privs", |seen| seen.status.no_new_privileges = false),
            ("seccomp", |seen| seen.status.seccomp_mode = 0),
            ("namespaces", |seen| seen.namespaces = seen.host_namespaces.clone()),
            ("namespaces", |seen| seen.pinned_network = 99),
            ("mounts", |seen| seen.mounts[0] = line("/", "rw,nosuid,nodev")),
            ("mounts", |seen| seen.mounts[0] = line("/", "ro,nodev")),
            ("mounts", |seen| seen.mounts.push(line("/host", "ro,nosuid,nodev"))),
            ("mounts", |seen| seen.mounts[4].root = "/sda".into()),
            ("mounts", |seen| {
                seen.mounts.push(MountLine {
                    root: "/mem".into(),
                    file_system: "devtmpfs".into(),
                    ..line("/dev/mem", "rw")
                });
            }),
            ("mounts", |seen| seen.mounts[7] = line("/tmp", "rw,nodev")),
            ("mounts", |seen| seen.mounts.retain(|mount| mount.point != Path::new("/sys"))),
            ("modes", |seen| seen.modes.extend([("/tmp", 0o755)])),
            ("modes", |seen| seen.modes.clear()),
            ("descriptors", |seen| seen.descriptors.push((7, "/run/containerd/x".into()))),
            ("cgroup", |seen| seen.cgroup = "4:memory:/\n8:pids:/adrastea/saaaaaaaaaaa\n".into()),
            ("limits", |seen| seen.memory.limit_bytes = None),
            ("limits", |seen| seen.process_limit = None),
            ("limits", |seen| seen.cpu_millis = None),
        ];
        for (wall, change) in cases {
            let mut seen = standing();
            change(&mut seen);
            let broken = broken_walls(&seen, &plan());
            assert!(broken.iter().any(|line| line.starts_with(wall)), "{wall}: {broken:?}");
        }
    }
}
