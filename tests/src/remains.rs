//! What an instance and its sandboxes have on the host, as lines to compare;
//! and its removal by force when order has failed.
//!
//! Looks only at what carries the instance's name, so that several runs and
//! other programs on the same host do not disturb each other.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Instance, place};

/// Everything that can belong to a sandbox of this instance.
pub fn of_sandboxes(instance: &Instance) -> anyhow::Result<BTreeSet<String>> {
    let name = &instance.name;
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, mut lines: Vec<String>| {
        // The engine's empty directories of its namespace say nothing.
        lines.retain(|line| !line.is_empty() && !line.ends_with(&format!("/{name}")));
        // Numbered, so that a second line of the same text is seen.
        lines.sort();
        let mut previous = (String::new(), 0);
        for line in lines {
            previous =
                if previous.0 == line { (line.clone(), previous.1 + 1) } else { (line.clone(), 0) };
            found.insert(format!("{kind}: {line}{}", if previous.1 > 0 { " (again)" } else { "" }));
        }
    };
    add("mount", mounts(name)?);
    add("cgroup", cgroups(name).iter().map(|path| format!("{}/", path.display())).collect());
    // The launcher may be another one by now; everything else has its line.
    let launcher = instance.pid().map(u32::cast_signed);
    let others = processes(name).into_iter().filter(|(pid, _)| Some(*pid) != launcher);
    add("process", others.map(|(_, line)| line).collect());
    add("link", lines(&instance.namespace.ip("-o link")?).iter().map(|line| link(line)).collect());
    add("route", lines(&instance.namespace.ip("route")?));
    add("firewall", lines(&instance.namespace.output("nft", &["--stateless", "list", "ruleset"])?));
    let router = format!("/run/netns/{name}");
    for (kind, words) in [
        ("router link", "ip -o link"),
        ("router route", "ip route"),
        ("router firewall", "nft --stateless list ruleset"),
    ] {
        let output = Command::new("nsenter")
            .arg(format!("--net={router}"))
            .args(words.split(' '))
            .output()?;
        add(
            kind,
            lines(&String::from_utf8_lossy(&output.stdout))
                .iter()
                .map(|line| if kind == "router link" { link(line) } else { line.clone() })
                .collect(),
        );
    }
    for folder in [
        instance.run_directory().join("sandboxes"),
        instance.run_directory().join("runc"),
        instance.run_directory().join("gvisor"),
        instance.run_directory().join("kata"),
        instance.run_directory().join("runtimes/youki"),
        instance.run_directory().join("runtimes/own-shim"),
        // Where gVisor's shim believes that the state is, when it cleans up.
        Path::new("/run/containerd/runsc").join(name),
        instance.state().join("self-test"),
        instance.state().join("logs"),
    ] {
        add("file", walk(&folder));
    }
    add(
        "task directory",
        walk(&instance.run_directory().join("containerd/state/io.containerd.runtime.v2.task")),
    );
    for words in ["containers ls -q", "tasks ls -q", "snapshots ls", "leases ls -q"] {
        add(words, ctr(instance, words)?);
    }
    Ok(found)
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// `7: name@if3: …`: the name alone.
fn link(line: &str) -> String {
    line.split(':').nth(1).unwrap_or(line).trim().split('@').next().unwrap_or_default().to_owned()
}

/// The lines of `ctr` with these words, in the instance's namespace.
pub fn ctr(instance: &Instance, words: &str) -> anyhow::Result<Vec<String>> {
    let output = Command::new(place::tools().join("bin/ctr"))
        .arg("--timeout=5s")
        .arg("--address")
        .arg(instance.containerd_socket())
        .args(["--namespace", &instance.name])
        .args(words.split(' '))
        .output()
        .context("failed to run `ctr`")?;
    anyhow::ensure!(
        output.status.success(),
        "ctr {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(lines(&String::from_utf8_lossy(&output.stdout)))
}

/// Everything of the instance as a whole; waits for it to go.
pub fn of_instance(name: &str, patience: Duration) -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + patience;
    loop {
        let mut found: Vec<_> =
            mounts(name)?.iter().map(|point| format!("mount at {point} of {name}.")).collect();
        found.extend(
            cgroups(name).iter().map(|path| format!("control group {} of {name}", path.display())),
        );
        found.extend(
            processes(name).into_iter().map(|(pid, line)| format!("process {pid}: {line}")),
        );
        let router = PathBuf::from(format!("/run/netns/{name}"));
        found.extend(
            router.is_symlink().then(|| format!("network namespace {name} ({})", router.display())),
        );
        // The directories themselves may stay; what is in the run directory's places may not.
        for folder in
            ["sandboxes", "api", "runc", "gvisor", "containerd/state/io.containerd.runtime.v2.task"]
        {
            found.extend(walk(&Path::new("/run").join(name).join(folder)));
        }
        // The engine's empty directory of its namespace says nothing.
        found.retain(|line| !line.ends_with(&format!("/{name}")));
        if found.is_empty() || Instant::now() > deadline {
            return Ok(found);
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Mount points of the instance, the newest last.
fn mounts(name: &str) -> anyhow::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("failed to read the mounts")?;
    let homes = [format!("/run/{name}"), format!("/var/lib/{name}"), format!("/run/netns/{name}")];
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let ours = |point: &&str| homes.iter().any(|home| Path::new(point).starts_with(home));
    Ok(points.filter(ours).map(str::to_owned).collect())
}

/// Groups of every hierarchy, the deepest first.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let roots = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = Vec::new();
    for hierarchy in roots.chain([root.to_owned()]) {
        if hierarchy.is_symlink() {
            continue;
        }
        collect(&hierarchy.join(name), &mut found);
    }
    found
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    if !directory.is_dir() {
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
    found.push(directory.to_owned());
}

/// Processes in the instance's control groups, or with its run directory or configuration on their command line.
fn processes(name: &str) -> Vec<(i32, String)> {
    let (group, words) = (
        format!("/{name}/"),
        [format!("/run/{name}/"), format!("/{name}/adrastea.toml"), format!("-namespace {name} ")],
    );
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let read = |file: &str| {
            fs::read(entry.path().join(file))
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default()
        };
        let command = read("cmdline").replace('\0', " ");
        let inside = read("cgroup").lines().any(|line| format!("{line}/").contains(&group));
        let own = pid == std::process::id().cast_signed();
        if !own && (inside || words.iter().any(|word| command.contains(word.as_str()))) {
            // In the middle of an exec there is no command line; a zombie is only somebody's to reap.
            let shown = if command.trim().is_empty() && runs(&pid.to_string()) {
                format!("[{}]", read("comm").trim())
            } else {
                command.trim().to_owned()
            };
            found.push((pid, shown));
        }
    }
    found
}

/// Every path below a directory.
fn walk(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(walk(&entry.path()));
        }
    }
    found
}

/// Removes everything of an instance that no longer ends by itself, and its directories.
pub fn remove_by_force(name: &str) {
    end_by_force(name);
    // Never through a mount that would not go.
    if mounts(name).is_ok_and(|left| left.is_empty()) {
        for directory in [format!("/run/{name}"), format!("/var/lib/{name}")] {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// Ends every process of an instance, and takes away what a reboot does: mounts,
/// namespaces, control groups. Its directories stay.
pub fn end_by_force(name: &str) {
    for _ in 0..50 {
        let left = processes(name);
        if left.is_empty() {
            break;
        }
        for (pid, _) in left {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(50));
    }
    for point in mounts(name).unwrap_or_default().into_iter().rev() {
        let _ = umount2(point.as_str(), MntFlags::MNT_DETACH);
    }
    let _ = fs::remove_file(format!("/run/netns/{name}"));
    for group in cgroups(name) {
        let _ = fs::remove_dir(group);
    }
}

/// Whether a process runs; one that only waits to be reaped does not.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// Removes what earlier runs left that were killed themselves.
pub fn sweep_dead_runs() {
    let Ok(entries) = fs::read_dir("/var/lib") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("at").and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        let dead = pid.is_some_and(|pid| {
            !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()) && !runs(pid)
        });
        if dead {
            remove_by_force(&name);
        }
    }
}

/// The whole host by `tests/leak-snapshot`, for the time before the first and after the last test.
pub fn of_host() -> anyhow::Result<Vec<u8>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("leak-snapshot");
    let output = Command::new(script)
        .stderr(Stdio::inherit())
        .output()
        .context("failed to run `leak-snapshot`")?;
    anyhow::ensure!(output.status.success(), "`leak-snapshot` failed");
    Ok(output.stdout)
}
