//! Every wall broken in turn, on what a real sandbox showed.
#![allow(clippy::unwrap_used)]

use adrastea_runtimes::{
    plan::{IdMap, ImageUser, Limits},
    spec,
};

use super::*;
use crate::host::mounts::parse_mountinfo;

/// As a sandbox under runc had it.
const MOUNTS: &str = include_str!("standing.mountinfo");

pub(in crate::launch) fn plan() -> Plan {
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
        apparmor_profile: None,
        limits: Limits {
            memory_bytes: 1 << 30,
            cpu_millis: 1000,
            processes: 512,
            open_files: 4096,
            tmp_bytes: 16 << 20,
            shm_bytes: 16 << 20,
        },
    }
}

pub(super) fn base() -> Spec {
    spec::base(&plan()).unwrap()
}

pub(super) fn group_limits() -> GroupLimits {
    let memory =
        Memory { limit_bytes: Some(1 << 30), with_swap_bytes: Some(1 << 30), ..Memory::default() };
    GroupLimits { memory, processes: Some(512), cpu_millis: Some(1000) }
}

pub(super) fn rlimits() -> BTreeMap<String, (String, String)> {
    [
        ("core file size", "0"),
        ("open files", "4096"),
        ("locked memory", "65536"),
        ("msgqueue size", "819200"),
        ("nice priority", "0"),
        ("realtime priority", "0"),
        ("pending signals", "4096"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), (value.to_owned(), value.to_owned())))
    .collect()
}

pub(super) fn devices() -> BTreeMap<String, Option<(u64, u64)>> {
    let numbered = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];
    let mut devices: BTreeMap<String, Option<(u64, u64)>> =
        numbered.into_iter().map(|(name, minor)| (name.into(), Some((1, minor)))).collect();
    devices.insert("tty".into(), Some((5, 0)));
    devices.extend(["ptmx", "pts", "shm", "fd"].map(|name| (name.into(), None)));
    devices
}

fn standing() -> Observed {
    let numbers = |first: u64| NAMESPACES.into_iter().zip(first..).collect::<BTreeMap<_, _>>();
    let mounts = parse_mountinfo(MOUNTS);
    let covered = |mount: &&MountLine| {
        let is_below = |base| mount.point.starts_with(base) && mount.point.as_os_str() != base;
        is_below("/proc") || is_below("/sys")
    };
    Observed {
        status: ProcessStatus {
            uids: vec![70_000; 4],
            gids: vec![70_000; 4],
            groups: vec![],
            no_new_privileges: true,
            seccomp_mode: 2,
            capabilities: [0; 5],
            pid_inside: Some(1),
            tracer: Some(0),
        },
        uid_map: "         0    2000000       1000\n      1000      70000          1\n      1001    2001001      64535\n".into(),
        gid_map: plan().gid_map.to_proc_text(),
        namespaces: numbers(10),
        host_namespaces: numbers(100),
        pinned_user: 10,
        pinned_network: 11,
        shared_with: vec![],
        program: "/.adrastea/init".into(),
        environment: vec!["HOME=/".into(), "PATH=/usr/local/bin:/usr/bin:/bin".into()],
        guarded_by: 2_000_000,
        rlimits: rlimits(),
        oom_score_adj: Some(500),
        present: mounts.iter().filter(covered).map(|mount| mount.point.clone()).collect(),
        mounts,
        modes: BTreeMap::from([("/tmp", 0o1777), ("/dev/shm", 0o1777)]),
        devices: devices(),
        descriptors: vec![(0, "pipe:[1]".into()), (3, "anon_inode:[signalfd]".into())],
        cgroup: "8:pids:/adrastea/saaaaaaaaaaa\n4:memory:/adrastea/saaaaaaaaaaa\n0::/\n".into(),
        processes: BTreeSet::from([4711]),
        pid: 4711,
        limits: group_limits(),
        landlock: 6,
        landlock_offered: 6,
        label: None,
        core_cookie: None,
    }
}

fn mount<'seen>(seen: &'seen mut Observed, point: &str) -> &'seen mut MountLine {
    seen.mounts.iter_mut().find(|mount| mount.point.as_os_str() == point).unwrap()
}

fn without(seen: &mut Observed, point: &str, option: &str) {
    mount(seen, point).options.retain(|one| one != option);
}

fn unlimited(seen: &mut Observed, point: &str, option: &str) {
    mount(seen, point).super_options.retain(|one| !one.starts_with(option));
}

#[test]
fn all_walls_stand() {
    assert_eq!(broken_walls(&standing(), &plan(), &base()), Vec::<String>::new());
}

#[test]
fn the_filter_was_tried_and_refused_everything() {
    assert_eq!(super::broken_filter(Some(&[])), None);
    let through = ["clone".to_owned(), "ioctl".to_owned()];
    let said = super::broken_filter(Some(&through)).unwrap();
    assert_eq!(said, "seccomp: the filter lets through clone, ioctl");
    assert!(super::broken_filter(None).unwrap().contains("did not try"));
}

#[test]
fn each_broken_wall_is_named() {
    type Break = fn(&mut Observed);
    let cases: [(&str, Break); 57] = [
        ("uid map", |seen| seen.uid_map = "0 0 4294967295\n".into()),
        ("gid map", |seen| seen.gid_map.clear()),
        ("identity", |seen| seen.status.uids = vec![0; 4]),
        ("identity", |seen| seen.status.gids = vec![]),
        ("identity", |seen| seen.status.groups = vec![27]),
        ("capabilities", |seen| seen.status.capabilities[3] = 1),
        ("no_new_privs", |seen| seen.status.no_new_privileges = false),
        ("seccomp", |seen| seen.status.seccomp_mode = 0),
        ("tracing", |seen| seen.status.tracer = Some(1)),
        ("tracing", |seen| seen.status.tracer = None),
        ("namespaces", |seen| seen.namespaces = seen.host_namespaces.clone()),
        ("namespaces", |seen| seen.namespaces.retain(|kind, _| *kind != "uts")),
        ("namespaces", |seen| seen.pinned_network = 99),
        ("namespaces", |seen| seen.shared_with.push(("ipc", "sbbbbbbbbbbb".into()))),
        ("namespaces", |seen| seen.status.pid_inside = Some(7)),
        ("init", |seen| seen.program = "/bin/sh".into()),
        ("environment", |seen| seen.environment.push("TOKEN=secret".into())),
        ("environment", |seen| seen.environment.clear()),
        ("inspection", |seen| seen.guarded_by = 70_000),
        ("rlimits", |seen| {
            seen.rlimits.insert("open files".into(), ("4096".into(), "1048576".into()));
        }),
        ("rlimits", |seen| drop(seen.rlimits.remove("core file size"))),
        ("oom score", |seen| seen.oom_score_adj = Some(0)),
        ("oom score", |seen| seen.oom_score_adj = None),
        ("mounts", |seen| without(seen, "/", "ro")),
        ("mounts", |seen| without(seen, "/", "nosuid")),
        ("mounts", |seen| without(seen, "/", "nodev")),
        ("mounts", |seen| without(seen, "/tmp", "nosuid")),
        ("mounts", |seen| without(seen, "/dev/shm", "noexec")),
        ("mounts", |seen| without(seen, "/sys", "ro")),
        ("mounts", |seen| without(seen, "/dev", "ro")),
        ("mounts", |seen| unlimited(seen, "/tmp", "size=")),
        ("mounts", |seen| unlimited(seen, "/tmp", "nr_inodes=")),
        ("mounts", |seen| {
            unlimited(seen, "/dev/shm", "size=");
            mount(seen, "/dev/shm").super_options.push("size=16388k".into());
        }),
        ("mounts", |seen| mount(seen, "/run").file_system = "ext4".into()),
        ("mounts", |seen| mount(seen, "/tmp").propagates = true),
        ("mounts", |seen| mount(seen, "/dev/null").root = "/sda".into()),
        ("mounts", |seen| mount(seen, "/dev/null").point = "/dev/mem".into()),
        ("mounts", |seen| {
            let host = MountLine { point: "/host".into(), ..seen.mounts[0].clone() };
            seen.mounts.push(host);
        }),
        ("mounts", |seen| {
            let twice = seen.mounts[1].clone();
            seen.mounts.push(twice);
        }),
        ("mounts", |seen| seen.mounts.retain(|mount| mount.point.as_os_str() != "/sys")),
        ("mounts", |seen| seen.mounts.clear()),
        ("masks", |seen| seen.mounts.retain(|mount| !mount.point.ends_with("kallsyms"))),
        ("masks", |seen| mount(seen, "/proc/keys").root = "/keys".into()),
        ("masks", |seen| without(seen, "/sys/firmware", "ro")),
        ("masks", |seen| without(seen, "/proc/sys", "ro")),
        ("devices", |seen| seen.devices.retain(|name, _| name != "urandom")),
        ("devices", |seen| seen.devices.extend([("null".into(), Some((1, 1)))])),
        ("devices", |seen| seen.devices.extend([("kmsg".into(), Some((1, 11)))])),
        ("modes", |seen| seen.modes.extend([("/tmp", 0o755)])),
        ("modes", |seen| seen.modes.clear()),
        ("descriptors", |seen| seen.descriptors.push((7, "/run/containerd/x".into()))),
        ("cgroup", |seen| seen.cgroup = "4:memory:/\n8:pids:/adrastea/saaaaaaaaaaa\n".into()),
        ("cgroup", |seen| seen.processes = BTreeSet::from([4711, 4712])),
        ("limits", |seen| seen.limits.memory.limit_bytes = None),
        ("limits", |seen| seen.limits.memory.with_swap_bytes = Some(2 << 30)),
        ("limits", |seen| seen.limits.processes = None),
        ("limits", |seen| seen.limits.cpu_millis = None),
    ];
    let later: [(&str, Break); 4] = [
        ("cgroup", |seen| seen.cgroup.clear()),
        ("cgroup", |seen| seen.processes.clear()),
        ("landlock", |seen| seen.landlock = 0),
        ("core scheduling", |seen| seen.core_cookie = Some(false)),
    ];
    for (wall, change) in cases.into_iter().chain(later) {
        let mut seen = standing();
        change(&mut seen);
        let broken = broken_walls(&seen, &plan(), &base());
        assert!(broken.iter().any(|line| line.starts_with(wall)), "{wall}: {broken:?}");
    }
}

#[test]
fn a_label_that_was_promised_must_hold() {
    let base = spec::base(&Plan { apparmor_profile: Some("adrastea-sandbox"), ..plan() }).unwrap();
    let with = |label: Option<&str>| {
        let seen = Observed { label: label.map(str::to_owned), ..standing() };
        broken_walls(&seen, &plan(), &base).len()
    };
    assert_eq!(with(Some("adrastea-sandbox (enforce)")), 0);
    for label in [None, Some("unconfined"), Some("adrastea-sandbox (complain)")] {
        assert_eq!(with(label), 1, "{label:?}");
    }
}

#[test]
fn a_secret_is_never_named() {
    let mut seen = standing();
    seen.environment.push("TOKEN=secret".into());
    assert!(!format!("{:?}", broken_walls(&seen, &plan(), &base())).contains("secret"));
}
