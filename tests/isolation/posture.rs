//! How a process stands from the host's point of view: what of a sandbox's walls
//! is missing around it. Looks only.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use adrastea_tests::column;
use anyhow::Context as _;

/// The ids of sandboxes and homes begin here.
pub const FIRST_ID: u64 = 1_879_048_192;
pub const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Which namespace of each kind a process is in.
pub fn namespaces(pid: &str) -> anyhow::Result<BTreeMap<&'static str, PathBuf>> {
    NAMESPACES
        .into_iter()
        .map(|kind| {
            let link = format!("/proc/{pid}/ns/{kind}");
            Ok((kind, fs::read_link(&link).with_context(|| format!("failed to read `{link}`"))?))
        })
        .collect()
}

/// The fields of `/proc/PID/status`.
pub fn status(pid: i32) -> anyhow::Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    Ok(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

/// First and last host id of each line of an id map.
pub fn host_ids(pid: i32, map: &str) -> anyhow::Result<Vec<(u64, u64)>> {
    let text = fs::read_to_string(format!("/proc/{pid}/{map}"))?;
    text.lines()
        .map(|line| {
            let numbers: Vec<u64> =
                line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            Ok((numbers[1], numbers[1] + numbers[2] - 1))
        })
        .collect()
}

/// Those that last as long as the sandbox. A kernel of its own starts helpers whenever it wants some,
/// and ends them.
pub fn lasting_processes_of(group: &str) -> BTreeSet<i32> {
    let all = processes_of(group);
    let parent = |pid: &i32| -> Option<i32> { status(*pid).ok()?.get("PPid")?.parse().ok() };
    let is_helper = |pid: &i32| parent(pid).is_none_or(|parent| all.contains(&parent));
    all.iter().copied().filter(|pid| !column::has_own_kernel() || !is_helper(pid)).collect()
}

/// The processes in a control group and below, of every hierarchy that has it.
pub fn processes_of(group: &str) -> BTreeSet<i32> {
    fn collect(directory: &Path, found: &mut BTreeSet<i32>) {
        let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                collect(&entry.path(), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.filter(|path| !path.is_symlink()).chain([root.to_owned()]) {
        collect(&hierarchy.join(group.trim_start_matches('/')), &mut found);
    }
    found
}

/// Every process of the host that is in this user namespace.
pub fn processes_in_user_namespace(wanted: &Path) -> BTreeSet<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            fs::read_link(entry.path().join("ns/user")).is_ok_and(|found| found == wanted)
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The walls that are missing around a process, each by its name; `group` is
/// the control group it should be in.
pub fn faults(pid: i32, group: &str) -> anyhow::Result<BTreeSet<String>> {
    let mut faults = BTreeSet::new();
    let mut wall = |name: &str, stands: bool| {
        if !stands {
            faults.insert(name.to_owned());
        }
    };
    let status = status(pid)?;
    let field = |name: &str| status.get(name).map_or("", String::as_str);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        wall(set, field(set).bytes().all(|digit| digit == b'0'));
    }
    wall("NoNewPrivs", field("NoNewPrivs") == "1");
    wall("Seccomp", field("Seccomp") == "2");
    let ids = |name: &str| {
        field(name).split_whitespace().all(|id| id.parse::<u64>().is_ok_and(|id| id >= FIRST_ID))
    };
    wall("Uid", ids("Uid"));
    wall("Gid", ids("Gid"));
    wall("Groups", ids("Groups"));
    for map in ["uid_map", "gid_map"] {
        wall(map, host_ids(pid, map)?.iter().all(|(first, _)| *first >= FIRST_ID));
    }
    let (own, host) = (namespaces(&pid.to_string())?, namespaces("self")?);
    for kind in NAMESPACES {
        wall(kind, own[kind] != host[kind]);
    }
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let in_group = |controller: &str| {
        groups.lines().any(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next().unwrap_or_default();
            (controllers.is_empty() || controllers.split(',').any(|one| one == controller))
                && parts.next().is_some_and(|path| path == group)
        })
    };
    // All that the kernel has: what bounds devices is as much a wall as what bounds memory.
    for controller in ["memory", "pids", "cpu", "devices", "freezer", "cpuset", "blkio"] {
        wall(&format!("group {controller}"), in_group(controller));
    }
    let init = field("NSpid").split_whitespace().next_back() == Some("1");
    wall("descriptors", foreign_descriptors(pid, init)?.is_empty());
    for fault in mount_faults(pid)? {
        wall(&fault, false);
    }
    let core = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let core = core.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
    wall("core limit", core.split_whitespace().skip(4).take(2).eq(["0", "0"]));
    let kept = |name: &str| u64::from_str_radix(field(name), 16).unwrap_or(u64::MAX);
    let in_bounds = ["CapPrm", "CapEff", "CapBnd"]
        .iter()
        .all(|set| kept(set) & !column::JAIL_CAPABILITIES == 0);
    if column::has_own_kernel() && field("NoNewPrivs") == "1" && in_bounds {
        faults.retain(|fault| !column::JAIL_LACKS.contains(&fault.as_str()));
    }
    Ok(faults)
}

/// Open files beyond the three of every process that lead out: no pipe or kernel
/// object, and, for the init, which opens none itself, no socket.
fn foreign_descriptors(pid: i32, init: bool) -> io::Result<Vec<PathBuf>> {
    let mut foreign = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let beyond = entry
            .file_name()
            .to_str()
            .and_then(|number| number.parse().ok())
            .is_none_or(|number: u32| number > 2);
        let inner = fs::metadata(entry.path()).is_ok_and(|file| file.file_type().is_fifo());
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let kinds: &[&str] =
            if init { &["pipe:", "anon_inode:"] } else { &["pipe:", "anon_inode:", "socket:"] };
        let kernel = kinds.iter().any(|kind| target.to_string_lossy().starts_with(kind));
        if beyond && !inner && !kernel {
            foreign.push(target);
        }
    }
    Ok(foreign)
}

fn mount_faults(pid: i32) -> io::Result<Vec<String>> {
    let mut faults = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/mountinfo"))?.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (root, point, options) = (fields[3], fields[4], fields[5]);
        let separator = fields.iter().position(|field| *field == "-").unwrap_or(fields.len() - 3);
        let has = |option: &str| options.split(',').any(|one| one == option);
        let kind = fields[separator + 1];
        if point == "/" && !has("ro") {
            faults.push("root is writable".into());
        }
        // A single device, bound as a file, is not a place where one could put another.
        let single_device = kind == "devtmpfs" && root != "/";
        let devices = single_device || kind == "devpts";
        if has("rw") && !devices && !(has("nosuid") && has("nodev")) {
            faults.push("mount flags".into());
        }
        if separator > 6 {
            faults.push("propagation".into());
        }
    }
    Ok(faults)
}
