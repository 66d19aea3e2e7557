//! Every wall of a jail broken in turn, and every wall that the init tells of, on what a
//! real sandbox under gVisor showed.
use std::path::PathBuf;

use adrastea_runtimes::gvisor::Gvisor;

use super::{
    jail::Jailed,
    tests::{base, devices, group_limits, plan, rlimits},
    *,
};
use crate::host::mounts::parse_mountinfo;

const STATUS: &str = include_str!("inside.status");
const MOUNTS: &str = include_str!("inside.mountinfo");

fn jailed(pid: u32, name: &str, first_inode: u64, mounts: &str) -> Jailed {
    let own = |kind: &str| kind != "pid" && kind != "cgroup";
    Jailed {
        pid,
        name: name.into(),
        status: ProcessStatus {
            uids: vec![2_000_000; 4],
            gids: vec![2_000_000; 4],
            groups: vec![],
            no_new_privileges: true,
            seccomp_mode: 2,
            capabilities: [0, 0x8_001f, 0x8_001f, 0x8_001f, 0],
            pid_inside: Some(pid),
            tracer: Some(0),
        },
        uid_map: plan().uid_map.to_proc_text(),
        gid_map: plan().gid_map.to_proc_text(),
        namespaces: NAMESPACES
            .into_iter()
            .zip(0..)
            .map(|(kind, number)| (kind, number + if own(kind) { first_inode } else { 100 }))
            .collect(),
        cgroup: "8:pids:/adrastea/saaaaaaaaaaa\n4:memory:/adrastea/saaaaaaaaaaa\n0::/\n".into(),
        mounts: parse_mountinfo(mounts),
        oom_score_adj: Some(500),
    }
}

fn standing() -> Jail {
    let sentry = "137 105 0:46 / / ro,relatime - tmpfs runsc-root rw,uid=2000000,gid=2000000\n";
    let gofer = "138 133 0:39 / / ro,nosuid,nodev - overlay overlay ro,lowerdir=0:1\n\
                 106 138 0:39 /home /home ro,nosuid,nodev - overlay overlay ro,lowerdir=0:1\n";
    Jail {
        pid: 4711,
        processes: vec![
            jailed(4710, "runsc-gofer", 20, gofer),
            jailed(4711, "runsc-sandbox", 10, sentry),
            Jailed { oom_score_adj: Some(1), ..jailed(4712, "", 10, sentry) },
        ],
        // A systrap sentry has these in common with everything.
        shared_with: vec![("pid", "sbbbbbbbbbbb".into())],
        host_namespaces: NAMESPACES.into_iter().zip(100..).collect(),
        pinned_network: 11,
        limits: group_limits(),
        core_cookie: None,
    }
}

fn told() -> Report {
    let mut devices = devices();
    devices.extend([("fuse".into(), Some((10, 229))), ("net".into(), None)]);
    Report {
        status: STATUS.into(),
        mountinfo: MOUNTS.into(),
        environment: vec!["HOME=/".into(), "PATH=/usr/local/bin:/usr/bin:/bin".into()],
        rlimits: rlimits(),
        modes: [("/tmp", 0o1777), ("/dev/shm", 0o1777), ("/dev", 0o755)]
            .map(|(path, mode)| (path.to_owned(), mode))
            .into(),
        devices,
        descriptors: vec![(0, "host:[1]".into()), (3, "anon_inode:[signalfd]".into())],
        program: PathBuf::from("/.adrastea/init"),
        no_new_privileges: true,
    }
}

fn broken(seen: &Jail, report: &Report) -> Vec<String> {
    broken_walls_of_own_kernel(seen, Some(report), &Gvisor, &plan(), &base())
}

#[test]
fn all_walls_stand() {
    assert_eq!(broken(&standing(), &told()), Vec::<String>::new());
}

#[test]
fn each_broken_wall_of_the_jail_is_named() {
    type Break = fn(&mut Jail);
    let cases: [(&str, Break); 27] = [
        ("uid map", |seen| seen.processes[1].uid_map = "0 0 4294967295\n".into()),
        ("gid map", |seen| seen.processes[0].gid_map.clear()),
        ("identity", |seen| seen.processes[1].status.uids = vec![0; 4]),
        ("identity", |seen| seen.processes[2].status.gids = vec![0; 4]),
        ("identity", |seen| seen.processes[0].status.groups = vec![27]),
        ("capabilities", |seen| seen.processes[1].status.capabilities[2] |= 1 << 21),
        ("capabilities", |seen| seen.processes[0].status.capabilities = [u64::MAX; 5]),
        ("no_new_privs", |seen| seen.processes[2].status.no_new_privileges = false),
        ("seccomp", |seen| seen.processes[1].status.seccomp_mode = 0),
        ("tracing", |seen| seen.processes[1].status.tracer = Some(1)),
        ("tracing", |seen| seen.processes[1].status.tracer = None),
        ("namespaces", |seen| seen.pinned_network = 99),
        ("namespaces", |seen| {
            seen.processes[1].namespaces.insert("mnt", 103);
        }),
        ("namespaces", |seen| {
            seen.processes[0].namespaces.remove("user");
        }),
        ("namespaces", |seen| seen.shared_with.push(("ipc", "sbbbbbbbbbbb".into()))),
        ("namespaces", |seen| {
            seen.processes.remove(1);
        }),
        ("jail", |seen| {
            seen.processes.remove(0);
        }),
        ("cgroup", |seen| seen.processes[0].cgroup = "4:memory:/\n8:pids:/\n".into()),
        ("cgroup", |seen| seen.processes[2].cgroup.clear()),
        ("oom score", |seen| seen.processes[1].oom_score_adj = Some(0)),
        ("mounts", |seen| seen.processes[0].mounts[1].options.retain(|one| one != "nosuid")),
        ("mounts", |seen| seen.processes[1].mounts[0].file_system = "ext4".into()),
        ("mounts", |seen| seen.processes[1].mounts[0].propagates = true),
        ("mounts", |seen| seen.processes[1].mounts.clear()),
        ("limits", |seen| seen.limits.memory.limit_bytes = None),
        ("limits", |seen| seen.limits.processes = None),
        ("core scheduling", |seen| seen.core_cookie = Some(false)),
    ];
    for (wall, change) in cases {
        let mut seen = standing();
        change(&mut seen);
        let found = broken(&seen, &told());
        assert!(found.iter().any(|line| line.starts_with(wall)), "{wall}: {found:?}");
    }
}

#[test]
fn each_broken_wall_that_the_init_tells_of_is_named() {
    type Break = fn(&mut Report);
    let replaced = |report: &mut Report, old: &str, new: &str| {
        assert!(report.status.contains(old) || report.mountinfo.contains(old), "{old}");
        report.status = report.status.replace(old, new);
        report.mountinfo = report.mountinfo.replace(old, new);
    };
    for (wall, old, new) in [
        ("identity", "Uid:\t1000\t1000", "Uid:\t0\t0"),
        ("identity", "Gid:\t100\t", "Gid:\t0\t"),
        ("identity", "Groups:\t", "Groups:\t27"),
        ("capabilities", "CapBnd:\t0000000000000000", "CapBnd:\t0000000000000001"),
        ("capabilities", "CapPrm:\t0000000000000000\n", ""),
        ("seccomp", "Seccomp:\t2", "Seccomp:\t0"),
        ("mounts", "/ / ro -", "/ / rw -"),
        ("mounts", "/ /sys ro,noexec", "/ /sys rw,noexec"),
        ("mounts", "/ /proc rw,noexec", "/ /proc rw"),
        ("mounts", "/dev/pts rw,noexec - devpts", "/dev/pts rw,noexec - tmpfs"),
        ("mounts", ",size=16777216", ""),
        ("mounts", "size=16777216", "size=16777217"),
        ("mounts", " /home rw", " /host rw"),
        ("mounts", " /run rw", " /tmp rw"),
    ] {
        let mut report = told();
        replaced(&mut report, old, new);
        let found = broken(&standing(), &report);
        assert!(found.iter().any(|line| line.starts_with(wall)), "{wall}, {new}: {found:?}");
    }
    let cases: [(&str, Break); 13] = [
        ("no_new_privs", |told| told.no_new_privileges = false),
        ("identity", |told| told.status.clear()),
        ("mounts", |told| told.mountinfo.clear()),
        ("init", |told| told.program = "/bin/sh".into()),
        ("environment", |told| told.environment.push("TOKEN=secret".into())),
        ("rlimits", |told| {
            told.rlimits.remove("open files");
        }),
        ("modes", |told| {
            told.modes.insert("/tmp".into(), 0o755);
        }),
        ("modes", |told| {
            told.modes.insert("/dev".into(), 0o777);
        }),
        ("modes", |told| told.modes.clear()),
        ("devices", |told| {
            told.devices.insert("kvm".into(), Some((10, 232)));
        }),
        ("devices", |told| {
            told.devices.insert("null".into(), Some((1, 1)));
        }),
        ("devices", |told| told.devices.clear()),
        ("descriptors", |told| told.descriptors.push((7, "/run/containerd/x".into()))),
    ];
    for (wall, change) in cases {
        let mut report = told();
        change(&mut report);
        let found = broken(&standing(), &report);
        assert!(found.iter().any(|line| line.starts_with(wall)), "{wall}: {found:?}");
        assert!(!format!("{found:?}").contains("secret"));
    }
}
