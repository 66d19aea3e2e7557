//! Every wall of a machine broken in turn: of its processes, and of what its init tells. What
//! stands at the beginning is what Kata 4.1.0 showed on a machine without KVM.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use adrastea_runtimes::{
    MachineFiles, Runtime, RuntimeSettings, build_configuration, floor, kata::Kata,
};

use super::{
    machine::{Machine, Part, Programs},
    tests::{base, devices, plan, rlimits},
    *,
};

const MONITOR: &str = "/opt/kata/bin/qemu-system-x86_64";
const SERVER: &str = "/opt/kata/libexec/virtiofsd";
const SHIM: &str = "/opt/kata/bin/containerd-shim-kata-v2";

/// As such a kernel showed them: a Linux of its own, the root and the home served by virtiofsd.
const MOUNTS: &str = include_str!("guest.mountinfo");

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn part(pid: u32, program: &str, words: Vec<String>, seccomp_mode: u32) -> Part {
    let group = "/adrastea/saaaaaaaaaaa/machine";
    Part {
        pid,
        program: program.into(),
        words,
        status: ProcessStatus { seccomp_mode, tracer: Some(0), ..ProcessStatus::default() },
        network: 11,
        cgroup: format!("8:pids:{group}\n4:memory:{group}\n0::/\n"),
        oom_score_adj: Some(500),
    }
}

fn settings() -> RuntimeSettings {
    RuntimeSettings {
        binary: SHIM.into(),
        root: "/run/adrastea/kata".into(),
        program: "Kata".into(),
        version: "4.1.0".parse().unwrap(),
        shim: None,
        machine: Some(MachineFiles {
            monitor: MONITOR.into(),
            file_server: SERVER.into(),
            kernel: "/opt/kata/kernel".into(),
            image: "/opt/kata/image".into(),
        }),
    }
}

fn standing() -> Machine {
    let filter = "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
    let mut served = words("virtiofsd --sandbox=namespace --seccomp=kill --cache auto");
    served.extend(floor::expected_translation(&plan()));
    let around = Kata.around(&plan()).unwrap();
    let memory = Memory {
        limit_bytes: Some(around.memory_bytes),
        with_swap_bytes: Some(around.memory_bytes),
        ..Memory::default()
    };
    Machine {
        pid: 4711,
        configuration: build_configuration(&Kata, &plan(), &settings()).unwrap().unwrap(),
        programs: Programs { monitor: MONITOR.into(), file_server: SERVER.into() },
        parts: vec![
            part(4700, SHIM, words("shim -namespace adrastea"), 0),
            part(4709, SERVER, served.clone(), 0),
            part(4710, SERVER, served, 2),
            part(4711, MONITOR, words(&format!("qemu -m 1280M {filter} -nographic")), 2),
        ],
        beside: BTreeSet::new(),
        pinned_network: 11,
        limits: GroupLimits {
            memory,
            processes: Some(around.processes.into()),
            cpu_millis: Some(around.cpu_millis),
        },
        core_cookie: None,
    }
}

fn told() -> Report {
    let mut rlimits = rlimits();
    rlimits.insert("processes".into(), ("512".into(), "512".into()));
    let mut devices = devices();
    devices.insert("kcore".into(), None);
    Report {
        status: "Pid:\t1\nTracerPid:\t0\nUid:\t1000\t1000\t1000\t1000\nGid:\t100\t100\t100\t100\n\
                 Groups:\t \nNSpid:\t1\nCapInh:\t0\nCapPrm:\t0\nCapEff:\t0\nCapBnd:\t0\nCapAmb:\t0\n\
                 NoNewPrivs:\t1\nSeccomp:\t2\n"
            .into(),
        mountinfo: MOUNTS.into(),
        environment: vec!["HOME=/".into(), "PATH=/usr/local/bin:/usr/bin:/bin".into()],
        rlimits,
        modes: [("/tmp", 0o1777), ("/dev/shm", 0o1777), ("/dev", 0o755)]
            .map(|(path, mode)| (path.to_owned(), mode))
            .into(),
        devices,
        descriptors: vec![(0, "pipe:[1]".into()), (3, "anon_inode:[signalfd]".into())],
        program: PathBuf::from("/.adrastea/init"),
        no_new_privileges: true,
    }
}

fn broken(seen: &Machine, report: Option<&Report>) -> Vec<String> {
    broken_walls_of_machine(seen, report, &Kata, &plan(), &base())
}

#[test]
fn all_walls_stand() {
    assert_eq!(broken(&standing(), Some(&told())), Vec::<String>::new());
    assert_eq!(broken(&standing(), None), Vec::<String>::new());
}

#[test]
fn each_broken_wall_of_its_processes_is_named() {
    type Break = fn(&mut Machine);
    fn drop_word(part: &mut Part, beginning: &str) {
        part.words.retain(|word| !word.starts_with(beginning));
    }
    let cases: [(&str, Break); 35] = [
        ("machine", |seen| seen.configuration.clear()),
        ("machine", |seen| {
            seen.configuration = seen.configuration.replace("= []", "= [\".*\"]");
        }),
        ("machine", |seen| drop(seen.parts.remove(3))),
        ("machine", |seen| seen.parts.push(part(4712, MONITOR, vec![], 2))),
        ("machine", |seen| seen.programs = Programs::default()),
        ("machine", |seen| drop_word(&mut seen.parts[3], "-sandbox")),
        ("machine", |seen| drop_word(&mut seen.parts[3], "on,")),
        ("machine", |seen| seen.parts[3].words[4] = "on,obsolete=deny".into()),
        ("machine", |seen| seen.parts[3].words[4].push_str(",spawn=allow")),
        ("machine", |seen| seen.parts[3].status.seccomp_mode = 0),
        ("machine", |seen| seen.parts[2].status.seccomp_mode = 0),
        ("machine", |seen| seen.parts.retain(|part| part.program != SERVER)),
        ("machine", |seen| drop_word(&mut seen.parts[1], "--sandbox")),
        ("machine", |seen| drop_word(&mut seen.parts[2], "--seccomp")),
        ("machine", |seen| seen.parts[2].words.push("--sandbox=none".into())),
        ("machine", |seen| seen.parts[2].words.push("--seccomp".into())),
        ("machine", |seen| seen.parts.push(part(4713, "/bin/sh", vec![], 2))),
        ("machine", |seen| seen.parts[0].program.push_str(" (deleted)")),
        ("id translation", |seen| drop_word(&mut seen.parts[1], "--translate-uid")),
        ("id translation", |seen| drop_word(&mut seen.parts[2], "--translate-gid")),
        ("id translation", |seen| drop_word(&mut seen.parts[2], "--translate-uid=forbid")),
        ("id translation", |seen| seen.parts[2].words.push("--translate-uid=map:7:0:1".into())),
        ("id translation", |seen| {
            for word in &mut seen.parts[2].words {
                *word = word.replace(":70000:", ":70001:");
            }
        }),
        ("namespaces", |seen| seen.parts[3].network = 100),
        ("tracing", |seen| seen.parts[1].status.tracer = Some(9)),
        ("tracing", |seen| seen.parts[0].status.tracer = None),
        ("oom score", |seen| seen.parts[3].oom_score_adj = Some(-998)),
        ("oom score", |seen| seen.parts[2].oom_score_adj = None),
        ("cgroup", |seen| seen.parts[0].cgroup = "4:memory:/adrastea/saaaaaaaaaaa\n".into()),
        ("cgroup", |seen| seen.parts[3].cgroup.clear()),
        ("cgroup", |seen| seen.pid = 1),
        ("cgroup", |seen| seen.beside = BTreeSet::from([4714])),
        ("limits", |seen| seen.limits.memory.limit_bytes = None),
        ("limits", |seen| seen.limits.processes = None),
        ("core scheduling", |seen| seen.core_cookie = Some(false)),
    ];
    for (wall, change) in cases {
        let mut seen = standing();
        change(&mut seen);
        let broken = broken(&seen, None);
        assert!(broken.iter().any(|line| line.starts_with(wall)), "{wall}: {broken:?}");
    }
}

#[test]
fn each_broken_wall_inside_is_named() {
    type Break = fn(&mut Report);
    fn mounted(report: &mut Report, from: &str, to: &str) {
        assert!(report.mountinfo.contains(from), "{from}");
        report.mountinfo = report.mountinfo.replacen(from, to, 1);
    }
    fn status(report: &mut Report, from: &str, to: &str) {
        assert!(report.status.contains(from), "{from}");
        report.status = report.status.replacen(from, to, 1);
    }
    let cases: [(&str, Break); 28] = [
        ("identity", |told| status(told, "Uid:\t1000", "Uid:\t0")),
        ("identity", |told| status(told, "Gid:\t100\t100", "Gid:\t100\t0")),
        ("identity", |told| status(told, "Groups:\t ", "Groups:\t0 ")),
        ("namespaces", |told| status(told, "NSpid:\t1", "NSpid:\t77")),
        ("capabilities", |told| status(told, "CapBnd:\t0", "CapBnd:\t1")),
        ("capabilities", |told| status(told, "CapAmb:\t0\n", "")),
        ("seccomp", |told| status(told, "Seccomp:\t2", "Seccomp:\t0")),
        ("no_new_privs", |told| told.no_new_privileges = false),
        ("init", |told| told.program = "/bin/sh".into()),
        ("environment", |told| told.environment.push("TOKEN=secret".into())),
        ("rlimits", |told| drop(told.rlimits.remove("processes"))),
        ("rlimits", |told| {
            told.rlimits.insert("processes".into(), ("512".into(), "unlimited".into()));
        }),
        ("rlimits", |told| drop(told.rlimits.remove("core file size"))),
        ("descriptors", |told| told.descriptors.push((7, "/dev/vsock".into()))),
        ("devices", |told| told.devices.extend([("vda".into(), Some((254, 0)))])),
        ("devices", |told| told.devices.extend([("kcore".into(), Some((1, 2)))])),
        ("devices", |told| told.devices.retain(|name, _| name != "null")),
        ("modes", |told| told.modes.extend([("/tmp".to_owned(), 0o755)])),
        ("mounts", |told| mounted(told, "/ / ro,nodev", "/ / rw,nodev")),
        ("mounts", |told| mounted(told, "/home/jovyan rw,nosuid,", "/home/jovyan rw,")),
        ("mounts", |told| {
            mounted(told, "relatime - virtiofs none rw", "relatime - ext4 /dev/vda rw");
        }),
        ("mounts", |told| mounted(told, "/tmp rw,nosuid", "/tmp rw")),
        ("mounts", |told| mounted(told, ",size=16384k", "")),
        ("mounts", |told| mounted(told, "/dev ro,", "/dev rw,")),
        ("mounts", |told| told.mountinfo.push_str("50 16 0:9 / /host rw - virtiofs x rw\n")),
        ("mounts", |told| told.mountinfo.push_str("51 16 0:9 / /tmp rw - tmpfs x rw\n")),
        ("mounts", |told| told.mountinfo.clear()),
        ("masks", |told| mounted(told, "/proc/sys ro,", "/proc/sys rw,")),
    ];
    for (wall, change) in cases {
        let mut report = told();
        change(&mut report);
        let broken = broken(&standing(), Some(&report));
        assert!(broken.iter().any(|line| line.starts_with(wall)), "{wall}: {broken:?}");
    }
}
