//! W-20: every single check of the probe, seen to fail. Most fail in a container without
//! walls; for the others a wall of their own is broken, or what must not be there is put
//! there. What this machine's kernel refuses to everybody is listed with its reason.
//!
//! Must never touch a wall of the host: everything is opened in namespaces made for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::{
        fd::AsRawFd as _,
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixListener},
        },
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use adrastea_probe::golden::{self, Mismatch};
use adrastea_tests::{Namespace, Suite, User, image, place};
use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::reference::{Reference, Wishes};

const GOLDEN: &str = include_str!("../golden/probe-runc.txt");
/// What the probe's own end is known by.
const NEVER: &str = "nothing is ever the last";
const PATIENCE: Duration = Duration::from_secs(60);

/// Cannot fail on any kernel of today, and why.
const NEVER_RED: [(&str, &str); 2] = [
    ("never-heard-of", "no kernel has this call: the answer is the same with and without a filter"),
    ("lookup_dcookie", "kernels since 6.8 have it no more; where one has it, it needs a right"),
];

/// Fails only where root may do everything; some machines keep this right from their root.
const NEEDS_SYS_RESOURCE: [&str; 9] = [
    "become.capset",
    "oom.lower",
    "prctl.set-mm",
    "raise.memlock",
    "raise.msgqueue",
    "raise.nice",
    "raise.nofile",
    "raise.rtprio",
    "raise.sigpending",
];
/// Fails only where a new control group may have real-time processes.
const NEEDS_REAL_TIME: [&str; 2] = ["sched.fifo", "sched.rr"];

/// What a sandbox must not have: a file in the place of each.
const FILES: [&str; 38] = [
    "dev/mem",
    "dev/kmem",
    "dev/port",
    "dev/nvme0n1",
    "dev/sda",
    "dev/mapper/control",
    "dev/vhost-net",
    "dev/vhost-vsock",
    "dev/uinput",
    "dev/rtc0",
    "dev/hpet",
    "dev/cpu/0/msr",
    "proc/kcore",
    "proc/modules",
    "proc/sched_debug",
    "proc/schedstat",
    "proc/acpi/planted",
    "proc/scsi/planted",
    "proc/sysrq-trigger",
    "proc/sys/kernel/hotplug",
    "proc/sys/kernel/modprobe",
    "proc/sys/kernel/sysrq",
    "proc/sys/kernel/yama/ptrace_scope",
    "proc/sys/fs/binfmt_misc/register",
    "sys/kernel/debug/planted",
    "sys/kernel/tracing/planted",
    "sys/kernel/security/planted",
    "sys/kernel/uevent_helper",
    "sys/fs/bpf/planted",
    "sys/fs/cgroup/cgroup.procs",
    "sys/devices/virtual/dmi/id/product_uuid",
    "sys/devices/virtual/dmi/id/sys_vendor",
    "sys/devices/virtual/powercap/planted",
    "etc/shadow",
    "etc/resolv.conf",
    ".adrastea/init",
    "proc/self/planted",
    "home/planted",
];
/// Sockets that a sandbox must not reach.
const SOCKETS: [&str; 6] = [
    "run/containerd/containerd.sock",
    "run/adrastea/containerd/containerd.sock",
    "run/adrastea/api/launcher.sock",
    "var/run/docker.sock",
    "run/dbus/system_bus_socket",
    "run/systemd/private",
];
const SHIM: &[u8] = b"/containerd-shim/probe.sock";

pub fn add(suite: &mut Suite) {
    suite.plain("w20_every_single_check_is_seen_to_fail", every_check);
}

/// A directory for what is planted. Dropped, it is gone.
struct Planted(PathBuf);

impl Planted {
    fn new(name: &str) -> anyhow::Result<Self> {
        let planted = Self(place::scratch().join(format!("{name}-{}", std::process::id())));
        fs::create_dir_all(&planted.0)?;
        Ok(planted)
    }

    fn directory(&self, path: &str, mode: u32) -> anyhow::Result<PathBuf> {
        let directory = self.0.join(path);
        fs::create_dir_all(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
        Ok(directory)
    }

    fn wishes(&self) -> Wishes {
        let bind = json!({"destination": "/shared", "type": "none", "source": self.0,
            "options": ["rbind", "rw"]});
        Wishes { mounts: vec![bind], ..Wishes::default() }
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The checks that fail in what the probe says.
fn failing(output: &str) -> Vec<Mismatch> {
    golden::compare(GOLDEN, output).into_iter().filter(|one| !one.found.is_empty()).collect()
}

fn probe<'name>(names: &[&'name str]) -> Vec<&'name str> {
    [&[image::PROBE][..], names].concat()
}

fn without_walls() -> anyhow::Result<String> {
    Reference::output_of(&Namespace::new()?, &[image::PROBE], NEVER)
}

/// Where files, devices and sockets of a host are to be found.
fn among_planted_files(open: &[&str]) -> anyhow::Result<String> {
    let planted = Planted::new("planted-files")?;
    for file in FILES {
        let path = planted.0.join(file);
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(&path, "of the host\n")?;
    }
    let mut listeners = Vec::new();
    for socket in SOCKETS {
        let path = planted.0.join(socket);
        let parent = path.parent().context("no parent")?;
        fs::create_dir_all(parent)?;
        // By way of a descriptor: a socket's path must be short.
        let folder = fs::File::open(parent)?;
        let name = path.file_name().context("no name")?.to_string_lossy();
        let short = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
        listeners.push(UnixListener::bind(short)?);
    }
    let network = Namespace::new()?;
    listeners.push(network.within(User::ROOT, || {
        SocketAddr::from_abstract_name(SHIM).and_then(|address| UnixListener::bind_addr(&address))
    })??);
    // The abstract names are read from a real /proc, the others from the planted one.
    let real = Reference::output_of(&network, &probe(&["connect.abstract"]), NEVER)?;
    let names: Vec<_> = open.iter().copied().filter(|name| *name != "connect.abstract").collect();
    let command = [&[image::TENANT, "open-house", "/shared", "0"][..], &probe(&names)].concat();
    let said = Reference::start(&network, &command, &planted.wishes())?.says(NEVER)?;
    drop(listeners);
    Ok(real + &said)
}

/// As an ordinary user between wrong modes, with what an ordinary init leaves open.
fn between_loose_ends() -> anyhow::Result<String> {
    let planted = Planted::new("planted-modes")?;
    for (place, mode) in [("tmp", 0o700), ("run", 0o777), ("dev", 0o777), ("dev/shm", 0o755)] {
        planted.directory(place, mode)?;
    }
    let names = [
        "own.fds",
        "own.groups",
        "mode./",
        "mode./dev",
        "mode./dev/shm",
        "mode./run",
        "mode./tmp",
        "create./tmp",
        "create./dev/shm",
        "mount.shared",
        "leak.other-processes",
        "pid1.forwards-kill",
        "pid1.forwards-forged",
    ];
    let command = [&[image::TENANT, "open-house", "/shared", "1000"][..], &probe(&names)].concat();
    Reference::start(&Namespace::new()?, &command, &planted.wishes())?.says(NEVER)
}

/// With a filter that refuses what a server needs.
fn behind_a_filter_too_tight() -> anyhow::Result<String> {
    let compare =
        |index: u32, value: i64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let refused = |names: &[&str], arguments: Vec<Value>| json!({"names": names, "action": "SCMP_ACT_ERRNO", "args": arguments});
    // A plain `clone` has no flag but its signal; the C library's fork has more.
    let filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            refused(&["socket", "mknodat", "personality", "setsockopt"], vec![]),
            refused(&["clone"], vec![compare(0, i64::from(nix::libc::SIGCHLD))]),
            refused(&["ioctl"], vec![compare(1, 0x541b)]),
        ],
    });
    let names: Vec<_> = golden::parse(GOLDEN).into_keys().collect();
    let wanted = |name: &&str| {
        ["socket.", "option.", "personality.ask", "mknod.fifo", "clone.plain", "ioctl.fionread"]
            .iter()
            .any(|beginning| name.starts_with(beginning))
    };
    let names: Vec<_> = names.iter().map(String::as_str).filter(wanted).collect();
    let wishes = Wishes { seccomp: Some(filter), ..Wishes::default() };
    Reference::start(&Namespace::new()?, &probe(&names), &wishes)?.says(NEVER)
}

/// With limits that a tenant must not have.
fn with_other_limits() -> anyhow::Result<String> {
    let limit = |kind: &str, value: u64| json!({"type": kind, "soft": value, "hard": value});
    // Lower than the host's where they must be exact: to raise one takes a right.
    let rlimits = vec![limit("RLIMIT_MSGQUEUE", 4096)];
    let wishes = Wishes { rlimits, ..Wishes::default() };
    Reference::start(&Namespace::new()?, &probe(&["limit.msgqueue"]), &wishes)?.says(NEVER)
}

/// Beside a PID 1 that stands still, as one does that its tenant could stop.
fn beside_a_stopped_init() -> anyhow::Result<String> {
    let mut all = String::new();
    for name in ["pid1.stop", "pid1.kill"] {
        let words = [image::TENANT, "parent", "await-stopped-parent", image::PROBE, name];
        let mut reference = Reference::start(&Namespace::new()?, &words, &Wishes::default())?;
        reference.says("waiting")?;
        let init = nix::unistd::Pid::from_raw(reference.pid()?);
        let deadline = Instant::now() + PATIENCE;
        while reference.is_running()? && !reference.output()?.contains(name) {
            ensure!(Instant::now() < deadline, "{name}: {}", reference.output()?);
            // It may have ended meanwhile.
            let _ = kill(init, Signal::SIGSTOP);
            thread::sleep(Duration::from_millis(20));
        }
        let _ = kill(init, Signal::SIGCONT);
        all += &reference.output()?;
    }
    Ok(all)
}

/// The checks that this machine cannot show, and why.
fn excused() -> anyhow::Result<BTreeMap<&'static str, &'static str>> {
    const SYS_RESOURCE: u32 = 24;
    let mut excused: BTreeMap<_, _> = NEVER_RED.into();
    let status = fs::read_to_string("/proc/self/status")?;
    let rights =
        status.lines().find_map(|line| line.strip_prefix("CapPrm:")).context("no CapPrm")?;
    if u64::from_str_radix(rights.trim(), 16)? >> SYS_RESOURCE & 1 == 0 {
        excused.extend(
            NEEDS_SYS_RESOURCE.map(|name| (name, "this machine's root has no CAP_SYS_RESOURCE")),
        );
    }
    if Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
        excused.extend(
            NEEDS_REAL_TIME
                .map(|name| (name, "this kernel gives new control groups no real time (v1)")),
        );
    }
    Ok(excused)
}

fn every_check() -> anyhow::Result<()> {
    let mut open: BTreeSet<_> = golden::parse(GOLDEN).into_keys().collect();
    let mut seen = |output: &str| -> Vec<String> {
        let red = failing(output);
        red.iter().filter(|one| open.remove(&one.name)).map(ToString::to_string).collect()
    };
    let bare = without_walls()?;
    ensure!(seen(&bare).len() > 200, "the reference has walls: {bare}");
    let loose = between_loose_ends()?;
    let tight = behind_a_filter_too_tight()?;
    let limits = with_other_limits()?;
    let stopped = beside_a_stopped_init()?;
    let outputs = [loose, tight, limits, stopped];
    for output in &outputs {
        ensure!(!seen(output).is_empty(), "nothing is red here: {output}");
    }
    let names: Vec<_> = open.iter().cloned().collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let planted = among_planted_files(&names)?;
    let red: BTreeSet<_> = failing(&planted).into_iter().map(|one| one.name).collect();
    open.retain(|name| !red.contains(name));
    let excused = excused()?;
    let found = golden::parse(&planted);
    let never: Vec<_> = open
        .iter()
        .filter(|name| !excused.contains_key(name.as_str()))
        .map(|name| (name, found.get(name)))
        .collect();
    ensure!(never.is_empty(), "never seen to fail: {never:#?}\n{planted}\n{outputs:#?}");
    for (name, reason) in &excused {
        if open.contains(*name) {
            println!("not seen to fail: {name}: {reason}");
        }
    }
    Ok(())
}
